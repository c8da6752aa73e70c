/* connection.h: a connected stream as a state machine, built on io.h.
 *
 * A connection has one receive and at most one send in the kernel; everything else is queued here.
 * It is a *strand*: events may come from any thread, but only one thread at a time *runs* the
 * connection:
 *
 *      event = io_connection_taken(connection, op);    one of its operations was taken
 *      for (; event != IO_CONNECTION_IDLE; event = io_connection_next(connection))
 *          ...handle the event...
 *
 * While one thread runs it, other threads set flags, and io_connection_next acts on them. If no
 * thread runs it, they post `wakeup`, which schedules a worker. The lock is held across calls that
 * do not block, such as a send. It is taken before a handle's lock.
 *
 * How a connection ends. The phase describes the connection as a whole; each direction has its own
 * side:
 *
 *      OPEN ──close, fail──► CLOSING ──delivered, and the peer has ended──► TEARDOWN ──► CLOSED
 *        └──abort, error, both streams have ended───────────────────────────►│
 *
 * In CLOSING we flush the queue, end our stream, and wait until the peer has everything and has
 * ended its stream too. In TEARDOWN we cancel whatever is in flight, and close the socket when
 * nothing is left.
 *
 *      phase      send side                                   receive side
 *      OPEN       OPEN, FAILED                                OPEN, EOF, ENDED
 *                 LAST, ENDING, ENDED, LOST                   any
 *      CLOSING    ENDING, ENDED, DELIVERED, LOST              DRAINING, DRAINED
 *      TEARDOWN   OPEN, FAILED                                OPEN, EOF, ENDED
 *                 LAST, ENDING, ENDED, DELIVERED, LOST        any
 *      CLOSED     as TEARDOWN
 *
 * No other combination exists (connection_check in net/connection_state.c). A requested end shows
 * in the sides. An end that nobody requested, such as a reset by the peer, shows in the phase only.
 * Receiving continues in CLOSING, and the input is discarded: closing a socket with unread input
 * sends a reset, which would destroy data that the peer has not read yet. */
#ifndef IOCPCORE_NET_CONNECTION_H
#define IOCPCORE_NET_CONNECTION_H

#include "core/io.h"

/* One element of the write queue. Small data is copied behind the head, into a pooled buffer. Large
 * data stays in place, and `owner` keeps it alive. */
typedef struct io_chunk {
    struct io_chunk *next;
    void *owner;      /* the embedder's; NULL if the bytes are behind this head, or in a file */
    const char *data; /* not sent yet */
    uint64_t length;
    size_t room; /* free bytes behind the data, for more copies */
    io_op *file; /* a prepared IO_SEND_FILE, or NULL */
} io_chunk;

/* Data to send. If `owner` is set, the queue may keep the data instead of copying it; it then takes
 * the owner and sets `owner` to NULL. */
typedef struct io_piece {
    const char *data;
    size_t length;
    void *owner;
} io_piece;

typedef struct io_connection_limits {
    uint64_t write_high, write_low, max_write_buffer; /* bytes */
    uint32_t read_size;
    bool reads_on; /* never throttle input: if both peers do, both stall */
} io_connection_limits;

/* A job of the embedder's, run on the strand. */
typedef struct io_job {
    struct io_job *next;
} io_job;

typedef enum io_connection_phase {
    IO_CONNECTION_OPEN,
    IO_CONNECTION_CLOSING,
    IO_CONNECTION_TEARDOWN,
    IO_CONNECTION_CLOSED,
} io_connection_phase;

/* The state of our outgoing stream. */
typedef enum io_send_side {
    IO_SEND_SIDE_OPEN,
    IO_SEND_SIDE_LAST,      /* only the embedder's closing handshake may still be sent */
    IO_SEND_SIDE_ENDING,    /* accepts nothing more; ends once the queue is empty */
    IO_SEND_SIDE_ENDED,     /* the system has everything, our end of stream included */
    IO_SEND_SIDE_DELIVERED, /* the peer has acknowledged it */
    IO_SEND_SIDE_FAILED,    /* sending failed before anybody requested the end */
    IO_SEND_SIDE_LOST,      /* end requested, and data was lost */
} io_send_side;             /* from FAILED on, the socket is closed with a reset */

