/* connection.h: a connected stream as a state machine, built on io.h.
 *
 * A connection has one receive and at most one send in the kernel; the rest waits here. It is a
 * *strand*: whatever happens to it, on whatever thread, only one thread at a time *runs* it:
 *
 *      event = io_connection_taken(connection, op);    one of its operations was taken
 *      for (; event != IO_CONNECTION_IDLE; event = io_connection_next(connection))
 *          ...tell the user...
 *
 * While one thread runs it, others only record what they want, and io_connection_next acts on it.
 * If nobody runs it they post `wakeup`, which schedules a worker. The lock is held across calls
 * that do not block, such as a send; it is taken before a handle's.
 *
 * How it ends. The phase is that of the connection as a whole; each direction has a side:
 *
 *      OPEN ──close, fail──► CLOSING ──delivered, and the peer has ended──► TEARDOWN ──► CLOSED
 *        └──abort, error, both streams have ended───────────────────────────►│
 *
 * In CLOSING the queue is flushed, our stream ends, and we wait until the peer has everything and
 * has ended its stream too. In TEARDOWN whatever is in flight is cancelled; the socket is closed
 * when nothing is left.
 *
 *      phase      send side                                   receive side
 *      OPEN       OPEN, FAILED                                OPEN, EOF, ENDED
 *                 LAST, ENDING, ENDED, LOST                   any
 *      CLOSING    ENDING, ENDED, DELIVERED, LOST              DRAINING, DRAINED
 *      TEARDOWN   OPEN, FAILED                                OPEN, EOF, ENDED
 *                 LAST, ENDING, ENDED, DELIVERED, LOST        any
 *      CLOSED     as TEARDOWN
 *
 * No other combination exists (connection_check in net/connection_state.c). An end that somebody
 * has asked for shows in the sides; one that just happened, such as a reset by the peer, shows in
 * the phase only. Receiving goes on in CLOSING, and what arrives is thrown away: closing a socket
 * with unread input sends a reset, which would destroy what the peer has not read yet. */
#ifndef IOCPCORE_NET_CONNECTION_H
#define IOCPCORE_NET_CONNECTION_H

#include "core/io.h"

/* A part of the write queue. Small data is copied behind the head, in a pooled buffer; what is
 * large stays where it is, and `owner` keeps it there. */
typedef struct io_chunk {
    struct io_chunk *next;
    void *owner;      /* the embedder's; NULL: the bytes are behind this head, or in a file */
    const char *data; /* what is not sent yet */
    uint64_t length;
    size_t room; /* behind the bytes, for more copies */
    io_op *file; /* IO_SEND_FILE, prepared; or NULL */
} io_chunk;

/* What is to be sent. With an owner it may be kept instead of copied; `owner` is NULL then. */
typedef struct io_piece {
    const char *data;
    size_t length;
    void *owner;
} io_piece;

typedef struct io_connection_limits {
    uint64_t write_high, write_low, max_write_buffer; /* bytes */
    uint32_t read_size;
    bool reads_on; /* however much is queued: one of two ends must, or they wait for each other */
} io_connection_limits;

/* Work for the strand, the embedder's. */
typedef struct io_job {
    struct io_job *next;
} io_job;

typedef enum io_connection_phase {
    IO_CONNECTION_OPEN,
    IO_CONNECTION_CLOSING,
    IO_CONNECTION_TEARDOWN,
    IO_CONNECTION_CLOSED,
} io_connection_phase;

/* The stream that we send. */
typedef enum io_send_side {
    IO_SEND_SIDE_OPEN,
    IO_SEND_SIDE_LAST,      /* only the embedder's own closing handshake may still be sent */
    IO_SEND_SIDE_ENDING,    /* takes no more; ends once the queue is empty */
    IO_SEND_SIDE_ENDED,     /* everything is in the system's hands, our end included */
    IO_SEND_SIDE_DELIVERED, /* the peer has acknowledged it */
    IO_SEND_SIDE_FAILED,    /* cannot send any more, and nobody has asked for the end yet */
    IO_SEND_SIDE_LOST,      /* ending, and something was lost */
} io_send_side;             /* from FAILED on, the socket is closed with a reset */

/* The stream that the peer sends. */
typedef enum io_receive_side {
    IO_RECEIVE_SIDE_OPEN,
    IO_RECEIVE_SIDE_EOF,      /* has ended; EOF follows the input that is still to be handed on */
    IO_RECEIVE_SIDE_ENDED,    /* has ended, and the embedder knows, or is not to be told */
    IO_RECEIVE_SIDE_DRAINING, /* open, but what arrives is thrown away */
    IO_RECEIVE_SIDE_DRAINED,  /* was drained, and has ended */
} io_receive_side;

/* Why input is not handed on. */
enum {
    IO_HOLD_PAUSED = 1u << 0,
    IO_HOLD_THROTTLED = 1u << 1, /* the peer does not read what we send */
    IO_HOLD_SERIAL = 1u << 2,    /* the embedder's: nothing but jobs is handed on */
    IO_HOLD_CLOSING = 1u << 3,   /* draining, or TEARDOWN and later */
};

