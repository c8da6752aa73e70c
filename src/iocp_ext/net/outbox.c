/* outbox.c: a connection's write queue, and its one send in flight.
 *
 * The queue is a list of chunks. Small pieces are copied together into pooled chunks, so that many
 * short replies become one buffer. Large pieces stay in place. A file is a chunk of its own. One
 * send takes as many chunks as fit into a gather list. The calling thread tries it at once. Only if
 * the socket is full does the send wait in the kernel, and what is queued meanwhile goes out with
 * the next one. */
#include "net/outbox.h"
#include "net/connection_state.h"

#include "core/backend.h"

#include <string.h>

enum {
    COPIED_MAX = 2048,        /* larger pieces are not copied */
    FIRST_ROOM = 4096,        /* size of the first chunk of copies, head included */
    NEXT_ROOM = 65536,        /* size of later chunks */
    VECS_MAX = 64,            /* most chunks per send */
    FILES_LOW = 4,            /* reading resumes at this many queued files */
    SEND_BYTES_MAX = 1 << 18, /* approximate bytes per send; bounds how often progress shows */
    SHARE_BYTES = 1 << 19, /* approximate bytes per flush, as the reader may be as fast as we are */
};

/* ---- the queue ------------------------------------------------------------------------------- */

static io_buffer_pool *outbox_pool_of(const io_connection *self) {
    return &self->wakeup.lane->port->buffers;
}

io_chunk *outbox_new_chunk(io_connection *self, size_t room) {
    io_chunk *chunk = io_buffer_acquire(outbox_pool_of(self), sizeof *chunk + room);
    if (chunk == NULL)
        return NULL;
    *chunk = (io_chunk){.data = (char *)(chunk + 1), .room = room};
    return chunk;
}

void io_chunk_free(io_connection *self, io_chunk *chunk) {
    if (chunk->file != NULL) {
        if (((io_send_file *)chunk->file)->held)
            io_native_close_file(((io_send_file *)chunk->file)->file);
        io_op_release(chunk->file);
    }
    io_buffer_release(outbox_pool_of(self), chunk);
}

void outbox_append_chunk(io_connection *self, io_chunk *chunk) {
    io_assert(io_lock_is_mine(&self->lock) && chunk->next == NULL);
    io_assert(connection_send_side(self) <= IO_SEND_SIDE_LAST);
    if (chunk->file != NULL)
        self->files_queued++;
    if (self->queue_tail != NULL)
        self->queue_tail->next = chunk;
    else
        self->queue_head = chunk;
    self->queue_tail = chunk;
}

static bool outbox_copied(const io_piece *piece) {
    return piece->owner == NULL || piece->length <= COPIED_MAX;
}

/* Uses as many chunks as needed: the pool limits the size of one. */
static bool outbox_append_copy(io_connection *self, const char *data, size_t length) {
    while (length > 0) {
        io_chunk *tail = self->queue_tail;
        if (tail == NULL || tail->room == 0) {
            bool small = tail == NULL && length <= FIRST_ROOM - sizeof *tail;
            tail = outbox_new_chunk(self, (small ? FIRST_ROOM : NEXT_ROOM) - sizeof *tail);
            if (tail == NULL)
                return false;
            outbox_append_chunk(self, tail);
        }
        size_t part = length < tail->room ? length : tail->room;
        memcpy((char *)(uintptr_t)tail->data + tail->length, data, part);
        tail->length += part;
        tail->room -= part;
        data += part;
        length -= part;
    }
    return true;
}

static bool outbox_append_piece(io_connection *self, io_piece *piece) {
    if (outbox_copied(piece))
        return outbox_append_copy(self, piece->data, piece->length);
    io_chunk *chunk = outbox_new_chunk(self, 0);
    if (chunk == NULL)
        return false;
    chunk->data = piece->data;
    chunk->length = piece->length;
    chunk->owner = piece->owner;
    outbox_append_chunk(self, chunk);
    return true;
}

/* Removes everything appended after `tail`, which had `length` bytes. */
static void outbox_take_back(io_connection *self, io_chunk *tail, uint64_t length) {
    io_chunk *chunk = tail != NULL ? tail->next : self->queue_head;
    if (tail != NULL) {
        tail->room += (size_t)(tail->length - length);
        tail->length = length;
        tail->next = NULL;
    } else {
        self->queue_head = NULL;
    }
    self->queue_tail = tail;
    while (chunk != NULL) {
        io_chunk *next = chunk->next;
        io_chunk_free(self, chunk);
        chunk = next;
    }
}

bool outbox_append(io_connection *self, io_piece *pieces, size_t count) {
    io_chunk *tail = self->queue_tail;
    uint64_t length = tail != NULL ? tail->length : 0;
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        if (!outbox_append_piece(self, &pieces[i])) {
            outbox_take_back(self, tail, length);
            return false;
        }
        total += pieces[i].length;
    }
    for (size_t i = 0; i < count; i++)
        if (!outbox_copied(&pieces[i]))
            pieces[i].owner = NULL;
    self->bytes_queued += total;
    return true;
}

static void outbox_pop(io_connection *self) {
    io_chunk *chunk = self->queue_head;
    io_assert(io_lock_is_mine(&self->lock) && chunk != NULL);
    io_assert(chunk->file == NULL || self->files_queued > 0);
    self->queue_head = chunk->next;
    if (self->queue_head == NULL)
        self->queue_tail = NULL;
    if (chunk->file != NULL)
        self->files_queued--;
    if (chunk->owner != NULL) {
        chunk->next = self->spent;
        self->spent = chunk;
    } else {
        io_chunk_free(self, chunk);
    }
}

