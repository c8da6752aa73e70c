/* listener_type.c: accepting connections for a group.
 *
 * One accept is in the kernel at a time. Whatever becomes of one client, the next accept follows.
 * When accepting fails it pauses for a moment (net/accepting.c), and that is told each time. At
 * max_connections what has been accepted waits, and no further accept is made, so that the system's
 * backlog holds the rest. */
#include "py/server/server.h"

static io_lane *listener_type_lane_of(const py_listener *self) {
    return &self->group->port->port->lane;
}

static py_registry *listener_type_registry_of(const py_listener *self) {
    return &self->group->port->registry;
}

static bool listener_type_full(const py_group *group) {
    return group->max_connections != 0 &&
           group->count + group->accepted_now >= group->max_connections;
}

static bool listener_type_take(io_op *op);
static void listener_type_collect(io_op *op, bool leaked);
static const io_owner_ops listener_type_owner_ops = {listener_type_take, listener_type_collect};

/* ---- under the registry's lock, in an entered port ------------------------------------------- */

static void listener_type_pause_accepting(py_listener *self, uint64_t pause_ns) {
    if (self->handle == NULL || self->op != NULL)
        return;
    io_op_embed(&self->pause.op, listener_type_lane_of(self), IO_TIMER, &listener_type_owner_ops,
                self);
    self->op = &self->pause.op;
    Py_INCREF((PyObject *)self); /* the operation's */
    io_timer_submit(&self->pause, pause_ns);
}

static void listener_type_accept_next(py_listener *self) {
    if (self->handle == NULL || self->op != NULL || self->waiting != IO_NATIVE_NONE ||
        listener_type_full(self->group))
        return;
    io_op *op = io_op_new(listener_type_lane_of(self), IO_ACCEPT, &listener_type_owner_ops, self);
    if (op == NULL) {
        listener_type_pause_accepting(self, io_accepting_pause(&self->accepting, -IOE_NOMEM));
        return;
    }
    self->op = op;
    Py_INCREF((PyObject *)self); /* the operation's */
    io_op_submit(op, self->handle);
}

static void listener_type_release(py_listener *self, io_op *op) {
    if (op != &self->pause.op)
        io_op_release(op);
}

/* ---- making and closing ---------------------------------------------------------------------- */

