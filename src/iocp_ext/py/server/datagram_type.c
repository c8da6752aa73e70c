/* datagram_type.c: a datagram socket of which every datagram becomes one call of on_datagram.
 *
 * One operation receives, again and again. Who takes it when it has ended calls on_datagram and
 * only then asks for the next datagram: so callbacks never overlap, and keep the order. What has
 * arrived meanwhile is handed on at once, up to a bound; then others get their turn.
 *
 * A datagram is sent in the thread that calls. Only what has to wait becomes an operation, and then
 * what follows it does too. So does an error, which has ended already: a worker tells of it, never
 * send_to itself. Each operation under way holds a reference to its socket.
 *
 * What is seldom, or happens once per socket, is Python's: the subclass, datagram.py, has the
 * methods _tell and _not_received. */
#include "py/server/server.h"

#include <string.h>

enum {
    BATCH_MAX = 16,
    PEERS_BITS = 6,
    PEER_WORDS = sizeof(struct sockaddr_in6) / sizeof(uint32_t),
};

/* An address, and the tuple that it was handed out as. */
typedef struct peer {
    uint32_t address[PEER_WORDS];
    io_socklen length;
    PyObject *tuple; /* NULL: none yet */
} peer;

typedef struct py_datagram_socket {
    PyObject_HEAD
    py_port *port; /* NULL: it was never opened */
    io_lane *lane;
    PyObject *on_datagram; /* or NULL */
    io_address remote;     /* length 0: none */
    int family;
    io_lock lock; /* of everything below; taken before a handle's */
    bool closed;
    bool busy;         /* the receive is in flight, or what it has brought is handed on */
    uint32_t failures; /* receives in a row */
    io_native native;
    io_handle *handle; /* NULL: closed, or not open yet; then `native` is none of ours either */
    io_datagram *receive;
    uint64_t waiting; /* sends in flight */
    uint64_t pending; /* their bytes, and those of failures that have not been told */
    uint64_t max_write_buffer;
    uint64_t received, bytes_received, sent, bytes_sent, dropped, errors;
    const peer *last; /* whose datagram was handed on last */
    peer peers[1 << PEERS_BITS];
} py_datagram_socket;

/* A send that has not ended at once: the owner of its operation. */
typedef struct outgoing {
    py_datagram_socket *socket;
    PyObject *pinned;
    size_t size;
} outgoing;

static py_datagram_socket *datagram_type_self_of(PyObject *object) {
    return (py_datagram_socket *)object;
}

static bool datagram_type_take(io_op *op);
static void datagram_type_collect(io_op *op, bool leaked);
static const io_owner_ops datagram_type_owner_ops = {datagram_type_take, datagram_type_collect};

static bool datagram_type_enter(const py_datagram_socket *self) {
    return self->port != NULL && io_port_enter(self->port->port) == 0;
}

/* In a forked child, where other threads' locks may be held for ever, nobody else is there. */
static bool datagram_type_forked(const py_datagram_socket *self) {
    return self->port != NULL && io_port_forked(self->port->port);
}

static void datagram_type_lock(py_datagram_socket *self) {
    if (!datagram_type_forked(self))
        io_lock_acquire(&self->lock);
}

static void datagram_type_unlock(py_datagram_socket *self) {
    if (!datagram_type_forked(self))
        io_lock_release(&self->lock);
}

/* ---- addresses ------------------------------------------------------------------------------- */

/* Where the tuple of this address is, or is to be; NULL for a family that is not remembered. */
static peer *datagram_type_place_of(py_datagram_socket *self, const io_address *address) {
    uint32_t words[PEER_WORDS], hash = 0;
    if (address->length != sizeof(struct sockaddr_in) &&
        address->length != sizeof(struct sockaddr_in6))
        return NULL;
    size_t count = (size_t)address->length / sizeof words[0];
    memcpy(words, &address->storage, count * sizeof words[0]);
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ words[i]) * UINT32_C(0x9E3779B1);
    return &self->peers[hash >> (32 - PEERS_BITS)];
}

/* What on_datagram is given, a new reference. Only who has the receive changes what is read. */
static PyObject *datagram_type_tuple_of(const peer *place, const io_address *address) {
    if (place != NULL && place->tuple != NULL && place->length == address->length &&
        memcmp(place->address, &address->storage, (size_t)address->length) == 0)
        return Py_NewRef(place->tuple);
    return py_address_object(address);
}

