/* operation_type.c: iocpcore.Operation, which every submitting method returns.
 *
 * While an Operation is in flight, `op` is the core's part of it, and the core owns a reference to
 * it, so it cannot be freed. results.c separates the two and marks the Operation done. All that
 * Python can read is written before that, once, so the getters need no lock: they check `done`
 * first. What the caller passed (key, handle, callback) is set before the operation is submitted.
 *
 * The result of an accept is the exception. Until somebody calls result(), the Operation owns a
 * native socket, and closes it if it is freed. The first call makes the socket object, which owns
 * the native socket from then on. */
#include "py/port/port.h"

/* recv and recv_into differ for Python only: where the memory comes from and what the result is.
 * The same goes for read and read_into. */
const py_kind_info py_kinds[PY_KINDS] = {
    [PY_POST] = {"post", IO_POST, PY_NO_HANDLE},
    [PY_TIMER] = {"timer", IO_TIMER, PY_NO_HANDLE},
    [PY_POLL] = {"poll", IO_POLL, PY_ANY_HANDLE},
    [PY_RECV] = {"recv", IO_RECV, PY_SOCKET},
    [PY_RECV_INTO] = {"recv_into", IO_RECV, PY_SOCKET},
    [PY_SEND] = {"send", IO_SEND, PY_SOCKET},
    [PY_ACCEPT] = {"accept", IO_ACCEPT, PY_SOCKET},
    [PY_CONNECT] = {"connect", IO_CONNECT, PY_SOCKET},
    [PY_RECV_FROM] = {"recv_from", IO_RECV_FROM, PY_SOCKET},
    [PY_SEND_TO] = {"send_to", IO_SEND_TO, PY_SOCKET},
    [PY_SEND_FILE] = {"send_file", IO_SEND_FILE, PY_SOCKET},
    [PY_READ] = {"read", IO_READ, PY_FILE},
    [PY_READ_INTO] = {"read_into", IO_READ, PY_FILE},
    [PY_WRITE] = {"write", IO_WRITE, PY_FILE},
    [PY_SYNC] = {"sync", IO_SYNC, PY_FILE},
};

static py_operation *operation_type_self_of(PyObject *object) {
    return (py_operation *)object;
}

/* Pairs with the release store of results_mark_done: after this, all other fields are visible. */
static bool operation_type_is_done(py_operation *self) {
    return atomic_load_explicit(&self->done, memory_order_acquire);
}

static PyObject *operation_type_new_ref_or_none(PyObject *object) {
    return Py_NewRef(object != NULL ? object : Py_None);
}

