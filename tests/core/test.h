/* test.h: a small harness for C tests.
 *
 * A program is a table of named tests. It runs them in order in one process, and exits at the first
 * failure, because the state that a failed test leaves behind is not reliable. run_core.py then
 * starts the program again at the next test. A test that exceeds its time limit ends the process
 * too. */
#ifndef IOCPCORE_TEST_H
#define IOCPCORE_TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "core/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct test_case {
    const char *name;
    void (*run)(void);
} test_case;

#define TEST(name) \
    { #name, name }
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Runs the tests. Returns the result of main. `--from N` begins with the N-th test. */
int test_main(int argc, char **argv, const test_case *tests, size_t count);

/* Ends the test as skipped. Must be called in the thread of the test, with nothing left open. */
void test_skip(const char *reason);

_Noreturn void test_fail(const char *file, int line, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 3, 4)))
#endif
    ;

#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition)            \
    do {                            \
        if (!(condition))           \
            FAIL("%s", #condition); \
    } while (0)
#define CHECK_INT(is, should)                                           \
    do {                                                                \
        long long is_ = (long long)(is), should_ = (long long)(should); \
        if (is_ != should_)                                             \
            FAIL("%s is %lld, not %lld", #is, is_, should_);            \
    } while (0)

/* Sets a text, such as the seed, that is printed if the test fails in any way. "" clears it. */
void test_about(const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 1, 2)))
#endif
    ;

/* Returns a reduced count, at least 1, under valgrind and other slow tools. */
uint64_t test_scaled(uint64_t count);

/* A private random sequence for a test. */
typedef struct test_random {
    uint64_t state;
} test_random;
uint64_t test_below(test_random *random, uint64_t below);

/* A thread that must be joined. */
typedef struct test_thread {
    void (*function)(void *argument);
    void *argument;
    io_mutex lock;
    io_cond ended;
    bool done;
} test_thread;
void test_thread_start(test_thread *thread, void (*function)(void *argument), void *argument);
void test_thread_join(test_thread *thread);
void test_sleep_ms(unsigned ms);

/* Tells valgrind that the kernel has written to this memory (by io_uring), which it cannot see. */
void test_kernel_wrote(const void *memory, size_t length);

/* Runs this program again with one argument. Returns true if it failed or died from a signal. */
bool test_child_dies(const char *argument);

#endif
