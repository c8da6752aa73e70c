/* datagram.h: a datagram socket, built on io.h, with one receive at a time and a queue of sends.
 *
 * Any thread may call any function here, except those of a turn. A *turn* is how one thread handles
 * one operation that it has taken from the ready queue:
 *
 *      event = io_datagram_turn_begin(&turn, op);
 *      for (; event != IO_DATAGRAM_IDLE; event = io_datagram_turn_next(&turn, true))
 *          ...handle the event...
 *
 * There is one receive. Its turn arms it again only after the user has handled the previous
 * datagram. So datagrams are delivered in order, and receive turns never overlap. Turns of sends
 * may run at the same time.
 *
 * A datagram is sent by the caller if no other send waits. A send that would block becomes an
 * operation, and so does every send behind it: the order stays. A send that fails at once becomes a
 * completed operation, so that its error is reported in a turn.
 *
 * The socket must stay in memory while an operation is in flight. io_datagram_socket_receive,
 * io_datagram_socket_send and `in_flight` of a turn say when one is. By the time they return,
 * another thread may have taken the operation, so the caller must secure the memory before the
 * call, and for the duration of the call. */
#ifndef IOCPCORE_NET_DATAGRAM_H
#define IOCPCORE_NET_DATAGRAM_H

#include "core/io.h"

/* All zero: never opened; behaves like a closed one. */
typedef struct io_datagram_socket {
    io_lock lock;   /* taken before a handle's lock */
    bool closed;    /* by io_datagram_socket_close */
    bool receiving; /* the receive is in flight, or owned by a turn */
    _Atomic bool open;
    uint32_t failures; /* consecutive; only the receive turn uses it */
    io_lane *lane;
    const io_owner_ops *owner_ops;
    io_handle *handle; /* NULL: closed */
    io_native native;
    int family;
    io_datagram *receive; /* NULL: released; there is nothing more to receive */
    uint64_t max_write_buffer;
    uint64_t waiting; /* sends in flight */
    uint64_t pending; /* bytes of those sends, and of failed ones not reported yet */
    uint64_t sent, bytes_sent, dropped, errors;
    _Atomic uint64_t received, bytes_received; /* written by the receive turn only */
} io_datagram_socket;

typedef struct io_datagram_figures {
    uint64_t received, bytes_received, sent, bytes_sent, dropped, errors, pending;
} io_datagram_figures;

/* Takes over a bound, non-blocking datagram socket; on failure the caller still owns it. Nothing is
 * received before io_datagram_socket_receive. Datagrams longer than `max_size`, at most
 * IO_BUFFER_POOLED_MAX, are cut off. `self` becomes the owner of the operations. Returns 0 or a
 * portable error. */
int io_datagram_socket_open(io_datagram_socket *self, io_lane *lane, io_native native, int family,
                            size_t max_size, uint64_t max_write_buffer,
                            const io_owner_ops *owner_ops, uint32_t *os_error);
/* Frees the resources of a closed socket with nothing in flight. */
void io_datagram_socket_free(io_datagram_socket *self);
/* Cancels everything in flight. Returns false if the socket was already closed. */
bool io_datagram_socket_close(io_datagram_socket *self);

/* Arms the receive, unless it is armed. Returns true if it is in flight. */
bool io_datagram_socket_receive(io_datagram_socket *self);

typedef enum io_datagram_answer {
    IO_DATAGRAM_DROPPED,  /* the socket is closed, or its queue is full */
    IO_DATAGRAM_SENT_NOW, /* sent; the caller owns the memory again */
    IO_DATAGRAM_QUEUED,   /* in flight; `data_owner` comes back with the operation */
} io_datagram_answer;

/* Sends one datagram, now or later. Returns an io_datagram_answer, -IOE_NOMEM or -IOE_FORKED. */
int io_datagram_socket_send(io_datagram_socket *self, const io_vec *data, io_address *to,
                            void *data_owner);

/* Counts an error of the embedder's own, for example in a callback. */
void io_datagram_socket_count_error(io_datagram_socket *self);
bool io_datagram_socket_closed(io_datagram_socket *self);
io_native io_datagram_socket_native(io_datagram_socket *self); /* or IO_NATIVE_NONE */
void io_datagram_socket_figures(io_datagram_socket *self, io_datagram_figures *figures);

typedef enum io_datagram_event {
    IO_DATAGRAM_IDLE,         /* the turn is over */
    IO_DATAGRAM_RECEIVED,     /* call io_datagram_turn_deliver or io_datagram_turn_lose */
    IO_DATAGRAM_NOT_RECEIVED, /* the embedder must arm the receive, now or later */
    IO_DATAGRAM_SENT,         /* release `data_owner`; nothing to report */
    IO_DATAGRAM_NOT_SENT,     /* release `data_owner`; the send failed */
} io_datagram_event;

/* The handling of one operation. Lives on the stack of the thread. */
typedef struct io_datagram_turn {
    io_datagram_socket *socket;
    io_op *op; /* the operation; NULL once the turn no longer owns it */
    void *data_owner;
    int32_t error; /* NOT_RECEIVED, NOT_SENT: portable, below 0 */
    uint32_t os_error;
    uint32_t failures; /* NOT_RECEIVED: consecutive failures */
    uint8_t left;      /* datagrams until the turn must end */
    bool in_flight;    /* IDLE: the receive is in flight again, and still needs the socket */
} io_datagram_turn;

/* Starts the turn of an operation that was taken. */
io_datagram_event io_datagram_turn_begin(io_datagram_turn *turn, io_op *op);
/* Continues the turn. With `more`, it may go on with the next datagram that is already there.
 * Returns IDLE if there is none, or if it is left to a later turn. */
io_datagram_event io_datagram_turn_next(io_datagram_turn *turn, bool more);
/* Returns the sender and the data of RECEIVED. Valid until the turn continues. */
const io_address *io_datagram_turn_received(const io_datagram_turn *turn, const char **data,
                                            size_t *length);
/* Must be called before the user handles the datagram. Returns false if the socket is closed: the
 * datagram must not be delivered. */
bool io_datagram_turn_deliver(io_datagram_turn *turn);
/* Called instead if the embedder has no memory to deliver the datagram. It counts as a failed
 * receive. */
io_datagram_event io_datagram_turn_lose(io_datagram_turn *turn);
/* The port is closing and has collected an operation that gets no turn. Releases a send and returns
 * its `data_owner`, which the caller must release; otherwise returns NULL. */
void *io_datagram_socket_collected(io_op *op);

#endif