/* Under the lock. The answer is to be released outside of it. */
static PyObject *datagram_type_remember(py_datagram_socket *self, peer *place,
                                        const io_address *address, PyObject *tuple) {
    self->last = place;
    if (place == NULL || place->tuple == tuple)
        return NULL;
    PyObject *old = place->tuple;
    memcpy(place->address, &address->storage, (size_t)address->length);
    place->length = address->length;
    place->tuple = Py_NewRef(tuple);
    return old;
}

/* Most datagrams are answers: their address is the very tuple that was handed out last. */
static bool datagram_type_parse_address(py_datagram_socket *self, PyObject *value,
                                        io_address *address) {
    datagram_type_lock(self);
    const peer *last = self->last;
    bool known = last != NULL && last->tuple == value;
    if (known) {
        address->length = last->length;
        memcpy(&address->storage, last->address, sizeof last->address);
    }
    datagram_type_unlock(self);
    return known || py_address_parse(value, "address", self->family, address);
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* The exception that is set leaves run() (false), or is told to the world. */
static bool datagram_type_swallow(PyObject *source) {
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit))
        return false;
    PyErr_WriteUnraisable(source);
    return true;
}

/* Tells of this error, which it takes over; of the exception that is set if it is NULL. */
static bool datagram_type_tell_error(py_datagram_socket *self, PyObject *error,
                                     PyObject *callback) {
    if (error == NULL)
        error = py_error_take();
    datagram_type_lock(self);
    self->errors++;
    datagram_type_unlock(self);
    PyObject *answer = PyObject_CallMethod((PyObject *)self, "_tell", "OO", error,
                                           callback != NULL ? Py_True : Py_False);
    Py_DECREF(error);
    Py_XDECREF(answer);
    return answer != NULL || datagram_type_swallow(callback != NULL ? callback : (PyObject *)self);
}

/* A receive has ended with this error, which it takes over. Python asks for the next one, now or
 * later. False: it is closed, and this was its end. */
static bool datagram_type_fail(py_datagram_socket *self, PyObject *error, bool *go_on) {
    if (error == NULL)
        error = py_error_take();
    datagram_type_lock(self);
    bool open = self->handle != NULL;
    unsigned int failures = 0;
    if (open) {
        self->errors++;
        failures = ++self->failures;
        self->busy = false;
    }
    datagram_type_unlock(self);
    if (open) {
        PyObject *answer =
            PyObject_CallMethod((PyObject *)self, "_not_received", "OI", error, failures);
        Py_XDECREF(answer);
        *go_on = answer != NULL || datagram_type_swallow((PyObject *)self);
    }
    Py_DECREF(error);
    return open;
}

/* ---- receiving ------------------------------------------------------------------------------- */

/* By who has the receive: asks for the next datagram. True: here it is. False: it will come out of
 * the ready queue, or never, and the receive is not the caller's any more. Unless it is wanted
 * `now`, it takes its turn behind what is ready. */
static bool datagram_type_arm_receive(py_datagram_socket *self, bool now) {
    bool ended = false, entered = datagram_type_enter(self);
    io_op *unused = NULL;
    datagram_type_lock(self);
    io_op *op = &self->receive->transfer.op;
    self->busy = entered && self->handle != NULL;
    if (self->busy) {
        op->flags = 0; /* of the last time */
        self->receive->transfer.receive_flags = 0;
        Py_INCREF((PyObject *)self); /* the operation's */
        if (now)
            ended = io_op_submit_now(op, self->handle);
        else
            io_op_submit(op, self->handle);
    } else {
        unused = op;
        self->receive = NULL;
    }
    datagram_type_unlock(self);
    if (unused != NULL)
        io_op_release(unused);
    if (entered)
        py_port_leave(self->port);
    if (ended)
        Py_DECREF((PyObject *)self); /* not the last one */
    return ended;
}

