/* connection.c: the strand of a connection, and its way from open to closed.
 *
 * The rules that keep it right: only the runner looks at input and hands events on; operations come
 * back one way only, through io_connection_taken; the socket is closed when nothing is in flight,
 * and only then is the connection gone. Whoever else wants something changes flags or the phase
 * under the lock, and calls for a worker if nobody runs it. */
#include "net/outbox.h"

#include "core/backend.h"

#include <string.h>

#define LOOK_NS (20 * IO_NS_PER_MS)      /* at how much the system has not sent yet, at first */
#define LOOKS_MAX 6                      /* times twice as long */
#define LINGER_NS (2 * IO_NS_PER_SECOND) /* for the peer to read what it was sent */

static bool connection_run_here(const io_connection *self) {
    return self->running && self->runner == io_thread_self();
}

/* Whatever may submit is between these two. False: the port is closed, or the parent process's, and
 * its end is this connection's. */
static bool connection_enter(io_connection *self) {
    return io_port_enter(self->strand.lane->port) == 0;
}

static void connection_leave(io_connection *self) {
    io_port_leave(self->strand.lane->port);
}

/* Word was left: a worker is to come, unless the runner will see it. */
static void connection_unlock_and_call(io_connection *self) {
    bool post = !self->running && !self->scheduled && self->phase != IO_CONNECTION_CLOSED &&
                connection_enter(self);
    if (post)
        self->scheduled = true;
    io_lock_release(&self->lock);
    if (post) {
        io_post_submit(&self->strand);
        connection_leave(self);
    }
}

static void connection_set_hold(io_connection *self, uint8_t holds) {
    atomic_fetch_or_explicit(&self->hold, holds, memory_order_relaxed);
}

static void connection_end(io_connection *self) {
    self->phase = IO_CONNECTION_ENDING;
    connection_set_hold(self, IO_HOLD_CLOSING);
}

/* ---- opening --------------------------------------------------------------------------------- */

int io_connection_open(io_connection *self, io_lane *lane, io_native native, int family,
                       const io_connection_limits *limits, const io_owner_ops *owner_ops,
                       uint32_t *os_error) {
    int error = io_handle_adopt(lane, native, family, &self->handle, os_error);
    if (error)
        return error;
    self->limits = limits;
    io_op_embed(&self->strand, lane, IO_POST, owner_ops, self);
    io_op_embed(&self->receive.op, lane, IO_RECEIVE, owner_ops, self);
    self->receive.capacity = limits->read_size;
    self->scheduled = true;
    return 0;
}

/* ---- what operations bring ------------------------------------------------------------------- */

/* The kernel tells one call of a reset, and says EPIPE to sends that come later: perhaps before the
 * one that was told has come to us. */
static bool connection_explains(const io_connection *self, io_connection_cause cause, int error) {
    return cause == IO_CAUSE_RECEIVE && error == IOE_CONNRESET && self->cause == IO_CAUSE_SEND &&
           self->error == IOE_PIPE;
}

static void connection_broken(io_connection *self, io_connection_cause cause, int error,
                              uint32_t os_error) {
    bool first = self->cause == IO_CAUSE_NONE || connection_explains(self, cause, error);
    if (first && self->phase == IO_CONNECTION_OPEN) {
        self->cause = (uint8_t)cause;
        self->error = error;
        self->os_error = os_error;
    }
    connection_end(self);
}

/* Nobody wants what arrives. */
static bool connection_discards(const io_connection *self) {
    return self->phase != IO_CONNECTION_OPEN || self->hold & IO_HOLD_CLOSING;
}

