/* connection.h: a connected stream as a state machine, built on io.h.
 *
 * A connection has one receive and at most one send in the kernel; the rest waits here. It is its
 * own *strand*: whatever happens to it, on whatever thread, only one thread at a time *runs* it:
 *
 *      event = io_connection_taken(connection, op);    an operation of its came out of the queue
 *      for (; event != IO_CONNECTION_IDLE; event = io_connection_next(connection))
 *          ...tell the user...
 *
 * While one thread runs it, others only leave word of what they want, and io_connection_next sees
 * to it. Whoever leaves word while nobody runs it has a worker come (`strand`). The lock is held
 * across calls that do not block, such as a send; it is taken before a handle's.
 *
 *      OPEN ──close──► FLUSHING ──queue empty: our stream ends──► LINGERING ──peer's end──► ENDING
 *        └──abort, broken──────────────────────────────────────────────────────────────────►│
 *                                              nothing in flight: the socket is closed ◄────┘
 *                                                             CLOSED
 *
 * Receiving goes on in FLUSHING and LINGERING, and what comes is thrown away: closing a socket with
 * unread input sends a reset, which would destroy what the peer has not read yet. */
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
    IO_CONNECTION_FLUSHING,
    IO_CONNECTION_LINGERING,
    IO_CONNECTION_ENDING,
    IO_CONNECTION_CLOSED,
} io_connection_phase;

/* Why input is not handed on. */
enum {
    IO_HOLD_PAUSED = 1u << 0,
    IO_HOLD_THROTTLED = 1u << 1, /* the peer does not read what we send */
    IO_HOLD_SERIAL = 1u << 2,    /* the embedder's: nothing but jobs is handed on */
    IO_HOLD_CLOSING = 1u << 3,
};

typedef enum io_connection_cause {
    IO_CAUSE_NONE,     /* we closed it, or the peer ended its stream */
    IO_CAUSE_RECEIVE,  /* `error` of a receive */
    IO_CAUSE_SEND,     /* `error` of a send */
    IO_CAUSE_TIMEOUT,  /* idle, or not established, for too long */
    IO_CAUSE_OVERFLOW, /* more than max_write_buffer */
    IO_CAUSE_PORT,     /* its port was closed */
    IO_CAUSE_EMBEDDER, /* it knows */
} io_connection_cause;

typedef struct io_connection {
    io_lock lock;
    io_handle *handle;
    io_op strand;       /* brings a worker */
    io_receive receive; /* its buffer: input that has not been handed on */
    io_op *send;        /* in flight */
    io_timer *timer;    /* of lingering */
    io_chunk *queue_head, *queue_tail;
    _Atomic(io_chunk *) spent; /* sent: the owners are to be released */
    io_job *jobs_head, *jobs_tail;
    const io_connection_limits *limits;
    uint64_t bytes_queued; /* without files */
    uint64_t bytes_received, bytes_sent;
    uint64_t sent_seen; /* io_connection_tick's last look at the send under way */
    uintptr_t runner;   /* the thread that runs it, if `running` */
    uint32_t input_start;
    uint32_t files_queued; /* each holds a descriptor; the one that is being sent counts */
    uint32_t idle_ticks;
    int32_t error; /* portable, above 0; `cause` says of what */
    uint32_t os_error;
    uint8_t cause;        /* io_connection_cause */
    uint8_t phase;        /* io_connection_phase */
    uint8_t looks;        /* lingering: in a row, that found as much unsent as before */
    _Atomic uint8_t hold; /* IO_HOLD_..., changed under the lock */
    uint8_t holds_early;  /* the same, asked for before it was established */
    bool running : 1;
    bool scheduled : 1; /* `strand` is on its way */
    bool started : 1;
    bool established : 1; /* it exists for its user: see io_connection_establish */
    bool receiving : 1;
    bool input_kept : 1; /* the embedder has input of its own left */
    bool eof : 1;        /* the peer has ended its stream */
    bool eof_told : 1;
    bool end_asked : 1; /* our stream ends when the queue is empty */
    bool ended : 1;     /* it has */
    bool send_failed : 1;
    bool above : 1; /* more than write_high was queued, and is not write_low yet */
    bool drain_due : 1;
    bool room_asked : 1; /* the embedder has more to send when there is room */
    bool aborted : 1;
    bool limited : 1; /* flushing may not take for ever */
    bool no_linger : 1;
    bool linger_over : 1; /* its timer has expired */
    bool delivered : 1;   /* lingering: the peer has everything */
    bool closed_told : 1;
    bool leaked : 1; /* see io_connection_orphaned */
} io_connection;

typedef enum io_connection_event {
    IO_CONNECTION_IDLE, /* nothing more; it is not run any longer */
    IO_CONNECTION_STARTED,
    IO_CONNECTION_JOBS,  /* io_connection_take_jobs */
    IO_CONNECTION_INPUT, /* io_connection_input */
    IO_CONNECTION_EOF,
    IO_CONNECTION_DRAINED,
    IO_CONNECTION_ROOM, /* asked for by io_connection_ask_for_room */
    IO_CONNECTION_GONE, /* the last event. `error` and `cause` say why */
} io_connection_event;

/* Takes over a connected, non-blocking stream, which stays the caller's if it fails. 0 or a
 * portable error. The first event follows when `strand` is taken: the caller either posts it, for a
 * worker, or takes it at once. */
int io_connection_open(io_connection *self, io_lane *lane, io_native native, int family,
                       const io_connection_limits *limits, const io_owner_ops *owner_ops,
                       uint32_t *os_error);

/* An operation of this connection was taken. The caller runs it now, event after event, unless
 * there is none or another thread runs it: IDLE. */
io_connection_event io_connection_taken(io_connection *self, io_op *op);
io_connection_event io_connection_next(io_connection *self);

/* It exists for its user from now on. Until then jobs wait, drains are not told, and what is held
 * by io_connection_hold is received all the same. Whoever handles STARTED or a later event says it,
 * before the user's first callback. */
void io_connection_establish(io_connection *self);

/* Whether it was established. Also afterwards, when it is gone. */
bool io_connection_is_known(io_connection *self);

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

void io_connection_close(io_connection *self, bool linger);
/* Hands on no more input, as if it was closing; only the embedder is not ready for that yet. It
 * closes it later, and that does not linger either if this says so. */
void io_connection_silence(io_connection *self, bool linger);
void io_connection_shutdown(io_connection *self); /* ends our stream after what is queued */
/* False: it was ending already. */
bool io_connection_abort(io_connection *self);
/* Its time for a graceful end is up. What has not left is lost, and then the peer sees a reset;
 * `more`: the embedder has some of that. True: something is lost. */
bool io_connection_give_up(io_connection *self, bool more);
/* Closes because of an error. What is queued is sent, for at most a moment. False: it was closing
 * already, and this is not why. */
bool io_connection_fail(io_connection *self, io_connection_cause cause, int error);
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
