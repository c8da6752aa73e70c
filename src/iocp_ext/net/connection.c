/* connection.c: a connection's strand: which thread runs it, how completed operations are recorded,
 * and which events follow.
 *
 * Two rules keep it correct. Only the runner reads input and delivers events. Every completed
 * operation comes back through io_connection_taken. All other threads change the state with the
 * lock held, and schedule a worker if no thread runs the connection. */
#include "net/connection_state.h"
#include "net/outbox.h"

#include "core/backend.h"

#include <string.h>

static bool connection_run_here(const io_connection *self) {
    return self->running && self->runner == io_thread_self();
}

/* ---- opening --------------------------------------------------------------------------------- */

int io_connection_open(io_connection *self, io_lane *lane, io_native native, int family,
                       const io_connection_limits *limits, const io_owner_ops *owner_ops,
                       uint32_t *os_error) {
    int error = io_handle_adopt(lane, native, family, &self->handle, os_error);
    if (error)
        return error;
    self->limits = limits;
    io_op_embed(&self->wakeup, lane, IO_POST, owner_ops, self);
    io_op_embed(&self->receive.op, lane, IO_RECEIVE, owner_ops, self);
    self->receive.capacity = limits->read_size;
    self->scheduled = true;
    return 0;
}

/* ---- what operations bring ------------------------------------------------------------------- */

static bool connection_discards_input(const io_connection *self) {
    return io_connection_is_closing(self);
}

static void connection_received(io_connection *self) {
    io_op *op = &self->receive.op;
    io_assert(self->receiving);
    self->receiving = false;
    self->receive.consumed = 0;
    if (op->result == IO_RECEIVE_READY) {
        bool held = !connection_discards_input(self) && !io_connection_delivers(self);
        if (held || self->phase >= IO_CONNECTION_TEARDOWN)
            return; /* the input stays in the kernel */
        io_receive_now(&self->receive);
    }
    if (op->result == -IOE_AGAIN)
        return;
    if (op->result > 0) {
        self->bytes_received += (uint64_t)op->result;
        self->idle_ticks = 0;
        if (connection_discards_input(self))
            io_receive_release(&self->receive);
    } else if (op->result == 0) {
        /* After a send reported a reset, the receive sees an end of stream. Only EPIPE follows a
         * real one. */
        bool reset = connection_send_lost(self) && self->error != -IOE_PIPE;
        connection_receive_has_ended(self, reset);
    } else if (op->result != -IOE_CANCELED && self->phase < IO_CONNECTION_TEARDOWN) {
        connection_break(self, IO_REASON_RECEIVE, (int)op->result, op->os_error);
    }
}

/* Records a completed operation. */
static void connection_record(io_connection *self, io_op *op) {
    io_assert(io_lock_is_mine(&self->lock));
    if (op == &self->wakeup) {
        io_assert(self->scheduled);
        self->scheduled = false;
    } else if (op == &self->receive.op) {
        connection_received(self);
    } else if (op == (io_op *)self->timer) {
        if (op->result != -IOE_CANCELED)
            self->timer_expired = true;
        self->timer = NULL;
        io_op_release(op);
    } else {
        io_assert(op == self->send);
        outbox_sent(self, op);
    }
}

/* ---- running: what the user is to hear of ---------------------------------------------------- */

static bool connection_has_room(const io_connection *self) {
    return self->room_asked && self->phase == IO_CONNECTION_OPEN &&
           self->bytes_queued <= self->limits->write_low;
}

/* After the port was closed, other threads may still hold operations that they have taken. The last
 * of them delivers GONE. Operations that the kernel has kept are not waited for. */
static io_connection_event connection_last_event(io_connection *self) {
    if (connection_gone(self) || (connection_in_flight(self) && !self->leaked))
        return IO_CONNECTION_IDLE;
    if (!self->receiving)
        io_receive_release(&self->receive);
    if (self->send == NULL)
        outbox_drop(self);
    connection_is_gone(self);
    return IO_CONNECTION_GONE;
}

/* A completed send that was not taken yet may carry a reset. A receive that follows the reset then
 * sees an end of stream that is not real. */
static bool connection_send_will_report(const io_connection *self) {
    return self->send != NULL &&
           atomic_load_explicit(&self->send->state, memory_order_relaxed) == IO_OP_COMPLETED;
}

