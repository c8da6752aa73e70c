/* connection_state.c: the transitions of a connection's state, and its invariants. */
#include "net/connection_state.h"
#include "net/outbox.h"

/* ---- invariants ------------------------------------------------------------------------------ */

#ifdef IO_ASSERTIONS

#define BIT(value) (1u << (value))

enum {
    /* The end of our stream was not requested; it was requested. */
    CONNECTION_STATE_UNASKED = BIT(IO_SEND_SIDE_OPEN) | BIT(IO_SEND_SIDE_FAILED),
    CONNECTION_STATE_ASKED = BIT(IO_SEND_SIDE_LAST) | BIT(IO_SEND_SIDE_ENDING) |
                             BIT(IO_SEND_SIDE_ENDED) | BIT(IO_SEND_SIDE_LOST),
    CONNECTION_STATE_CLOSING = BIT(IO_SEND_SIDE_ENDING) | BIT(IO_SEND_SIDE_ENDED) |
                               BIT(IO_SEND_SIDE_DELIVERED) | BIT(IO_SEND_SIDE_LOST),
};

bool connection_state_exists(io_connection_phase phase, io_send_side send,
                             io_receive_side receive) {
    bool drains = receive >= IO_RECEIVE_SIDE_DRAINING;
    unsigned sides = CONNECTION_STATE_ASKED;
    if (send > IO_SEND_SIDE_LOST || receive > IO_RECEIVE_SIDE_DRAINED)
        return false;
    if (phase == IO_CONNECTION_CLOSING)
        return drains && (CONNECTION_STATE_CLOSING & BIT(send)) != 0;
    if (phase > IO_CONNECTION_CLOSING)
        sides |= CONNECTION_STATE_CLOSING;
    if (!drains)
        sides |= CONNECTION_STATE_UNASKED;
    return phase <= IO_CONNECTION_CLOSED && (sides & BIT(send)) != 0;
}

static void connection_state_check_sides(const io_connection *self) {
    bool over = self->phase >= IO_CONNECTION_TEARDOWN;
    bool drains = connection_receive_side(self) >= IO_RECEIVE_SIDE_DRAINING;
    io_assert(connection_state_exists((io_connection_phase)self->phase, connection_send_side(self),
                                      connection_receive_side(self)));
    io_assert(((self->hold & IO_HOLD_CLOSING) != 0) == (over || drains));
    io_assert((self->handle == NULL) == (self->phase == IO_CONNECTION_CLOSED));
    io_assert(!connection_send_ended(self) || outbox_empty(self));
    io_assert(over || !connection_send_lost(self) || outbox_empty(self));
    io_assert(self->timer == NULL || self->phase != IO_CONNECTION_OPEN);
    io_assert(self->timer == NULL || !self->timer_expired);
}

static void connection_state_check_reason(const io_connection *self) {
    bool has_error = self->reason >= IO_REASON_RECEIVE;
    io_assert(self->reason <= IO_REASON_EMBEDDER);
    io_assert(self->phase == IO_CONNECTION_OPEN || self->reason != IO_REASON_NONE);
    io_assert(has_error || (self->error == 0 && self->os_error == 0));
    io_assert(self->error <= 0);
}

static void connection_state_check_embedder(const io_connection *self) {
    const uint8_t of_embedder = IO_HOLD_PAUSED | IO_HOLD_SERIAL;
    io_assert(!connection_gone(self) || self->phase == IO_CONNECTION_CLOSED);
    io_assert(!connection_gone(self) || io_connection_end_requested(self));
    io_assert(io_connection_is_known(self) || (self->hold & of_embedder) == 0);
    io_assert((self->holds_early & ~of_embedder) == 0);
    io_assert(self->jobs_last == NULL || self->jobs_last->next != NULL);
    io_assert(!self->running || self->runner != 0);
}

static void connection_state_check_queue(const io_connection *self) {
    io_assert((self->queue_head == NULL) == (self->queue_tail == NULL));
    io_assert(self->queue_head != NULL || self->bytes_queued == 0);
    io_assert(self->backlog <= IO_BACKLOG_DRAINED);
    io_assert(self->backlog == IO_BACKLOG_HIGH || (self->hold & IO_HOLD_THROTTLED) == 0);
}

void connection_check(io_connection *self) {
    io_assert(io_lock_is_mine(&self->lock));
    connection_state_check_sides(self);
    connection_state_check_reason(self);
    connection_state_check_embedder(self);
    connection_state_check_queue(self);
}

#endif

/* ---- the worker ------------------------------------------------------------------------------ */

void connection_unlock_and_wake(io_connection *self) {
    /* Entering keeps the port open until the post, which is made without the lock. */
    bool post = !self->running && !self->scheduled && self->phase != IO_CONNECTION_CLOSED &&
                connection_enter(self);
    if (post)
        self->scheduled = true;
    connection_unlock(self);
    if (post) {
        io_post_submit(&self->wakeup);
        connection_leave(self);
    }
}

bool connection_run(io_connection *self) {
    io_assert(io_lock_is_mine(&self->lock));
    bool idle = !self->running;
    if (idle) {
        self->running = true;
        self->runner = io_thread_self();
    }
    return idle;
}

/* ---- holds and the reason -------------------------------------------------------------------- */

void connection_set_hold(io_connection *self, uint8_t holds) {
    io_assert(io_lock_is_mine(&self->lock));
    atomic_fetch_or_explicit(&self->hold, holds, memory_order_relaxed);
}

void connection_clear_hold(io_connection *self, uint8_t holds) {
    io_assert(io_lock_is_mine(&self->lock) && (holds & IO_HOLD_CLOSING) == 0);
    atomic_fetch_and_explicit(&self->hold, (uint8_t)~holds, memory_order_relaxed);
}

