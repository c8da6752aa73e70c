/* connection_state.h: how a connection's state changes, for net/connection*.c and outbox.c only.
 *
 * Everything here must be called with the connection's lock held. Transitions are one-way. The
 * table in net/connection.h lists the valid combinations. */
#ifndef IOCPCORE_NET_CONNECTION_STATE_H
#define IOCPCORE_NET_CONNECTION_STATE_H

#include "core/assert.h"
#include "net/connection.h"

#ifdef IO_ASSERTIONS
/* Whether the table has this combination. */
bool connection_state_exists(io_connection_phase phase, io_send_side send, io_receive_side receive);
/* Aborts if an invariant is broken. */
void connection_check(io_connection *self);
#else
static inline void connection_check(const io_connection *self) {
    (void)self;
}
#endif

/* ---- the lock and the worker ----------------------------------------------------------------- */

static inline void connection_lock(io_connection *self) {
    io_lock_acquire(&self->lock);
}

static inline void connection_unlock(io_connection *self) {
    connection_check(self);
    io_lock_release(&self->lock);
}

/* Unlocks after a change that must be acted on. Schedules a worker, unless another thread runs the
 * connection and will see the change. */
void connection_unlock_and_wake(io_connection *self);

/* Code that may submit operations runs between these two. Returns false if the port is closed or
 * belongs to the parent process; the connection ends with it. */
static inline bool connection_enter(const io_connection *self) {
    return io_port_enter(self->wakeup.lane->port) == 0;
}

static inline void connection_leave(const io_connection *self) {
    io_port_leave(self->wakeup.lane->port);
}

/* Makes the caller the runner. Returns false if another thread already is. */
bool connection_run(io_connection *self);

/* ---- reading --------------------------------------------------------------------------------- */

static inline io_send_side connection_send_side(const io_connection *self) {
    return (io_send_side)atomic_load_explicit(&self->send_side, memory_order_relaxed);
}

static inline io_receive_side connection_receive_side(const io_connection *self) {
    return (io_receive_side)atomic_load_explicit(&self->receive_side, memory_order_relaxed);
}

/* Nothing more can be sent, and closing the socket resets the stream. */
static inline bool connection_send_lost(const io_connection *self) {
    return connection_send_side(self) >= IO_SEND_SIDE_FAILED;
}

/* Our stream has ended. */
static inline bool connection_send_ended(const io_connection *self) {
    io_send_side side = connection_send_side(self);
    return side == IO_SEND_SIDE_ENDED || side == IO_SEND_SIDE_DELIVERED;
}

/* The peer's stream has ended. */
static inline bool connection_peer_ended(const io_connection *self) {
    io_receive_side side = connection_receive_side(self);
    return side != IO_RECEIVE_SIDE_OPEN && side != IO_RECEIVE_SIDE_DRAINING;
}

static inline io_notified connection_notified(const io_connection *self) {
    return (io_notified)atomic_load_explicit(&self->notified, memory_order_relaxed);
}

static inline bool connection_gone(const io_connection *self) {
    return connection_notified(self) >= IO_NOTIFIED_FAILED;
}

/* ---- changing -------------------------------------------------------------------------------- */

void connection_set_hold(io_connection *self, uint8_t holds);
void connection_clear_hold(io_connection *self, uint8_t holds);
/* Sets the reason if the connection is OPEN and has none yet. Returns true if it was set. */
bool connection_set_reason(io_connection *self, io_reason reason, int error, uint32_t os_error);

/* Requests the end of our stream; `side` is LAST or ENDING. */
void connection_end_sending(io_connection *self, io_send_side side);
void connection_send_has_ended(io_connection *self);
void connection_send_was_delivered(io_connection *self);
void connection_send_has_failed(io_connection *self);
/* Gives up the data that was not sent yet. */
void connection_abandon_sending(io_connection *self);

/* The peer has ended its stream. `silently`: the embedder is not notified. */
void connection_receive_has_ended(io_connection *self, bool silently);
/* The embedder was notified of that end. */
void connection_receive_end_notified(io_connection *self);
/* Discards all input from now on. */
void connection_drain(io_connection *self);

void connection_begin_closing(io_connection *self);
/* Nothing more is needed from the socket. */
void connection_tear_down(io_connection *self);
void connection_is_closed(io_connection *self);

/* In order: the embedder gets its first event, its user is notified, the embedder gets its last
 * event. */
void connection_is_started(io_connection *self);
void connection_is_established(io_connection *self);
void connection_is_gone(io_connection *self);

/* ---- how it ends (connection_end.c) ---------------------------------------------------------- */

/* Whether anything is in flight. Nothing may be when the socket is closed or the connection is
 * gone. */
static inline bool connection_in_flight(const io_connection *self) {
    return self->receiving || self->timer != NULL || self->send != NULL || self->scheduled;
}

/* The next step of each phase. The port must be entered. Returns true if the state changed, so
 * another step may be possible. */
bool connection_progress_open(io_connection *self);
bool connection_progress_closing(io_connection *self);
bool connection_progress_teardown(io_connection *self);
/* Starts a receive, if the state allows it (connection.c). */
void connection_receive(io_connection *self);
/* Ends the connection at once because of an error. */
void connection_break(io_connection *self, io_reason reason, int error, uint32_t os_error);

#endif
