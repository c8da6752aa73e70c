/* listener_type.c: accepting connections for a service.
 *
 * One accept is in the kernel at a time. Whatever becomes of one client, the next accept follows.
 * When accepting fails it pauses for a moment (net/accepting.c), and that is told each time. At
 * max_connections what has been accepted waits, and no further accept is made, so that the system's
 * backlog holds the rest. */
#include "py/server/server.h"

static io_lane *lane_of(const py_listener *self) {
    return &self->service->port->port->lane;
}

static py_registry *registry_of(const py_listener *self) {
    return &self->service->port->registry;
}

static bool full(const py_service *service) {
    return service->max_connections != 0 &&
           service->count + service->accepted_now >= service->max_connections;
}

/* ---- under the registry's lock, in an entered port ------------------------------------------- */

static void pause_accepting(py_listener *self, uint64_t pause_ns) {
    if (self->handle == NULL || self->op != NULL)
        return;
    io_op_embed(&self->pause.op, lane_of(self), IO_TIMER, IO_SINK_LISTENER, self);
    self->op = &self->pause.op;
    Py_INCREF((PyObject *)self); /* the operation's */
    io_timer_submit(&self->pause, pause_ns);
}

static void accept_next(py_listener *self) {
    if (self->handle == NULL || self->op != NULL || self->waiting != IO_NATIVE_NONE ||
        full(self->service))
        return;
    io_op *op = io_op_new(lane_of(self), IO_ACCEPT, self);
    if (op == NULL) {
        pause_accepting(self, io_accepting_pause(&self->accepting, -IOE_NOMEM));
        return;
    }
    op->sink = IO_SINK_LISTENER;
    self->op = op;
    Py_INCREF((PyObject *)self); /* the operation's */
    io_op_submit(op, self->handle);
}

static void release(py_listener *self, io_op *op) {
    if (op != &self->pause.op)
        io_op_release(op);
}

/* ---- making and closing ---------------------------------------------------------------------- */

