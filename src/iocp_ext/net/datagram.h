/* datagram.h: a datagram socket, built on io.h: one receive at a time, and a queue of sends.
 *
 * Any thread may call any function here, but for those of a turn. A *turn* is what one thread makes
 * of one operation that it has taken from the ready queue:
 *
 *      event = io_datagram_turn_begin(&turn, op);
 *      for (; event != IO_DATAGRAM_IDLE; event = io_datagram_turn_next(&turn, true))
 *          ...tell the user...
 *
 * There is one receive, and its turn asks for the next datagram only after the user was told of the
 * one before. So datagrams are handed on in order, and their turns never overlap. Turns of sends
 * may run beside them.
 *
 * A datagram is sent by the caller if nothing waits. What would block becomes an operation, and so
 * does everything behind it: the order stays. A send that is refused at once is an operation too,
 * one that has ended already, so that its error is told in a turn.
 *
 * The socket must stay in memory while an operation is in flight. io_datagram_socket_receive,
 * io_datagram_socket_send and `in_flight` of a turn say when one is. By then another thread may
 * have taken it, so the caller secures the memory before the call, and for the call itself too. */
#ifndef IOCPCORE_NET_DATAGRAM_H
#define IOCPCORE_NET_DATAGRAM_H

#include "core/io.h"

/* All zero: it was never opened, and behaves like one that is closed. */
typedef struct io_datagram_socket {
    io_lock lock;   /* taken before a handle's */
    bool closed;    /* by io_datagram_socket_close */
    bool receiving; /* the receive is in flight, or a turn has it */
    _Atomic bool open;
    uint32_t failures; /* receives that failed in a row; only the turn of the receive looks */
    io_lane *lane;
    const io_owner_ops *owner_ops;
    io_handle *handle; /* NULL: closed */
    io_native native;
    int family;
    io_datagram *receive; /* NULL: released, as there is nothing more to receive */
    uint64_t max_write_buffer;
    uint64_t waiting; /* sends in flight */
    uint64_t pending; /* their bytes, and those of failures that were not told yet */
    uint64_t sent, bytes_sent, dropped, errors;
    _Atomic uint64_t received, bytes_received; /* only the turn of the receive writes them */
} io_datagram_socket;

typedef struct io_datagram_figures {
    uint64_t received, bytes_received, sent, bytes_sent, dropped, errors, pending;
} io_datagram_figures;

/* Takes over a bound, non-blocking datagram socket, which stays the caller's if it fails. Nothing
 * is received before io_datagram_socket_receive. Longer datagrams than `max_size`, at most
 * IO_BUFFER_POOLED_MAX, are cut off. The owner of its operations is `self`. 0 or a portable error.
 */
int io_datagram_socket_open(io_datagram_socket *self, io_lane *lane, io_native native, int family,
                            size_t max_size, uint64_t max_write_buffer,
                            const io_owner_ops *owner_ops, uint32_t *os_error);
/* Frees what a socket has that is closed, and has nothing in flight. */
void io_datagram_socket_free(io_datagram_socket *self);
/* Ends what is in flight. False: it was closed before. */
bool io_datagram_socket_close(io_datagram_socket *self);

/* Asks for the next datagram, unless that was done. True: the receive is in flight. */
bool io_datagram_socket_receive(io_datagram_socket *self);

typedef enum io_datagram_answer {
    IO_DATAGRAM_DROPPED, /* it is closed, or too much waits */
    IO_DATAGRAM_LEFT,    /* the system has it; the memory is the caller's again */
    IO_DATAGRAM_KEPT,    /* in flight: `data_owner` comes back with the operation */
} io_datagram_answer;

/* Sends one datagram, now or later. Or -IOE_NOMEM, or -IOE_FORKED. */
int io_datagram_socket_send(io_datagram_socket *self, const io_vec *data, io_address *to,
                            void *data_owner);

/* The embedder has met an error of its own, such as a callback's: it counts. */
void io_datagram_socket_count_error(io_datagram_socket *self);
bool io_datagram_socket_closed(io_datagram_socket *self);
io_native io_datagram_socket_native(io_datagram_socket *self); /* or IO_NATIVE_NONE */
void io_datagram_socket_figures(io_datagram_socket *self, io_datagram_figures *figures);

typedef enum io_datagram_event {
    IO_DATAGRAM_IDLE,         /* the turn is over */
    IO_DATAGRAM_RECEIVED,     /* io_datagram_turn_deliver, or io_datagram_turn_lose */
    IO_DATAGRAM_NOT_RECEIVED, /* the embedder asks for the next one, now or later */
    IO_DATAGRAM_SENT,         /* `data_owner` is to be released; there is nothing to tell */
    IO_DATAGRAM_NOT_SENT,     /* the same, but it has failed */
} io_datagram_event;

/* What a thread makes of one operation; on its stack. */
typedef struct io_datagram_turn {
    io_datagram_socket *socket;
    io_op *op; /* what was taken, with its address; NULL once it is not this turn's any more */
    void *data_owner;
    int32_t error; /* NOT_RECEIVED, NOT_SENT: portable, below 0 */
    uint32_t os_error;
    uint32_t failures; /* NOT_RECEIVED: in a row */
    uint8_t left;      /* datagrams, until others have their turn */
    bool in_flight;    /* IDLE: the receive is in flight again, and so is what it had secured */
} io_datagram_turn;

/* An operation of a socket was taken. */
io_datagram_event io_datagram_turn_begin(io_datagram_turn *turn, io_op *op);
/* Goes on, if `more`, with the next datagram that is there. It may find none, or leave it to a
 * later turn: IDLE. */
io_datagram_event io_datagram_turn_next(io_datagram_turn *turn, bool more);
/* The datagram of RECEIVED, until the turn goes on, and where it came from. */
const io_address *io_datagram_turn_received(const io_datagram_turn *turn, const char **data,
                                            size_t *length);
/* Before the user is told of it. False: the socket is closed, and nobody is told any more. */
bool io_datagram_turn_deliver(io_datagram_turn *turn);
/* Instead: the embedder cannot hand it on, for want of memory. As if it was not received. */
io_datagram_event io_datagram_turn_lose(io_datagram_turn *turn);
/* The end of the port, which has taken an operation that nobody makes a turn of. The `data_owner`
 * of a send, which is released now, or NULL. */
void *io_datagram_socket_collected(io_op *op);

#endif
