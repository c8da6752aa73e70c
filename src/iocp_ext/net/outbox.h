/* outbox.h: a connection's write queue, for net/connection*.c and outbox.c only. All functions must
 * be called with the connection's lock held. */
#ifndef IOCPCORE_NET_OUTBOX_H
#define IOCPCORE_NET_OUTBOX_H

#include "net/connection.h"

/* Queues all pieces. Returns false if memory is short; then nothing was queued. */
bool outbox_append(io_connection *self, io_piece *pieces, size_t count);
void outbox_append_chunk(io_connection *self, io_chunk *chunk);
io_chunk *outbox_new_chunk(io_connection *self, size_t room);
/* Sends until the queue is empty, the socket is full, or this flush has had its share
 * (outbox_has_more). */
void outbox_flush(io_connection *self);
/* The send in flight has ended. */
void outbox_sent(io_connection *self, io_op *op);
/* Discards the queue. */
void outbox_drop(io_connection *self);

/* Whether so much is queued that reading must stop. */
enum { FILES_HIGH = 16 };
static inline bool outbox_high(const io_connection *self) {
    return self->bytes_queued > self->limits->write_high || self->files_queued > FILES_HIGH;
}

/* Whether the flush stopped at its share, and more can be sent. */
static inline bool outbox_has_more(const io_connection *self) {
    return self->queue_head != NULL && self->send == NULL && self->phase < IO_CONNECTION_TEARDOWN;
}

static inline bool outbox_empty(const io_connection *self) {
    return self->queue_head == NULL && self->send == NULL;
}

#endif