static io_connection_event connection_pending_event(io_connection *self) {
    if (self->phase == IO_CONNECTION_CLOSED)
        return connection_last_event(self);
    if (connection_notified(self) == IO_NOTIFIED_NOTHING) {
        connection_is_started(self);
        return IO_CONNECTION_STARTED;
    }
    bool known = io_connection_is_known(self);
    if (self->jobs_last != NULL && known)
        return IO_CONNECTION_JOBS;
    if (connection_has_room(self)) {
        self->room_asked = false;
        return IO_CONNECTION_ROOM;
    }
    uint8_t hold = atomic_load_explicit(&self->hold, memory_order_relaxed);
    if (hold & (IO_HOLD_CLOSING | IO_HOLD_SERIAL))
        return IO_CONNECTION_IDLE;
    if (self->backlog == IO_BACKLOG_DRAINED && known) { /* even while paused */
        self->backlog = IO_BACKLOG_LOW;
        return IO_CONNECTION_DRAINED;
    }
    if (hold)
        return IO_CONNECTION_IDLE;
    if (!self->receiving && self->receive.buffer != NULL) /* while receiving, the kernel owns it */
        return IO_CONNECTION_INPUT;
    if (self->input_kept)
        return IO_CONNECTION_INPUT;
    if (connection_receive_side(self) == IO_RECEIVE_SIDE_EOF &&
        !connection_send_will_report(self)) {
        connection_receive_end_notified(self);
        return IO_CONNECTION_EOF;
    }
    return IO_CONNECTION_IDLE;
}

/* ---- running: what the socket is to do ------------------------------------------------------- */

void connection_receive(io_connection *self) {
    if (self->receiving || connection_peer_ended(self))
        return;
    if (connection_discards_input(self))
        io_receive_release(&self->receive);
    else if (self->receive.buffer != NULL || self->input_kept || !io_connection_delivers(self))
        return;
    self->receiving = true;
    io_op_submit(&self->receive.op, self->handle);
}

/* Returns true if the phase has changed and another step may be possible. */
static bool connection_progress(io_connection *self) {
    switch ((io_connection_phase)self->phase) {
    case IO_CONNECTION_OPEN:
        return connection_progress_open(self);
    case IO_CONNECTION_CLOSING:
        return connection_progress_closing(self);
    case IO_CONNECTION_TEARDOWN:
        return connection_progress_teardown(self);
    case IO_CONNECTION_CLOSED:
        break;
    }
    return false;
}

/* Releases the lock. */
static io_connection_event connection_next_event(io_connection *self) {
    io_assert(connection_run_here(self));
    io_connection_event event = connection_pending_event(self);
    if (event == IO_CONNECTION_IDLE && connection_enter(self)) {
        bool again;
        do {
            again = connection_progress(self);
            event = connection_pending_event(self);
        } while (event == IO_CONNECTION_IDLE && again);
        connection_leave(self);
    }
    if (event == IO_CONNECTION_IDLE)
        self->running = false;
    if (event == IO_CONNECTION_IDLE && outbox_has_more(self))
        connection_unlock_and_wake(self);
    else
        connection_unlock(self);
    return event;
}

io_connection_event io_connection_taken(io_connection *self, io_op *op) {
    connection_lock(self);
    connection_record(self, op);
    if (connection_run(self))
        return connection_next_event(self);
    connection_unlock(self);
    return IO_CONNECTION_IDLE;
}

io_connection_event io_connection_next(io_connection *self) {
    connection_lock(self);
    return connection_next_event(self);
}

void io_connection_establish(io_connection *self) {
    connection_lock(self);
    connection_is_established(self);
    connection_set_hold(self, self->holds_early);
    connection_unlock(self);
}

/* ---- input ----------------------------------------------------------------------------------- */

const char *io_connection_input(io_connection *self, size_t *length) {
    *length = 0;
    if (self->receive.buffer == NULL)
        return NULL;
    *length = (size_t)self->receive.op.result - self->receive.consumed;
    return self->receive.buffer + self->receive.consumed;
}

void io_connection_used(io_connection *self, size_t used) {
    self->receive.consumed += (uint32_t)used;
    if (self->receive.consumed == (uint32_t)self->receive.op.result)
        io_receive_release(&self->receive);
}

void io_connection_keep_input(io_connection *self, bool kept) {
    connection_lock(self);
    self->input_kept = kept;
    connection_unlock(self);
}

void io_connection_end_input(io_connection *self) {
    connection_lock(self);
    connection_receive_has_ended(self, false);
    connection_unlock(self);
}

/* ---- what anybody may ask for ---------------------------------------------------------------- */

static bool connection_accepts(io_connection *self) {
    if (self->phase != IO_CONNECTION_OPEN || connection_send_side(self) > IO_SEND_SIDE_LAST)
        return false;
    if (self->bytes_queued < self->limits->max_write_buffer)
        return true;
    connection_break(self, IO_REASON_OVERFLOW, -IOE_NOBUFS, 0);
    connection_send_has_failed(self);
    return false;
}

/* Sends what was just queued. Releases the lock. */
static void connection_send_now(io_connection *self) {
    bool here = connection_run_here(self);
    if ((!here || outbox_high(self)) && connection_enter(self)) {
        outbox_flush(self);
        connection_leave(self);
    }
    if (!here && (self->backlog == IO_BACKLOG_DRAINED || connection_send_lost(self) ||
                  outbox_has_more(self) || self->phase != IO_CONNECTION_OPEN))
        connection_unlock_and_wake(self);
    else
        connection_unlock(self);
}

int io_connection_send(io_connection *self, io_piece *pieces, size_t count) {
    connection_lock(self);
    if (!connection_accepts(self)) {
        connection_unlock_and_wake(self);
        return 0;
    }
    if (!outbox_append(self, pieces, count)) {
        connection_unlock(self);
        return -IOE_NOMEM;
    }
    connection_send_now(self);
    return 1;
}

