/* outbox.h: a connection's write queue, for net/connection*.c and outbox.c only. All under its
 * lock.
 */
#ifndef IOCPCORE_NET_OUTBOX_H
#define IOCPCORE_NET_OUTBOX_H

#include "net/connection.h"

/* False without memory, and nothing was queued. */
bool outbox_append(io_connection *self, io_piece *pieces, size_t count);
void outbox_append_chunk(io_connection *self, io_chunk *chunk);
io_chunk *outbox_new_chunk(io_connection *self, size_t room);
/* Sends what is queued until the socket takes no more, or so much that others are to have their
 * turn (outbox_has_more). */
void outbox_flush(io_connection *self);
/* The send under way has ended. */
void outbox_sent(io_connection *self, io_op *op);
/* Nobody wants what is left. */
void outbox_drop(io_connection *self);

/* So much is queued that the connection is not to be read any more. */
enum { FILES_HIGH = 16 };
static inline bool outbox_high(const io_connection *self) {
    return self->bytes_queued > self->limits->write_high || self->files_queued > FILES_HIGH;
}

/* After a flush: it had its share, and there is more that can be sent. */
static inline bool outbox_has_more(const io_connection *self) {
    return self->queue_head != NULL && self->send == NULL && self->phase < IO_CONNECTION_TEARDOWN;
}

static inline bool outbox_empty(const io_connection *self) {
    return self->queue_head == NULL && self->send == NULL;
}

#endif