/* Why the connection ended: the first reason counts. */
typedef enum io_reason {
    IO_REASON_NONE,      /* it has not */
    IO_REASON_CLOSE,     /* we closed it */
    IO_REASON_ABORT,     /* we aborted it, or its time for a graceful end was up */
    IO_REASON_PEER,      /* the peer ended its stream after we had ended ours, or before */
    IO_REASON_RECEIVE,   /* `error` of a receive */
    IO_REASON_SEND,      /* `error` of a send */
    IO_REASON_IDLE,      /* nothing has happened on it for too long */
    IO_REASON_HANDSHAKE, /* it was not established in time */
    IO_REASON_OVERFLOW,  /* more than max_write_buffer was queued */
    IO_REASON_PORT,      /* its port was closed */
    IO_REASON_EMBEDDER,  /* a failure of the embedder's, such as an exception of a callback */
} io_reason;

/* What the embedder's user knows. */
typedef enum io_notified {
    IO_NOTIFIED_NOTHING,
    IO_NOTIFIED_STARTED,   /* the embedder knows, its user does not */
    IO_NOTIFIED_CONNECTED, /* see io_connection_establish */
    IO_NOTIFIED_FAILED,    /* gone without having been connected */
    IO_NOTIFIED_CLOSED,    /* gone */
} io_notified;

/* How full the write queue is. */
typedef enum io_backlog {
    IO_BACKLOG_LOW,
    IO_BACKLOG_HIGH,    /* exceeded write_high, and has not fallen to write_low yet */
    IO_BACKLOG_DRAINED, /* has fallen to write_low, and DRAINED is due */
} io_backlog;

typedef struct io_connection {
    io_lock lock;
    io_handle *handle;
    io_op wakeup;       /* schedules a worker */
    io_receive receive; /* its buffer: input that has not been handed on */
    io_op *send;        /* in flight */
    io_timer *timer;    /* of CLOSING */
    io_chunk *queue_head, *queue_tail;
    _Atomic(io_chunk *) spent; /* sent: the owners are to be released */
    io_job *jobs_head, *jobs_tail;
    const io_connection_limits *limits;
    uint64_t bytes_queued; /* without files */
    uint64_t bytes_received, bytes_sent;
    uint64_t sent_seen; /* what was unsent, or sent, when progress was last checked */
    uintptr_t runner;   /* the thread that runs it, if `running` */
    uint32_t input_start;
    uint32_t files_queued; /* each holds a descriptor; the one that is being sent counts */
    uint32_t idle_ticks;
    int32_t error; /* portable; `reason` says of what */
    uint32_t os_error;
    uint8_t phase;                /* io_connection_phase */
    _Atomic uint8_t send_side;    /* io_send_side; all atomics are changed under the lock */
    _Atomic uint8_t receive_side; /* io_receive_side */
    _Atomic uint8_t notified;     /* io_notified */
    _Atomic uint8_t hold;         /* IO_HOLD_... */
    uint8_t holds_early;          /* the same, asked for before it was established */
    uint8_t reason;               /* io_reason */
    uint8_t backlog;              /* io_backlog */
    uint8_t delivery_polls;       /* in a row, that found as much unsent as before */
    bool running : 1;
    bool scheduled : 1; /* `wakeup` is on its way */
    bool receiving : 1;
    bool input_kept : 1;    /* the embedder has input of its own left */
    bool room_asked : 1;    /* the embedder has more to send when there is room */
    bool limited : 1;       /* flushing may not take for ever */
    bool no_linger : 1;     /* do not wait for the peer to end its stream */
    bool timer_expired : 1; /* of CLOSING */
    bool leaked : 1;        /* see io_connection_orphaned */
} io_connection;

typedef enum io_connection_event {
    IO_CONNECTION_IDLE, /* nothing more; it is not run any longer */
    IO_CONNECTION_STARTED,
    IO_CONNECTION_JOBS,  /* io_connection_take_jobs */
    IO_CONNECTION_INPUT, /* io_connection_input */
    IO_CONNECTION_EOF,
    IO_CONNECTION_DRAINED,
    IO_CONNECTION_ROOM, /* asked for by io_connection_ask_for_room */
    IO_CONNECTION_GONE, /* the last event. `reason` and `error` say why */
} io_connection_event;

/* Takes over a connected, non-blocking stream, which stays the caller's if it fails. 0 or a
 * portable error. The first event follows when `wakeup` is taken: the caller either posts it, for a
 * worker, or takes it at once. */
int io_connection_open(io_connection *self, io_lane *lane, io_native native, int family,
                       const io_connection_limits *limits, const io_owner_ops *owner_ops,
                       uint32_t *os_error);

/* An operation of this connection was taken. The caller runs it now, event after event, unless
 * there is none or another thread runs it: IDLE. */
io_connection_event io_connection_taken(io_connection *self, io_op *op);
io_connection_event io_connection_next(io_connection *self);

