/* real_syscall.h: for tests that replace libc's syscall() and still need to call it. */
#ifndef IOCPCORE_TEST_REAL_SYSCALL_H
#define IOCPCORE_TEST_REAL_SYSCALL_H

#include "test.h"

#include <dlfcn.h>
#include <stdarg.h>

enum { SYSCALL_ARGUMENTS = 6 };

/* Reads the variable arguments of syscall(): always the maximum number of them. */
#define SYSCALL_TAKE(number, arguments)                \
    do {                                               \
        va_list list_;                                 \
        va_start(list_, number);                       \
        for (int i_ = 0; i_ < SYSCALL_ARGUMENTS; i_++) \
            (arguments)[i_] = va_arg(list_, long);     \
        va_end(list_);                                 \
    } while (0)

static inline long real_syscall(long number, const long arguments[SYSCALL_ARGUMENTS]) {
    static _Atomic uintptr_t found;
    if (found == 0)
        found = (uintptr_t)dlsym(RTLD_NEXT, "syscall");
    CHECK(found != 0);
    return ((long (*)(long, ...))found)(number, arguments[0], arguments[1], arguments[2],
                                        arguments[3], arguments[4], arguments[5]);
}

#endif