static py_listener *listener_type_new(py_group *group, int family) {
    PyTypeObject *type = group->port->state->listener_type;
    py_listener *self = (py_listener *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->group = (py_group *)Py_NewRef((PyObject *)group);
    self->waiting = IO_NATIVE_NONE;
    self->family = family;
    io_list_init(&self->link);
    return self;
}

/* It has its handle, or there is an error. In an entered port, which it leaves. */
static PyObject *listener_type_begin_listening(py_listener *self, int error, uint32_t os_error) {
    if (error == 0) {
        io_mutex_lock(&listener_type_registry_of(self)->lock);
        io_list_push_back(&listener_type_registry_of(self)->listeners, &self->link);
        Py_INCREF((PyObject *)self); /* the registry's */
        listener_type_accept_next(self);
        io_mutex_unlock(&listener_type_registry_of(self)->lock);
    }
    py_port_leave(self->group->port);
    if (error == 0)
        return (PyObject *)self;
    self->handle = NULL;
    Py_DECREF((PyObject *)self);
    return py_error_raise(-error, os_error, "listen");
}

PyObject *py_listener_new(py_group *group, io_native native, int family) {
    uint32_t os_error = 0;
    py_listener *self = listener_type_new(group, family);
    if (self == NULL || !py_port_enter(group->port)) {
        Py_XDECREF((PyObject *)self);
        return NULL;
    }
    int error = io_handle_open(listener_type_lane_of(self), native, &self->handle, &os_error);
    return listener_type_begin_listening(self, error, os_error);
}

#ifdef _WIN32
PyObject *py_listener_new_pipe(py_group *group, PyObject *name) {
    uint32_t os_error = 0;
    wchar_t *wide = PyUnicode_AsWideCharString(name, NULL);
    py_listener *self = wide == NULL ? NULL : listener_type_new(group, IO_FAMILY_PIPE);
    if (self == NULL || !py_port_enter(group->port)) {
        PyMem_Free(wide);
        Py_XDECREF((PyObject *)self);
        return NULL;
    }
    int error = io_pipe_listen(listener_type_lane_of(self), wide, &self->handle, &os_error);
    PyMem_Free(wide);
    return listener_type_begin_listening(self, error, os_error);
}
#endif

/* A client that is too late. */
static void listener_type_drop(py_listener *self, io_native native) {
    atomic_fetch_add_explicit(&self->group->failed, 1, memory_order_relaxed);
    py_stream_close(self->group->port, native, self->family);
}

void py_listener_close(py_listener *self) {
    io_mutex_lock(&listener_type_registry_of(self)->lock);
    io_handle *handle = self->handle;
    io_native waiting = self->waiting;
    io_op *timer = self->op != NULL && self->op->kind == IO_TIMER ? self->op : NULL;
    self->handle = NULL;
    self->waiting = IO_NATIVE_NONE;
    io_list_remove(&self->link);
    if (timer != NULL)
        (void)io_op_cancel(timer);
    io_mutex_unlock(&listener_type_registry_of(self)->lock);
    if (handle == NULL)
        return;
    if (waiting != IO_NATIVE_NONE)
        listener_type_drop(self, waiting);
    bool held = !handle->owned;
    io_handle_close(handle);
    if (held)
        io_handle_release(handle);
    Py_DECREF((PyObject *)self);
}

/* ---- accepting ------------------------------------------------------------------------------- */

static void listener_type_report_pause(py_listener *self, int error, uint32_t os_error) {
    PyObject *exception = py_error_object(error, os_error, "accept");
    if (exception == NULL)
        PyErr_WriteUnraisable((PyObject *)self);
    else
        py_group_report(self->group, PY_ON_ACCEPT_ERROR, (PyObject *)self, exception);
    Py_XDECREF(exception);
}

/* A client was accepted and cannot be served, because of the exception that is set. */
static void listener_type_report_lost(py_listener *self, const io_address *peer) {
    PyObject *error = py_error_take();
    PyObject *address = py_address_object(peer);
    atomic_fetch_add_explicit(&self->group->failed, 1, memory_order_relaxed);
    if (address == NULL)
        PyErr_WriteUnraisable((PyObject *)self);
    else
        py_group_report(self->group, PY_ON_LOST, address, error);
    Py_XDECREF(address);
    Py_DECREF(error);
}

/* A new reference, or NULL, which has been told. */
static py_connection *listener_type_make_connection(py_listener *self, io_native native,
                                                    const io_address *peer, bool post) {
    py_group *group = self->group;
    py_connection *connection = py_group_accept(group, native, self->family, peer, post);
    if (connection == NULL && PyErr_Occurred())
        listener_type_report_lost(self, peer);
    return connection;
}

typedef enum outcome { NO_CLIENT, BEGINS, WAITS, TOO_LATE } outcome;

/* What becomes of a client, if there is one. Under the registry's lock. */
static outcome listener_type_decide(py_listener *self, io_native native, const io_address *peer) {
    if (native == IO_NATIVE_NONE)
        return NO_CLIENT;
    if (self->handle == NULL)
        return TOO_LATE;
    if (!listener_type_full(self->group)) {
        self->group->accepted_now++;
        return BEGINS;
    }
    self->waiting = native;
    self->waiting_peer = *peer;
    return WAITS;
}

/* The client, if there is one, is a connection now, or was refused. */
static void listener_type_go_on(py_listener *self, outcome client, uint64_t pause_ns) {
    bool entered = io_port_enter(self->group->port->port) == 0;
    io_mutex_lock(&listener_type_registry_of(self)->lock);
    self->group->accepted_now -= client == BEGINS;
    if (entered && pause_ns > 0)
        listener_type_pause_accepting(self, pause_ns);
    else if (entered)
        listener_type_accept_next(self);
    io_mutex_unlock(&listener_type_registry_of(self)->lock);
    if (entered)
        io_port_leave(self->group->port->port);
}

static void listener_type_count(py_group *group, bool accepts, int64_t result) {
    if (accepts && result >= 0)
        atomic_fetch_add_explicit(&group->accepted, 1, memory_order_relaxed);
    else if (accepts && result != -IOE_CANCELED)
        atomic_fetch_add_explicit(&group->accept_errors, 1, memory_order_relaxed);
}

static bool listener_type_take(io_op *op) {
    py_listener *self = op->owner;
    int64_t result = op->result;
    uint32_t os_error = op->os_error;
    uint64_t pause_ns = 0;
    bool accepts = op->kind == IO_ACCEPT;
    io_native native = IO_NATIVE_NONE;
    io_address peer = {0};
    py_connection *connection = NULL;
    if (accepts && result >= 0) {
        native = ((io_accept *)op)->accepted;
        peer = ((io_accept *)op)->peer;
    }
    io_mutex_lock(&listener_type_registry_of(self)->lock);
    self->op = NULL;
    outcome client = listener_type_decide(self, native, &peer);
    if (accepts && result != -IOE_CANCELED && self->handle != NULL)
        pause_ns = io_accepting_pause(&self->accepting, result);
    io_mutex_unlock(&listener_type_registry_of(self)->lock);
    listener_type_release(self, op);
    listener_type_count(self->group, accepts, result);
    if (pause_ns > 0)
        listener_type_report_pause(self, (int)-result, os_error);
    if (client == BEGINS)
        connection = listener_type_make_connection(self, native, &peer, false);
    else if (client == TOO_LATE)
        listener_type_drop(self, native);
    listener_type_go_on(self, client, pause_ns);
    if (client == BEGINS && connection == NULL)
        py_listeners_resume(self->group); /* another may wait for the place it was to have */
    Py_DECREF((PyObject *)self);
    if (connection == NULL)
        return true;
    /* In this order: its on_connect may block, and others are to be accepted meanwhile. */
    bool stays = py_connection_take(&connection->io.strand);
    Py_DECREF((PyObject *)connection);
    return stays;
}

static void listener_type_collect(io_op *op, bool leaked) {
    py_listener *self = op->owner;
    if (leaked)
        return;
    if (op->kind == IO_ACCEPT && op->result >= 0) /* nobody will take it */
        py_stream_close(self->group->port, ((io_accept *)op)->accepted, self->family);
    self->op = NULL;
    listener_type_release(self, op);
    Py_DECREF((PyObject *)self);
}

/* One of the group's listeners that can go on; a new reference. Takes what waits there. */
static py_listener *listener_type_next_to_resume(py_group *group, io_native *native,
                                                 io_address *peer) {
    py_registry *registry = &group->port->registry;
    py_listener *found = NULL;
    *native = IO_NATIVE_NONE;
    io_mutex_lock(&registry->lock);
    for (io_link *link = registry->listeners.next;
         link != &registry->listeners && !listener_type_full(group) && found == NULL;
         link = link->next) {
        py_listener *listener = IO_CONTAINER(link, py_listener, link);
        if (listener->group != group || listener->handle == NULL || listener->op != NULL)
            continue;
        if (listener->waiting != IO_NATIVE_NONE) {
            *native = listener->waiting;
            *peer = listener->waiting_peer;
            listener->waiting = IO_NATIVE_NONE;
            group->accepted_now++;
            found = listener;
            Py_INCREF((PyObject *)found);
        } else {
            listener_type_accept_next(listener);
        }
    }
    io_mutex_unlock(&registry->lock);
    return found;
}

void py_listeners_resume(py_group *group) {
    io_native native;
    io_address peer;
    if (group->max_connections == 0)
        return;
    while (io_port_enter(group->port->port) == 0) {
        py_listener *listener = listener_type_next_to_resume(group, &native, &peer);
        io_port_leave(group->port->port); /* what a log handler does is none of our call */
        if (listener == NULL)
            return;
        Py_XDECREF((PyObject *)listener_type_make_connection(listener, native, &peer, true));
        io_mutex_lock(&listener_type_registry_of(listener)->lock);
        group->accepted_now--;
        io_mutex_unlock(&listener_type_registry_of(listener)->lock);
        Py_DECREF((PyObject *)listener);
    }
}

/* ---- the type -------------------------------------------------------------------------------- */

static int listener_type_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_listener *)object)->group);
    return 0;
}

static void listener_type_dealloc(PyObject *object) {
    py_listener *self = (py_listener *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->group);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *listener_type_close(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_listener *self = (py_listener *)object;
    if (io_port_enter(self->group->port->port) == 0) {
        py_listener_close(self);
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
