/* listener_type.c: Listener: a listening socket of a connection group.
 *
 * net/listener.c does the accepting, and reaches Python through the group's hooks only. This file
 * starts it on a socket, and reports when it pauses.
 *
 * While it is open, the group owns a reference to it, so the user need not keep it. */
#include "py/server/server.h"

static py_listener *listener_type_of(io_listener *listener) {
    return IO_CONTAINER(listener, py_listener, io);
}

/* ---- hooks ----------------------------------------------------------------------------------- */

/* Accepting has failed and is tried again later: calls on_accept_error. For the user this is
 * information only, so an exception of the callback, or a lack of memory for the report, does not
 * stop the listener. */
void py_listener_paused(io_listener *listener, int error, uint32_t os_error) {
    py_listener *self = listener_type_of(listener);
    PyObject *exception = py_error_object(error, os_error, "accept");
    if (exception == NULL)
        PyErr_WriteUnraisable((PyObject *)self);
    else
        py_group_report(self->group, PY_ON_ACCEPT_ERROR, (PyObject *)self, exception);
    Py_XDECREF(exception);
}

void py_listener_release(io_listener *listener) {
    Py_DECREF((PyObject *)listener_type_of(listener));
}

/* ---- making ---------------------------------------------------------------------------------- */

/* Returns a new Listener with the port entered, or NULL with the port not entered. The object is
 * created first: creating it can run Python code, through the garbage collector. */
static py_listener *listener_type_new(py_group *group) {
    PyTypeObject *type = group->port->state->listener_type;
    py_listener *self = (py_listener *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->group = (py_group *)Py_NewRef((PyObject *)group);
    if (py_port_enter(group->port))
        return self;
    /* Freeing an object must not happen with an exception set. */
    PyObject *error = py_error_take();
    Py_DECREF((PyObject *)self);
    PyErr_SetRaisedException(error);
    return NULL;
}

/* Starts accepting on the handle, or raises the error. The port must be entered; leaves it. Takes
 * the reference to `self` and returns it. The group's reference comes first, because a worker may
 * accept a client before this returns. */
static PyObject *listener_type_open(py_listener *self, io_handle *handle, int family, int error,
                                    uint32_t os_error) {
    if (error == 0) {
        Py_INCREF((PyObject *)self); /* the group's, until py_listener_release */
        io_listener_open(&self->io, &self->group->io, handle, family);
    }
    py_port_leave(self->group->port);
    if (error == 0)
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return py_error_raise(error, os_error, "listen");
}

PyObject *py_listener_new(py_group *group, io_native native, int family) {
    uint32_t os_error = 0;
    io_handle *handle = NULL;
    py_listener *self = listener_type_new(group);
    if (self == NULL)
        return NULL;
    int error = io_handle_open(group->io.lane, native, &handle, &os_error);
    return listener_type_open(self, handle, family, error, os_error);
}

#ifdef _WIN32
PyObject *py_listener_new_pipe(py_group *group, PyObject *name) {
    uint32_t os_error = 0;
    io_handle *handle = NULL;
    wchar_t *wide = PyUnicode_AsWideCharString(name, NULL);
    py_listener *self = wide == NULL ? NULL : listener_type_new(group);
    int error = self == NULL ? 0 : io_pipe_listen(group->io.lane, wide, &handle, &os_error);
    PyMem_Free(wide);
    return self == NULL ? NULL : listener_type_open(self, handle, IO_FAMILY_PIPE, error, os_error);
}
#endif

/* ---- the type -------------------------------------------------------------------------------- */

static int listener_type_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_listener *)object)->group);
    return 0;
}

/* It is closed, or was never opened: the group holds a reference while it is open. There is no
 * clear: its only reference is to the group, whose own clear breaks the cycles. */
static void listener_type_dealloc(PyObject *object) {
    py_listener *self = (py_listener *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->group);
    type->tp_free(object);
    Py_DECREF(type);
}

/* A closed port has closed its listeners already. */
static PyObject *listener_type_close(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_listener *self = (py_listener *)object;
    if (io_port_enter(self->group->port->port) == 0) {
        io_listener_close(&self->io);
        io_port_leave(self->group->port->port);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(listener_type_close_doc, "close($self, /)\n--\n\nAccept no more; close the socket.");

static PyMethodDef listener_type_methods[] = {
    {"close", listener_type_close, METH_NOARGS, listener_type_close_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(listener_type_doc,
             "A listening socket of a ConnectionGroup. Private: see Server.listen().");

static PyType_Slot listener_type_slots[] = {
    {Py_tp_doc, (void *)listener_type_doc},
    {Py_tp_methods, listener_type_methods},
    {Py_tp_traverse, listener_type_traverse},
    {Py_tp_dealloc, listener_type_dealloc},
    {0, NULL},
};

PyType_Spec py_listener_spec = {
    .name = "iocpcore._core.Listener",
    .basicsize = sizeof(py_listener),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = listener_type_slots,
};
