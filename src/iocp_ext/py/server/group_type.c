/* group_type.c: ConnectionGroup: the hooks that net/group.h calls, and the Python type.
 *
 * Server and connect() each build on one group. Everything that does not need Python (admission,
 * limits, timeouts, the end of the port) is in net/. The hooks are called with no lock held, by an
 * attached thread, and may run any Python code unless noted.
 *
 * The group's references to its members and listeners are in lists of net/, which the garbage
 * collector cannot see. To the collector an open connection is referenced from outside. So neither
 * a connection nor its group, which it refers to, is ever cleared while the connection is open. */
#include "py/server/server.h"

static py_group *group_type_self_of(PyObject *object) {
    return (py_group *)object;
}

static py_group *group_type_of(io_group *group) {
    return IO_CONTAINER(group, py_group, io);
}

static py_connection *group_type_connection_of(io_member *member) {
    return IO_CONTAINER(member, py_connection, member);
}

/* ---- hooks ----------------------------------------------------------------------------------- */

/* See io_group_hooks for what each of them must do. */

/* The new reference becomes the group's. If this fails, the exception stays set until
 * group_type_lost takes it: net/ calls nothing in between that could run Python code. */
static io_member *group_type_make(io_group *group, const io_address *peer) {
    py_connection *connection = py_connection_new(group_type_of(group), peer);
    return connection != NULL ? &connection->member : NULL;
}

static bool group_type_run(io_member *member, io_connection_event event) {
    return py_connection_run(group_type_connection_of(member), event);
}

/* At the end of the port there is no run loop that an exception could leave. The extra reference is
 * for the report: the run may have released the last other one. */
static void group_type_run_last(io_member *member, io_connection_event event) {
    py_connection *connection = group_type_connection_of(member);
    Py_INCREF((PyObject *)connection);
    if (!py_connection_run(connection, event))
        PyErr_WriteUnraisable((PyObject *)connection);
    Py_DECREF((PyObject *)connection);
}

/* Graceful, but without lingering: a shutdown must not depend on when the peers end their
 * streams. */
static void group_type_close(io_member *member) {
    py_connection_end(group_type_connection_of(member), true, false);
}

/* Must not call Python, because the port may be entered. What the stage still has to write counts
 * as lost. */
static bool group_type_give_up(io_member *member) {
    py_connection *connection = group_type_connection_of(member);
    return io_connection_give_up(&connection->io, py_stage_pending(&connection->stage));
}

/* Only an established connection tells its stage: before that, the stage has no session that a
 * closing handshake could end. */
static void group_type_time_out(io_member *member, io_reason reason) {
    py_connection *connection = group_type_connection_of(member);
    py_connection_time_out(connection, reason, io_connection_is_known(&connection->io));
}

static void group_type_release_connection(io_member *member) {
    Py_DECREF((PyObject *)group_type_connection_of(member));
}

/* The clock's operation refers to the group, so the group must outlive it even if the user drops
 * the group and its last member leaves. */
static void group_type_hold(io_group *group) {
    Py_INCREF((PyObject *)group_type_of(group));
}

static void group_type_release(io_group *group) {
    Py_DECREF((PyObject *)group_type_of(group));
}

void py_group_report(py_group *self, py_callback which, PyObject *one, PyObject *two) {
    PyObject *function = self->callbacks[which];
    if (function == NULL)
        return;
    PyObject *answer = PyObject_CallFunctionObjArgs(function, one, two, NULL);
    if (answer == NULL)
        PyErr_WriteUnraisable(function);
    Py_XDECREF(answer);
}

static void group_type_empty(io_group *group) {
    py_group_report(group_type_of(group), PY_ON_EMPTY, NULL, NULL);
}

static void group_type_refused(io_group *group, const io_address *peer) {
    py_group *self = group_type_of(group);
    PyObject *address = py_address_object(peer);
    if (address == NULL)
        PyErr_WriteUnraisable((PyObject *)self);
    else
        py_group_report(self, PY_ON_REFUSED, address, NULL);
    Py_XDECREF(address);
}

/* Raises the exception for an error of io_group_adopt or of opening an accepted client. */
static void group_type_raise_not_opened(int error, uint32_t os_error) {
    if (error == -IOE_CLOSED || error == -IOE_FORKED)
        py_error_entering(error);
    else
        py_error_raise(error, os_error, "open the connection");
}

