/* uring.c: completions on Linux: io_uring for files, readiness for everything else.
 *
 * Reads, writes and syncs of files go to the ring. Sockets, pipes and polls wait in epoll, with the
 * functions of epoll.c, because a peer can break a socket wait in the ring in two ways.
 *
 * First, the ring adds POLLERR, POLLHUP and POLLRDHUP to every requested mask, and these conditions
 * persist. If the peer has ended its stream, a send or poll that waits for room completes at once,
 * again and again. What the ring retries itself moves to a kernel thread after some attempts and
 * blocks there: one thread per socket.
 *
 * Second, a multishot receive takes EAGAIN as an empty socket and waits for the next edge. At the
 * start of urgent data, TCP returns EAGAIN to a thread with a pending signal or pending kernel
 * work, whatever data follows. If that data was the last of the stream, no edge comes, and the
 * receive never completes.
 *
 * Edge-triggered epoll reports a condition once, and we make the attempt ourselves, so both cases
 * can be handled. It also does not matter which thread submitted an operation, or whether that
 * thread still exists.
 *
 * The ring's descriptor is in the epoll set, so a thread waits for everything at once. Any thread
 * may submit. With COOP_TASKRUN the kernel finishes an operation in the thread that submitted it,
 * when that thread next enters the kernel. When a thread exits, the kernel cancels its operations;
 * a cancellation that nobody requested is therefore submitted again.
 *
 * An operation that the kernel refuses for lack of memory fails. A cancel must not fail, so it is
 * deferred: the waiting thread retries it every few milliseconds. */
#include "backends/linux/epoll.h"
#include "backends/linux/socket.h"
#include "backends/linux/uring_ring.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SQ_ENTRIES = 8,
    CQ_ENTRIES = 4096,
    REAPED_MAX = 64,
    INLINE_FILE_BYTES_MAX = 1 << 20, /* longer copies go to a kernel thread */
    DEFERRED_RETRY_NS = 5 * 1000 * 1000,
    RETRIES_MAX = 64, /* consecutive transient results allowed per operation */
    PROBE_MS = 1000,
};

enum { URING_TOKEN_CANCEL = 1 }; /* not an operation's token: their low bits are 0 */

typedef struct uring_lane {
    epoll_lane readiness; /* first, as epoll.c requires */
    uring_ring ring;
    io_mutex submit_lock;
    _Atomic bool deferred; /* some operation has IO_OP_CANCEL_DEFERRED */
} uring_lane;
_Static_assert(offsetof(uring_lane, readiness) == 0, "layout");

/* ---- lanes ----------------------------------------------------------------------------------- */

/* Any thread may call this. On an error nothing was submitted. */
static int uring_submit_entry(uring_lane *state, const struct uring_sqe *entry) {
    io_mutex_lock(&state->submit_lock);
    int error = uring_ring_submit(&state->ring, entry);
    io_mutex_unlock(&state->submit_lock);
    return error;
}

static int uring_state_open(uring_lane *state) {
    state->deferred = false;
    int error = uring_ring_open(&state->ring, SQ_ENTRIES, CQ_ENTRIES);
    if (error)
        return error;
    error = epoll_state_open(&state->readiness);
    if (error)
        goto no_epoll;
    error = epoll_watch(&state->readiness, state->ring.fd);
    if (error == 0)
        error = io_mutex_init(&state->submit_lock);
    if (error == 0)
        return 0;
    epoll_state_close(&state->readiness);
no_epoll:
    uring_ring_close(&state->ring);
    return error;
}

static void uring_state_close(uring_lane *state) {
    epoll_state_close(&state->readiness);
    uring_ring_close(&state->ring);
    io_mutex_destroy(&state->submit_lock);
}

static int uring_lane_open(io_lane *lane, uint32_t *os_error) {
    uring_lane *state = malloc(sizeof *state);
    int error = state == NULL ? -IOE_NOMEM : uring_state_open(state);
    return epoll_lane_opened(lane, state, error, os_error);
}

