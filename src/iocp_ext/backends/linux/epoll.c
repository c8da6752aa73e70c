/* epoll.c: completions on Linux where io_uring is refused.
 *
 * epoll reports when a descriptor becomes ready, not when work is done. So each operation is tried
 * at once, without blocking. If it cannot be done yet, it waits at the head of its handle's queue
 * and is tried again when epoll reports the handle.
 *
 * Both directions are registered once, edge-triggered, and stay registered. So no system call is
 * needed to arm a wait or to disarm it. No edge is missed: the attempt and its retry both happen
 * with the handle's lock held, and epoll reports every edge after the registration.
 *
 * A registration lives as long as the open file, not the descriptor. A closed socket that a forked
 * child still holds is therefore still reported. Events carry the handle's token, and a retry first
 * checks that the descriptor is still the same file.
 *
 * The io_uring backend also waits here, for everything but files; uring.c explains why. */
#include "backends/linux/epoll.h"

#include "backends/linux/socket.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { EVENTS_MAX = 64 };

/* size_t, because syscall() reads its last argument from the stack as a full register. */
#define KERNEL_SIGSET_BYTES ((size_t)8)

static const uint32_t epoll_interest = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET;

static int epoll_probe(char *reason, size_t size) {
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        return 0;
    }
    int error = io_error_from_errno(errno);
    snprintf(reason, size, "%s", io_error_text(error));
    return error;
}

int epoll_state_open(epoll_lane *state) {
    int error = 0;
    state->wake = -1;
    state->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (state->epoll >= 0)
        state->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    /* Edge-triggered and never read: every write is a new edge. */
    if (state->wake < 0)
        error = io_error_from_errno(errno);
    else
        error = epoll_watch(state, state->wake);
    if (error)
        epoll_state_close(state);
    return error;
}

void epoll_state_close(epoll_lane *state) {
    if (state->epoll >= 0)
        close(state->epoll);
    if (state->wake >= 0)
        close(state->wake);
}

int epoll_watch(const epoll_lane *state, int fd) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = EPOLL_TOKEN_WAKE};
    return epoll_ctl(state->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? io_error_from_errno(errno) : 0;
}

int epoll_lane_opened(io_lane *lane, void *state, int error, uint32_t *os_error) {
    if (error) {
        *os_error = io_error_to_system(error);
        free(state);
        return error;
    }
    lane->state = state;
    return 0;
}

static int epoll_lane_open(io_lane *lane, uint32_t *os_error) {
    epoll_lane *state = malloc(sizeof *state);
    int error = state == NULL ? -IOE_NOMEM : epoll_state_open(state);
    return epoll_lane_opened(lane, state, error, os_error);
}

static void epoll_lane_close(io_lane *lane) {
    epoll_lane *state = lane->state;
    if (lane->broken) /* the descriptor may be another file by now */
        state->epoll = -1;
    epoll_state_close(state);
    free(state);
    lane->state = NULL;
}

/* If other code has closed the eventfd, replaces it by a new one, which already holds a wake. */
void epoll_wake(io_lane *lane) {
    epoll_lane *state = lane->state;
    int wake = state->wake;
    if (io_wake_signal(wake))
        return;
    int another = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    if (another < 0)
        return; /* the next event of any kind ends the wait */
    if (epoll_watch(state, another) == 0 &&
        atomic_compare_exchange_strong(&state->wake, &wake, another))
        return;
    close(another);
    (void)io_wake_signal(wake); /* another thread has replaced it already */
}

/* ---- handles --------------------------------------------------------------------------------- */

static int epoll_interest_set(io_handle *handle) {
    epoll_lane *state = handle->lane->state;
    struct epoll_event event = {.events = epoll_interest, .data.u64 = io_handle_token(handle)};
    int fd = (int)handle->native;
    /* It is already registered if an earlier handle was made for the same open file. */
    if (epoll_ctl(state->epoll, EPOLL_CTL_ADD, fd, &event) < 0 &&
        (errno != EEXIST || epoll_ctl(state->epoll, EPOLL_CTL_MOD, fd, &event) < 0))
        return io_error_from_errno(errno);
    return 0;
}

int epoll_handle_open(io_handle *handle, uint32_t *os_error) {
    int error = linux_handle_open(handle, os_error);
    if (error)
        return error;
    error = epoll_interest_set(handle);
    if (error == -IOE_PERM) /* regular files are always ready and have no events */
        return 0;
    if (error) {
        *os_error = io_error_to_system(error);
        linux_handle_close(handle);
    }
    return error;
}

void epoll_handle_close(io_handle *handle, bool close_native) {
    epoll_lane *state = handle->lane->state;
    io_assert(handle->in_flight == 0);
    linux_handle_close(handle);
    if (handle->native_gone || !linux_same_file(handle))
        return;
    /* Closing the only descriptor of an open file also ends its registration. A connection's socket
     * can have another descriptor only in a forked child. Fails for regular files, which were never
     * added. */
    if (!handle->owned || !close_native)
        (void)epoll_ctl(state->epoll, EPOLL_CTL_DEL, (int)handle->native, NULL);
    if (close_native)
        linux_close(handle->native);
}

/* ---- operations ------------------------------------------------------------------------------ */

/* Returns IO_DONE if the socket may have input. After a receive that did not fill its buffer, the
 * socket is empty until epoll reports it again, so no call is needed to find out. A receive can
 * stop early at urgent data, at the end of the stream and on unix sockets; the flags account for
 * that. */
static int epoll_receive_when_ready(io_op *op) {
    if (!(op->handle->ready & (IO_READABLE | IO_UNUSUAL)))
        return IO_PENDING;
    op->result = IO_RECEIVE_READY;
    return IO_DONE;
}

