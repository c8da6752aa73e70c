/* datagram.c: see datagram.h.
 *
 * The lock is held across calls that do not block, such as a send, and while an operation is
 * submitted. So a handle that is not NULL cannot be closed while the lock is held. */
#include "net/datagram.h"

#include "core/backend.h"

enum { DATAGRAM_TURN_MAX = 16 };

static bool datagram_forked(const io_datagram_socket *self) {
    return self->lane != NULL && io_port_forked(self->lane->port);
}

/* In a forked child the lock is skipped: a thread of the parent may have held it, and no other
 * thread uses the socket there. */
static void datagram_lock(io_datagram_socket *self) {
    if (!datagram_forked(self))
        io_lock_acquire(&self->lock);
}

static void datagram_unlock(io_datagram_socket *self) {
    if (!datagram_forked(self))
        io_lock_release(&self->lock);
}

/* Code that may submit operations runs between these two. */
static bool datagram_enter(const io_datagram_socket *self) {
    return self->lane != NULL && io_port_enter(self->lane->port) == 0;
}

static void datagram_leave(const io_datagram_socket *self) {
    io_port_leave(self->lane->port);
}

/* ---- opening and closing --------------------------------------------------------------------- */

int io_datagram_socket_open(io_datagram_socket *self, io_lane *lane, io_native native, int family,
                            size_t max_size, uint64_t max_write_buffer,
                            const io_owner_ops *owner_ops, uint32_t *os_error) {
    io_assert(max_size > 0 && max_size <= IO_BUFFER_POOLED_MAX);
    io_op *op = io_op_new(lane, IO_RECV_FROM, owner_ops, self);
    if (op == NULL)
        return -IOE_NOMEM;
    int error = io_handle_adopt_datagram(lane, native, family, &self->handle, os_error);
    if (error) {
        self->handle = NULL;
        io_op_release(op);
        return error;
    }
    self->lane = lane;
    self->owner_ops = owner_ops;
    self->native = native;
    self->family = self->handle->family;
    self->max_write_buffer = max_write_buffer;
    self->receive = (io_datagram *)op;
    io_transfer *transfer = &self->receive->transfer;
    transfer->vec_count = 1;
    transfer->length = max_size;
    io_vec_set(&transfer->vecs[0], NULL, max_size);
    atomic_store_explicit(&self->open, true, memory_order_relaxed);
    return 0;
}

bool io_datagram_socket_close(io_datagram_socket *self) {
    datagram_lock(self);
    bool first = !self->closed;
    io_handle *handle = self->handle;
    self->closed = true;
    self->handle = NULL;
    atomic_store_explicit(&self->open, false, memory_order_release);
    datagram_unlock(self);
    if (handle == NULL)
        return first;
    if (datagram_enter(self)) {
        io_handle_close(handle);
        datagram_leave(self);
    } else {
        /* The handle is gone: a closed port has none, and a forked child's belong to the parent. */
        io_port_close_native(self->lane->port, self->native, self->family);
    }
    return first;
}

void io_datagram_socket_free(io_datagram_socket *self) {
    io_assert(self->handle == NULL);
    if (self->receive != NULL)
        io_op_release(&self->receive->transfer.op);
    self->receive = NULL;
}

/* ---- receiving ------------------------------------------------------------------------------- */

typedef enum datagram_armed {
    DATAGRAM_CLOSED,    /* the socket is closed, and the receive is released */
    DATAGRAM_IN_FLIGHT, /* the receive is in flight */
    DATAGRAM_ARRIVED,   /* completed at once; the caller still owns it */
} datagram_armed;

/* Arms the receive, which the caller must own. Without `now`, the receive waits for its turn behind
 * the operations that are ready. */
static datagram_armed datagram_arm(io_datagram_socket *self, bool now) {
    datagram_armed armed = DATAGRAM_CLOSED;
    bool entered = datagram_enter(self);
    datagram_lock(self);
    io_op *op = &self->receive->transfer.op;
    io_assert(self->receiving);
    if (entered && self->handle != NULL) {
        op->flags = 0; /* left from the last receive */
        self->receive->transfer.receive_flags = 0;
        armed = DATAGRAM_IN_FLIGHT;
        if (!now)
            io_op_submit(op, self->handle);
        else if (io_op_submit_now(op, self->handle))
            armed = DATAGRAM_ARRIVED;
    } else {
        self->receiving = false;
        self->receive = NULL;
    }
    datagram_unlock(self);
    if (armed == DATAGRAM_CLOSED)
        io_op_release(op);
    if (entered)
        datagram_leave(self);
    return armed;
}