static bool datagram_type_call_back(py_datagram_socket *self, PyObject *data, PyObject *address) {
    PyObject *args[] = {NULL, (PyObject *)self, data, address};
    PyObject *answer =
        PyObject_Vectorcall(self->on_datagram, args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_XDECREF(answer);
    if (answer != NULL)
        return true;
    return PyErr_ExceptionMatches(PyExc_Exception)
               ? datagram_type_tell_error(self, NULL, self->on_datagram)
               : datagram_type_swallow(self->on_datagram);
}

/* False: an exception is to leave run(). */
static bool datagram_type_hand_on(py_datagram_socket *self, PyObject *data, PyObject *tuple,
                                  peer *place) {
    PyObject *old = NULL;
    datagram_type_lock(self);
    bool open = self->handle != NULL;
    if (open) {
        self->failures = 0;
        self->received++;
        self->bytes_received += (uint64_t)PyBytes_GET_SIZE(data);
        old = datagram_type_remember(self, place, &self->receive->address, tuple);
    }
    datagram_type_unlock(self);
    Py_XDECREF(old);
    return !open || self->on_datagram == NULL || datagram_type_call_back(self, data, tuple);
}

/* Only one with a remote address hears of those who refuse what it sent. */
static PyObject *datagram_type_receive_error(const py_datagram_socket *self, const io_op *op) {
    char text[160], what[192];
    if (self->remote.length == 0)
        return py_error_of("recv_from", op);
    io_address_text(&self->remote, text, sizeof text);
    PyOS_snprintf(what, sizeof what, "recv_from %s", text);
    return py_error_object((int)op->result, op->os_error, what);
}

/* What the receive has brought. True: the next one is to be asked for here. */
static bool datagram_type_received(py_datagram_socket *self, bool *go_on) {
    const io_datagram *datagram = self->receive;
    const io_op *op = &datagram->transfer.op;
    *go_on = true;
    if (op->result < 0)
        return !datagram_type_fail(self, datagram_type_receive_error(self, op), go_on);
    peer *place = datagram_type_place_of(self, &datagram->address);
    PyObject *data =
        PyBytes_FromStringAndSize(io_vec_base(&datagram->transfer.vecs[0]), (Py_ssize_t)op->result);
    PyObject *tuple = data == NULL ? NULL : datagram_type_tuple_of(place, &datagram->address);
    if (tuple != NULL)
        *go_on = datagram_type_hand_on(self, data, tuple, place);
    bool next = tuple != NULL || !datagram_type_fail(self, NULL, go_on);
    Py_XDECREF(data);
    Py_XDECREF(tuple);
    return next;
}

static bool datagram_type_stopping(const py_datagram_socket *self) {
    return atomic_load_explicit(&self->port->port->stopping, memory_order_relaxed);
}

static bool datagram_type_take_receive(py_datagram_socket *self) {
    bool go_on;
    for (int left = BATCH_MAX; datagram_type_received(self, &go_on); left--)
        if (!datagram_type_arm_receive(self, go_on && left > 1 && !datagram_type_stopping(self)))
            break;
    Py_DECREF((PyObject *)self); /* was the operation's */
    return go_on;
}

/* ---- sending --------------------------------------------------------------------------------- */

/* Under the lock, in an entered port. False: `error` says why, and is -IOE_AGAIN if it has to wait.
 */
static bool datagram_type_send_now(py_datagram_socket *self, const py_buffers *buffers,
                                   io_address *to, int *error, uint32_t *os_error) {
    const io_backend *backend = self->lane->backend;
    *error = -IOE_AGAIN;
    if (backend->send_now == NULL || self->waiting > 0)
        return false;
    io_vec vec;
    py_buffers_vec(buffers, &vec);
    int64_t sent = backend->send_now(self->handle, &vec, 1, to, false, os_error);
    if (sent < 0) {
        *error = (int)sent;
        return false;
    }
    self->sent++;
    self->bytes_sent += buffers->length;
    return true;
}

/* The same: makes it an operation, which is submitted or has ended with the error. False without
 * memory. */
static bool datagram_type_send_later(py_datagram_socket *self, py_buffers *buffers,
                                     const io_address *to, int error, uint32_t os_error) {
    outgoing *send = PyMem_RawMalloc(sizeof *send);
    io_op *op =
        send == NULL ? NULL : io_op_new(self->lane, IO_SEND_TO, &datagram_type_owner_ops, send);
    if (op == NULL) {
        PyMem_RawFree(send);
        return false;
    }
    *send = (outgoing){(py_datagram_socket *)Py_NewRef((PyObject *)self), buffers->pinned,
                       buffers->length};
    io_datagram *datagram = (io_datagram *)op;
    (void)py_buffers_fill(buffers, &datagram->transfer); /* one needs no memory */
    buffers->pinned = NULL;
    datagram->address = *to;
    self->pending += send->size;
    if (error == -IOE_AGAIN) {
        self->waiting++;
        io_op_submit(op, self->handle);
    } else {
        op->result = error;
        op->os_error = os_error;
        io_post_submit(op);
    }
    return true;
}

/* True, False or NULL. */
static PyObject *datagram_type_send(py_datagram_socket *self, py_buffers *buffers, io_address *to) {
    bool dropped = true, failed = false;
    bool entered = datagram_type_enter(self);
    if (datagram_type_forked(self))
        return py_error_entering(-IOE_FORKED);
    datagram_type_lock(self);
    if (entered && self->handle != NULL &&
        (self->pending == 0 || self->pending + buffers->length <= self->max_write_buffer)) {
        int error;
        uint32_t os_error = 0;
        dropped = false;
        failed = !datagram_type_send_now(self, buffers, to, &error, &os_error) &&
                 !datagram_type_send_later(self, buffers, to, error, os_error);
    }
    self->dropped += dropped;
    datagram_type_unlock(self);
    if (entered)
        py_port_leave(self->port);
    return failed ? PyErr_NoMemory() : PyBool_FromLong(!dropped);
}

static void datagram_type_release_send(io_op *op) {
    outgoing *send = op->owner;
    io_op_release(op);
    Py_DECREF(send->pinned);
    Py_DECREF((PyObject *)send->socket);
    PyMem_RawFree(send);
}

static bool datagram_type_take_send(io_op *op) {
    const outgoing *send = op->owner;
    py_datagram_socket *self = send->socket;
    bool failed = op->result < 0;
    datagram_type_lock(self);
    self->pending -= send->size;
    self->waiting -= op->handle != NULL; /* else it was an error from the beginning */
    if (!failed) {
        self->sent++;
        self->bytes_sent += send->size;
    }
    bool told = failed && self->handle != NULL;
    datagram_type_unlock(self);
    bool go_on = !told || datagram_type_tell_error(self, py_error_of("send_to", op), NULL);
    datagram_type_release_send(op);
    return go_on;
}

/* ---- operations ------------------------------------------------------------------------------ */

static bool datagram_type_take(io_op *op) {
    return op->kind == IO_SEND_TO ? datagram_type_take_send(op)
                                  : datagram_type_take_receive(op->owner);
}

static void datagram_type_collect(io_op *op, bool leaked) {
    if (leaked)
        return;
    if (op->kind == IO_SEND_TO)
        datagram_type_release_send(op);
    else
        Py_DECREF((PyObject *)op->owner);
}

/* ---- opening and closing --------------------------------------------------------------------- */

/* In an entered port. 0 or a portable error; the socket is taken over in any case. */
static int datagram_type_open_handle(py_datagram_socket *self, size_t max_size,
                                     uint32_t *os_error) {
    int error =
        io_handle_adopt_datagram(self->lane, self->native, self->family, &self->handle, os_error);
    if (error) {
        self->handle = NULL;
        io_port_close_native(self->port->port, self->native, self->family);
        return error;
    }
    self->family = self->handle->family;
    self->receive =
        (io_datagram *)io_op_new(self->lane, IO_RECV_FROM, &datagram_type_owner_ops, self);
    if (self->receive == NULL) {
        io_handle_close(self->handle);
        self->handle = NULL;
        return -IOE_NOMEM;
    }
    io_transfer *transfer = &self->receive->transfer;
    transfer->vec_count = 1;
    transfer->length = max_size;
    io_vec_set(&transfer->vecs[0], NULL, max_size);
    return 0;
}

PyDoc_STRVAR(datagram_type_open_doc,
             "_open($self, port, native, family, on_datagram, remote_address, max_size, "
             "max_write_buffer, /)\n--\n\n"
             "Take over a datagram socket that does not block. Nothing is received yet.");

static PyObject *datagram_type_open(PyObject *object, PyObject *args) {
    py_datagram_socket *self = datagram_type_self_of(object);
    const py_state *state = py_state_of(object);
    PyObject *port, *on_datagram, *remote;
    Py_ssize_t native, max_size;
    int family;
    unsigned long long max_write_buffer;
    uint32_t os_error = 0;
    if (state == NULL ||
        !PyArg_ParseTuple(args, "O!niOOnK:_open", state->port_type, &port, &native, &family,
                          &on_datagram, &remote, &max_size, &max_write_buffer))
        return NULL;
    if (self->port != NULL || max_size < 1 || max_size > (Py_ssize_t)IO_BUFFER_POOLED_MAX) {
        PyErr_SetString(PyExc_ValueError, "it is open, or max_size is not possible");
        return NULL;
    }
    if ((remote != Py_None && !py_address_parse(remote, "remote_address", family, &self->remote)) ||
        !py_port_enter((py_port *)port)) {
        io_port_close_native(((py_port *)port)->port, (io_native)native, family);
        return NULL;
    }
    self->port = (py_port *)Py_NewRef(port);
    self->lane = &self->port->port->lane;
    self->native = (io_native)native;
    self->family = family;
    self->on_datagram = on_datagram == Py_None ? NULL : Py_NewRef(on_datagram);
    self->max_write_buffer = max_write_buffer;
    int error = datagram_type_open_handle(self, (size_t)max_size, &os_error);
    py_port_leave(self->port);
    return error ? py_error_raise(error, os_error, "associate") : Py_NewRef(Py_None);
}

PyDoc_STRVAR(datagram_type_receive_doc, "_receive($self, /)\n--\n\n"
                                        "Ask for the next datagram, if that has not been done.");

static PyObject *datagram_type_receive(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_datagram_socket *self = datagram_type_self_of(object);
    datagram_type_lock(self);
    bool idle = !self->busy && self->receive != NULL;
    self->busy |= idle;
    datagram_type_unlock(self);
    if (idle)
        (void)datagram_type_arm_receive(self, false);
    Py_RETURN_NONE;
}

/* False: it was closed before. A closed port, or a forked child's, has no handles any more. */
static bool datagram_type_end_receive(py_datagram_socket *self) {
    datagram_type_lock(self);
    bool first = !self->closed;
    io_handle *handle = self->handle;
    self->closed = true;
    self->handle = NULL;
    datagram_type_unlock(self);
    if (handle == NULL)
        return first;
    if (datagram_type_enter(self)) {
        io_handle_close(handle);
        py_port_leave(self->port);
    } else {
        io_port_close_native(self->port->port, self->native, self->family);
    }
    return first;
}

PyDoc_STRVAR(datagram_type_end_doc, "_end($self, /)\n--\n\n"
                                    "Close it; whether it was open.");

static PyObject *datagram_type_end(PyObject *object, PyObject *Py_UNUSED(unused)) {
    return PyBool_FromLong(datagram_type_end_receive(datagram_type_self_of(object)));
}

static int datagram_type_traverse(PyObject *object, visitproc visit, void *arg) {
    py_datagram_socket *self = datagram_type_self_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->port);
    Py_VISIT(self->on_datagram);
    return 0; /* the tuples refer to nothing that could refer to it */
}