py_operation *py_operation_new(py_port *port, py_kind kind) {
    PyTypeObject *type = port->state->operation_type;
    py_operation *self = (py_operation *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->port = (py_port *)Py_NewRef((PyObject *)port);
    self->kind = (uint8_t)kind;
    self->accepted = IO_NATIVE_NONE;
    return self;
}

/* ---- the result ------------------------------------------------------------------------------ */

/* Drops a socket object without closing its descriptor, which another object owns or the Operation
 * still does. Without detach() the socket's finalizer would close it. Keeps the current exception.
 * A simulated port has integers instead of socket objects. */
static void operation_type_drop_socket(py_operation *self, PyObject **socket) {
    PyObject *error = PyErr_Occurred() ? py_error_take() : NULL;
    if (!PyLong_Check(*socket)) {
        PyObject *native = PyObject_CallMethodNoArgs(*socket, self->port->state->str_detach);
        if (native == NULL)
            PyErr_WriteUnraisable(*socket);
        Py_XDECREF(native);
    }
    Py_CLEAR(*socket);
    PyErr_SetRaisedException(error);
}

/* A socket object for a native socket; the native handle itself in a simulated port. On failure the
 * native socket stays open and stays the Operation's, so result() can be called again. A new socket
 * object has the timeout of socket.setdefaulttimeout(); setblocking(False) clears it. */
static PyObject *operation_type_make_socket(py_operation *self, io_native native) {
    py_state *state = self->port->state;
    int family = 0, type = 0, protocol = 0;
    if (py_port_own_natives(self->port))
        return PyLong_FromLongLong(native);
    int error = io_socket_describe(native, &family, &type, &protocol);
    if (error)
        return py_error_raise(error, 0, "accept");
    PyObject *socket = PyObject_CallFunction(state->socket_class, "iiiL", family, type, protocol,
                                             (long long)native);
    if (socket == NULL)
        return NULL;
    PyObject *done = PyObject_CallMethodOneArg(socket, state->str_setblocking, Py_False);
    if (done == NULL)
        operation_type_drop_socket(self, &socket);
    Py_XDECREF(done);
    return socket;
}

/* Makes the pair (socket, address) when it is first asked for. Making a socket runs Python code, so
 * it cannot happen in the critical section, and two threads may do it at once. The first to finish
 * publishes its pair, and both return that. The other detaches its socket object from the
 * descriptor and drops it. A thread whose own attempt has failed returns the pair of the other one,
 * too, and forgets its exception. */
static PyObject *operation_type_take_accepted(py_operation *self, io_native native,
                                              PyObject *address) {
    PyObject *socket = operation_type_make_socket(self, native);
    PyObject *pair = socket == NULL ? NULL : PyTuple_Pack(2, socket, address);
    PyObject *error = pair == NULL ? py_error_take() : NULL, *result = NULL, *old = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (pair != NULL && self->accepted != IO_NATIVE_NONE) {
        self->accepted = IO_NATIVE_NONE;
        old = self->result;
        self->result = Py_NewRef(pair);
    }
    if (self->accepted == IO_NATIVE_NONE)
        result = operation_type_new_ref_or_none(self->result);
    Py_END_CRITICAL_SECTION();
    bool ours = result != NULL && result == pair;
    Py_XDECREF(old);
    Py_XDECREF(pair);
    if (socket != NULL && !ours)
        operation_type_drop_socket(self, &socket);
    Py_XDECREF(socket);
    if (result == NULL)
        PyErr_SetRaisedException(error);
    else
        Py_XDECREF(error);
    return result;
}

/* The result of an accept: the published pair, made now if there is none. `accepted` and `result`
 * are read together: `result` is the address as long as `accepted` is set, and the pair
 * afterwards. */
static PyObject *operation_type_accept_result(py_operation *self) {
    io_native native;
    PyObject *result;
    Py_BEGIN_CRITICAL_SECTION(self);
    native = self->accepted;
    result = operation_type_new_ref_or_none(self->result);
    Py_END_CRITICAL_SECTION();
    if (native != IO_NATIVE_NONE)
        Py_SETREF(result, operation_type_take_accepted(self, native, result));
    return result;
}

PyDoc_STRVAR(operation_type_result_doc,
             "result($self, /)\n--\n\n"
             "What the operation has yielded.\n\n"
             "Raises its error if it failed or was cancelled, and InvalidStateError while it is\n"
             "not done. May be called from any thread, and again.");

/* Always raises the same exception object, so its traceback grows with each call. */
static PyObject *operation_type_result(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_operation *self = operation_type_self_of(object);
    if (!operation_type_is_done(self)) {
        PyErr_Format(self->port->state->invalid_state_error, "%s is not done",
                     py_kinds[self->kind].name);
        return NULL;
    }
    if (self->error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(self->error), self->error);
        return NULL;
    }
    return self->kind == PY_ACCEPT ? operation_type_accept_result(self)
                                   : operation_type_new_ref_or_none(self->result);
}

PyDoc_STRVAR(
    operation_type_cancel_doc,
    "cancel($self, /)\n--\n\n"
    "Ask for the end of the operation.\n\n"
    "Returns True if it was asked, or False if the operation had completed already.\n"
    "Either way it is still handed out exactly once, as cancelled or as completed. May be\n"
    "called from any thread; waits for nothing.");

/* In a closed port everything has ended or is about to, so there is nothing to ask for. The port is
 * entered so that it stays open during the call. The critical section keeps the io_op:
 * results_mark_done takes `op` away in one, and only then is the io_op released. */
static PyObject *operation_type_cancel(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_operation *self = operation_type_self_of(object);
    io_port *port = self->port->port;
    int error = io_port_enter(port);
    if (error == -IOE_FORKED)
        return py_error_entering(error);
    bool asked = false;
    if (error == 0) {
        Py_BEGIN_CRITICAL_SECTION(self);
        asked = self->op != NULL && io_op_cancel(self->op);
        Py_END_CRITICAL_SECTION();
        io_port_leave(port);
    }
    return PyBool_FromLong(asked);
}

/* ---- attributes ------------------------------------------------------------------------------ */

/* Each of these reads a field that no longer changes, or `done` first. `key`, `handle` and
 * `callback` can also be NULL because the collector has cleared the Operation. */

static PyObject *operation_type_get_kind(PyObject *object, void *Py_UNUSED(closure)) {
    return PyUnicode_InternFromString(py_kinds[operation_type_self_of(object)->kind].name);
}

static PyObject *operation_type_get_key(PyObject *object, void *Py_UNUSED(closure)) {
    return operation_type_new_ref_or_none(operation_type_self_of(object)->key);
}

static PyObject *operation_type_get_handle(PyObject *object, void *Py_UNUSED(closure)) {
    return operation_type_new_ref_or_none(operation_type_self_of(object)->handle);
}

static PyObject *operation_type_get_callback(PyObject *object, void *Py_UNUSED(closure)) {
    return operation_type_new_ref_or_none(operation_type_self_of(object)->callback);
}