bool io_datagram_socket_receive(io_datagram_socket *self) {
    datagram_lock(self);
    bool idle = !self->receiving && self->receive != NULL;
    self->receiving |= idle;
    datagram_unlock(self);
    return idle && datagram_arm(self, false) == DATAGRAM_IN_FLIGHT;
}

/* The turn gives up the receive; whoever arms it next owns it. */
io_datagram_event io_datagram_turn_lose(io_datagram_turn *turn) {
    io_datagram_socket *self = turn->socket;
    turn->op = NULL;
    datagram_lock(self);
    bool open = self->handle != NULL;
    if (open) {
        self->errors++;
        turn->failures = ++self->failures;
        self->receiving = false;
    }
    datagram_unlock(self);
    if (!open)
        (void)datagram_arm(self, false);
    return open ? IO_DATAGRAM_NOT_RECEIVED : IO_DATAGRAM_IDLE;
}

static io_datagram_event datagram_receive_ended(io_datagram_turn *turn) {
    if (turn->op->result >= 0)
        return IO_DATAGRAM_RECEIVED;
    turn->error = (int32_t)turn->op->result;
    turn->os_error = turn->op->os_error;
    return io_datagram_turn_lose(turn);
}

const io_address *io_datagram_turn_received(const io_datagram_turn *turn, const char **data,
                                            size_t *length) {
    const io_datagram *datagram = (const io_datagram *)turn->op;
    *data = io_vec_base(&datagram->transfer.vecs[0]);
    *length = (size_t)turn->op->result;
    return &datagram->address;
}

static void datagram_add(_Atomic uint64_t *figure, uint64_t more) {
    uint64_t sum = atomic_load_explicit(figure, memory_order_relaxed) + more;
    atomic_store_explicit(figure, sum, memory_order_relaxed);
}

/* No lock: only the turn that owns the receive writes these. */
bool io_datagram_turn_deliver(io_datagram_turn *turn) {
    io_datagram_socket *self = turn->socket;
    if (!atomic_load_explicit(&self->open, memory_order_acquire))
        return false;
    self->failures = 0;
    datagram_add(&self->received, 1);
    datagram_add(&self->bytes_received, (uint64_t)turn->op->result);
    return true;
}

/* ---- sending --------------------------------------------------------------------------------- */

/* Must be called with the lock held, in an entered port. Returns 0, -IOE_AGAIN if the send must
 * wait, or the system's error. */
static int datagram_send_now(io_datagram_socket *self, const io_vec *data, io_address *to,
                             uint32_t *os_error) {
    const io_backend *backend = self->lane->backend;
    if (backend->send_now == NULL || self->waiting > 0)
        return -IOE_AGAIN;
    io_vec vec = *data;
    int64_t sent = backend->send_now(self->handle, &vec, 1, to, false, os_error);
    if (sent < 0)
        return (int)sent;
    self->sent++;
    self->bytes_sent += io_vec_length(data);
    return 0;
}

/* Called like datagram_send_now. Turns the send into an operation: submitted, or completed with the
 * error. */
static int datagram_send_later(io_datagram_socket *self, const io_vec *data, const io_address *to,
                               void *data_owner, int error, uint32_t os_error) {
    io_op *op = io_op_new(self->lane, IO_SEND_TO, self->owner_ops, self);
    if (op == NULL)
        return -IOE_NOMEM;
    io_datagram *datagram = (io_datagram *)op;
    datagram->transfer.vecs[0] = *data;
    datagram->transfer.vec_count = 1;
    datagram->transfer.length = io_vec_length(data);
    datagram->address = *to;
    datagram->data_owner = data_owner;
    self->pending += datagram->transfer.length;
    if (error == -IOE_AGAIN) {
        self->waiting++;
        io_op_submit(op, self->handle);
    } else {
        op->result = error;
        op->os_error = os_error;
        io_post_submit(op);
    }
    return IO_DATAGRAM_QUEUED;
}