/* It exists for its user from now on. Until then jobs wait, drains are not told, and what is held
 * by io_connection_hold is received all the same. Whoever handles STARTED or a later event calls
 * this once, before the user's first callback. */
void io_connection_establish(io_connection *self);
/* Whether it was established. Also afterwards, when it is gone. */
static inline bool io_connection_is_known(const io_connection *self) {
    uint8_t notified = atomic_load_explicit(&self->notified, memory_order_relaxed);
    return notified == IO_NOTIFIED_CONNECTED || notified == IO_NOTIFIED_CLOSED;
}

/* Input, while INPUT is handled. Bytes up to `used` are not handed on again. */
const char *io_connection_input(io_connection *self, size_t *length);
void io_connection_used(io_connection *self, size_t used);
/* The embedder has taken input that it could not hand on yet: INPUT comes again. */
void io_connection_keep_input(io_connection *self, bool kept);
/* Nothing more is to be received: the embedder has seen the end of the stream. */
void io_connection_end_input(io_connection *self);
/* Whether the next message may be handed on. */
static inline bool io_connection_delivers(const io_connection *self) {
    return atomic_load_explicit(&self->hold, memory_order_relaxed) == 0;
}

/* All of these may be called by any thread, attached to the embedder or not.
 *
 * Queues the pieces as one, and sends what can be sent; inside an event of this connection that
 * waits until its end. 1: accepted; 0: the connection is closing; or -IOE_NOMEM. */
int io_connection_send(io_connection *self, io_piece *pieces, size_t count);
/* Whether a file can be sent: 0 or a portable error. */
int io_connection_check_file(const io_connection *self, io_native file);
/* Queues a part of a file, which may be closed afterwards; UINT64_MAX is to its end. The same
 * answers, or another error. */
int io_connection_send_file(io_connection *self, io_native file, uint64_t offset, uint64_t count,
                            uint32_t *os_error);
/* ROOM comes, once, as soon as no more than write_low bytes are queued. */
void io_connection_ask_for_room(io_connection *self);
io_chunk *io_connection_take_spent(io_connection *self);
void io_chunk_free(io_connection *self, io_chunk *chunk);

/* Takes no more from the user, and with `whole` hands on no more input, as if it was closing; only
 * the embedder has its own closing handshake to send first. It calls io_connection_shutdown or,
 * with `whole`, io_connection_close or _fail later; without `linger` that does not linger either.
 */
void io_connection_begin_end(io_connection *self, bool whole, bool linger);
void io_connection_close(io_connection *self, bool linger);
void io_connection_shutdown(io_connection *self); /* ends our stream after what is queued */
/* False: it was ending already. */
bool io_connection_abort(io_connection *self);
/* Its time for a graceful end is up. What has not left is lost, and then the peer sees a reset;
 * `more`: the embedder has some of that. True: something is lost. */
bool io_connection_give_up(io_connection *self, bool more);
/* Closes because of an error. What is queued is sent, for at most a moment. False: it was closing
 * already, and this is not why. */
bool io_connection_fail(io_connection *self, io_reason reason, int error);
/* Whether somebody here has asked for the end of our stream (close, shutdown, abort, fail). */
static inline bool io_connection_end_requested(const io_connection *self) {
    uint8_t side = atomic_load_explicit(&self->send_side, memory_order_relaxed);
    return side != IO_SEND_SIDE_OPEN && side != IO_SEND_SIDE_FAILED;
}
/* The same for the end of the whole connection (close, abort, fail). */
static inline bool io_connection_close_requested(const io_connection *self) {
    return atomic_load_explicit(&self->receive_side, memory_order_relaxed) >=
           IO_RECEIVE_SIDE_DRAINING;
}
/* Whether no more input is handed on, because of such an end or another. */
static inline bool io_connection_is_closing(const io_connection *self) {
    return (atomic_load_explicit(&self->hold, memory_order_relaxed) & IO_HOLD_CLOSING) != 0;
}
void io_connection_hold(io_connection *self, uint8_t holds, bool held);
/* A job for the strand. False: it is closed, and nobody will do it. */
bool io_connection_post(io_connection *self, io_job *job);
io_job *io_connection_take_jobs(io_connection *self);
/* The clock of its group has moved on: how long nothing has, in ticks. */
uint32_t io_connection_tick(io_connection *self);
/* The end of its port, which has taken all operations: notes one, */
void io_connection_collected(io_connection *self, io_op *op);
/* and then that there are no more, but for those that other threads have taken and not brought yet.
 * True: the caller runs it now. `leaked`: the kernel may have kept some, so it must never be freed.
 */
bool io_connection_orphaned(io_connection *self, bool leaked);
/* Its own address, or its peer's; length 0 if there is none any more. */
void io_connection_address(io_connection *self, bool peer, io_address *address);
io_native io_connection_native(io_connection *self); /* or IO_NATIVE_NONE */
uint64_t io_connection_pending(io_connection *self, uint64_t *received, uint64_t *sent);

#endif