static void connection_received(io_connection *self) {
    io_op *op = &self->receive.op;
    self->receiving = false;
    self->input_start = 0;
    if (op->result == IO_RECEIVE_READY) {
        bool held = !connection_discards(self) && !io_connection_delivers(self);
        if (held || self->phase >= IO_CONNECTION_ENDING)
            return; /* it stays where it is */
        io_receive_now(&self->receive);
    }
    if (op->result == -IOE_AGAIN)
        return;
    if (op->result > 0) {
        self->bytes_received += (uint64_t)op->result;
        self->idle_ticks = 0;
        if (connection_discards(self))
            io_receive_release(&self->receive);
    } else if (op->result == 0) {
        self->eof = true;
        /* A reset that a send was told of looks like this now; only EPIPE comes after an end. */
        if (self->send_failed && self->error != IOE_PIPE)
            self->eof_told = true;
    } else if (op->result != -IOE_CANCELED && self->phase < IO_CONNECTION_ENDING) {
        connection_broken(self, IO_CAUSE_RECEIVE, (int)-op->result, op->os_error);
    }
}

static void connection_note(io_connection *self, io_op *op) {
    if (op == &self->strand) {
        self->scheduled = false;
    } else if (op == &self->receive.op) {
        connection_received(self);
    } else if (op == (io_op *)self->timer) {
        if (op->result != -IOE_CANCELED)
            self->linger_over = true;
        self->timer = NULL;
        io_op_release(op);
    } else {
        outbox_sent(self, op);
    }
}

/* Under the lock. */
static bool connection_run(io_connection *self) {
    bool idle = !self->running;
    if (idle) {
        self->running = true;
        self->runner = io_thread_self();
    }
    return idle;
}

/* ---- running: what the user is to hear of ---------------------------------------------------- */

static bool connection_has_room(const io_connection *self) {
    return self->room_asked && self->phase == IO_CONNECTION_OPEN &&
           self->bytes_queued <= self->limits->write_low;
}

static bool connection_in_flight(const io_connection *self) {
    return self->receiving || self->timer != NULL || self->send != NULL || self->scheduled;
}

/* When its port was closed, threads may still have operations of it in their hands: the last of
 * them tells. Not so what the kernel has kept. */
static io_connection_event connection_at_the_end(io_connection *self) {
    if (self->closed_told || (connection_in_flight(self) && !self->leaked))
        return IO_CONNECTION_IDLE;
    if (!self->receiving)
        io_receive_release(&self->receive);
    if (self->send == NULL)
        outbox_drop(self);
    self->closed_told = true;
    return IO_CONNECTION_GONE;
}

/* A send that has ended and was not taken yet may have been told of a reset, after which a receive
 * finds an end that is none. */
static bool connection_send_will_tell(const io_connection *self) {
    return self->send != NULL &&
           atomic_load_explicit(&self->send->state, memory_order_relaxed) == IO_OP_COMPLETED;
}

static io_connection_event connection_for_embedder(io_connection *self) {
    if (self->phase == IO_CONNECTION_CLOSED)
        return connection_at_the_end(self);
    if (!self->started) {
        self->started = true;
        return IO_CONNECTION_STARTED;
    }
    if (self->jobs_head != NULL && self->established)
        return IO_CONNECTION_JOBS;
    if (connection_has_room(self)) {
        self->room_asked = false;
        return IO_CONNECTION_ROOM;
    }
    uint8_t hold = atomic_load_explicit(&self->hold, memory_order_relaxed);
    if (hold & (IO_HOLD_CLOSING | IO_HOLD_SERIAL))
        return IO_CONNECTION_IDLE;
    if (self->drain_due && !self->above && self->established) { /* also while it is paused */
        self->drain_due = false;
        return IO_CONNECTION_DRAINED;
    }
    if (hold)
        return IO_CONNECTION_IDLE;
    if (!self->receiving && self->receive.buffer != NULL) /* in this order: it is the kernel's */
        return IO_CONNECTION_INPUT;
    if (self->input_kept)
        return IO_CONNECTION_INPUT;
    if (self->eof && !self->eof_told && !connection_send_will_tell(self)) {
        self->eof_told = true;
        return IO_CONNECTION_EOF;
    }
    return IO_CONNECTION_IDLE;
}

/* ---- running: what the socket is to do ------------------------------------------------------- */

