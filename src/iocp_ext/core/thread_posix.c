/* thread_posix.c: the parts of thread.h that need more than a line, on POSIX systems.
 *
 * Threads of the core run no Python code and must not take the process's signals, which Python
 * handles in its main thread. */
#ifndef _WIN32
#include "core/thread.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <linux/futex.h>
#include <unistd.h>

#include "core/error.h"

/* ---- locks of four bytes -----------------------------------------------------------------------
 */

void io_lock_wait(io_lock *lock) {
    while (atomic_exchange_explicit(&lock->state, 2, memory_order_acquire) != 0)
        /* Fails if it is not 2 any more, which the exchange finds out. */
        (void)syscall(SYS_futex, &lock->state, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
}

void io_lock_wake(io_lock *lock) {
    (void)syscall(SYS_futex, &lock->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* ---- threads -----------------------------------------------------------------------------------
 */

typedef struct start {
    void (*function)(void *argument);
    void *argument;
} start;

static void *thread_posix_run(void *argument) {
    start begin = *(start *)argument;
    free(argument);
    begin.function(begin.argument);
    return NULL;
}

int io_thread_start(void (*function)(void *argument), void *argument) {
    start *begin = malloc(sizeof *begin);
    pthread_attr_t attributes;
    if (begin == NULL)
        return -IOE_NOMEM;
    begin->function = function;
    begin->argument = argument;
    if (pthread_attr_init(&attributes) != 0) {
        free(begin);
        return -IOE_NOMEM;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    io_signals saved;
    io_signals_block(&saved);
    pthread_t thread;
    int failed = pthread_create(&thread, &attributes, thread_posix_run, begin);
    io_signals_restore(&saved);
    pthread_attr_destroy(&attributes);
    if (failed)
        free(begin);
    return -failed; /* portable codes are Linux's */
}

int io_wake_open(void) {
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void io_wake_close(int wake) {
    close(wake);
}

/* Neither of the two waits, so a signal cannot interrupt them again and again. */
enum { INTERRUPTIONS_MAX = 64 };

bool io_wake_signal(int wake) {
    uint64_t one = 1;
    /* EAGAIN means that the counter is full: the waiter is woken anyhow. */
    for (int i = 0; i < INTERRUPTIONS_MAX; i++)
        if (write(wake, &one, sizeof one) >= 0 || errno == EAGAIN)
            return true;
        else if (errno != EINTR)
            return false;
    return true;
}

static void thread_posix_forget_wakes(int wake) {
    uint64_t count;
    for (int i = 0; i < INTERRUPTIONS_MAX; i++)
        if (read(wake, &count, sizeof count) >= 0 || errno != EINTR)
            return;
}

bool io_wake_wait(int wake, uint64_t deadline_ns, const sigset_t *mask) {
    struct pollfd readable = {.fd = wake, .events = POLLIN};
    struct timespec left, *timeout = NULL;
    if (deadline_ns != IO_NEVER) {
        left = io_time_left(deadline_ns);
        timeout = &left;
    }
    int ready = ppoll(&readable, 1, timeout, mask);
    bool interrupted = ready < 0 && errno == EINTR;
    if (readable.revents & POLLNVAL) { /* other code has closed it: its owner polls */
        const struct timespec pause = {0, (long)(10 * IO_NS_PER_MS)};
        interrupted = ppoll(NULL, 0, &pause, mask) < 0 && errno == EINTR;
    } else if (ready > 0) {
        thread_posix_forget_wakes(wake);
    }
    return interrupted;
}

#else
typedef int io_thread_posix_is_empty; /* C has no empty translation units */
#endif