/* The port stays until dealloc: the receive belongs to it. */
static int datagram_type_clear(PyObject *object) {
    Py_CLEAR(datagram_type_self_of(object)->on_datagram);
    return 0;
}

/* Nothing is in flight: operations refer to their socket. */
static void datagram_type_dealloc(PyObject *object) {
    py_datagram_socket *self = datagram_type_self_of(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    (void)datagram_type_end_receive(self);
    if (self->receive != NULL)
        io_op_release(&self->receive->transfer.op);
    for (size_t i = 0; i < sizeof self->peers / sizeof self->peers[0]; i++)
        Py_XDECREF(self->peers[i].tuple);
    (void)datagram_type_clear(object);
    Py_CLEAR(self->port);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- methods --------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    datagram_type_send_to_doc,
    "send_to($self, /, data, address=None)\n--\n\n"
    "Send one datagram (bytes-like); False if it was dropped.\n\n"
    "It is dropped when it would have more than `max_write_buffer` bytes wait, and when the\n"
    "socket is closed. True promises no arrival. `address` must be numeric; without it the\n"
    "datagram goes to `remote_address`. What the system refuses goes to on_error: a datagram\n"
    "that is too large, for example. Raises TypeError and ValueError for bad arguments.");

static PyObject *datagram_type_send_to(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                       PyObject *keywords) {
    static const py_signature signature = {"send_to", {"data", "address"}, 2, 1};
    py_datagram_socket *self = datagram_type_self_of(object);
    PyObject *values[2];
    io_address given, *to = &given;
    py_buffers buffers;
    if (!py_parse(&signature, args, count, keywords, values))
        return NULL;
    if (values[1] == NULL || values[1] == Py_None) {
        to = &self->remote;
        if (to->length == 0) {
            PyErr_SetString(PyExc_ValueError, "address is needed, as there is no remote_address");
            return NULL;
        }
    } else if (!datagram_type_parse_address(self, values[1], to)) {
        return NULL;
    }
    if (!PyObject_CheckBuffer(values[0])) {
        PyErr_Format(PyExc_TypeError, "data must be a bytes-like object, not %.200s",
                     Py_TYPE(values[0])->tp_name);
        return NULL;
    }
    if (!py_buffers_to_read(values[0], "data", &buffers))
        return NULL;
    PyObject *answer = datagram_type_send(self, &buffers, to);
    Py_XDECREF(buffers.pinned);
    return answer;
}

PyDoc_STRVAR(datagram_type_fileno_doc, "fileno($self, /)\n--\n\n"
                                       "The socket's descriptor; -1 when it is closed.");

static PyObject *datagram_type_fileno(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_datagram_socket *self = datagram_type_self_of(object);
    datagram_type_lock(self);
    io_native native = self->handle != NULL ? self->native : IO_NATIVE_NONE;
    datagram_type_unlock(self);
    return PyLong_FromSsize_t((Py_ssize_t)native);
}

PyDoc_STRVAR(datagram_type_stats_doc,
             "stats($self, /)\n--\n\n"
             "Figures: received, bytes_received, sent, bytes_sent, dropped, errors, "
             "pending_bytes.");

static PyObject *datagram_type_stats(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_datagram_socket *self = datagram_type_self_of(object);
    datagram_type_lock(self);
    uint64_t received = self->received, bytes_received = self->bytes_received;
    uint64_t sent = self->sent, bytes_sent = self->bytes_sent;
    uint64_t dropped = self->dropped, errors = self->errors, pending = self->pending;
    datagram_type_unlock(self);
    return Py_BuildValue("{sKsKsKsKsKsKsK}", "received", received, "bytes_received", bytes_received,
                         "sent", sent, "bytes_sent", bytes_sent, "dropped", dropped, "errors",
                         errors, "pending_bytes", pending);
}

static PyObject *datagram_type_get_closed(PyObject *object, void *Py_UNUSED(closure)) {
    py_datagram_socket *self = datagram_type_self_of(object);
    datagram_type_lock(self);
    bool closed = self->closed;
    datagram_type_unlock(self);
    return PyBool_FromLong(closed);
}

static PyObject *datagram_type_get_pending_bytes(PyObject *object, void *Py_UNUSED(closure)) {
    py_datagram_socket *self = datagram_type_self_of(object);
    datagram_type_lock(self);
    uint64_t pending = self->pending;
    datagram_type_unlock(self);
    return PyLong_FromUnsignedLongLong(pending);
}

// clang-format off
static PyMethodDef datagram_type_methods[] = {
    {"send_to", (PyCFunction)(void (*)(void))datagram_type_send_to, METH_FASTCALL | METH_KEYWORDS,
     datagram_type_send_to_doc},
    {"fileno", datagram_type_fileno, METH_NOARGS, datagram_type_fileno_doc},
    {"stats", datagram_type_stats, METH_NOARGS, datagram_type_stats_doc},
    {"_open", datagram_type_open, METH_VARARGS, datagram_type_open_doc},
    {"_receive", datagram_type_receive, METH_NOARGS, datagram_type_receive_doc},
    {"_end", datagram_type_end, METH_NOARGS, datagram_type_end_doc},
    {NULL, NULL, 0, NULL},
};
// clang-format on

static PyGetSetDef datagram_type_getset[] = {
    {"closed", datagram_type_get_closed, NULL, "Whether close() was called.", NULL},
    {"pending_bytes", datagram_type_get_pending_bytes, NULL, "What waits to be sent.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(datagram_type_doc, "What Datagram is built on. Private.");

static PyType_Slot datagram_type_slots[] = {
    {Py_tp_doc, (void *)datagram_type_doc},
    {Py_tp_methods, datagram_type_methods},
    {Py_tp_getset, datagram_type_getset},
    {Py_tp_traverse, datagram_type_traverse},
    {Py_tp_clear, datagram_type_clear},
    {Py_tp_dealloc, datagram_type_dealloc},
    {0, NULL},
};

PyType_Spec py_datagram_socket_spec = {
    .name = "iocpcore._core.DatagramSocket",
    .basicsize = sizeof(py_datagram_socket),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_BASETYPE,
    .slots = datagram_type_slots,
};