static void connection_receive(io_connection *self) {
    if (self->receiving || self->eof)
        return;
    if (connection_discards(self))
        io_receive_release(&self->receive);
    else if (self->receive.buffer != NULL || self->input_kept || !io_connection_delivers(self))
        return;
    self->receiving = true;
    io_op_submit(&self->receive.op, self->handle);
}

static void connection_end_stream(io_connection *self) {
    self->ended = true;
    if (self->strand.lane->backend->shutdown(self->handle) != 0)
        self->no_linger = true; /* there is nobody to wait for */
}

static void connection_start_timer(io_connection *self, uint64_t delay_ns) {
    if (self->timer != NULL || self->linger_over)
        return;
    io_op *op = io_op_new(self->strand.lane, IO_TIMER, self->strand.owner_ops, self);
    if (op == NULL) {
        self->linger_over = true;
        return;
    }
    self->timer = (io_timer *)op;
    io_timer_submit(self->timer, delay_ns);
}

/* It is not needed any more. If it has just fired, it comes all the same. */
static void connection_drop_timer(io_connection *self) {
    if (self->timer != NULL && io_timer_withdraw(self->timer))
        self->timer = NULL;
}

/* Each of these: true in another phase, which is to be seen to as well. */
static bool connection_progress_open(io_connection *self) {
    outbox_flush(self);
    if (self->end_asked && !self->ended && outbox_empty(self) && !self->send_failed)
        connection_end_stream(self);
    /* Broken for sending, what has arrived is still read, also after a pause. */
    bool useless = self->send_failed && (self->eof_told || self->hold & IO_HOLD_CLOSING);
    if (useless || (self->ended && self->eof_told)) {
        connection_end(self);
        return true;
    }
    connection_receive(self);
    return false;
}

static bool connection_progress_flushing(io_connection *self) {
    if (self->limited)
        connection_start_timer(self, LINGER_NS);
    outbox_flush(self);
    if (self->send_failed || (self->limited && self->linger_over)) {
        connection_end(self);
        return true;
    }
    if (outbox_empty(self)) {
        if (!self->ended) /* also if only the close is left: a forked child has the socket, too */
            connection_end_stream(self);
        self->phase = IO_CONNECTION_LINGERING;
        return true;
    }
    connection_receive(self);
    return false;
}

/* Whether the system still has something of ours; as long as that gets less, it is no silence. */
static bool connection_unsent(io_connection *self) {
    const io_backend *backend = self->strand.lane->backend;
    uint32_t left = backend->unsent != NULL ? backend->unsent(self->handle, false) : 0;
    if (left != self->sent_seen) {
        self->idle_ticks = 0;
        self->looks = 0;
    } else if (self->looks < LOOKS_MAX) {
        self->looks++;
    }
    self->sent_seen = left;
    return left > 0;
}

/* A closed socket answers what its peer sends with a reset, and that throws away what is on its way
 * to the peer. So the peer gets everything first, at its own speed, and only then its time to end
 * its stream. Most peers do that at once, before it is looked whether they have everything. */
static bool connection_progress_lingering(io_connection *self) {
    bool waits = !self->limited && !self->delivered;
    if (waits && !self->eof && (self->linger_over || self->no_linger)) {
        self->delivered = !connection_unsent(self);
        self->linger_over = false;
        waits = !self->delivered;
    }
    if (self->eof || (!waits && (self->no_linger || self->linger_over))) {
        connection_end(self);
        return true;
    }
    connection_start_timer(self, waits ? LOOK_NS << self->looks : LINGER_NS);
    if (self->linger_over) { /* there is no timer to be had */
        connection_end(self);
        return true;
    }
    connection_receive(self);
    return false;
}

static void connection_close_socket(io_connection *self) {
    io_handle *handle = self->handle;
    bool reset = self->aborted || self->send_failed || !outbox_empty(self);
    self->handle = NULL;
    if (reset || !self->eof || !self->ended) /* behind both ends nothing is left to do */
        handle->lane->backend->prepare_close(handle, reset);
    io_handle_close(handle);
}

