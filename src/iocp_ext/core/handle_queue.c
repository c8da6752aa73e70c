/* handle_queue.c: the operation queues of a handle; the only path from submit to completion.
 *
 * Each direction of a handle has a queue, and only its head is submitted to the backend. If two
 * sends were submitted and the first one sent only a part, the second would put its bytes in
 * between. So a partial send is continued before the next send starts. A backend whose kernel keeps
 * such a queue itself (IO_KERNEL_QUEUES) gets all operations immediately; only a send_file, which
 * may need several calls, holds back the operations behind it.
 *
 * All of this happens under the handle's lock, so if another thread dequeues a completion before
 * submit() has returned, it simply waits for the lock. Completed operations are collected in a list
 * and pushed to the lane's ready queue after the lock is released. */
#include "core/handle.h"

#include "core/token.h"

enum {
    ROUNDS_MAX = 4, /* consecutive parts of one operation before it must yield to others */
};

static int handle_queue_direction_of(uint8_t kind) {
    switch (kind) {
    case IO_RECV:
    case IO_RECEIVE:
    case IO_RECV_FROM:
    case IO_ACCEPT:
        return IO_IN;
    case IO_SEND:
    case IO_SEND_TO:
    case IO_SEND_FILE:
    case IO_CONNECT:
        return IO_OUT;
    default:
        return -1; /* polls and files are unordered */
    }
}

static bool handle_queue_kernel_queues(const io_handle *handle) {
    return (handle->lane->backend->flags & IO_KERNEL_QUEUES) != 0;
}

/* Returns true if the next operation must not be submitted while this one is. */
static bool handle_queue_holds_back(const io_handle *handle, const io_op *op) {
    return !handle_queue_kernel_queues(handle) || op->kind == IO_SEND_FILE;
}

/* ---- progress -------------------------------------------------------------------------------- */

static void handle_queue_advance_vecs(io_transfer *transfer, size_t moved) {
    while (moved > 0) {
        size_t length = io_vec_length(transfer->vecs);
        if (moved < length) {
            io_vec_set(transfer->vecs, io_vec_base(transfer->vecs) + moved, length - moved);
            return;
        }
        moved -= length;
        transfer->vecs++;
        transfer->vec_count--;
    }
}

/* Records `result` bytes as moved. Returns true if the operation must be submitted again. */
static bool handle_queue_wants_more(io_op *op, int64_t result) {
    uint64_t moved = (uint64_t)result;
    if (op->kind == IO_SEND || op->kind == IO_WRITE) {
        io_transfer *transfer = (io_transfer *)op;
        transfer->transferred += moved;
        transfer->offset += moved;
        if (moved == 0 || transfer->transferred >= transfer->length)
            return false;
        handle_queue_advance_vecs(transfer, (size_t)moved);
        return true;
    }
    if (op->kind == IO_SEND_FILE) {
        io_send_file *file = (io_send_file *)op;
        file->transferred += moved;
        file->offset += moved;
        if (file->remaining != UINT64_MAX)
            file->remaining -= moved;
        return moved > 0 && file->remaining > 0;
    }
    return false;
}

static int64_t handle_queue_final_result(const io_op *op, int64_t result) {
    if (op->kind == IO_SEND || op->kind == IO_WRITE)
        return (int64_t)((const io_transfer *)op)->transferred;
    if (op->kind == IO_SEND_FILE)
        return (int64_t)((const io_send_file *)op)->transferred;
    return result;
}

/* ---- submit and complete --------------------------------------------------------------------- */

/* Removes the operation from its handle and appends it to `done`. Every operation of a handle ends
 * here. The handle's lock must be held. */
