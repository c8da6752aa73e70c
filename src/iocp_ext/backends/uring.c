/* uring.c: completions on Linux by io_uring.
 *
 * Receives, accepts, connects, polls and file operations are the ring's own. Sends are tried at
 * once, without blocking, and only wait in the ring (as a poll) when the socket's buffer is full:
 * a send seldom waits, and this way it costs one system call and no completion. The receives of
 * connections have a file to themselves, uring_receive.c.
 *
 * Any thread may submit. With COOP_TASKRUN the kernel finishes an operation in the thread that
 * submitted it, when that thread next enters the kernel or waits. When a thread ends, the kernel
 * cancels what it had submitted, or finds out when data arrives; a cancellation nobody asked for is
 * therefore submitted again, and a connect goes on as a wait for its socket to become writable.
 *
 * What the kernel does not take for want of memory fails; but a cancel, which may not, is owed: the
 * thread that waits asks again every few milliseconds.
 *
 * Closing a descriptor does not end an operation on it: only its completion does. */
#include "core/accepting.h"
#include "posix_socket.h"
#include "uring_receive.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

enum {
    SQ_ENTRIES = 8,
    CQ_ENTRIES = 4096,
    REAPED_MAX = 64,
    INLINE_FILE_BYTES_MAX = 1 << 20, /* longer copies go to a kernel thread */
    ASK_AGAIN_NS = 5 * 1000 * 1000,
    RETRIES_MAX = 64, /* results without meaning that one operation may have in a row */
};

/* ---- lanes ----------------------------------------------------------------------------------- */

int uring_submit_entry(uring_lane *state, const struct uring_sqe *entry) {
    io_mutex_lock(&state->submit_lock);
    int error = uring_ring_submit(&state->ring, entry);
    io_mutex_unlock(&state->submit_lock);
    return error;
}

int uring_submit_cancel(uring_lane *state, uint64_t token, uint32_t flags) {
    struct uring_sqe entry = {
        .opcode = URING_OP_ASYNC_CANCEL,
        .fd = -1,
        .address = token,
        .op_flags = flags,
        .user_data = URING_TOKEN_CANCEL,
    };
    return uring_submit_entry(state, &entry);
}

int uring_wait_briefly(uring_lane *state, struct uring_cqe *completion) {
    struct uring_timespec limit = {1, 0};
    for (int tries = 0; tries < 4; tries++) {
        if (uring_ring_reap(&state->ring, completion, 1) == 1)
            return 0;
        int error = uring_ring_wait(&state->ring, &limit, NULL);
        if (error && error != EINTR)
            return error;
    }
    return ETIME;
}

static int arm_wake(uring_lane *state) {
    struct uring_sqe entry = {
        .opcode = URING_OP_POLL_ADD,
        .fd = state->wake,
        .length = URING_POLL_MULTISHOT,
        .op_flags = POLLIN,
        .user_data = URING_TOKEN_WAKE,
    };
    int error = uring_submit_entry(state, &entry);
    state->wake_armed = error == 0;
    return error;
}

static int open_state(uring_lane *state) {
    int error = uring_ring_open(&state->ring, SQ_ENTRIES, CQ_ENTRIES);
    if (error)
        return error;
    state->owes = false;
    state->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    error = state->wake < 0 ? errno : io_mutex_init(&state->submit_lock);
    if (error == 0) {
        error = arm_wake(state);
        if (error == 0) {
            uring_intake_open(state);
            return 0;
        }
        io_mutex_destroy(&state->submit_lock);
    }
    if (state->wake >= 0)
        close(state->wake);
    uring_ring_close(&state->ring);
    return error;
}

static void close_state(uring_lane *state) {
    uring_intake_drain(state);
    uring_ring_close(&state->ring);
    uring_intake_close(state);
    close(state->wake);
    io_mutex_destroy(&state->submit_lock);
}

static int uring_lane_open(io_lane *lane, uint32_t *os_error) {
    uring_lane *state = malloc(sizeof *state);
    if (state == NULL)
        return -IOE_NOMEM;
    int error = open_state(state);
    if (error) {
        *os_error = (uint32_t)error;
        free(state);
        return -error;
    }
    lane->state = state;
    return 0;
}