/* Removes sent bytes from the queue. */
static void outbox_consume(io_connection *self, uint64_t bytes) {
    io_assert(bytes <= self->bytes_queued);
    self->bytes_queued -= bytes;
    while (bytes > 0) {
        io_chunk *chunk = self->queue_head;
        uint64_t part = bytes < chunk->length ? bytes : chunk->length;
        chunk->data += part;
        chunk->length -= part;
        bytes -= part;
        if (chunk->length == 0)
            outbox_pop(self);
    }
}

void outbox_drop(io_connection *self) {
    while (self->queue_head != NULL)
        outbox_pop(self);
    self->bytes_queued = 0;
}

/* ---- sending --------------------------------------------------------------------------------- */

/* Takes the operation of a file from its chunk, and frees the chunk. */
static io_op *outbox_file_op(io_connection *self) {
    io_op *op = self->queue_head->file;
    self->queue_head->file = NULL;
    outbox_pop(self);
    return op;
}

/* Collects the chunks of the next send, up to a file. Returns the number of vectors; *length is the
 * number of bytes. */
static uint32_t outbox_gather(const io_connection *self, io_vec *vecs, uint64_t *length) {
    uint32_t count = 0;
    *length = 0;
    for (io_chunk *chunk = self->queue_head;
         chunk != NULL && chunk->file == NULL && count < VECS_MAX && *length < SEND_BYTES_MAX;
         chunk = chunk->next) {
        uint64_t left = SEND_BYTES_MAX - *length;
        uint64_t part = chunk->length < left ? chunk->length : left;
        io_vec_set(&vecs[count++], (char *)(uintptr_t)chunk->data, (size_t)part);
        *length += part;
    }
    return count;
}

static io_op *outbox_data_op(io_connection *self) {
    io_op *op = io_op_new(self->wakeup.lane, IO_SEND, self->wakeup.owner_ops, self);
    io_transfer *transfer = (io_transfer *)op;
    io_vec vecs[VECS_MAX];
    if (op == NULL)
        return NULL;
    transfer->vec_count = outbox_gather(self, vecs, &transfer->length);
    if (!io_transfer_reserve(transfer, transfer->vec_count)) {
        io_op_release(op);
        return NULL;
    }
    memcpy(transfer->vecs, vecs, transfer->vec_count * sizeof vecs[0]);
    return op;
}

static void outbox_failed(io_connection *self, int error, uint32_t os_error) {
    connection_send_has_failed(self);
    if (connection_peer_ended(self) && error != -IOE_PIPE) /* a reset: see connection_received */
        connection_receive_has_ended(self, true);
    (void)connection_set_reason(self, IO_REASON_SEND, error, os_error);
    outbox_drop(self);
}

static void outbox_account(io_connection *self, io_kind kind, int64_t result, uint32_t os_error) {
    self->idle_ticks = 0;
    self->sent_seen = 0;
    if (result < 0) {
        outbox_failed(self, (int)result, os_error);
    } else {
        self->bytes_sent += (uint64_t)result;
        if (kind == IO_SEND)
            outbox_consume(self, (uint64_t)result);
    }
    if (self->backlog == IO_BACKLOG_HIGH && self->bytes_queued <= self->limits->write_low &&
        self->files_queued <= FILES_LOW) {
        self->backlog = connection_send_lost(self) ? IO_BACKLOG_LOW : IO_BACKLOG_DRAINED;
        connection_clear_hold(self, IO_HOLD_THROTTLED);
    }
}

void outbox_sent(io_connection *self, io_op *op) {
    io_assert(io_lock_is_mine(&self->lock) && op == self->send);
    io_assert(op->kind != IO_SEND_FILE || self->files_queued > 0);
    self->send = NULL;
    if (op->kind == IO_SEND_FILE)
        self->files_queued--;
    outbox_account(self, (io_kind)op->kind, op->result, op->os_error);
    io_op_release(op);
}

/* Whether only the end of the stream follows what is queued. */
static bool outbox_ends_behind(const io_connection *self) {
    return connection_send_side(self) == IO_SEND_SIDE_ENDING;
}

/* Tries to send without an operation, which is enough for most sends. Returns false if an operation
 * is needed. */
static bool outbox_send_at_once(io_connection *self) {
    const io_backend *backend = self->wakeup.lane->backend;
    io_vec vecs[VECS_MAX];
    uint64_t length;
    uint32_t os_error = 0;
    if (backend->send_now == NULL || self->queue_head->file != NULL)
        return false;
    uint32_t count = outbox_gather(self, vecs, &length);
    bool last = outbox_ends_behind(self) && self->files_queued == 0 && length == self->bytes_queued;
    int64_t sent = backend->send_now(self->handle, vecs, count, NULL, last, &os_error);
    if (sent == -IOE_AGAIN)
        return false;
    outbox_account(self, IO_SEND, sent, os_error);
    return sent < 0 || (uint64_t)sent == length;
}

void outbox_flush(io_connection *self) {
    io_assert(io_lock_is_mine(&self->lock));
    uint64_t share_end = self->bytes_sent + SHARE_BYTES;
    while (outbox_has_more(self) && self->bytes_sent < share_end) {
        if (outbox_send_at_once(self))
            continue;
        io_op *op = self->queue_head->file != NULL ? outbox_file_op(self) : outbox_data_op(self);
        if (op == NULL) {
            outbox_account(self, IO_SEND, -IOE_NOMEM, 0);
            return;
        }
        self->send = op;
        if (io_op_submit_now(op, self->handle))
            outbox_sent(self, op);
    }
    if (!outbox_high(self))
        return;
    self->backlog = IO_BACKLOG_HIGH;
    if (!self->limits->reads_on)
        connection_set_hold(self, IO_HOLD_THROTTLED);
}
