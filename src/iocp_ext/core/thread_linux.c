/* thread_linux.c: the Linux parts of thread.h: futex locks and eventfd wakes. */
#ifdef __linux__
#include "core/thread.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- futex locks ----------------------------------------------------------------------------- */

void io_lock_wait(io_lock *lock) {
    while (atomic_exchange_explicit(&lock->state, 2, memory_order_acquire) != 0)
        /* Returns immediately if the state is no longer 2; the loop checks it again. */
        (void)syscall(SYS_futex, &lock->state, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
}

void io_lock_wake(io_lock *lock) {
    (void)syscall(SYS_futex, &lock->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* ---- wakes ----------------------------------------------------------------------------------- */

int io_wake_open(void) {
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void io_wake_close(int wake) {
    close(wake);
}

bool io_wake_signal(int wake) {
    uint64_t one = 1;
    /* EAGAIN: the counter is full, so the waiter wakes anyway. */
    for (int i = 0; i < IO_INTERRUPTIONS_MAX; i++)
        if (write(wake, &one, sizeof one) >= 0 || errno == EAGAIN)
            return true;
        else if (errno != EINTR)
            return false;
    return true;
}

static void thread_linux_forget_wakes(int wake) {
    uint64_t count;
    for (int i = 0; i < IO_INTERRUPTIONS_MAX; i++)
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
    if (readable.revents & POLLNVAL) { /* other code has closed it: poll every 10 ms instead */
        const struct timespec pause = {0, (long)(10 * IO_NS_PER_MS)};
        interrupted = ppoll(NULL, 0, &pause, mask) < 0 && errno == EINTR;
    } else if (ready > 0) {
        thread_linux_forget_wakes(wake);
    }
    return interrupted;
}

#else
typedef int io_thread_linux_is_empty; /* C has no empty translation units */
#endif