static void handle_queue_complete(io_op *op, int64_t result, uint32_t os_error, io_list *done) {
    io_handle *handle = op->handle;
    io_port *port = op->lane->port;
    int direction = handle_queue_direction_of(op->kind);
    io_assert(io_lock_is_mine(&handle->lock));
    io_assert(op->state == IO_OP_QUEUED || op->state == IO_OP_SUBMITTED);
    if (direction >= 0 && op->state == IO_OP_QUEUED) {
        io_assert(handle->waiting[direction] > 0);
        handle->waiting[direction]--;
    } else if (direction >= 0 && handle_queue_holds_back(handle, op)) {
        io_assert(handle->busy[direction]);
        handle->busy[direction] = false;
    }
    io_assert(handle->in_flight > 0);
    handle->in_flight--;
    if (op->kind == IO_SEND_FILE && ((io_send_file *)op)->held)
        io_native_close_file(((io_send_file *)op)->file);
    op->result = result;
    op->os_error = result < 0 ? os_error : 0;
    io_list_remove(&op->link);
    atomic_store_explicit(&op->state, IO_OP_COMPLETED, memory_order_release);
    _Atomic uint64_t *count = result >= 0               ? &port->completed
                              : result == -IOE_CANCELED ? &port->cancelled
                                                        : &port->failed;
    atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
    io_list_push_back(done, &op->link);
}

/* Submits the operation to the backend, repeatedly while it ends immediately with only a part done.
 * The handle's lock must be held. */
static void handle_queue_start(io_op *op, io_list *done) {
    io_handle *handle = op->handle;
    int direction = handle_queue_direction_of(op->kind);
    io_assert(io_lock_is_mine(&handle->lock) && handle->open && !handle->native_gone);
    io_assert(op->state == IO_OP_QUEUED || op->state == IO_OP_SUBMITTED);
    if (op->state == IO_OP_QUEUED && direction >= 0) {
        io_assert(handle->waiting[direction] > 0 && !handle->busy[direction]);
        handle->waiting[direction]--;
        handle->busy[direction] = handle_queue_holds_back(handle, op);
    }
    atomic_store_explicit(&op->state, IO_OP_SUBMITTED, memory_order_relaxed);
    op->flags &= (uint8_t)~IO_OP_YIELD;
    for (int round = 1;; round++) {
        int answer = handle->lane->backend->submit(op);
        if (answer == IO_PENDING)
            return;
        if (answer < 0) {
            handle_queue_complete(op, answer, op->os_error, done);
            return;
        }
        io_assert(answer == IO_DONE && op->result >= 0);
        if (!handle_queue_wants_more(op, op->result)) {
            handle_queue_complete(op, handle_queue_final_result(op, op->result), 0, done);
            return;
        }
        if (op->flags & IO_OP_CANCEL_ASKED) {
            handle_queue_complete(op, -IOE_CANCELED, 0, done);
            return;
        }
        if (round >= ROUNDS_MAX)
            op->flags |= IO_OP_YIELD;
    }
}

/* Starts queued operations for as long as nothing holds them back. If the handle is closing,
 * cancels them instead. The handle's lock must be held. */
static void handle_queue_pump(io_handle *handle, int direction, io_list *done) {
    io_list *queue = &handle->queue[direction];
    io_link *link = queue->next;
    while (handle->waiting[direction] > 0 && !handle->busy[direction]) {
        io_op *op = IO_CONTAINER(link, io_op, link);
        io_link *next = link->next;
        if (op->state == IO_OP_QUEUED) {
            if (handle->closing || handle->native_gone) {
                handle_queue_complete(op, -IOE_CANCELED, 0, done);
            } else {
                op->flags |= IO_OP_RESUBMITTED;
                handle_queue_start(op, done);
            }
        }
        link = next;
    }
}

/* Appends the operation to `done` if it ends immediately. */
static void handle_queue_submit(io_op *op, io_handle *handle, io_list *done) {
    io_lane *lane = op->lane; /* once submitted, another thread may take and release `op` */
    int direction = handle_queue_direction_of(op->kind);
    io_assert(lane == handle->lane && io_op_is_idle(op));
    op->handle = handle;
    op->retries = 0;
    io_port_op_submitted(lane->port);

    int error = 0;
    if (op->kind == IO_SEND_FILE && lane->backend->hold_file != NULL && !((io_send_file *)op)->held)
        error = lane->backend->hold_file((io_send_file *)op);

    io_handle_lock(handle);
    handle->in_flight++;
    op->state = IO_OP_QUEUED;
    if (!handle->open || handle->closing || handle->native_gone)
        error = -IOE_BADF;
    if (error) {
        if (direction >= 0)
            handle->waiting[direction]++;
        handle_queue_complete(op, error, op->os_error, done);
    } else if (direction < 0) {
        io_list_push_back(&handle->others, &op->link);
        handle_queue_start(op, done);
    } else {
        io_list_push_back(&handle->queue[direction], &op->link);
        handle->waiting[direction]++;
        if (!handle->busy[direction])
            handle_queue_start(op, done);
    }
    io_handle_unlock(handle);
}