static void uring_lane_close(io_lane *lane) {
    uring_lane *state = lane->state;
    if (lane->broken) /* the number may be another file's by now */
        state->ring.fd = -1;
    close_state(state);
    free(state);
    lane->state = NULL;
}

static void uring_wake(io_lane *lane) {
    io_wake_signal(((uring_lane *)lane->state)->wake);
}

/* ---- submitting ------------------------------------------------------------------------------ */

static void prepare_poll(struct uring_sqe *entry, uint32_t events) {
    entry->opcode = URING_OP_POLL_ADD;
    entry->op_flags =
        (events & IO_READABLE ? POLLIN | POLLRDHUP : 0) | (events & IO_WRITABLE ? POLLOUT : 0);
}

static void prepare_file(struct uring_sqe *entry, io_op *op) {
    io_transfer *transfer = (io_transfer *)op;
    entry->opcode = op->kind == IO_READ    ? URING_OP_READV
                    : op->kind == IO_WRITE ? URING_OP_WRITEV
                                           : URING_OP_FSYNC;
    if (op->kind == IO_SYNC)
        return;
    entry->address = uring_pointer(transfer->vecs);
    entry->length = transfer->vec_count;
    entry->offset = transfer->offset;
    if (transfer->length - transfer->transferred > INLINE_FILE_BYTES_MAX)
        entry->flags |= URING_SQE_ASYNC;
}

static void prepare_receive(struct uring_sqe *entry, io_op *op) {
    io_transfer *transfer = (io_transfer *)op;
    if (op->kind == IO_RECV) {
        entry->opcode = URING_OP_RECV;
        entry->address = uring_pointer(io_vec_base(transfer->vecs));
        entry->length = (uint32_t)io_vec_length(transfer->vecs);
        return;
    }
    io_datagram *datagram = (io_datagram *)op;
    memset(&datagram->message, 0, sizeof datagram->message);
    datagram->message.msg_name = &datagram->address.storage;
    datagram->message.msg_namelen = sizeof datagram->address.storage;
    datagram->message.msg_iov = transfer->vecs;
    datagram->message.msg_iovlen = transfer->vec_count;
    entry->opcode = URING_OP_RECVMSG;
    entry->address = uring_pointer(&datagram->message);
    entry->length = 1;
}

static void prepare_connection(struct uring_sqe *entry, io_op *op) {
    if (op->kind == IO_ACCEPT) {
        io_accept *accept = (io_accept *)op;
        accept->peer.length = sizeof accept->peer.storage;
        entry->opcode = URING_OP_ACCEPT;
        entry->address = uring_pointer(&accept->peer.storage);
        entry->offset = uring_pointer(&accept->peer.length);
        entry->op_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
        return;
    }
    io_connect *connection = (io_connect *)op;
    entry->opcode = URING_OP_CONNECT;
    entry->address = uring_pointer(&connection->address.storage);
    entry->offset = (uint64_t)connection->address.length;
    op->flags |= IO_OP_CONNECTING;
}

/* Whether the operation is tried here and only waits in the ring. */
static bool by_readiness(const io_op *op) {
    return op->kind == IO_RECEIVE || op->kind == IO_SEND || op->kind == IO_SEND_TO ||
           op->kind == IO_SEND_FILE || (op->kind == IO_CONNECT && op->flags & IO_OP_CONNECTING);
}

/* Fills in the entry; IO_PENDING: submit it. IO_DONE or an error: nothing is to be submitted. */
static int prepare(struct uring_sqe *entry, io_op *op) {
    if (op->kind == IO_RECEIVE) { /* has been tried */
        prepare_poll(entry, IO_READABLE);
        return IO_PENDING;
    }
    if (by_readiness(op)) {
        int answer = op->flags & IO_OP_YIELD ? -IOE_AGAIN : posix_perform(op);
        if (answer != -IOE_AGAIN)
            return answer;
        prepare_poll(entry, IO_WRITABLE);
        return IO_PENDING;
    }
    if (op->flags & IO_OP_EAGER) {
        int answer = posix_perform(op);
        if (answer != -IOE_AGAIN)
            return answer;
    }
    bool fills = op->kind == IO_RECV || op->kind == IO_RECV_FROM || op->kind == IO_READ;
    if (fills && !io_transfer_acquire((io_transfer *)op))
        return -IOE_NOMEM;
    switch ((io_kind)op->kind) {
    case IO_POLL:
        prepare_poll(entry, ((io_poll *)op)->events);
        break;
    case IO_RECV:
    case IO_RECV_FROM:
        prepare_receive(entry, op);
        break;
    case IO_ACCEPT:
    case IO_CONNECT:
        prepare_connection(entry, op);
        break;
    default:
        prepare_file(entry, op);
    }
    return IO_PENDING;
}

