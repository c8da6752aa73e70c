/* datagram_type.c: the Python type around a datagram socket (net/datagram.h).
 *
 * References: each operation in flight holds one to its socket, and a send one to its data. A turn
 * that handles the receive holds another one to the socket. Otherwise the socket could be freed
 * during the turn: when the receive is in flight again, the operation's reference goes with it, and
 * another thread may complete it.
 *
 * What happens seldom, or once per socket, is written in Python: the subclass in datagram.py has
 * the methods _report_error and _not_received (reports a failed receive). No lock and no critical
 * section is needed here. The fields of the Python object are set once, by _open;
 * io_datagram_socket and the address cache have locks of their own. */
#include "net/datagram.h"
#include "py/server/address_cache.h"
#include "py/server/server.h"

typedef struct py_datagram_socket {
    PyObject_HEAD
    py_port *port;         /* NULL: never opened */
    PyObject *on_datagram; /* or NULL */
    io_address remote;     /* the default destination; length 0: none */
    io_datagram_socket io;
    py_address_cache addresses; /* of senders; its writer is the thread in the receive's turn */
} py_datagram_socket;

static py_datagram_socket *datagram_type_self_of(PyObject *object) {
    return (py_datagram_socket *)object;
}

static bool datagram_type_take(io_op *op);
static void datagram_type_collect(io_op *op, bool leaked);
static const io_owner_ops datagram_type_owner_ops = {datagram_type_take, datagram_type_collect};

/* ---- errors ---------------------------------------------------------------------------------- */

/* Returns false if the current exception must leave run(). Otherwise reports it to
 * sys.unraisablehook and returns true. */
static bool datagram_type_swallow(PyObject *source) {
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit))
        return false;
    PyErr_WriteUnraisable(source);
    return true;
}

/* Reports an error of a send or a callback to Python. Takes the reference to `error`; NULL means
 * the exception that is set. Returns false, with an exception, if run() must be left. */
static bool datagram_type_tell_error(py_datagram_socket *self, PyObject *error,
                                     PyObject *callback) {
    if (error == NULL)
        error = py_error_take();
    PyObject *answer = PyObject_CallMethod((PyObject *)self, "_report_error", "OO", error,
                                           callback != NULL ? Py_True : Py_False);
    Py_DECREF(error);
    Py_XDECREF(answer);
    return answer != NULL || datagram_type_swallow(callback != NULL ? callback : (PyObject *)self);
}

/* Reports a failed receive, in the same way. `failures` counts consecutive ones. Python must arm
 * the next receive, at once or after a pause: an error that persists would otherwise keep a worker
 * busy. */
static bool datagram_type_tell_not_received(py_datagram_socket *self, PyObject *error,
                                            uint32_t failures) {
    if (error == NULL)
        error = py_error_take();
    PyObject *answer =
        PyObject_CallMethod((PyObject *)self, "_not_received", "OI", error, (unsigned int)failures);
    Py_DECREF(error);
    Py_XDECREF(answer);
    return answer != NULL || datagram_type_swallow((PyObject *)self);
}

/* The message names the remote address, if there is one: a connected socket gets the errors that
 * its own sends have caused, such as a refusal by the peer. */
static PyObject *datagram_type_receive_error(const py_datagram_socket *self, int error,
                                             uint32_t os_error) {
    char text[160], what[192] = "recv_from";
    if (self->remote.length > 0) {
        io_address_text(&self->remote, text, sizeof text);
        PyOS_snprintf(what, sizeof what, "recv_from %s", text);
    }
    return py_error_object(error, os_error, what);
}

/* ---- turns ----------------------------------------------------------------------------------- */

/* Calls on_datagram. An exception goes to on_error, unless it must leave run(). One that is no
 * Exception, such as GeneratorExit, is not an error of the socket's user: it goes to
 * sys.unraisablehook. */
static bool datagram_type_call_back(py_datagram_socket *self, PyObject *data, PyObject *address) {
    PyObject *args[] = {NULL, (PyObject *)self, data, address};
    PyObject *answer =
        PyObject_Vectorcall(self->on_datagram, args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_XDECREF(answer);
    if (answer != NULL)
        return true;
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return datagram_type_swallow(self->on_datagram);
    PyObject *error = py_error_take();
    io_datagram_socket_count_error(&self->io);
    return datagram_type_tell_error(self, error, self->on_datagram);
}

/* Delivers one datagram. If there is no memory for its objects, it counts as not received. The
 * tuple is cached before the callback gets it, because the callback may answer to it at once.
 * Returns false, here and below, with the exception that must leave run(). */
static bool datagram_type_tell_received(py_datagram_socket *self, io_datagram_turn *turn) {
    const char *bytes;
    size_t length;
    const io_address *address = io_datagram_turn_received(turn, &bytes, &length);
    PyObject *data = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)length);
    py_cached_address *place;
    PyObject *tuple =
        data == NULL ? NULL : py_address_cache_tuple(&self->addresses, address, &place);
    bool go_on = true;
    if (tuple == NULL) {
        PyObject *error = py_error_take();
        if (io_datagram_turn_lose(turn) == IO_DATAGRAM_NOT_RECEIVED)
            go_on = datagram_type_tell_not_received(self, error, turn->failures);
        else
            Py_DECREF(error);
    } else if (io_datagram_turn_deliver(turn)) {
        py_address_cache_keep(&self->addresses, place, address, tuple);
        go_on = self->on_datagram == NULL || datagram_type_call_back(self, data, tuple);
    }
    Py_XDECREF(data);
    Py_XDECREF(tuple);
    return go_on;
}