void io_op_submit(io_op *op, io_handle *handle) {
    io_lane *lane = op->lane;
    io_list done;
    io_list_init(&done);
    handle_queue_submit(op, handle, &done);
    io_lane_push(lane, &done);
}

bool io_op_submit_now(io_op *op, io_handle *handle) {
    io_lane *lane = op->lane;
    io_list done;
    io_list_init(&done);
    handle_queue_submit(op, handle, &done);
    if (io_list_empty(&done))
        return false;
    io_list_remove(&op->link);
    io_assert(io_list_empty(&done) && io_op_is_idle(op));
    io_port_op_taken(lane->port);
    return true;
}

void io_receive_now(io_receive *receive) {
    io_op *op = &receive->op;
    io_assert(io_op_is_idle(op) && op->result == IO_RECEIVE_READY && receive->buffer == NULL);
    io_handle_lock(op->handle);
    int answer = op->lane->backend->receive_now(receive);
    io_handle_unlock(op->handle);
    if (answer < 0)
        op->result = answer;
}

uint64_t io_op_progress(io_op *op) {
    io_handle *handle = op->handle;
    io_handle_lock(handle);
    uint64_t moved = (uint64_t)handle_queue_final_result(op, 0);
    io_handle_unlock(handle);
    return moved;
}

/* ---- reports from backends ------------------------------------------------------------------- */

/* Submits the operation again, or completes it if its cancellation was requested or the native is
 * gone. The handle's lock must be held. */
static void handle_queue_resubmit(io_op *op, io_list *done) {
    if (op->flags & IO_OP_CANCEL_ASKED || op->handle->native_gone) {
        handle_queue_complete(op, -IOE_CANCELED, 0, done);
        return;
    }
    op->flags |= IO_OP_RESUBMITTED;
    handle_queue_start(op, done);
}

/* Starts the next operation, or finishes a close, after an operation may have ended. The handle's
 * lock must be held. */
static void handle_queue_settle(io_handle *handle, int direction, io_list *done) {
    io_assert(io_lock_is_mine(&handle->lock));
    if (direction >= 0)
        handle_queue_pump(handle, direction, done);
    handle_close_if_idle(handle);
}

void io_op_reported(io_op *op, int64_t result, uint32_t os_error, io_list *done) {
    io_handle *handle = op->handle;
    int direction = handle_queue_direction_of(op->kind);
    io_handle_lock(handle);
    io_assert(op->state == IO_OP_SUBMITTED);
    if (result < 0 || !handle_queue_wants_more(op, result))
        handle_queue_complete(op, result < 0 ? result : handle_queue_final_result(op, result),
                              os_error, done);
    else
        handle_queue_resubmit(op, done);
    handle_queue_settle(handle, direction, done);
    io_handle_unlock(handle);
}

void io_op_retry(io_op *op, io_list *done) {
    io_handle *handle = op->handle;
    int direction = handle_queue_direction_of(op->kind);
    io_handle_lock(handle);
    io_assert(op->state == IO_OP_SUBMITTED);
    handle_queue_resubmit(op, done);
    handle_queue_settle(handle, direction, done);
    io_handle_unlock(handle);
}

/* Submits the head again after readiness, then starts queued operations. The handle's lock must be
 * held. */
static void handle_queue_retry_head(io_handle *handle, int direction, io_list *done) {
    io_link *head = handle->queue[direction].next;
    if (handle->busy[direction] && head != &handle->queue[direction]) {
        io_op *op = IO_CONTAINER(head, io_op, link);
        io_assert(op->state == IO_OP_SUBMITTED);
        op->flags |= IO_OP_RESUBMITTED;
        handle_queue_start(op, done);
    }
    handle_queue_pump(handle, direction, done);
}