/* Whether to retry a receive that found nothing: there is input (linux_readable), but its edge is
 * used up. */
static bool epoll_may_retry_receive(io_handle *handle) {
    io_assert(io_lock_is_mine(&handle->lock));
    if (!(handle->ready & IO_UNUSUAL))
        return false;
    if (linux_readable(handle))
        return true;
    handle->ready &= (uint8_t) ~(IO_READABLE | IO_UNUSUAL);
    return false;
}

int epoll_receive_now(io_receive *receive) {
    io_handle *handle = receive->op.handle;
    int answer = linux_perform(&receive->op);
    bool filled =
        answer == IO_DONE && (receive->op.result == receive->capacity || handle->family == AF_UNIX);
    if (!filled && (answer != -IOE_AGAIN || !epoll_may_retry_receive(handle)))
        handle->ready &= (uint8_t)~IO_READABLE;
    return answer;
}

int epoll_submit(io_op *op) {
    io_handle *handle = op->handle;
    io_assert(io_lock_is_mine(&handle->lock) && op->state == IO_OP_SUBMITTED);
    if (op->kind == IO_READ || op->kind == IO_WRITE || op->kind == IO_SYNC) {
        int error = io_file_pool_submit(op, linux_file_work);
        return error ? error : IO_PENDING;
    }
    if (op->flags & (IO_OP_RESUBMITTED | IO_OP_YIELD) && !linux_same_file(handle))
        return -IOE_BADF;
    if (op->kind == IO_RECEIVE && !(op->flags & IO_OP_YIELD))
        return epoll_receive_when_ready(op);
    int answer = op->flags & IO_OP_YIELD ? -IOE_AGAIN : linux_perform(op);
    if (answer != -IOE_AGAIN)
        return answer;
    /* Registering again reports the handle once more if it is ready now. */
    bool again =
        op->flags & IO_OP_YIELD || (op->kind == IO_RECV && epoll_may_retry_receive(handle));
    int error = again ? epoll_interest_set(handle) : 0;
    return error ? error : IO_PENDING;
}

int epoll_cancel(io_op *op) {
    io_assert(io_lock_is_mine(&op->handle->lock) && op->state == IO_OP_SUBMITTED);
    if (op->flags & IO_OP_IN_POOL)
        return io_file_pool_cancel(op) ? IO_DONE : IO_PENDING;
    return IO_DONE; /* the kernel does not know the operation */
}

static int epoll_pwait_until(int epoll, struct epoll_event *events, int maximum,
                             uint64_t deadline_ns, const void *mask) {
    static _Atomic bool no_pwait2; /* Linux before 5.11 waits in whole milliseconds */
    struct timespec left = {0, 0};
    if (deadline_ns != IO_NEVER && deadline_ns != 0)
        left = io_time_left(deadline_ns);
#ifdef SYS_epoll_pwait2
    if (!no_pwait2) {
        long count = syscall(SYS_epoll_pwait2, epoll, events, maximum,
                             deadline_ns == IO_NEVER ? NULL : &left, mask, KERNEL_SIGSET_BYTES);
        if (count >= 0 || errno != ENOSYS)
            return (int)count;
        no_pwait2 = true;
    }
#endif
    int64_t ms = left.tv_sec < INT32_MAX / 1000 ? left.tv_sec * 1000 : INT32_MAX - 1000;
    ms += (left.tv_nsec + (long)IO_NS_PER_MS - 1) / (long)IO_NS_PER_MS;
    int timeout = deadline_ns == IO_NEVER ? -1 : (int)ms;
    return (int)syscall(SYS_epoll_pwait, epoll, events, maximum, timeout, mask,
                        KERNEL_SIGSET_BYTES);
}

int epoll_lane_wait(io_lane *lane, const io_wait *wait, uint64_t deadline_ns, int maximum,
                    io_list *done) {
    epoll_lane *state = lane->state;
    struct epoll_event events[EVENTS_MAX];
    sigset_t all;
    const void *mask = wait->mask;
    if (mask == NULL) {
        sigfillset(&all);
        mask = &all;
    }
    if (maximum > EVENTS_MAX)
        maximum = EVENTS_MAX;
    int count = epoll_pwait_until(state->epoll, events, maximum, deadline_ns, mask);
    if (count < 0) /* EINTR also occurs without a signal: after a stop, or for kernel work */
        return errno == EINTR && !wait->signals ? 0 : io_error_from_errno(errno);
    for (int i = 0; i < count; i++) {
        uint32_t happened = events[i].events;
        uint32_t ready = 0;
        if (events[i].data.u64 == EPOLL_TOKEN_WAKE)
            continue;
        if (happened & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            ready |= IO_READABLE;
        if (happened & (EPOLLOUT | EPOLLHUP | EPOLLERR))
            ready |= IO_WRITABLE;
        if (happened & (EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            ready |= IO_UNUSUAL;
        io_handle_ready(events[i].data.u64, ready, done);
    }
    return 0;
}

const io_backend io_backend_epoll = {
    .name = "epoll",
    .probe = epoll_probe,
    .lane_open = epoll_lane_open,
    .lane_close = epoll_lane_close,
    .wait = epoll_lane_wait,
    .wake = epoll_wake,
    .handle_open = epoll_handle_open,
    .handle_close = epoll_handle_close,
    .close_native = linux_close_native,
    .submit = epoll_submit,
    .cancel = epoll_cancel,
    .check_file = linux_check_file,
    .hold_file = linux_hold_file,
    .receive_now = epoll_receive_now,
    .shutdown = linux_shutdown,
    .unsent = linux_unsent,
    .send_now = linux_send_now,
    .prepare_close = linux_prepare_close,
    .address = linux_address,
};