static PyObject *operation_type_get_done(PyObject *object, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(operation_type_is_done(operation_type_self_of(object)));
}

static PyObject *operation_type_get_cancelled(PyObject *object, void *Py_UNUSED(closure)) {
    py_operation *self = operation_type_self_of(object);
    return PyBool_FromLong(operation_type_is_done(self) && self->cancelled);
}

static PyObject *operation_type_get_error(PyObject *object, void *Py_UNUSED(closure)) {
    py_operation *self = operation_type_self_of(object);
    return operation_type_new_ref_or_none(operation_type_is_done(self) ? self->error : NULL);
}

static PyObject *operation_type_repr(PyObject *object) {
    py_operation *self = operation_type_self_of(object);
    const char *name = py_kinds[self->kind].name;
    if (!operation_type_is_done(self))
        return PyUnicode_FromFormat("<iocpcore.Operation %s in flight>", name);
    if (self->cancelled)
        return PyUnicode_FromFormat("<iocpcore.Operation %s cancelled>", name);
    if (self->error != NULL)
        return PyUnicode_FromFormat("<iocpcore.Operation %s failed: %R>", name, self->error);
    return PyUnicode_FromFormat("<iocpcore.Operation %s done>", name);
}

/* ---- life ------------------------------------------------------------------------------------ */

static int operation_type_traverse(PyObject *object, visitproc visit, void *arg) {
    py_operation *self = operation_type_self_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->port);
    Py_VISIT(self->handle);
    Py_VISIT(self->key);
    Py_VISIT(self->callback);
    Py_VISIT(self->result);
    Py_VISIT(self->error);
    /* gc.get_referents must not find bytes that are being received into: they still change. */
    if (self->pinned != NULL && !PyBytes_CheckExact(self->pinned))
        Py_VISIT(self->pinned);
    return 0;
}

/* Never called while in flight, because of the core's reference, which the collector cannot see.
 * The port stays until dealloc, which may have to close the accepted socket through it. */
static int operation_type_clear(PyObject *object) {
    py_operation *self = operation_type_self_of(object);
    Py_CLEAR(self->handle);
    Py_CLEAR(self->key);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->result);
    Py_CLEAR(self->error);
    Py_CLEAR(self->pinned);
    return 0;
}

static void operation_type_dealloc(PyObject *object) {
    py_operation *self = operation_type_self_of(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weak_references != NULL)
        PyObject_ClearWeakRefs(object);
    operation_type_clear(object);
    /* An accepted socket that nobody has asked for. */
    io_port_close_native(self->port->port, self->accepted, IO_FAMILY_SOCKET);
    Py_XDECREF((PyObject *)self->port);
    type->tp_free(object);
    Py_DECREF(type);
}

PyDoc_STRVAR(operation_type_doc,
             "One piece of overlapped work, as the submitting methods of CompletionPort return "
             "it.\n\n"
             "It is done when it has been handed out by get(), get_many() or run(), or ended by\n"
             "close(): exactly once, with a result, with an error, or cancelled. All of it may be\n"
             "used from any thread.");

static PyMethodDef operation_type_methods[] = {
    {"result", operation_type_result, METH_NOARGS, operation_type_result_doc},
    {"cancel", operation_type_cancel, METH_NOARGS, operation_type_cancel_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef operation_type_getset[] = {
    {"kind", operation_type_get_kind, NULL, "Name of the method that made it, such as \"recv\".",
     NULL},
    {"key", operation_type_get_key, NULL,
     "Key of its handle when it was submitted; of a post, its key.", NULL},
    {"handle", operation_type_get_handle, NULL,
     "The handle as it was given; None for posts and timers.", NULL},
    {"callback", operation_type_get_callback, NULL, "What run() calls with it, or None.", NULL},
    {"done", operation_type_get_done, NULL, "Whether it has been handed out.", NULL},
    {"cancelled", operation_type_get_cancelled, NULL, "Whether it ended as cancelled.", NULL},
    {"error", operation_type_get_error, NULL,
     "The exception that result() raises; None if there is none.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef operation_type_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(py_operation, weak_references), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot operation_type_slots[] = {
    {Py_tp_doc, (void *)operation_type_doc},
    {Py_tp_repr, operation_type_repr},
    {Py_tp_methods, operation_type_methods},
    {Py_tp_getset, operation_type_getset},
    {Py_tp_members, operation_type_members},
    {Py_tp_traverse, operation_type_traverse},
    {Py_tp_clear, operation_type_clear},
    {Py_tp_dealloc, operation_type_dealloc},
    {0, NULL},
};

/* Not to be instantiated or subclassed: only py_operation_new creates one, for an operation that is
 * about to be submitted. */
PyType_Spec py_operation_spec = {
    .name = "iocpcore.Operation",
    .basicsize = sizeof(py_operation),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = operation_type_slots,
};