/* Reports a client that could not become a connection. `error` 0: group_type_make has failed, and
 * its exception is still set. The exception is taken before anything else is created, because
 * Python must not be called with one set. */
static void group_type_lost(io_group *group, const io_address *peer, int error, uint32_t os_error) {
    py_group *self = group_type_of(group);
    if (error != 0)
        group_type_raise_not_opened(error, os_error);
    PyObject *exception = py_error_take();
    PyObject *address = py_address_object(peer);
    if (address == NULL)
        PyErr_WriteUnraisable((PyObject *)self);
    else
        py_group_report(self, PY_ON_LOST, address, exception);
    Py_XDECREF(address);
    Py_DECREF(exception);
}

static const io_group_hooks group_type_hooks = {
    .connection_ops = &py_connection_owner_ops,
    .make = group_type_make,
    .run = group_type_run,
    .run_last = group_type_run_last,
    .close = group_type_close,
    .give_up = group_type_give_up,
    .time_out = group_type_time_out,
    .release = group_type_release_connection,
    .hold_group = group_type_hold,
    .release_group = group_type_release,
    .empty = group_type_empty,
    .refused = group_type_refused,
    .lost = group_type_lost,
    .paused = py_listener_paused,
    .release_listener = py_listener_release,
};

/* ---- making ---------------------------------------------------------------------------------- */

/* `frames` points into the object that `framing` keeps alive, so both stay until dealloc. */
static void group_type_take_functions(py_group *self, const py_group_options *options) {
    for (int i = 0; i < PY_CALLBACKS; i++)
        self->callbacks[i] = Py_XNewRef(options->callbacks[i]);
    self->framing = Py_XNewRef(options->framing);
    if (options->framing != NULL)
        self->frames = py_framing_of(self->port->state, options->framing);
    self->make_stage = Py_XNewRef(options->stage);
    self->get_executor = Py_XNewRef(options->executor);
}

/* Must come after group_type_take_functions, which decides whether there is a handshake to
 * limit. */
static void group_type_take_limits(py_group *self, const py_group_options *options) {
    uint64_t handshake_ns = options->handshake_timeout;
    if (self->make_stage == NULL)
        handshake_ns = IO_NEVER; /* without a stage there is no handshake */
    io_group_set_timeouts(&self->io, options->idle_timeout, handshake_ns);
    self->io.limits = (io_connection_limits){
        .write_high = options->write_high,
        .write_low = options->write_low,
        .max_write_buffer = options->max_write_buffer,
        .read_size = (uint32_t)options->read_size,
        .reads_on = options->reads_on != 0,
    };
    self->io.max_connections = (size_t)options->max_connections;
    self->io.max_per_address = (size_t)options->max_connections_per_address;
}

/* Does not check that the port is open: listen() and adopt() do, when they use it. From
 * io_group_init on the object is complete; if the registry cannot be created, dealloc gets one
 * whose fields are zero, which it accepts. */
static PyObject *group_type_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    py_state *state = PyType_GetModuleState(type);
    PyObject *port;
    py_group_options options;
    if (!PyArg_ParseTuple(args, "O!:ConnectionGroup", state->port_type, &port) ||
        !py_group_options_parse(state, keywords, &options))
        return NULL;
    py_group *self = (py_group *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->port = (py_port *)Py_NewRef(port);
    io_registry *registry = io_registry_of(self->port->port);
    if (registry == NULL) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    io_group_init(&self->io, registry, &self->port->port->lane, &group_type_hooks);
    group_type_take_functions(self, &options);
    group_type_take_limits(self, &options);
    return (PyObject *)self;
}

static int group_type_traverse(PyObject *object, visitproc visit, void *arg) {
    py_group *self = group_type_self_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->port);
    for (int i = 0; i < PY_CALLBACKS; i++)
        Py_VISIT(self->callbacks[i]);
    Py_VISIT(self->framing);
    Py_VISIT(self->make_stage);
    Py_VISIT(self->get_executor);
    return 0;
}

/* The port and `framing` stay until dealloc: connections use them until they are freed. */
static int group_type_clear(PyObject *object) {
    py_group *self = group_type_self_of(object);
    for (int i = 0; i < PY_CALLBACKS; i++)
        Py_CLEAR(self->callbacks[i]);
    Py_CLEAR(self->make_stage);
    Py_CLEAR(self->get_executor);
    return 0;
}