static void uring_lane_close(io_lane *lane) {
    uring_lane *state = lane->state;
    if (lane->broken) /* the descriptors may be other files by now */
        state->readiness.epoll = state->ring.fd = -1;
    uring_state_close(state);
    free(state);
    lane->state = NULL;
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool uring_on_file(const io_op *op) {
    return op->kind == IO_READ || op->kind == IO_WRITE || op->kind == IO_SYNC;
}

static void uring_prepare(struct uring_sqe *entry, io_op *op) {
    io_transfer *transfer = (io_transfer *)op;
    entry->opcode = op->kind == IO_READ    ? URING_OP_READV
                    : op->kind == IO_WRITE ? URING_OP_WRITEV
                                           : URING_OP_FSYNC;
    if (op->kind == IO_SYNC)
        return;
    entry->address = (uint64_t)(uintptr_t)transfer->vecs;
    entry->length = transfer->vec_count;
    entry->offset = transfer->offset;
    if (transfer->length - transfer->transferred > INLINE_FILE_BYTES_MAX)
        entry->flags |= URING_SQE_ASYNC;
}

static int uring_submit(io_op *op) {
    io_handle *handle = op->handle;
    io_assert(io_lock_is_mine(&handle->lock) && op->state == IO_OP_SUBMITTED);
    if (!uring_on_file(op))
        return epoll_submit(op);
    /* The ring would wait for a pipe. Offsets are invalid for pipes, as on other backends. */
    if (op->kind != IO_SYNC && !handle->backend.word[LINUX_SEEKS])
        return -IOE_SPIPE;
    if (op->kind == IO_READ && !io_transfer_acquire((io_transfer *)op))
        return -IOE_NOMEM;
    struct uring_sqe entry;
    memset(&entry, 0, sizeof entry);
    entry.fd = (int32_t)handle->backend.word[LINUX_FILE];
    entry.user_data = io_op_token(op);
    uring_prepare(&entry, op);
    /* From here on the waiting thread may access the operation: it acquires what this releases. */
    atomic_store_explicit(&op->state, IO_OP_SUBMITTED, memory_order_release);
    int error = uring_submit_entry(op->lane->state, &entry);
    if (error == 0)
        return IO_PENDING;
    op->os_error = io_error_to_system(error);
    return error == -IOE_AGAIN ? -IOE_NOMEM : error;
}

/* ---- cancelling ------------------------------------------------------------------------------ */

/* Must be called with the handle's lock held. Returns false if the cancel was deferred. */
static bool uring_request_cancel(io_op *op) {
    uring_lane *state = op->lane->state;
    io_assert(io_lock_is_mine(&op->handle->lock));
    struct uring_sqe entry = {
        .opcode = URING_OP_ASYNC_CANCEL,
        .fd = -1,
        .address = io_op_token(op),
        .user_data = URING_TOKEN_CANCEL,
    };
    bool requested = uring_submit_entry(state, &entry) == 0;
    if (requested) {
        op->flags &= (uint8_t)~IO_OP_CANCEL_DEFERRED;
    } else {
        op->flags |= IO_OP_CANCEL_DEFERRED;
        state->deferred = true;
    }
    return requested;
}

static int uring_cancel(io_op *op) {
    if (!uring_on_file(op))
        return epoll_cancel(op);
    if (!uring_request_cancel(op))
        epoll_wake(op->lane); /* the waiting thread retries it */
    return IO_PENDING;
}

static void uring_retry_deferred(io_handle *handle, void *context) {
    (void)context;
    io_handle_lock(handle);
    if (handle->open) {
        for (io_link *link = handle->others.next; link != &handle->others; link = link->next) {
            io_op *op = IO_CONTAINER(link, io_op, link);
            if (op->flags & IO_OP_CANCEL_DEFERRED)
                (void)uring_request_cancel(op);
        }
    }
    io_handle_unlock(handle);
}

/* ---- completions ----------------------------------------------------------------------------- */

/* EINTR and EAGAIN may recur without bound, so their retries are limited. A cancellation that
 * nobody requested occurs only once per thread that exits, so those are not counted. */
static bool uring_is_transient(int result) {
    return result == -IOE_INTR || result == -IOE_AGAIN;
}

/* Completions carry -errno. */
static int uring_result_of(const struct uring_cqe *completion) {
    int32_t result = completion->result;
    return result < 0 ? io_error_from_errno(-result) : result;
}

static void uring_complete(const struct uring_cqe *completion, io_list *done) {
    int result = uring_result_of(completion);
    if (completion->user_data == URING_TOKEN_CANCEL)
        return; /* the operation has a completion of its own */
    io_op *op = io_op_from_token(completion->user_data);
    if (op == NULL || atomic_load_explicit(&op->state, memory_order_acquire) != IO_OP_SUBMITTED) {
        fprintf(stderr, "iocpcore: io_uring completed an operation that had been released\n");
        abort();
    }
    if (result == -IOE_CANCELED || (uring_is_transient(result) && op->retries++ < RETRIES_MAX)) {
        io_op_retry(op, done); /* ends it if a cancel was requested */
        return;
    }
    if (result == -IOE_AGAIN)
        result = -IOE_NOBUFS; /* retried in vain: a resource is short */
    io_op_reported(op, result, result < 0 ? io_error_to_system(result) : 0, done);
}

static int uring_reap(uring_lane *state, int maximum, io_list *done) {
    struct uring_cqe completions[REAPED_MAX];
    int count =
        uring_ring_reap(&state->ring, completions, maximum < REAPED_MAX ? maximum : REAPED_MAX);
    for (int i = 0; i < count; i++)
        uring_complete(&completions[i], done);
    return count;
}

/* Reaps completions, including those the kernel held back because the queue was full. */
static int uring_collect(uring_lane *state, int maximum, io_list *done) {
    int count = uring_reap(state, maximum, done);
    if (count > 0 || !uring_ring_overflown(&state->ring))
        return count;
    int error = uring_ring_flush(&state->ring);
    return error ? error : uring_reap(state, maximum, done);
}

static int uring_lane_wait(io_lane *lane, const io_wait *wait, uint64_t deadline_ns, int maximum,
                           io_list *done) {
    uring_lane *state = lane->state;
    if (state->deferred) {
        state->deferred = false;
        io_handles_each(lane, uring_retry_deferred, NULL);
    }
    int count = uring_collect(state, maximum, done);
    if (count < 0)
        return count;
    if (state->deferred && deadline_ns > io_clock_ns() + DEFERRED_RETRY_NS)
        deadline_ns = io_clock_ns() + DEFERRED_RETRY_NS;
    int error = epoll_lane_wait(lane, wait, count > 0 ? 0 : deadline_ns, maximum, done);
    count += uring_reap(state, maximum, done);
    return count > 0 ? 0 : error;
}

/* ---- probing --------------------------------------------------------------------------------- */

/* Checks what the backend relies on: a completion ends a wait for the ring's descriptor. */
static int uring_probe_wait(uring_lane *state) {
    struct uring_sqe nothing = {.opcode = URING_OP_NOP, .user_data = URING_TOKEN_CANCEL};
    struct pollfd asked = {.fd = state->readiness.epoll, .events = POLLIN};
    struct uring_cqe completion;
    int error = uring_submit_entry(state, &nothing);
    if (error)
        return error;
    if (poll(&asked, 1, PROBE_MS) != 1 || uring_ring_reap(&state->ring, &completion, 1) != 1)
        return -IOE_NOSYS;
    return completion.user_data == URING_TOKEN_CANCEL ? uring_result_of(&completion) : -IOE_INVAL;
}

static int uring_probe(char *reason, size_t size) {
    static _Atomic bool works; /* cached: a success is final */
    if (works)
        return 0;
    uring_lane state;
    const char *what = "io_uring_setup";
    int error = uring_state_open(&state);
    if (error == 0) {
        what = "waiting for a completion";
        error = uring_probe_wait(&state);
        uring_state_close(&state);
    }
    works = error == 0;
    if (error)
        snprintf(reason, size, "%s: %s", what, io_error_text(error));
    return error;
}

const io_backend io_backend_uring = {
    .name = "io_uring",
    .probe = uring_probe,
    .lane_open = uring_lane_open,
    .lane_close = uring_lane_close,
    .wait = uring_lane_wait,
    .wake = epoll_wake,
    .handle_open = epoll_handle_open,
    .handle_close = epoll_handle_close,
    .close_native = linux_close_native,
    .submit = uring_submit,
    .cancel = uring_cancel,
    .check_file = linux_check_file,
    .hold_file = linux_hold_file,
    .receive_now = epoll_receive_now,
    .shutdown = linux_shutdown,
    .unsent = linux_unsent,
    .send_now = linux_send_now,
    .prepare_close = linux_prepare_close,
    .address = linux_address,
};