int io_connection_check_file(const io_connection *self, io_native file) {
    const io_backend *backend = self->wakeup.lane->backend;
    return backend->check_file != NULL ? backend->check_file(file) : 0;
}

static io_chunk *connection_file_chunk(io_connection *self, io_native native, uint64_t offset,
                                       uint64_t count, int *error, uint32_t *os_error) {
    io_lane *lane = self->wakeup.lane;
    io_op *op = io_op_new(lane, IO_SEND_FILE, self->wakeup.owner_ops, self);
    if (op == NULL)
        return NULL;
    io_send_file *file = (io_send_file *)op;
    file->file = native;
    file->offset = offset;
    file->remaining = count;
    *error = lane->backend->hold_file ? lane->backend->hold_file(file) : 0;
    *os_error = op->os_error;
    io_chunk *chunk = *error ? NULL : outbox_new_chunk(self, 0);
    if (chunk != NULL) {
        chunk->file = op;
        return chunk;
    }
    if (*error == 0)
        *error = -IOE_NOMEM;
    if (file->held)
        io_native_close_file(file->file);
    io_op_release(op);
    return NULL;
}

int io_connection_send_file(io_connection *self, io_native file, uint64_t offset, uint64_t count,
                            uint32_t *os_error) {
    int error = -IOE_NOMEM;
    connection_lock(self);
    if (!connection_accepts(self)) {
        connection_unlock_and_wake(self);
        return 0;
    }
    io_chunk *chunk = connection_file_chunk(self, file, offset, count, &error, os_error);
    if (chunk == NULL) {
        connection_unlock(self);
        return error;
    }
    outbox_append_chunk(self, chunk);
    connection_send_now(self);
    return 1;
}

void io_connection_ask_for_room(io_connection *self) {
    connection_lock(self);
    self->room_asked = true;
    connection_unlock_and_wake(self);
}

io_chunk *io_connection_take_spent(io_connection *self) {
    if (atomic_load_explicit(&self->spent, memory_order_relaxed) == NULL)
        return NULL;
    connection_lock(self);
    io_chunk *spent = self->spent;
    self->spent = NULL;
    connection_unlock(self);
    return spent;
}

void io_connection_hold(io_connection *self, uint8_t holds, bool held) {
    connection_lock(self);
    bool known = io_connection_is_known(self);
    if (!known) /* must still receive what establishes it */
        self->holds_early = held ? self->holds_early | holds : self->holds_early & (uint8_t)~holds;
    else if (held)
        connection_set_hold(self, holds);
    else
        connection_clear_hold(self, holds);
    if (!held && known)
        connection_unlock_and_wake(self);
    else
        connection_unlock(self);
}

bool io_connection_post(io_connection *self, io_job *job) {
    connection_lock(self);
    bool open = self->phase != IO_CONNECTION_CLOSED;
    if (!open) {
        connection_unlock(self);
        return false;
    }
    if (self->jobs_last != NULL) {
        job->next = self->jobs_last->next;
        self->jobs_last->next = job;
    } else {
        job->next = job;
    }
    self->jobs_last = job;
    connection_unlock_and_wake(self);
    return true;
}

io_job *io_connection_take_jobs(io_connection *self) {
    connection_lock(self);
    io_job *last = self->jobs_last, *first = NULL;
    if (last != NULL) {
        first = last->next;
        last->next = NULL;
        self->jobs_last = NULL;
    }
    connection_unlock(self);
    return first;
}

uint32_t io_connection_tick(io_connection *self) {
    connection_lock(self);
    /* While a send makes progress, the connection is not idle. */
    if (self->send != NULL) {
        uint64_t moved = io_op_progress(self->send);
        if (moved > self->sent_seen)
            self->idle_ticks = 0;
        self->sent_seen = moved;
    }
    uint32_t ticks = self->phase < IO_CONNECTION_TEARDOWN ? self->idle_ticks++ : 0;
    connection_unlock(self);
    return ticks;
}

void io_connection_collected(io_connection *self, io_op *op) {
    connection_lock(self);
    connection_record(self, op);
    connection_unlock(self);
}

uint64_t io_connection_pending(io_connection *self, uint64_t *received_bytes,
                               uint64_t *sent_bytes) {
    connection_lock(self);
    uint64_t pending = self->bytes_queued;
    *received_bytes = self->bytes_received;
    *sent_bytes = self->bytes_sent;
    connection_unlock(self);
    return pending;
}

void io_connection_address(io_connection *self, bool peer, io_address *address) {
    connection_lock(self);
    address->length = 0;
    if (self->handle != NULL)
        self->wakeup.lane->backend->address(self->handle, peer, address);
    connection_unlock(self);
}

io_native io_connection_native(io_connection *self) {
    connection_lock(self);
    io_native native = self->handle != NULL ? self->handle->native : IO_NATIVE_NONE;
    connection_unlock(self);
    return native;
}