/* Members, listeners and the clock all hold references to the group, so net/ has nothing to free
 * here. */
static void group_type_dealloc(PyObject *object) {
    py_group *self = group_type_self_of(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    (void)group_type_clear(object);
    Py_CLEAR(self->framing);
    Py_CLEAR(self->port);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- methods --------------------------------------------------------------------------------- */

/* Listener.close() or the end of the port closes the socket. If this raises, it stays the
 * caller's. */
static PyObject *group_type_listen(PyObject *object, PyObject *args) {
    Py_ssize_t native;
    int family;
    if (!PyArg_ParseTuple(args, "ni:listen", &native, &family))
        return NULL;
    return py_listener_new(group_type_self_of(object), (io_native)native, family);
}

#ifdef _WIN32
static PyObject *group_type_listen_pipe(PyObject *object, PyObject *name) {
    return py_listener_new_pipe(group_type_self_of(object), name);
}

PyDoc_STRVAR(group_type_listen_pipe_doc, "listen_pipe($self, name, /)\n--\n\n"
                                         "Make a named pipe and accept its clients. A Listener.");
#endif

/* Opens the connection, taking over the native socket even on failure. The caller of adopt() sees
 * the connection before its first callback, so it is equipped before it is opened. From
 * io_group_adopt on, a worker may run it, to its end, before that call has returned; so the group's
 * reference is taken first. */
static bool group_type_open_connection(py_connection *connection, io_native native, int family) {
    py_group *self = connection->group;
    uint32_t os_error = 0;
    if (!py_connection_equip(connection)) {
        io_port_close_native(self->port->port, native, family);
        return false;
    }
    Py_INCREF((PyObject *)connection); /* the group's reference */
    int error = io_group_adopt(&self->io, &connection->member, native, family, &os_error);
    if (error) {
        Py_DECREF((PyObject *)connection);
        group_type_raise_not_opened(error, os_error);
    }
    return error == 0;
}

/* A new Connection of a connected socket, which it takes over even on failure. */
static PyObject *group_type_make_connection(py_group *self, io_native native, int family,
                                            const io_address *peer, PyObject *context) {
    py_connection *connection = py_connection_new(self, peer);
    if (connection == NULL) {
        io_port_close_native(self->port->port, native, family);
        return NULL;
    }
    if (context != NULL)
        Py_SETREF(connection->context, Py_NewRef(context));
    if (group_type_open_connection(connection, native, family))
        return (PyObject *)connection;
    PyObject *error = py_error_take();
    /* The framer and the stage may refer to the connection: a cycle. */
    py_connection_unequip(connection);
    Py_DECREF((PyObject *)connection);
    PyErr_SetRaisedException(error);
    return NULL;
}

static PyObject *group_type_adopt(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"native", "family", "peer", "context", NULL};
    Py_ssize_t native;
    int family;
    PyObject *peer = Py_None, *context = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "ni|$OO:adopt", names, &native, &family, &peer,
                                     &context))
        return NULL;
    io_address address = {0};
    bool known = peer != Py_None && (family == AF_INET || family == AF_INET6);
    if (known && !py_address_parse(peer, "peer", family, &address)) {
        /* An IPv6 address may contain the name of an interface. peername asks the system then. */
        PyErr_Clear();
        address.length = 0;
    }
    return group_type_make_connection(group_type_self_of(object), (io_native)native, family,
                                      &address, context);
}

/* Connections that are still in their handshake do not exist for the user. The walk keeps each
 * member alive while it is added to the list; the list then has its own reference. Stopping the
 * walk can release a member, and freeing one must not happen with an exception set. */
static PyObject *group_type_connections(PyObject *object, PyObject *Py_UNUSED(unused)) {
    PyObject *list = PyList_New(0);
    io_walk walk;
    if (list == NULL)
        return NULL;
    for (io_member *member = io_walk_first(&walk, &group_type_self_of(object)->io); member != NULL;
         member = io_walk_next(&walk)) {
        py_connection *connection = group_type_connection_of(member);
        if (!io_connection_is_known(&connection->io) ||
            PyList_Append(list, (PyObject *)connection) == 0)
            continue;
        PyObject *error = py_error_take();
        io_walk_stop(&walk);
        Py_DECREF(list);
        PyErr_SetRaisedException(error);
        return NULL;
    }
    PyObject *tuple = PyList_AsTuple(list);
    Py_DECREF(list);
    return tuple;
}