/* The state of the peer's stream. */
typedef enum io_receive_side {
    IO_RECEIVE_SIDE_OPEN,
    IO_RECEIVE_SIDE_EOF,      /* ended; EOF follows the input not yet delivered */
    IO_RECEIVE_SIDE_ENDED,    /* ended; the embedder knows, or does not need to */
    IO_RECEIVE_SIDE_DRAINING, /* open, but input is discarded */
    IO_RECEIVE_SIDE_DRAINED,  /* drained, then ended */
} io_receive_side;

/* Reasons why input is not delivered. */
enum {
    IO_HOLD_PAUSED = 1u << 0,
    IO_HOLD_THROTTLED = 1u << 1, /* the peer does not read what we send */
    IO_HOLD_SERIAL = 1u << 2,    /* the embedder's: only jobs are delivered */
    IO_HOLD_CLOSING = 1u << 3,   /* draining, or TEARDOWN and later */
};

/* Why the connection ended. The first reason wins. */
typedef enum io_reason {
    IO_REASON_NONE,      /* it has not ended */
    IO_REASON_CLOSE,     /* we closed it */
    IO_REASON_ABORT,     /* we aborted it, or the time for a graceful end was up */
    IO_REASON_PEER,      /* the peer ended its stream, before or after we ended ours */
    IO_REASON_RECEIVE,   /* a receive failed with `error` */
    IO_REASON_SEND,      /* a send failed with `error` */
    IO_REASON_IDLE,      /* nothing happened on it for too long */
    IO_REASON_HANDSHAKE, /* it was not established in time */
    IO_REASON_OVERFLOW,  /* more than max_write_buffer was queued */
    IO_REASON_PORT,      /* its port was closed */
    IO_REASON_EMBEDDER,  /* the embedder failed, for example a callback raised an exception */
} io_reason;

/* What the embedder and its user have been notified of. */
typedef enum io_notified {
    IO_NOTIFIED_NOTHING,
    IO_NOTIFIED_STARTED,   /* the embedder knows, its user does not */
    IO_NOTIFIED_CONNECTED, /* see io_connection_establish */
    IO_NOTIFIED_FAILED,    /* gone before it was established */
    IO_NOTIFIED_CLOSED,    /* gone */
} io_notified;

/* How full the write queue is. */
typedef enum io_backlog {
    IO_BACKLOG_LOW,
    IO_BACKLOG_HIGH,    /* above write_high, and not yet back at write_low */
    IO_BACKLOG_DRAINED, /* back at write_low; a DRAINED event is due */
} io_backlog;