bool connection_set_reason(io_connection *self, io_reason reason, int error, uint32_t os_error) {
    io_assert(io_lock_is_mine(&self->lock) && reason != IO_REASON_NONE);
    if (self->phase != IO_CONNECTION_OPEN || self->reason != IO_REASON_NONE)
        return false;
    self->reason = (uint8_t)reason;
    self->error = error;
    self->os_error = os_error;
    return true;
}

/* ---- the send side --------------------------------------------------------------------------- */

static void connection_state_set_send(io_connection *self, io_send_side side) {
    io_assert(io_lock_is_mine(&self->lock) && side > connection_send_side(self));
    atomic_store_explicit(&self->send_side, (uint8_t)side, memory_order_relaxed);
}

void connection_end_sending(io_connection *self, io_send_side side) {
    io_assert(side == IO_SEND_SIDE_LAST || side == IO_SEND_SIDE_ENDING);
    if (connection_send_side(self) == IO_SEND_SIDE_FAILED)
        side = IO_SEND_SIDE_LOST;
    if (connection_send_side(self) < side)
        connection_state_set_send(self, side);
}

void connection_send_has_ended(io_connection *self) {
    io_assert(connection_send_side(self) == IO_SEND_SIDE_ENDING && outbox_empty(self));
    connection_state_set_send(self, IO_SEND_SIDE_ENDED);
}

void connection_send_was_delivered(io_connection *self) {
    io_assert(self->phase == IO_CONNECTION_CLOSING &&
              connection_send_side(self) == IO_SEND_SIDE_ENDED);
    connection_state_set_send(self, IO_SEND_SIDE_DELIVERED);
}

void connection_send_has_failed(io_connection *self) {
    io_assert(!connection_send_ended(self));
    if (!connection_send_lost(self))
        connection_state_set_send(self, io_connection_end_requested(self) ? IO_SEND_SIDE_LOST
                                                                          : IO_SEND_SIDE_FAILED);
}

void connection_abandon_sending(io_connection *self) {
    if (connection_send_side(self) != IO_SEND_SIDE_LOST)
        connection_state_set_send(self, IO_SEND_SIDE_LOST);
}

/* ---- the receive side ------------------------------------------------------------------------ */

static void connection_state_set_receive(io_connection *self, io_receive_side side) {
    io_assert(io_lock_is_mine(&self->lock) && side > connection_receive_side(self));
    atomic_store_explicit(&self->receive_side, (uint8_t)side, memory_order_relaxed);
}

void connection_receive_has_ended(io_connection *self, bool silently) {
    if (connection_receive_side(self) == IO_RECEIVE_SIDE_OPEN)
        connection_state_set_receive(self, IO_RECEIVE_SIDE_EOF);
    else if (connection_receive_side(self) == IO_RECEIVE_SIDE_DRAINING)
        connection_state_set_receive(self, IO_RECEIVE_SIDE_DRAINED);
    if (silently && connection_receive_side(self) == IO_RECEIVE_SIDE_EOF)
        connection_state_set_receive(self, IO_RECEIVE_SIDE_ENDED);
}

void connection_receive_end_notified(io_connection *self) {
    io_assert(connection_receive_side(self) == IO_RECEIVE_SIDE_EOF);
    connection_state_set_receive(self, IO_RECEIVE_SIDE_ENDED);
}

void connection_drain(io_connection *self) {
    if (connection_receive_side(self) < IO_RECEIVE_SIDE_DRAINING)
        connection_state_set_receive(self, connection_peer_ended(self) ? IO_RECEIVE_SIDE_DRAINED
                                                                       : IO_RECEIVE_SIDE_DRAINING);
    connection_set_hold(self, IO_HOLD_CLOSING);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void connection_state_set_phase(io_connection *self, io_connection_phase phase) {
    io_assert(io_lock_is_mine(&self->lock) && phase > self->phase);
    io_assert(self->reason != IO_REASON_NONE);
    self->phase = (uint8_t)phase;
}

void connection_begin_closing(io_connection *self) {
    io_assert(io_connection_end_requested(self) && io_connection_close_requested(self));
    connection_state_set_phase(self, IO_CONNECTION_CLOSING);
}

void connection_tear_down(io_connection *self) {
    if (self->phase < IO_CONNECTION_TEARDOWN)
        connection_state_set_phase(self, IO_CONNECTION_TEARDOWN);
    connection_set_hold(self, IO_HOLD_CLOSING);
}

void connection_is_closed(io_connection *self) {
    connection_state_set_phase(self, IO_CONNECTION_CLOSED);
    connection_set_hold(self, IO_HOLD_CLOSING);
}

static void connection_state_set_notified(io_connection *self, io_notified notified) {
    io_assert(io_lock_is_mine(&self->lock) && notified > self->notified);
    atomic_store_explicit(&self->notified, (uint8_t)notified, memory_order_relaxed);
}

void connection_is_started(io_connection *self) {
    connection_state_set_notified(self, IO_NOTIFIED_STARTED);
}

void connection_is_established(io_connection *self) {
    io_assert(self->notified == IO_NOTIFIED_STARTED);
    connection_state_set_notified(self, IO_NOTIFIED_CONNECTED);
}

/* Whatever ended the connection, it now answers as if that end had been requested. */
void connection_is_gone(io_connection *self) {
    io_assert(self->phase == IO_CONNECTION_CLOSED);
    connection_end_sending(self, IO_SEND_SIDE_ENDING);
    connection_drain(self);
    connection_state_set_notified(self, io_connection_is_known(self) ? IO_NOTIFIED_CLOSED
                                                                     : IO_NOTIFIED_FAILED);
}