/* Also marks the group: connections that are added later are ended at once. */
static PyObject *group_type_shutdown(PyObject *object, PyObject *Py_UNUSED(unused)) {
    io_group_shutdown(&group_type_self_of(object)->io);
    Py_RETURN_NONE;
}

static PyObject *group_type_abort(PyObject *object, PyObject *Py_UNUSED(unused)) {
    return PyLong_FromSize_t(io_group_abort(&group_type_self_of(object)->io));
}

/* Figures of net/ are copied under its lock. Those of callbacks are read one by one, so the mean
 * can be slightly off while connections run. */
static PyObject *group_type_stats(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_group *self = group_type_self_of(object);
    io_group_figures now;
    io_group_get_figures(&self->io, &now);
    uint64_t runs = self->runs;
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsKsKsdsd}", "accepted", now.accepted, "connections",
                         now.established, "establishing", now.establishing, "closed", now.closed,
                         "failed", now.failed, "refused", now.refused, "aborted", now.aborted,
                         "accept_errors", now.accept_errors, "bytes_received", now.bytes_received,
                         "bytes_sent", now.bytes_sent, "bytes_queued", now.bytes_queued, "messages",
                         self->messages, "callback_seconds_mean",
                         runs ? (double)self->callback_ns / (double)runs * 1e-9 : 0.0,
                         "callback_seconds_max", (double)self->callback_max_ns * 1e-9);
}

static PyObject *group_type_get_count(PyObject *object, void *Py_UNUSED(closure)) {
    return PyLong_FromSize_t(io_group_count(&group_type_self_of(object)->io));
}

PyDoc_STRVAR(group_type_listen_doc,
             "listen($self, native, family, /)\n--\n\n"
             "Take over a listening socket and accept connections. A Listener.");
PyDoc_STRVAR(group_type_adopt_doc,
             "adopt($self, /, native, family, *, peer=None, context=None)\n--\n\n"
             "Take over a connected, non-blocking socket. A Connection.");
PyDoc_STRVAR(group_type_connections_doc, "connections($self, /)\n--\n\n"
                                         "Those that are established and not gone, as a tuple.");
PyDoc_STRVAR(group_type_shutdown_doc,
             "shutdown($self, /)\n--\n\n"
             "Every connection flushes, ends and closes, and waits for no peer.");
PyDoc_STRVAR(group_type_abort_doc,
             "abort($self, /)\n--\n\nClose what is left; how many lose something.");
PyDoc_STRVAR(group_type_stats_doc, "stats($self, /)\n--\n\nFigures since it was made, as a dict.");

// clang-format off
static PyMethodDef group_type_methods[] = {
    {"listen", group_type_listen, METH_VARARGS, group_type_listen_doc},
#ifdef _WIN32
    {"listen_pipe", group_type_listen_pipe, METH_O, group_type_listen_pipe_doc},
#endif
    {"adopt", (PyCFunction)(void (*)(void))group_type_adopt, METH_VARARGS | METH_KEYWORDS,
     group_type_adopt_doc},
    {"connections", group_type_connections, METH_NOARGS, group_type_connections_doc},
    {"shutdown", group_type_shutdown, METH_NOARGS, group_type_shutdown_doc},
    {"abort", group_type_abort, METH_NOARGS, group_type_abort_doc},
    {"stats", group_type_stats, METH_NOARGS, group_type_stats_doc},
    {NULL, NULL, 0, NULL},
};
// clang-format on

static PyGetSetDef group_type_getset[] = {
    {"count", group_type_get_count, NULL, "How many connections are not gone.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot group_type_slots[] = {
    {Py_tp_doc, (void *)py_group_doc},     {Py_tp_new, group_type_new},
    {Py_tp_methods, group_type_methods},   {Py_tp_getset, group_type_getset},
    {Py_tp_traverse, group_type_traverse}, {Py_tp_clear, group_type_clear},
    {Py_tp_dealloc, group_type_dealloc},   {0, NULL},
};

PyType_Spec py_group_spec = {
    .name = "iocpcore._core.ConnectionGroup",
    .basicsize = sizeof(py_group),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = group_type_slots,
};