void io_handle_ready(uint64_t token, uint32_t events, io_list *done) {
    io_handle *handle = io_token_pointer(token);
    io_handle_lock(handle);
    if (handle->open && !handle->native_gone && io_token_is_of(token, handle->generation)) {
        handle->ready |= (uint8_t)events;
        if (events & IO_READABLE)
            handle_queue_retry_head(handle, IO_IN, done);
        if (events & IO_WRITABLE)
            handle_queue_retry_head(handle, IO_OUT, done);
        for (io_link *link = handle->others.next, *next; link != &handle->others; link = next) {
            io_op *op = IO_CONTAINER(link, io_op, link);
            next = link->next;
            if (op->kind == IO_POLL) {
                op->flags |= IO_OP_RESUBMITTED;
                handle_queue_start(op, done);
            }
        }
        handle_close_if_idle(handle);
    }
    io_handle_unlock(handle);
}

void io_op_completed_elsewhere(io_op *op, int64_t result, uint32_t os_error) {
    io_lane *lane = op->lane;
    io_list done;
    io_list_init(&done);
    io_op_reported(op, result, os_error, &done);
    io_lane_push(lane, &done);
}

/* ---- cancel ---------------------------------------------------------------------------------- */

/* The handle's lock must be held. */
static void handle_queue_cancel(io_op *op, io_list *done) {
    io_assert(io_lock_is_mine(&op->handle->lock));
    if (op->state == IO_OP_QUEUED) {
        handle_queue_complete(op, -IOE_CANCELED, 0, done);
    } else if (!(op->flags & IO_OP_CANCEL_ASKED)) {
        op->flags |= IO_OP_CANCEL_ASKED;
        int answer = op->lane->backend->cancel(op);
        io_assert(answer == IO_DONE || answer == IO_PENDING);
        if (answer == IO_DONE)
            handle_queue_complete(op, -IOE_CANCELED, 0, done);
    }
}

bool io_op_cancel(io_op *op) {
    io_lane *lane = op->lane;
    io_handle *handle = op->handle;
    bool pending = false;
    io_list done;
    io_list_init(&done);
    if (handle == NULL) {
        pending = op->kind == IO_TIMER && io_timer_cancel((io_timer *)op, &done);
    } else {
        io_handle_lock(handle);
        pending = op->state == IO_OP_QUEUED || op->state == IO_OP_SUBMITTED;
        if (pending) {
            int direction = handle_queue_direction_of(op->kind);
            handle_queue_cancel(op, &done);
            handle_queue_settle(handle, direction, &done);
        }
        io_handle_unlock(handle);
    }
    io_lane_push(lane, &done);
    return pending;
}

static void handle_queue_cancel_list(io_list *list, io_list *done) {
    for (io_link *link = list->next, *next; link != list; link = next) {
        next = link->next;
        handle_queue_cancel(IO_CONTAINER(link, io_op, link), done);
    }
}

/* Cancels queued operations before the head, because they would start when the head ends. The
 * handle's lock must be held. */
static void handle_queue_cancel_all(io_handle *handle, io_list *done) {
    for (int direction = 0; direction < IO_DIRECTIONS; direction++) {
        io_list *queue = &handle->queue[direction];
        for (io_link *link = queue->next, *next; link != queue; link = next) {
            io_op *op = IO_CONTAINER(link, io_op, link);
            next = link->next;
            if (op->state == IO_OP_QUEUED)
                handle_queue_complete(op, -IOE_CANCELED, 0, done);
        }
        handle_queue_cancel_list(queue, done);
    }
    handle_queue_cancel_list(&handle->others, done);
}

void io_handle_cancel(io_handle *handle) {
    io_list done;
    io_list_init(&done);
    io_handle_lock(handle);
    handle_queue_cancel_all(handle, &done);
    io_handle_unlock(handle);
    io_lane_push(handle->lane, &done);
}

/* ---- closing a handle ------------------------------------------------------------------------ */

static void handle_queue_close(io_handle *handle, bool native_gone) {
    io_list done;
    io_list_init(&done);
    io_handle_lock(handle);
    if (handle->open && !handle->closing) {
        handle->closing = true;
        handle->native_gone = native_gone;
        handle_queue_cancel_all(handle, &done);
        handle_close_if_idle(handle);
    }
    io_handle_unlock(handle);
    io_lane_push(handle->lane, &done);
}

void io_handle_close(io_handle *handle) {
    handle_queue_close(handle, false);
}

void io_handle_abandon(io_handle *handle) {
    handle_queue_close(handle, true);
}
