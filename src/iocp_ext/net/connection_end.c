/* connection_end.c: how a connection ends: the requests, and the steps until it is closed.
 *
 * One rule keeps it correct: the socket is closed when nothing is in flight, and only then is the
 * connection gone. Any thread may request an end, which changes the state with the lock held. Only
 * the runner takes the steps (connection.c). */
#include "net/connection_state.h"
#include "net/outbox.h"

#include "core/backend.h"

#define DELIVERY_POLL_NS (20 * IO_NS_PER_MS) /* first interval between polls of what is unsent */
#define DELIVERY_POLLS_MAX 6                 /* how many times the interval doubles */
#define LINGER_NS (2 * IO_NS_PER_SECOND)     /* time for the peer to read what was sent */

/* ---- steps ----------------------------------------------------------------------------------- */

static void connection_end_stream(io_connection *self) {
    connection_send_has_ended(self);
    if (self->wakeup.lane->backend->shutdown(self->handle) != 0)
        self->no_linger = true; /* no peer left to wait for */
}

static void connection_end_start_timer(io_connection *self, uint64_t delay_ns) {
    if (self->timer != NULL || self->timer_expired)
        return;
    io_op *op = io_op_new(self->wakeup.lane, IO_TIMER, self->wakeup.owner_ops, self);
    if (op == NULL) {
        self->timer_expired = true;
        return;
    }
    self->timer = (io_timer *)op;
    io_timer_submit(self->timer, delay_ns);
}

/* If the timer has just fired, its operation is still delivered. */
static void connection_end_drop_timer(io_connection *self) {
    if (self->timer != NULL && io_timer_withdraw(self->timer))
        self->timer = NULL;
}

bool connection_progress_open(io_connection *self) {
    outbox_flush(self);
    if (connection_send_side(self) == IO_SEND_SIDE_ENDING && outbox_empty(self))
        connection_end_stream(self);
    /* If sending has failed, input that has arrived is still delivered, even after a pause. */
    bool useless =
        connection_send_lost(self) && connection_receive_side(self) >= IO_RECEIVE_SIDE_ENDED;
    bool both_ended = connection_send_ended(self) && connection_peer_ended(self) &&
                      connection_receive_side(self) != IO_RECEIVE_SIDE_EOF;
    if (useless || both_ended) {
        (void)connection_set_reason(self, IO_REASON_PEER, 0, 0);
        connection_tear_down(self);
        return true;
    }
    connection_receive(self);
    return false;
}

static bool connection_end_flush(io_connection *self) {
    if (self->limited)
        connection_end_start_timer(self, LINGER_NS);
    outbox_flush(self);
    if (connection_send_lost(self) || (self->limited && self->timer_expired)) {
        connection_tear_down(self);
        return true;
    }
    if (outbox_empty(self)) { /* closing alone is not enough: a forked child may hold the socket */
        connection_end_stream(self);
        return true;
    }
    connection_receive(self);
    return false;
}

/* Returns whether the system still holds unsent data. While the amount changes, the connection is
 * not idle. */
static bool connection_end_poll_unsent(io_connection *self) {
    const io_backend *backend = self->wakeup.lane->backend;
    uint32_t left = backend->unsent != NULL ? backend->unsent(self->handle, false) : 0;
    if (left != self->sent_seen) {
        self->idle_ticks = 0;
        self->delivery_polls = 0;
    } else if (self->delivery_polls < DELIVERY_POLLS_MAX) {
        self->delivery_polls++;
    }
    self->sent_seen = left;
    return left > 0;
}

/* A closed socket answers data from its peer with a reset, which destroys what is still on its way
 * to the peer. So first the peer receives everything, at its own speed, and then it gets LINGER_NS
 * to end its stream. Most peers end it at once, before the first poll. */
static bool connection_end_linger(io_connection *self) {
    bool ended = connection_peer_ended(self);
    bool waits = !self->limited && connection_send_side(self) != IO_SEND_SIDE_DELIVERED;
    if (waits && !ended && (self->timer_expired || self->no_linger)) {
        waits = connection_end_poll_unsent(self);
        if (!waits)
            connection_send_was_delivered(self);
        self->timer_expired = false;
    }
    if (ended || (!waits && (self->no_linger || self->timer_expired))) {
        connection_tear_down(self);
        return true;
    }
    connection_end_start_timer(self, waits ? DELIVERY_POLL_NS << self->delivery_polls : LINGER_NS);
    if (self->timer_expired) { /* out of memory */
        connection_tear_down(self);
        return true;
    }
    connection_receive(self);
    return false;
}

bool connection_progress_closing(io_connection *self) {
    return connection_send_ended(self) ? connection_end_linger(self) : connection_end_flush(self);
}