/* Handles one event of a turn. A finished send also releases its data: last, because that can run
 * Python code. */
static bool datagram_type_report(py_datagram_socket *self, io_datagram_turn *turn,
                                 io_datagram_event event) {
    bool go_on = true;
    if (event == IO_DATAGRAM_RECEIVED)
        return datagram_type_tell_received(self, turn);
    if (event == IO_DATAGRAM_NOT_RECEIVED)
        return datagram_type_tell_not_received(
            self, datagram_type_receive_error(self, turn->error, turn->os_error), turn->failures);
    if (event == IO_DATAGRAM_NOT_SENT)
        go_on = datagram_type_tell_error(self, py_error_of("send_to", turn->op), NULL);
    Py_DECREF((PyObject *)turn->data_owner);
    return go_on;
}

/* Handles a completed operation. A turn of the receive may deliver several datagrams. An exception
 * that must leave run() ends the turn, but not the socket: the receive is armed again. */
static bool datagram_type_take(io_op *op) {
    py_datagram_socket *self = IO_CONTAINER(op->owner, py_datagram_socket, io);
    bool receives = op->kind == IO_RECV_FROM, go_on = true;
    io_datagram_turn turn;
    if (receives)
        Py_INCREF((PyObject *)self);
    io_datagram_event event = io_datagram_turn_begin(&turn, op);
    for (; event != IO_DATAGRAM_IDLE; event = io_datagram_turn_next(&turn, go_on))
        go_on = datagram_type_report(self, &turn, event);
    if (receives)
        Py_DECREF((PyObject *)self); /* the turn's; not the last one */
    if (!turn.in_flight)
        Py_DECREF((PyObject *)self); /* the operation's, which has ended */
    return go_on;
}

/* The port was closed before anybody took this operation. If it leaked, the kernel may still use
 * the memory, so all references stay. */
static void datagram_type_collect(io_op *op, bool leaked) {
    if (leaked)
        return;
    py_datagram_socket *self = IO_CONTAINER(op->owner, py_datagram_socket, io);
    PyObject *data_owner = io_datagram_socket_collected(op);
    Py_XDECREF(data_owner);
    Py_DECREF((PyObject *)self);
}

/* ---- opening and closing --------------------------------------------------------------------- */

PyDoc_STRVAR(datagram_type_open_doc,
             "_open($self, port, native, family, on_datagram, remote_address, max_size, "
             "max_write_buffer, /)\n--\n\n"
             "Take over a datagram socket that does not block. Nothing is received yet.");

/* On failure the native socket is closed, unless an argument has a wrong type, max_size is out of
 * range, or this socket is open already. The fields are set before the socket is opened, and no
 * receive is in flight when this returns, so no turn can see a socket that is half made. */
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
    self->addresses.port = self->port->port;
    self->on_datagram = on_datagram == Py_None ? NULL : Py_NewRef(on_datagram);
    int error = io_datagram_socket_open(&self->io, &self->port->port->lane, (io_native)native,
                                        family, (size_t)max_size, max_write_buffer,
                                        &datagram_type_owner_ops, &os_error);
    if (error)
        io_port_close_native(self->port->port, (io_native)native, family);
    py_port_leave(self->port);
    return error ? py_error_raise(error, os_error, "associate") : Py_NewRef(Py_None);
}

PyDoc_STRVAR(datagram_type_receive_doc, "_receive($self, /)\n--\n\n"
                                        "Ask for the next datagram, if that has not been done.");

/* The reference comes first: the operation may complete, and drop it, before the call returns. On a
 * closed socket, and if the receive is armed already, it is dropped again. */