static int uring_submit(io_op *op) {
    io_handle *handle = op->handle;
    bool on_file = op->kind == IO_READ || op->kind == IO_WRITE || op->kind == IO_SYNC;
    if (!on_file && op->flags & (IO_OP_RESUBMITTED | IO_OP_YIELD) && !posix_same_file(handle))
        return -IOE_BADF;
    /* The ring would wait for a pipe; an offset means nothing there, here as elsewhere. */
    if (on_file && op->kind != IO_SYNC && !handle->backend.word[POSIX_SEEKS])
        return -IOE_SPIPE;
    if (op->kind == IO_RECEIVE) {
        int answer = uring_receive(op);
        if (answer != -IOE_AGAIN)
            return answer;
    }
    struct uring_sqe entry;
    memset(&entry, 0, sizeof entry);
    entry.fd = (int32_t)(on_file ? handle->backend.word[POSIX_FILE] : handle->native);
    entry.user_data = io_op_token(op);
    int answer = prepare(&entry, op);
    if (answer != IO_PENDING)
        return answer;
    /* From here the thread that waits may touch it: it acquires what this releases. */
    atomic_store_explicit(&op->state, IO_OP_SUBMITTED, memory_order_release);
    int error = uring_submit_entry(op->lane->state, &entry);
    if (error == 0)
        return IO_PENDING;
    op->os_error = (uint32_t)error;
    return error == EAGAIN ? -IOE_NOMEM : -error;
}

/* ---- cancelling ------------------------------------------------------------------------------ */

/* False: it is owed. */
static bool ask_for_end(io_op *op) {
    uring_lane *state = op->lane->state;
    bool asked = uring_submit_cancel(state, io_op_token(op), 0) == 0;
    if (asked) {
        op->flags &= (uint8_t)~IO_OP_CANCEL_OWED;
    } else {
        op->flags |= IO_OP_CANCEL_OWED;
        state->owes = true;
    }
    return asked;
}

static int uring_cancel(io_op *op) {
    if (op->kind == IO_RECEIVE && uring_receive_cancel(op))
        return IO_DONE;
    if (!ask_for_end(op))
        uring_wake(op->lane); /* who waits does not know */
    return IO_PENDING;
}

static void ask_again(io_handle *handle, void *context) {
    io_list *lists[] = {&handle->queue[IO_IN], &handle->queue[IO_OUT], &handle->others};
    (void)context;
    io_lock_acquire(&handle->lock);
    for (size_t i = 0; handle->open && i < sizeof lists / sizeof lists[0]; i++) {
        for (io_link *link = lists[i]->next; link != lists[i]; link = link->next) {
            io_op *op = IO_CONTAINER(link, io_op, link);
            if (op->flags & IO_OP_CANCEL_OWED)
                (void)ask_for_end(op);
        }
    }
    if (handle->open)
        uring_receiver_ask_again(handle);
    io_lock_release(&handle->lock);
}

/* Tries again what the kernel has refused. */
static int make_good(io_lane *lane) {
    uring_lane *state = lane->state;
    if (state->owes) {
        state->owes = false;
        io_handles_each(lane, ask_again, NULL);
    }
    int error = state->wake_armed ? 0 : arm_wake(state);
    if (error != ENOMEM && error != EAGAIN && error != EBUSY)
        return error;
    state->owes = true;
    return 0;
}

/* ---- completions ----------------------------------------------------------------------------- */

/* A cancellation that nobody asked for comes once for each thread that ends, and so not without
 * end; nothing else is sure to stop. */
static bool means_nothing(io_op *op, int32_t result) {
    bool again = result == -EINTR || result == -EAGAIN;
    return result == -ECANCELED || (again && op->retries++ < RETRIES_MAX);
}