/* Nothing may be in flight when the socket is closed, nor when the connection is gone. */
static bool connection_progress_ending(io_connection *self) {
    if (self->receiving)
        (void)io_op_cancel(&self->receive.op);
    connection_drop_timer(self);
    if (self->send != NULL)
        (void)io_op_cancel(self->send);
    if (connection_in_flight(self))
        return false;
    connection_close_socket(self);
    outbox_drop(self);
    io_receive_release(&self->receive);
    self->phase = IO_CONNECTION_CLOSED;
    return true;
}

static bool connection_progress(io_connection *self) {
    switch ((io_connection_phase)self->phase) {
    case IO_CONNECTION_OPEN:
        return connection_progress_open(self);
    case IO_CONNECTION_FLUSHING:
        return connection_progress_flushing(self);
    case IO_CONNECTION_LINGERING:
        return connection_progress_lingering(self);
    case IO_CONNECTION_ENDING:
        return connection_progress_ending(self);
    case IO_CONNECTION_CLOSED:
        break;
    }
    return false;
}

/* Leaves the lock. */
static io_connection_event connection_next_event(io_connection *self) {
    io_connection_event event = connection_for_embedder(self);
    if (event == IO_CONNECTION_IDLE && connection_enter(self)) {
        bool again;
        do {
            again = connection_progress(self);
            event = connection_for_embedder(self);
        } while (event == IO_CONNECTION_IDLE && again);
        connection_leave(self);
    }
    if (event == IO_CONNECTION_IDLE)
        self->running = false;
    if (event == IO_CONNECTION_IDLE && outbox_has_more(self))
        connection_unlock_and_call(self);
    else
        io_lock_release(&self->lock);
    return event;
}

io_connection_event io_connection_taken(io_connection *self, io_op *op) {
    io_lock_acquire(&self->lock);
    connection_note(self, op);
    if (connection_run(self))
        return connection_next_event(self);
    io_lock_release(&self->lock);
    return IO_CONNECTION_IDLE;
}

io_connection_event io_connection_next(io_connection *self) {
    io_lock_acquire(&self->lock);
    return connection_next_event(self);
}

void io_connection_establish(io_connection *self) {
    io_lock_acquire(&self->lock);
    self->established = true;
    connection_set_hold(self, self->holds_early);
    io_lock_release(&self->lock);
}

bool io_connection_is_known(io_connection *self) {
    io_lock_acquire(&self->lock);
    bool known = self->established;
    io_lock_release(&self->lock);
    return known;
}

/* ---- input ----------------------------------------------------------------------------------- */

const char *io_connection_input(io_connection *self, size_t *length) {
    *length = 0;
    if (self->receive.buffer == NULL)
        return NULL;
    *length = (size_t)self->receive.op.result - self->input_start;
    return self->receive.buffer + self->input_start;
}

void io_connection_used(io_connection *self, size_t used) {
    self->input_start += (uint32_t)used;
    if (self->input_start == (uint32_t)self->receive.op.result)
        io_receive_release(&self->receive);
}

void io_connection_keep_input(io_connection *self, bool kept) {
    io_lock_acquire(&self->lock);
    self->input_kept = kept;
    io_lock_release(&self->lock);
}

void io_connection_end_input(io_connection *self) {
    io_lock_acquire(&self->lock);
    self->eof = true;
    io_lock_release(&self->lock);
}

/* ---- what anybody may ask for ---------------------------------------------------------------- */

static bool connection_takes(io_connection *self) {
    if (self->phase != IO_CONNECTION_OPEN || self->end_asked || self->send_failed)
        return false;
    if (self->bytes_queued < self->limits->max_write_buffer)
        return true;
    connection_broken(self, IO_CAUSE_OVERFLOW, IOE_NOBUFS, 0);
    self->aborted = true;
    return false;
}