static py_listener *new_listener(py_service *service, int family) {
    PyTypeObject *type = service->port->state->listener_type;
    py_listener *self = (py_listener *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->service = (py_service *)Py_NewRef((PyObject *)service);
    self->waiting = IO_NATIVE_NONE;
    self->family = family;
    io_list_init(&self->link);
    return self;
}

/* It has its handle, or there is an error. In an entered port, which it leaves. */
static PyObject *begin_listening(py_listener *self, int error, uint32_t os_error) {
    if (error == 0) {
        io_mutex_lock(&registry_of(self)->lock);
        io_list_push_back(&registry_of(self)->listeners, &self->link);
        Py_INCREF((PyObject *)self); /* the registry's */
        accept_next(self);
        io_mutex_unlock(&registry_of(self)->lock);
    }
    py_port_leave(self->service->port);
    if (error == 0)
        return (PyObject *)self;
    self->handle = NULL;
    Py_DECREF((PyObject *)self);
    return py_error_raise(-error, os_error, "listen");
}

PyObject *py_listener_new(py_service *service, io_native native, int family) {
    uint32_t os_error = 0;
    py_listener *self = new_listener(service, family);
    if (self == NULL || !py_port_enter(service->port)) {
        Py_XDECREF((PyObject *)self);
        return NULL;
    }
    int error = io_handle_open(lane_of(self), native, &self->handle, &os_error);
    return begin_listening(self, error, os_error);
}

#ifdef _WIN32
PyObject *py_listener_new_pipe(py_service *service, PyObject *name) {
    uint32_t os_error = 0;
    wchar_t *wide = PyUnicode_AsWideCharString(name, NULL);
    py_listener *self = wide == NULL ? NULL : new_listener(service, IO_FAMILY_PIPE);
    if (self == NULL || !py_port_enter(service->port)) {
        PyMem_Free(wide);
        Py_XDECREF((PyObject *)self);
        return NULL;
    }
    int error = io_pipe_listen(lane_of(self), wide, &self->handle, &os_error);
    PyMem_Free(wide);
    return begin_listening(self, error, os_error);
}
#endif

/* A client that is too late. */
static void drop(py_listener *self, io_native native) {
    atomic_fetch_add_explicit(&self->service->failed, 1, memory_order_relaxed);
    py_stream_close(self->service->port, native, self->family);
}

void py_listener_close(py_listener *self) {
    io_mutex_lock(&registry_of(self)->lock);
    io_handle *handle = self->handle;
    io_native waiting = self->waiting;
    io_op *timer = self->op != NULL && self->op->kind == IO_TIMER ? self->op : NULL;
    self->handle = NULL;
    self->waiting = IO_NATIVE_NONE;
    io_list_remove(&self->link);
    if (timer != NULL)
        (void)io_op_cancel(timer);
    io_mutex_unlock(&registry_of(self)->lock);
    if (handle == NULL)
        return;
    if (waiting != IO_NATIVE_NONE)
        drop(self, waiting);
    bool held = !handle->owned;
    io_handle_close(handle);
    if (held)
        io_handle_release(handle);
    Py_DECREF((PyObject *)self);
}

/* ---- accepting ------------------------------------------------------------------------------- */

static void report_pause(py_listener *self, int error, uint32_t os_error) {
    PyObject *exception = py_error_object(error, os_error, "accept");
    if (exception == NULL)
        PyErr_WriteUnraisable((PyObject *)self);
    else
        py_service_report(self->service, PY_ON_ACCEPT_ERROR, (PyObject *)self, exception);
    Py_XDECREF(exception);
}

/* A client was accepted and cannot be served, because of the exception that is set. */
static void report_lost(py_listener *self, const io_address *peer) {
    PyObject *error = py_error_take();
    PyObject *address = py_address_object(peer);
    atomic_fetch_add_explicit(&self->service->failed, 1, memory_order_relaxed);
    if (address == NULL)
        PyErr_WriteUnraisable((PyObject *)self);
    else
        py_service_report(self->service, PY_ON_LOST, address, error);
    Py_XDECREF(address);
    Py_DECREF(error);
}

/* A new reference, or NULL, which has been told. */
static py_connection *adopt(py_listener *self, io_native native, const io_address *peer,
                            bool post) {
    py_service *service = self->service;
    py_connection *connection = py_service_accept(service, native, self->family, peer, post);
    if (connection == NULL && PyErr_Occurred())
        report_lost(self, peer);
    return connection;
}

typedef enum outcome { NO_CLIENT, BEGINS, WAITS, TOO_LATE } outcome;

/* What becomes of a client, if there is one. Under the registry's lock. */
static outcome decide(py_listener *self, io_native native, const io_address *peer) {
    if (native == IO_NATIVE_NONE)
        return NO_CLIENT;
    if (self->handle == NULL)
        return TOO_LATE;
    if (!full(self->service)) {
        self->service->accepted_now++;
        return BEGINS;
    }
    self->waiting = native;
    self->waiting_peer = *peer;
    return WAITS;
}

/* The client, if there is one, is a connection now, or was refused. */
static void go_on(py_listener *self, outcome client, uint64_t pause_ns) {
    bool entered = io_port_enter(self->service->port->port) == 0;
    io_mutex_lock(&registry_of(self)->lock);
    self->service->accepted_now -= client == BEGINS;
    if (entered && pause_ns > 0)
        pause_accepting(self, pause_ns);
    else if (entered)
        accept_next(self);
    io_mutex_unlock(&registry_of(self)->lock);
    if (entered)
        io_port_leave(self->service->port->port);
}

static void count(py_service *service, bool accepts, int64_t result) {
    if (accepts && result >= 0)
        atomic_fetch_add_explicit(&service->accepted, 1, memory_order_relaxed);
    else if (accepts && result != -IOE_CANCELED)
        atomic_fetch_add_explicit(&service->accept_errors, 1, memory_order_relaxed);
}

bool py_listener_take(io_op *op) {
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
    io_mutex_lock(&registry_of(self)->lock);
    self->op = NULL;
    outcome client = decide(self, native, &peer);
    if (accepts && result != -IOE_CANCELED && self->handle != NULL)
        pause_ns = io_accepting_pause(&self->accepting, result);
    io_mutex_unlock(&registry_of(self)->lock);
    release(self, op);
    count(self->service, accepts, result);
    if (pause_ns > 0)
        report_pause(self, (int)-result, os_error);
    if (client == BEGINS)
        connection = adopt(self, native, &peer, false);
    else if (client == TOO_LATE)
        drop(self, native);
    go_on(self, client, pause_ns);
    if (client == BEGINS && connection == NULL)
        py_listeners_resume(self->service); /* another may wait for the place it was to have */
    Py_DECREF((PyObject *)self);
    if (connection == NULL)
        return true;
    /* In this order: its on_connect may block, and others are to be accepted meanwhile. */
    bool stays = py_connection_take(&connection->io.strand);
    Py_DECREF((PyObject *)connection);
    return stays;
}

void py_listener_collect(io_op *op) {
    py_listener *self = op->owner;
    if (op->kind == IO_ACCEPT && op->result >= 0) /* nobody will take it */
        py_stream_close(self->service->port, ((io_accept *)op)->accepted, self->family);
    self->op = NULL;
    release(self, op);
    Py_DECREF((PyObject *)self);
}

/* One of the service's listeners that can go on; a new reference. Takes what waits there. */
static py_listener *next_to_resume(py_service *service, io_native *native, io_address *peer) {
    py_registry *registry = &service->port->registry;
    py_listener *found = NULL;
    *native = IO_NATIVE_NONE;
    io_mutex_lock(&registry->lock);
    for (io_link *link = registry->listeners.next;
         link != &registry->listeners && !full(service) && found == NULL; link = link->next) {
        py_listener *listener = IO_CONTAINER(link, py_listener, link);
        if (listener->service != service || listener->handle == NULL || listener->op != NULL)
            continue;
        if (listener->waiting != IO_NATIVE_NONE) {
            *native = listener->waiting;
            *peer = listener->waiting_peer;
            listener->waiting = IO_NATIVE_NONE;
            service->accepted_now++;
            found = listener;
            Py_INCREF((PyObject *)found);
        } else {
            accept_next(listener);
        }
    }
    io_mutex_unlock(&registry->lock);
    return found;
}

void py_listeners_resume(py_service *service) {
    io_native native;
    io_address peer;
    if (service->max_connections == 0)
        return;
    while (io_port_enter(service->port->port) == 0) {
        py_listener *listener = next_to_resume(service, &native, &peer);
        io_port_leave(service->port->port); /* what a log handler does is none of our call */
        if (listener == NULL)
            return;
        Py_XDECREF((PyObject *)adopt(listener, native, &peer, true));
        io_mutex_lock(&registry_of(listener)->lock);
        service->accepted_now--;
        io_mutex_unlock(&registry_of(listener)->lock);
        Py_DECREF((PyObject *)listener);
    }
}

/* ---- the type -------------------------------------------------------------------------------- */

static int listener_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_listener *)object)->service);
    return 0;
}

static void listener_dealloc(PyObject *object) {
    py_listener *self = (py_listener *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->service);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *listener_close(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_listener *self = (py_listener *)object;
    if (io_port_enter(self->service->port->port) == 0) {
        py_listener_close(self);
        io_port_leave(self->service->port->port);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(listener_close_doc, "close($self, /)\n--\n\nAccept no more; close the socket.");

static PyMethodDef listener_methods[] = {
    {"close", listener_close, METH_NOARGS, listener_close_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(listener_doc, "A listening socket of a Service. Private: see Server.listen().");

static PyType_Slot listener_slots[] = {
    {Py_tp_doc, (void *)listener_doc},
    {Py_tp_methods, listener_methods},
    {Py_tp_traverse, listener_traverse},
    {Py_tp_dealloc, listener_dealloc},
    {0, NULL},
};

PyType_Spec py_listener_spec = {
    .name = "iocpcore._core.Listener",
    .basicsize = sizeof(py_listener),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = listener_slots,
};