static void report(io_op *op, int32_t result, io_list *done) {
    if (means_nothing(op, result)) {
        io_op_retry(op, done); /* ends it if a cancel was asked for */
        return;
    }
    if (result == -EAGAIN)
        result = -ENOBUFS; /* something is lacking, and goes on being so */
    if (by_readiness(op) && op->kind != IO_CONNECT) {
        io_op_retry(op, done); /* ready, or broken: trying tells */
        return;
    }
    if (op->kind == IO_CONNECT && (result == -EALREADY || result == -EINPROGRESS)) {
        io_op_retry(op, done); /* somebody began it before; now it waits for that */
        return;
    }
    switch ((io_kind)op->kind) {
    case IO_ACCEPT:
        if (result < 0 && io_accept_again((io_accept *)op, -result)) {
            io_op_retry(op, done);
            return;
        }
        if (result >= 0) {
            ((io_accept *)op)->accepted = result;
            result = 0;
        }
        break;
    case IO_RECV_FROM:
        ((io_datagram *)op)->address.length = ((io_datagram *)op)->message.msg_namelen;
        break;
    default:
        break;
    }
    io_op_reported(op, result, result < 0 ? (uint32_t)-result : 0, done);
}

static void report_poll(io_op *op, int32_t result, io_list *done) {
    io_poll *poll = (io_poll *)op;
    if (result & (POLLERR | POLLHUP | POLLNVAL))
        poll->ready = poll->events;
    else
        poll->ready = poll->events & ((result & (POLLIN | POLLRDHUP) ? IO_READABLE : 0u) |
                                      (result & POLLOUT ? IO_WRITABLE : 0u));
    io_op_reported(op, 0, 0, done);
}

static void take(uring_lane *state, const struct uring_cqe *completion, io_list *done) {
    if (completion->user_data == URING_TOKEN_CANCEL)
        return; /* the operation's own completion tells */
    if (completion->user_data == URING_TOKEN_WAKE) {
        if (!(completion->flags & URING_CQE_MORE))
            state->wake_armed = false; /* the thread that armed it ended */
        return;
    }
    io_op *op = io_op_from_token(completion->user_data);
    if (op == NULL || atomic_load_explicit(&op->state, memory_order_acquire) != IO_OP_SUBMITTED) {
        fprintf(stderr, "iocpcore: io_uring completed an operation that had been released\n");
        abort();
    }
    /* A connect's own completion, or that of the poll it went on as after a cancellation. */
    if (op->kind == IO_CONNECT && completion->result > 0)
        io_op_retry(op, done);
    else if (op->kind == IO_POLL && completion->result >= 0)
        report_poll(op, completion->result, done);
    else
        report(op, completion->result, done);
}

static int wait_for_completions(uring_lane *state, const io_wait *wait, uint64_t deadline_ns) {
    struct uring_timespec left, *timeout = NULL;
    sigset_t all;
    const void *mask = wait->mask;
    if (mask == NULL) {
        sigfillset(&all);
        mask = &all;
    }
    if (deadline_ns != IO_NEVER) {
        struct timespec time_left = io_time_left(deadline_ns);
        left.seconds = time_left.tv_sec;
        left.nanoseconds = time_left.tv_nsec;
        timeout = &left;
    }
    int error = uring_ring_wait(&state->ring, timeout, mask);
    if (error == EINTR && !wait->signals)
        return 0;
    return error == ETIME ? 0 : -error;
}

static int uring_lane_wait(io_lane *lane, const io_wait *wait, uint64_t deadline_ns, int maximum,
                           io_list *done) {
    uring_lane *state = lane->state;
    struct uring_cqe completions[REAPED_MAX];
    if (maximum > REAPED_MAX)
        maximum = REAPED_MAX;
    int failure = make_good(lane);
    if (failure)
        return -failure;
    if (state->owes && deadline_ns > io_clock_ns() + ASK_AGAIN_NS)
        deadline_ns = io_clock_ns() + ASK_AGAIN_NS;
    int count = uring_ring_reap(&state->ring, completions, maximum);
    if (count == 0) {
        /* Not with a timeout of nothing, which costs a timer of the kernel's. */
        bool due = deadline_ns != IO_NEVER && deadline_ns <= io_clock_ns();
        int error =
            due ? -uring_ring_flush(&state->ring) : wait_for_completions(state, wait, deadline_ns);
        count = uring_ring_reap(&state->ring, completions, maximum);
        if (error && count == 0)
            return error;
    }
    for (int i = 0; i < count; i++) {
        uint64_t token = completions[i].user_data;
        bool followed = i + 1 < count && completions[i + 1].user_data == token;
        if ((token & URING_TOKEN_BITS) == URING_TOKEN_RECEIVER)
            uring_received(state, &completions[i], followed, done);
        else
            take(state, &completions[i], done);
    }
    return 0;
}