/* After something was queued. Leaves the lock. */
static void connection_send_now(io_connection *self) {
    bool here = connection_run_here(self);
    if ((!here || outbox_high(self)) && connection_enter(self)) {
        outbox_flush(self);
        connection_leave(self);
    }
    if (!here && (self->drain_due || self->send_failed || outbox_has_more(self) ||
                  self->phase != IO_CONNECTION_OPEN))
        connection_unlock_and_call(self);
    else
        io_lock_release(&self->lock);
}

int io_connection_send(io_connection *self, io_piece *pieces, size_t count) {
    io_lock_acquire(&self->lock);
    if (!connection_takes(self)) {
        connection_unlock_and_call(self);
        return 0;
    }
    if (!outbox_append(self, pieces, count)) {
        io_lock_release(&self->lock);
        return -IOE_NOMEM;
    }
    connection_send_now(self);
    return 1;
}

int io_connection_check_file(const io_connection *self, io_native file) {
    const io_backend *backend = self->strand.lane->backend;
    return backend->check_file != NULL ? backend->check_file(file) : 0;
}

static io_chunk *connection_file_chunk(io_connection *self, io_native native, uint64_t offset,
                                       uint64_t count, int *error, uint32_t *os_error) {
    io_lane *lane = self->strand.lane;
    io_op *op = io_op_new(lane, IO_SEND_FILE, self->strand.owner_ops, self);
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
    io_lock_acquire(&self->lock);
    if (!connection_takes(self)) {
        connection_unlock_and_call(self);
        return 0;
    }
    io_chunk *chunk = connection_file_chunk(self, file, offset, count, &error, os_error);
    if (chunk == NULL) {
        io_lock_release(&self->lock);
        return error;
    }
    outbox_append_chunk(self, chunk);
    connection_send_now(self);
    return 1;
}

void io_connection_ask_for_room(io_connection *self) {
    io_lock_acquire(&self->lock);
    self->room_asked = true;
    connection_unlock_and_call(self);
}

io_chunk *io_connection_take_spent(io_connection *self) {
    if (atomic_load_explicit(&self->spent, memory_order_relaxed) == NULL)
        return NULL;
    io_lock_acquire(&self->lock);
    io_chunk *spent = self->spent;
    self->spent = NULL;
    io_lock_release(&self->lock);
    return spent;
}

static void connection_flush_and_close(io_connection *self, bool linger) {
    if (self->phase == IO_CONNECTION_OPEN) {
        self->phase = IO_CONNECTION_FLUSHING;
        connection_set_hold(self, IO_HOLD_CLOSING);
    }
    if (!linger)
        self->no_linger = true;
}

void io_connection_close(io_connection *self, bool linger) {
    io_lock_acquire(&self->lock);
    connection_flush_and_close(self, linger);
    connection_unlock_and_call(self);
}

void io_connection_silence(io_connection *self, bool linger) {
    io_lock_acquire(&self->lock);
    connection_set_hold(self, IO_HOLD_CLOSING);
    if (!linger)
        self->no_linger = true;
    connection_unlock_and_call(self);
}

void io_connection_shutdown(io_connection *self) {
    io_lock_acquire(&self->lock);
    self->end_asked = true;
    connection_unlock_and_call(self);
}

bool io_connection_abort(io_connection *self) {
    io_lock_acquire(&self->lock);
    bool ends = self->phase < IO_CONNECTION_ENDING;
    if (ends) {
        self->aborted = true;
        connection_end(self);
    }
    connection_unlock_and_call(self);
    return ends;
}

bool io_connection_give_up(io_connection *self, bool more) {
    const io_backend *backend = self->strand.lane->backend;
    bool loses = false;
    io_lock_acquire(&self->lock);
    if (self->phase < IO_CONNECTION_ENDING) {
        /* What has left the system arrives all the same. */
        loses = more || !outbox_empty(self) ||
                (backend->unsent != NULL && backend->unsent(self->handle, true) > 0);
        self->aborted = loses;
        connection_end(self);
    }
    connection_unlock_and_call(self);
    return loses;
}