static PyObject *datagram_type_receive(PyObject *object, PyObject *Py_UNUSED(unused)) {
    Py_INCREF(object); /* the operation's reference */
    if (!io_datagram_socket_receive(&datagram_type_self_of(object)->io))
        Py_DECREF(object);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(datagram_type_end_doc, "_end($self, /)\n--\n\n"
                                    "Close it; whether it was open.");

/* The descriptor is closed when the cancelled operations have ended. Until then their references
 * keep this object. */
static PyObject *datagram_type_end(PyObject *object, PyObject *Py_UNUSED(unused)) {
    return PyBool_FromLong(io_datagram_socket_close(&datagram_type_self_of(object)->io));
}

static int datagram_type_traverse(PyObject *object, visitproc visit, void *arg) {
    py_datagram_socket *self = datagram_type_self_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->port);
    Py_VISIT(self->on_datagram);
    return 0; /* the cached tuples contain only strings and integers */
}

/* Never called with an operation in flight, whose reference the collector cannot see. The port
 * stays until dealloc: the receive operation belongs to it. */
static int datagram_type_clear(PyObject *object) {
    Py_CLEAR(datagram_type_self_of(object)->on_datagram);
    return 0;
}

/* Nothing is in flight here: operations hold references to their socket. */
static void datagram_type_dealloc(PyObject *object) {
    py_datagram_socket *self = datagram_type_self_of(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    (void)io_datagram_socket_close(&self->io);
    io_datagram_socket_free(&self->io);
    py_address_cache_clear(&self->addresses);
    (void)datagram_type_clear(object);
    Py_CLEAR(self->port);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- methods --------------------------------------------------------------------------------- */

/* Returns True if the datagram was sent or queued, False if it was dropped. A queued one takes a
 * reference to the socket, and the reference in buffers->pinned. If it was sent at once, the data
 * is free again, so the usual send costs no reference that outlives the call. */
static PyObject *datagram_type_send(py_datagram_socket *self, py_buffers *buffers, io_address *to) {
    io_vec data;
    py_buffers_vec(buffers, &data);
    Py_INCREF((PyObject *)self);
    int answer = io_datagram_socket_send(&self->io, &data, to, buffers->pinned);
    if (answer == IO_DATAGRAM_QUEUED) {
        buffers->pinned = NULL;
        Py_RETURN_TRUE;
    }
    Py_DECREF((PyObject *)self);
    if (answer == -IOE_FORKED)
        return py_error_entering(-IOE_FORKED);
    return answer < 0 ? PyErr_NoMemory() : PyBool_FromLong(answer == IO_DATAGRAM_SENT_NOW);
}

PyDoc_STRVAR(
    datagram_type_send_to_doc,
    "send_to($self, /, data, address=None)\n--\n\n"
    "Send one datagram (bytes-like); False if it was dropped.\n\n"
    "It is dropped when it would have more than `max_write_buffer` bytes wait, and when the\n"
    "socket is closed. True promises no arrival. `address` must be numeric; without it the\n"
    "datagram goes to `remote_address`. What the system refuses goes to on_error: a datagram\n"
    "that is too large, for example. Raises TypeError and ValueError for bad arguments.");

/* The address is looked up by identity first, then parsed: a callback usually answers to the tuple
 * that it was given. A sequence of buffers is refused, although py_buffers_to_read could join it:
 * a datagram from several buffers is not supported. */
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
    } else if (!py_address_cache_find(&self->addresses, values[1], to) &&
               !py_address_parse(values[1], "address", self->io.family, to)) {
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
    io_native native = io_datagram_socket_native(&datagram_type_self_of(object)->io);
    return PyLong_FromSsize_t((Py_ssize_t)native);
}

PyDoc_STRVAR(datagram_type_stats_doc,
             "stats($self, /)\n--\n\n"
             "Figures: received, bytes_received, sent, bytes_sent, dropped, errors, "
             "pending_bytes.");

static PyObject *datagram_type_stats(PyObject *object, PyObject *Py_UNUSED(unused)) {
    io_datagram_figures figures;
    io_datagram_socket_figures(&datagram_type_self_of(object)->io, &figures);
    return Py_BuildValue("{sKsKsKsKsKsKsK}", "received", figures.received, "bytes_received",
                         figures.bytes_received, "sent", figures.sent, "bytes_sent",
                         figures.bytes_sent, "dropped", figures.dropped, "errors", figures.errors,
                         "pending_bytes", figures.pending);
}

static PyObject *datagram_type_get_closed(PyObject *object, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(io_datagram_socket_closed(&datagram_type_self_of(object)->io));
}

static PyObject *datagram_type_get_pending_bytes(PyObject *object, void *Py_UNUSED(closure)) {
    io_datagram_figures figures;
    io_datagram_socket_figures(&datagram_type_self_of(object)->io, &figures);
    return PyLong_FromUnsignedLongLong(figures.pending);
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

/* May be subclassed and instantiated, unlike the other types of servers: Datagram is written in
 * Python. An object that was never opened behaves like a closed one. */
PyType_Spec py_datagram_socket_spec = {
    .name = "iocpcore._core.DatagramSocket",
    .basicsize = sizeof(py_datagram_socket),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_BASETYPE,
    .slots = datagram_type_slots,
};