typedef struct io_connection {
    io_lock lock;
    uint32_t files_queued; /* each holds a descriptor; includes the file being sent */
    io_handle *handle;
    io_op wakeup;       /* schedules a worker */
    io_receive receive; /* its buffer holds input that was not delivered yet */
    io_op *send;        /* in flight, or NULL */
    io_timer *timer;    /* used in CLOSING */
    io_chunk *queue_head, *queue_tail;
    _Atomic(io_chunk *) spent; /* sent; the owners must be released */
    io_job *jobs_last;         /* a ring: its `next` is the first */
    const io_connection_limits *limits;
    uint64_t bytes_queued; /* file data not included */
    uint64_t bytes_received, bytes_sent;
    uint64_t sent_seen; /* bytes sent, or in CLOSING unsent, at the last progress check */
    uintptr_t runner;   /* valid while `running` */
    uint32_t idle_ticks;
    int32_t error; /* portable, <= 0; see `reason` */
    uint32_t os_error;
    uint8_t phase;                /* io_connection_phase */
    _Atomic uint8_t send_side;    /* io_send_side; all atomics are written with the lock held */
    _Atomic uint8_t receive_side; /* io_receive_side */
    _Atomic uint8_t notified;     /* io_notified */
    _Atomic uint8_t hold;         /* IO_HOLD_... */
    uint8_t holds_early;          /* holds requested before it was established */
    uint8_t reason;               /* io_reason */
    uint8_t backlog;              /* io_backlog */
    uint8_t delivery_polls;       /* consecutive polls without progress */
    bool running : 1;
    bool scheduled : 1; /* `wakeup` is in flight */
    bool receiving : 1;
    bool input_kept : 1;    /* the embedder still has input of its own */
    bool room_asked : 1;    /* the embedder has more to send when there is room */
    bool limited : 1;       /* flushing has a time limit */
    bool no_linger : 1;     /* do not wait for the peer to end its stream */
    bool timer_expired : 1; /* used in CLOSING */
    bool leaked : 1;        /* see io_connection_orphaned */
} io_connection;

typedef enum io_connection_event {
    IO_CONNECTION_IDLE, /* nothing to do; the caller no longer runs it */
    IO_CONNECTION_STARTED,
    IO_CONNECTION_JOBS,  /* io_connection_take_jobs */
    IO_CONNECTION_INPUT, /* io_connection_input */
    IO_CONNECTION_EOF,
    IO_CONNECTION_DRAINED,
    IO_CONNECTION_ROOM, /* requested by io_connection_ask_for_room */
    IO_CONNECTION_GONE, /* the last event; see `reason` and `error` */
} io_connection_event;

/* Takes over a connected, non-blocking stream; on failure the caller still owns it. Returns 0 or a
 * portable error. The first event follows when `wakeup` is taken: the caller either posts it, which
 * schedules a worker, or takes it at once. */
int io_connection_open(io_connection *self, io_lane *lane, io_native native, int family,
                       const io_connection_limits *limits, const io_owner_ops *owner_ops,
                       uint32_t *os_error);

/* Records that an operation of this connection was taken. Returns the first event; the caller then
 * runs the connection, event after event. Returns IDLE if there is no event or another thread runs
 * it. */
io_connection_event io_connection_taken(io_connection *self, io_op *op);
io_connection_event io_connection_next(io_connection *self);

/* Makes the connection visible to its user. Until then jobs wait, DRAINED events are not delivered,
 * and input is received even if io_connection_hold holds it. Must be called once, while handling
 * STARTED or a later event, before the user's first callback. */
void io_connection_establish(io_connection *self);
/* Whether it was established. Stays true after the connection is gone. */
static inline bool io_connection_is_known(const io_connection *self) {
    uint8_t notified = atomic_load_explicit(&self->notified, memory_order_relaxed);
    return notified == IO_NOTIFIED_CONNECTED || notified == IO_NOTIFIED_CLOSED;
}

/* Returns the pending input; may be called only while handling INPUT. io_connection_used consumes
 * the first `used` bytes. */
const char *io_connection_input(io_connection *self, size_t *length);
void io_connection_used(io_connection *self, size_t used);
/* The embedder holds back input that it could not deliver yet, so INPUT comes again. */
void io_connection_keep_input(io_connection *self, bool kept);
/* The embedder has seen the end of the stream: nothing more is received. */
void io_connection_end_input(io_connection *self);
/* Whether the next message may be delivered. */
static inline bool io_connection_delivers(const io_connection *self) {
    return atomic_load_explicit(&self->hold, memory_order_relaxed) == 0;
}

/* Any thread may call the functions below, attached to the embedder or not.
 *
 * Queues all pieces or none, and sends what the socket takes. Inside an event of this connection,
 * sending waits until the event ends or the queue passes write_high. Returns 1 if accepted, 0 if
 * the connection is closing, or -IOE_NOMEM. */