bool io_connection_fail(io_connection *self, io_connection_cause cause, int error) {
    io_lock_acquire(&self->lock);
    bool first = self->phase == IO_CONNECTION_OPEN && self->cause == IO_CAUSE_NONE;
    if (first) {
        self->cause = (uint8_t)cause;
        self->error = error;
    }
    self->limited = true;
    connection_flush_and_close(self, true);
    connection_unlock_and_call(self);
    return first;
}

void io_connection_hold(io_connection *self, uint8_t holds, bool held) {
    io_lock_acquire(&self->lock);
    if (!self->established) /* it still has to receive what establishes it */
        self->holds_early = held ? self->holds_early | holds : self->holds_early & (uint8_t)~holds;
    else if (held)
        connection_set_hold(self, holds);
    else
        atomic_fetch_and_explicit(&self->hold, (uint8_t)~holds, memory_order_relaxed);
    if (!held && self->established)
        connection_unlock_and_call(self);
    else
        io_lock_release(&self->lock);
}

bool io_connection_post(io_connection *self, io_job *job) {
    io_lock_acquire(&self->lock);
    bool open = self->phase != IO_CONNECTION_CLOSED;
    job->next = NULL;
    if (!open) {
        io_lock_release(&self->lock);
        return false;
    }
    if (self->jobs_tail != NULL)
        self->jobs_tail->next = job;
    else
        self->jobs_head = job;
    self->jobs_tail = job;
    connection_unlock_and_call(self);
    return true;
}

io_job *io_connection_take_jobs(io_connection *self) {
    io_lock_acquire(&self->lock);
    io_job *jobs = self->jobs_head;
    self->jobs_head = self->jobs_tail = NULL;
    io_lock_release(&self->lock);
    return jobs;
}

uint32_t io_connection_tick(io_connection *self) {
    io_lock_acquire(&self->lock);
    /* A send under way that gets on is no silence. */
    if (self->send != NULL) {
        uint64_t moved = io_op_progress(self->send);
        if (moved > self->sent_seen)
            self->idle_ticks = 0;
        self->sent_seen = moved;
    }
    uint32_t ticks = self->phase < IO_CONNECTION_ENDING ? self->idle_ticks++ : 0;
    io_lock_release(&self->lock);
    return ticks;
}

void io_connection_collected(io_connection *self, io_op *op) {
    io_lock_acquire(&self->lock);
    connection_note(self, op);
    io_lock_release(&self->lock);
}

bool io_connection_orphaned(io_connection *self, bool leaked) {
    io_lock_acquire(&self->lock);
    self->leaked = leaked;
    if (self->phase != IO_CONNECTION_CLOSED) {
        bool unsaid = self->cause == IO_CAUSE_NONE || self->error == IOE_CANCELED;
        if (self->phase == IO_CONNECTION_OPEN && unsaid) {
            self->cause = IO_CAUSE_PORT;
            self->error = io_lane_end(self->strand.lane);
            self->os_error = 0;
        }
        self->phase = IO_CONNECTION_CLOSED;
        connection_set_hold(self, IO_HOLD_CLOSING);
        if (self->handle != NULL)
            connection_close_socket(self);
    }
    bool tell = !self->closed_told && connection_run(self);
    io_lock_release(&self->lock);
    return tell;
}

uint64_t io_connection_pending(io_connection *self, uint64_t *received_bytes,
                               uint64_t *sent_bytes) {
    io_lock_acquire(&self->lock);
    uint64_t pending = self->bytes_queued;
    *received_bytes = self->bytes_received;
    *sent_bytes = self->bytes_sent;
    io_lock_release(&self->lock);
    return pending;
}

void io_connection_address(io_connection *self, bool peer, io_address *address) {
    io_lock_acquire(&self->lock);
    address->length = 0;
    if (self->handle != NULL)
        self->strand.lane->backend->address(self->handle, peer, address);
    io_lock_release(&self->lock);
}

io_native io_connection_native(io_connection *self) {
    io_lock_acquire(&self->lock);
    io_native native = self->handle != NULL ? self->handle->native : IO_NATIVE_NONE;
    io_lock_release(&self->lock);
    return native;
}