static void connection_end_close_socket(io_connection *self) {
    io_handle *handle = self->handle;
    bool reset = connection_send_lost(self) || !outbox_empty(self);
    self->handle = NULL;
    if (reset || !connection_peer_ended(self) || !connection_send_ended(self))
        handle->lane->backend->prepare_close(handle, reset); /* not needed if both ended */
    io_handle_close(handle);
}

bool connection_progress_teardown(io_connection *self) {
    if (self->receiving)
        (void)io_op_cancel(&self->receive.op);
    connection_end_drop_timer(self);
    if (self->send != NULL)
        (void)io_op_cancel(self->send);
    if (connection_in_flight(self))
        return false;
    connection_end_close_socket(self);
    outbox_drop(self);
    io_receive_release(&self->receive);
    connection_is_closed(self);
    return true;
}

/* ---- what ends it ---------------------------------------------------------------------------- */

/* Whether this error is the cause of the recorded one. The kernel reports a reset to one call only,
 * and EPIPE to later sends. Such a send may be taken before the call that has the reset. */
static bool connection_end_explains(const io_connection *self, io_reason reason, int error) {
    return reason == IO_REASON_RECEIVE && error == -IOE_CONNRESET &&
           self->reason == IO_REASON_SEND && self->error == -IOE_PIPE;
}

void connection_break(io_connection *self, io_reason reason, int error, uint32_t os_error) {
    if (self->phase == IO_CONNECTION_OPEN && connection_end_explains(self, reason, error))
        self->reason = IO_REASON_NONE;
    (void)connection_set_reason(self, reason, error, os_error);
    connection_tear_down(self);
}

/* Requests the end of both directions. */
static void connection_end_both(io_connection *self, bool linger) {
    connection_end_sending(self, IO_SEND_SIDE_ENDING);
    connection_drain(self);
    if (self->phase == IO_CONNECTION_OPEN)
        connection_begin_closing(self);
    if (!linger)
        self->no_linger = true;
}

void io_connection_begin_end(io_connection *self, bool whole, bool linger) {
    connection_lock(self);
    connection_end_sending(self, IO_SEND_SIDE_LAST);
    if (whole)
        connection_drain(self);
    if (!linger)
        self->no_linger = true;
    if (whole)
        connection_unlock_and_wake(self); /* the runner discards held input */
    else
        connection_unlock(self);
}

void io_connection_close(io_connection *self, bool linger) {
    connection_lock(self);
    (void)connection_set_reason(self, IO_REASON_CLOSE, 0, 0);
    connection_end_both(self, linger);
    connection_unlock_and_wake(self);
}

void io_connection_shutdown(io_connection *self) {
    connection_lock(self);
    connection_end_sending(self, IO_SEND_SIDE_ENDING);
    connection_unlock_and_wake(self);
}

/* Ends both directions now, with or without a loss of unsent data. */
static void connection_end_at_once(io_connection *self, bool loses) {
    (void)connection_set_reason(self, IO_REASON_ABORT, 0, 0);
    connection_end_sending(self, IO_SEND_SIDE_ENDING);
    if (loses)
        connection_abandon_sending(self);
    connection_drain(self);
    connection_tear_down(self);
}

bool io_connection_abort(io_connection *self) {
    connection_lock(self);
    bool ends = self->phase < IO_CONNECTION_TEARDOWN;
    connection_end_at_once(self, ends);
    connection_unlock_and_wake(self);
    return ends;
}

bool io_connection_give_up(io_connection *self, bool more) {
    const io_backend *backend = self->wakeup.lane->backend;
    bool loses = false;
    connection_lock(self);
    if (self->phase < IO_CONNECTION_TEARDOWN) /* data that has left the system still arrives */
        loses = more || !outbox_empty(self) ||
                (backend->unsent != NULL && backend->unsent(self->handle, true) > 0);
    connection_end_at_once(self, loses);
    connection_unlock_and_wake(self);
    return loses;
}

bool io_connection_fail(io_connection *self, io_reason reason, int error) {
    connection_lock(self);
    bool first = connection_set_reason(self, reason, error, 0);
    self->limited = true;
    connection_end_both(self, true);
    connection_unlock_and_wake(self);
    return first;
}

bool io_connection_orphaned(io_connection *self, bool leaked) {
    connection_lock(self);
    self->leaked = leaked;
    if (self->phase != IO_CONNECTION_CLOSED) {
        if (self->error == -IOE_CANCELED && self->phase == IO_CONNECTION_OPEN)
            self->reason = IO_REASON_NONE; /* the closing port cancelled it */
        (void)connection_set_reason(self, IO_REASON_PORT, io_lane_end(self->wakeup.lane), 0);
        connection_end_close_socket(self);
        connection_is_closed(self);
    }
    bool tell = !connection_gone(self) && connection_run(self);
    connection_unlock(self);
    return tell;
}