/* ---- handles --------------------------------------------------------------------------------- */

static int uring_handle_open(io_handle *handle, uint32_t *os_error) {
    int error = posix_handle_open(handle, os_error);
    if (error == 0 && handle->owned && handle->type == IO_STREAM)
        uring_receiver_open(handle);
    return error;
}

static void uring_handle_close(io_handle *handle, bool close_native) {
    posix_handle_close(handle);
    if (!uring_receiver_close(handle, close_native) && close_native && posix_same_file(handle))
        posix_close(handle->native);
}

/* ---- probing --------------------------------------------------------------------------------- */

/* What we rest on: a receive on a non-blocking socket waits, can be cancelled, and its completion
 * tells; and a write to the eventfd ends a wait. */
static int probe_behaviour(uring_lane *state, const int pair[2], const char **what) {
    char byte;
    struct uring_cqe completion;
    struct uring_sqe receive = {
        .opcode = URING_OP_RECV,
        .fd = pair[0],
        .address = uring_pointer(&byte),
        .length = 1,
        .user_data = 100,
    };
    struct uring_sqe cancel = {
        .opcode = URING_OP_ASYNC_CANCEL, .fd = -1, .address = 100, .user_data = URING_TOKEN_CANCEL};
    *what = "submitting";
    int error = uring_submit_entry(state, &receive);
    if (error)
        return error;
    *what = "a receive on a non-blocking socket does not wait";
    if (uring_ring_reap(&state->ring, &completion, 1) == 1)
        return EAGAIN;
    *what = "cancelling a receive";
    error = uring_submit_entry(state, &cancel);
    for (int i = 0; i < 2 && error == 0; i++) {
        error = uring_wait_briefly(state, &completion);
        if (error == 0 && completion.user_data == 100 && completion.result != -ECANCELED)
            error = EINVAL;
    }
    if (error)
        return error;
    *what = "waking a waiting thread";
    io_wake_signal(state->wake);
    error = uring_wait_briefly(state, &completion);
    if (error == 0 && (completion.user_data != URING_TOKEN_WAKE || completion.result < 0 ||
                       !(completion.flags & URING_CQE_MORE)))
        error = EINVAL;
    return error;
}

static int uring_probe(char *reason, size_t size) {
    static _Atomic bool works; /* a kernel that did goes on doing so */
    if (works)
        return 0;
    uring_lane state;
    const char *what = "io_uring_setup";
    int error = open_state(&state);
    if (error == 0) {
        int pair[2];
        what = "socketpair";
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0) {
            error = probe_behaviour(&state, pair, &what);
            close(pair[0]);
            close(pair[1]);
        } else {
            error = errno;
        }
        close_state(&state);
    }
    works = error == 0;
    if (error)
        snprintf(reason, size, "%s: %s", what, strerror(error));
    return -error;
}

const io_backend io_backend_uring = {
    .name = "io_uring",
    .probe = uring_probe,
    .lane_open = uring_lane_open,
    .lane_close = uring_lane_close,
    .wait = uring_lane_wait,
    .wake = uring_wake,
    .handle_open = uring_handle_open,
    .handle_close = uring_handle_close,
    .submit = uring_submit,
    .cancel = uring_cancel,
    .check_file = posix_check_file,
    .hold_file = posix_hold_file,
    .receive_now = uring_receive_now,
    .shutdown = posix_shutdown,
    .unsent = posix_unsent,
    .send_now = posix_send_now,
    .prepare_close = posix_prepare_close,
    .address = posix_address,
};