int io_connection_send(io_connection *self, io_piece *pieces, size_t count);
/* Returns 0 if the file can be sent, or a portable error. */
int io_connection_check_file(const io_connection *self, io_native file);
/* Queues a part of a file; a `count` of UINT64_MAX means up to its end. The caller may close the
 * file afterwards. Returns the same as io_connection_send, or another portable error. */
int io_connection_send_file(io_connection *self, io_native file, uint64_t offset, uint64_t count,
                            uint32_t *os_error);
/* Requests one ROOM event, delivered as soon as no more than write_low bytes are queued. */
void io_connection_ask_for_room(io_connection *self);
io_chunk *io_connection_take_spent(io_connection *self);
void io_chunk_free(io_connection *self, io_chunk *chunk);

/* Stops accepting data from the user and, with `whole`, stops delivering input, as if closing. Only
 * the embedder's own closing handshake can still be sent. The embedder later calls
 * io_connection_shutdown or, with `whole`, io_connection_close or io_connection_fail. Without
 * `linger`, that call does not linger either. */
void io_connection_begin_end(io_connection *self, bool whole, bool linger);
void io_connection_close(io_connection *self, bool linger);
void io_connection_shutdown(io_connection *self); /* ends our stream once the queue is sent */
/* Discards what is queued and closes at once. Returns false if it was already being torn down. */
bool io_connection_abort(io_connection *self);
/* The time for a graceful end is up: ends the connection at once. Data that has not left the system
 * is lost, and the peer then sees a reset. `more`: the embedder has unsent data of its own. Returns
 * true if anything is lost. */
bool io_connection_give_up(io_connection *self, bool more);
/* Closes because of an error, and flushes the queue within a short time limit. Returns false if the
 * connection already had another reason to end. */
bool io_connection_fail(io_connection *self, io_reason reason, int error);
/* Whether our side requested the end of our stream (close, shutdown, abort, fail). */
static inline bool io_connection_end_requested(const io_connection *self) {
    uint8_t side = atomic_load_explicit(&self->send_side, memory_order_relaxed);
    return side != IO_SEND_SIDE_OPEN && side != IO_SEND_SIDE_FAILED;
}
/* Whether our side requested the end of the whole connection (close, abort, fail). */
static inline bool io_connection_close_requested(const io_connection *self) {
    return atomic_load_explicit(&self->receive_side, memory_order_relaxed) >=
           IO_RECEIVE_SIDE_DRAINING;
}
/* Whether no more input is delivered, because of such a request or another end. */
static inline bool io_connection_is_closing(const io_connection *self) {
    return (atomic_load_explicit(&self->hold, memory_order_relaxed) & IO_HOLD_CLOSING) != 0;
}
void io_connection_hold(io_connection *self, uint8_t holds, bool held);
/* Queues a job for the strand. Returns false if the connection is closed; the job will not run. */
bool io_connection_post(io_connection *self, io_job *job);
io_job *io_connection_take_jobs(io_connection *self);
/* The group's clock has ticked. Returns for how many ticks the connection has been idle. */
uint32_t io_connection_tick(io_connection *self);
/* The port is closing and has collected all operations. Called for each of them: records it. */
void io_connection_collected(io_connection *self, io_op *op);
/* Called after that, once. Other threads may still hold operations that they have taken but not
 * reported. Returns true if the caller now runs the connection. `leaked`: the kernel may have kept
 * operations, so the connection must never be freed. */
bool io_connection_orphaned(io_connection *self, bool leaked);
/* Writes the local or the peer's address; length 0 if the socket is closed. */
void io_connection_address(io_connection *self, bool peer, io_address *address);
io_native io_connection_native(io_connection *self); /* or IO_NATIVE_NONE */
uint64_t io_connection_pending(io_connection *self, uint64_t *received, uint64_t *sent);

#endif