int io_datagram_socket_send(io_datagram_socket *self, const io_vec *data, io_address *to,
                            void *data_owner) {
    int answer = IO_DATAGRAM_DROPPED;
    uint32_t os_error = 0;
    bool entered = datagram_enter(self);
    if (datagram_forked(self))
        return -IOE_FORKED;
    datagram_lock(self);
    if (entered && self->handle != NULL &&
        (self->pending == 0 || self->pending + io_vec_length(data) <= self->max_write_buffer)) {
        int error = datagram_send_now(self, data, to, &os_error);
        answer = error == 0 ? (int)IO_DATAGRAM_SENT_NOW
                            : datagram_send_later(self, data, to, data_owner, error, os_error);
    }
    self->dropped += answer == IO_DATAGRAM_DROPPED;
    datagram_unlock(self);
    if (entered)
        datagram_leave(self);
    return answer;
}

static io_datagram_event datagram_send_ended(io_datagram_turn *turn) {
    io_datagram_socket *self = turn->socket;
    uint64_t length = ((io_datagram *)turn->op)->transfer.length;
    bool waited = turn->op->handle != NULL; /* otherwise it failed before it was submitted */
    bool failed = turn->op->result < 0;
    turn->data_owner = ((io_datagram *)turn->op)->data_owner;
    if (failed) {
        turn->error = (int32_t)turn->op->result;
        turn->os_error = turn->op->os_error;
    }
    datagram_lock(self);
    io_assert(self->pending >= length && self->waiting >= waited);
    self->pending -= length;
    self->waiting -= waited;
    bool reported = failed && self->handle != NULL;
    self->errors += reported;
    if (!failed) {
        self->sent++;
        self->bytes_sent += length;
    }
    datagram_unlock(self);
    return reported ? IO_DATAGRAM_NOT_SENT : IO_DATAGRAM_SENT;
}

/* ---- turns ----------------------------------------------------------------------------------- */

io_datagram_event io_datagram_turn_begin(io_datagram_turn *turn, io_op *op) {
    *turn = (io_datagram_turn){.socket = op->owner, .op = op, .left = DATAGRAM_TURN_MAX};
    return op->kind == IO_SEND_TO ? datagram_send_ended(turn) : datagram_receive_ended(turn);
}

io_datagram_event io_datagram_turn_next(io_datagram_turn *turn, bool more) {
    io_op *op = turn->op;
    if (op != NULL && op->kind == IO_RECV_FROM) {
        const io_port *port = turn->socket->lane->port;
        bool now = --turn->left > 0 && more &&
                   !atomic_load_explicit(&port->stopping, memory_order_relaxed);
        datagram_armed armed = datagram_arm(turn->socket, now);
        if (armed == DATAGRAM_ARRIVED)
            return datagram_receive_ended(turn);
        turn->in_flight = armed == DATAGRAM_IN_FLIGHT;
    } else if (op != NULL) {
        io_op_release(op);
    }
    turn->op = NULL;
    return IO_DATAGRAM_IDLE;
}

void *io_datagram_socket_collected(io_op *op) {
    if (op->kind == IO_RECV_FROM)
        return NULL; /* io_datagram_socket_free releases it */
    void *data_owner = ((io_datagram *)op)->data_owner;
    io_op_release(op);
    return data_owner;
}

/* ---- what it says about itself --------------------------------------------------------------- */

void io_datagram_socket_count_error(io_datagram_socket *self) {
    datagram_lock(self);
    self->errors++;
    datagram_unlock(self);
}

bool io_datagram_socket_closed(io_datagram_socket *self) {
    datagram_lock(self);
    bool closed = self->closed;
    datagram_unlock(self);
    return closed;
}

io_native io_datagram_socket_native(io_datagram_socket *self) {
    datagram_lock(self);
    io_native native = self->handle != NULL ? self->native : IO_NATIVE_NONE;
    datagram_unlock(self);
    return native;
}

void io_datagram_socket_figures(io_datagram_socket *self, io_datagram_figures *figures) {
    datagram_lock(self);
    *figures = (io_datagram_figures){
        .received = atomic_load_explicit(&self->received, memory_order_relaxed),
        .bytes_received = atomic_load_explicit(&self->bytes_received, memory_order_relaxed),
        .sent = self->sent,
        .bytes_sent = self->bytes_sent,
        .dropped = self->dropped,
        .errors = self->errors,
        .pending = self->pending,
    };
    datagram_unlock(self);
}
