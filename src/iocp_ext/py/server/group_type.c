/* group_type.c: what the connections of one server have in common, and where they are listed.
 *
 * The registry of a port owns its connections until they are gone; its lock comes before a
 * connection's. A group counts those that are its own. One timer of the group serves the time
 * limits of all: at each tick every connection counts up, and what happens on it sets it to zero.
 */
#include "py/server/server.h"

#include <string.h>

#define TICKS_OF_A_LIMIT 8 /* how exactly a time limit is kept */
#define TICK_LEAST_NS (10 * IO_NS_PER_MS)
#define TICK_MOST_NS IO_NS_PER_SECOND

static py_group *group_type_self_of(PyObject *object) {
    return (py_group *)object;
}

/* ---- registry -------------------------------------------------------------------------------- */

bool py_registry_open(py_registry *registry) {
    io_list_init(&registry->connections);
    io_list_init(&registry->listeners);
    if (io_mutex_init(&registry->lock) == 0)
        return true;
    PyErr_NoMemory();
    return false;
}

void py_registry_close(py_registry *registry) {
    if (registry->connections.next != NULL)
        io_mutex_destroy(&registry->lock);
}

/* New references to those of a group, or to all; perhaps only to those that users may know. */
static PyObject *group_type_list_connections(py_port *port, const py_group *group,
                                             bool established) {
    py_registry *registry = &port->registry;
    for (size_t capacity = 0;;) {
        PyObject *tuple = PyTuple_New((Py_ssize_t)capacity);
        size_t count = 0;
        if (tuple == NULL)
            return NULL;
        io_mutex_lock(&registry->lock);
        io_list *list = &registry->connections;
        for (io_link *link = list->next; link != list; link = link->next) {
            py_connection *connection = IO_CONTAINER(link, py_connection, link);
            if ((group != NULL && connection->group != group) || (established && !connection->told))
                continue;
            if (count < capacity)
                PyTuple_SET_ITEM(tuple, (Py_ssize_t)count, Py_NewRef((PyObject *)connection));
            count++;
        }
        io_mutex_unlock(&registry->lock);
        if (count <= capacity)
            return _PyTuple_Resize(&tuple, (Py_ssize_t)count) < 0 ? NULL : tuple;
        Py_DECREF(tuple);
        capacity = count + count / 8;
    }
}

void py_registry_end(py_port *port, bool leaked) {
    PyObject *connections = group_type_list_connections(port, NULL, false);
    if (connections == NULL)
        PyErr_WriteUnraisable((PyObject *)port);
    for (Py_ssize_t i = 0; connections != NULL && i < PyTuple_GET_SIZE(connections); i++) {
        py_connection *connection = (py_connection *)PyTuple_GET_ITEM(connections, i);
        if (leaked) /* the kernel may write to it for ever */
            Py_INCREF((PyObject *)connection);
        if (io_connection_orphaned(&connection->io, leaked) &&
            !py_connection_run(connection, io_connection_next(&connection->io)))
            PyErr_WriteUnraisable((PyObject *)connection);
    }
    Py_XDECREF(connections);
    py_registry *registry = &port->registry;
    for (;;) {
        py_listener *listener = NULL;
        io_mutex_lock(&registry->lock);
        if (!io_list_empty(&registry->listeners)) {
            listener = IO_CONTAINER(registry->listeners.next, py_listener, link);
            Py_INCREF((PyObject *)listener);
        }
        io_mutex_unlock(&registry->lock);
        if (listener == NULL)
            break;
        py_listener_close(listener);
        Py_DECREF((PyObject *)listener);
    }
}

/* ---- one more connection, one fewer ---------------------------------------------------------- */

static bool group_type_take(io_op *op);
static void group_type_collect(io_op *op, bool leaked);
static const io_owner_ops group_type_owner_ops = {group_type_take, group_type_collect};

static void group_type_start_clock(py_group *self) {
    if (self->clock != NULL || (self->idle_ticks == 0 && self->handshake_ticks == 0) ||
        self->count == 0)
        return;
    io_op *op = io_op_new(&self->port->port->lane, IO_TIMER, &group_type_owner_ops, self);
    if (op == NULL)
        return; /* the next connection tries again */
    Py_INCREF((PyObject *)self);
    self->clock = (io_timer *)op;
    io_timer_submit(self->clock, self->tick_ns);
}

/* Both at once: whoever finds it in the list may use it. */
static int group_type_enlist_and_open(py_connection *connection, io_native native, int family,
                                      bool post, bool *shut, uint32_t *os_error) {
    py_group *self = connection->group;
    io_mutex_lock(&self->port->registry.lock);
    *shut = self->shut;
    int error = io_connection_open(&connection->io, &self->port->port->lane, native, family,
                                   &self->limits, &py_connection_owner_ops, os_error);
    if (error == 0) {
        io_list_push_back(&self->port->registry.connections, &connection->link);
        Py_INCREF((PyObject *)connection);
        self->count++;
        group_type_start_clock(self);
        if (post)
            io_post_submit(&connection->io.strand);
    }
    io_mutex_unlock(&self->port->registry.lock);
    return error;
}

/* True: it was the group's last one. */
static bool group_type_delist(py_connection *connection) {
    py_group *self = connection->group;
    io_mutex_lock(&self->port->registry.lock);
    io_list_remove(&connection->link);
    self->bytes_received += connection->io.bytes_received;
    self->bytes_sent += connection->io.bytes_sent;
    bool last = --self->count == 0;
    io_mutex_unlock(&self->port->registry.lock);
    return last;
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

void py_group_gone(py_connection *connection) {
    py_group *self = connection->group;
    atomic_fetch_add_explicit(connection->told ? &self->closed : &self->failed, 1,
                              memory_order_relaxed);
    py_host_uncount(self, connection);
    bool last = group_type_delist(connection);
    py_listeners_resume(self);
    if (last)
        py_group_report(self, PY_ON_EMPTY, NULL, NULL);
    Py_DECREF((PyObject *)connection);
}

void py_stream_close(const py_port *port, io_native native, int family) {
#ifdef _WIN32
    if (family == IO_FAMILY_PIPE) {
        if (native != IO_NATIVE_NONE)
            io_native_close_file(native);
        return;
    }
#endif
    (void)family;
    py_native_close(port, native);
}

/* The same where the port is open; the simulation's too. */
static void group_type_discard(py_group *self, io_native native, int family) {
    io_handle *handle;
    uint32_t os_error;
    bool entered = io_port_enter(self->port->port) == 0;
    if (entered &&
        io_handle_adopt(&self->port->port->lane, native, family, &handle, &os_error) == 0)
        io_handle_close(handle);
    else
        py_stream_close(self->port, native, family);
    if (entered)
        io_port_leave(self->port->port);
}

static void group_type_refuse_host(py_group *self, py_connection *connection) {
    atomic_fetch_add_explicit(&self->refused, 1, memory_order_relaxed);
    PyObject *name = py_connection_peername(connection);
    if (name != NULL)
        py_group_report(self, PY_ON_REFUSED, name, NULL);
    else
        PyErr_WriteUnraisable((PyObject *)self);
    Py_XDECREF(name);
}

/* Opens it, or says why not with an exception; the native socket is taken over in any case. */
static bool group_type_open_connection(py_connection *connection, io_native native, int family,
                                       bool post) {
    py_group *self = connection->group;
    uint32_t os_error = 0;
    if (!py_port_enter(self->port)) {
        py_stream_close(self->port, native, family);
        return false;
    }
    bool shut = false;
    int error = group_type_enlist_and_open(connection, native, family, post, &shut, &os_error);
    if (error) {
        group_type_discard(self, native, family);
    } else if (shut) { /* it would not hear of the end, which has begun */
        connection->ending = connection->closing = true;
        (void)io_connection_give_up(&connection->io, false);
    }
    py_port_leave(self->port);
    if (error)
        py_error_raise(-error, os_error, "open the connection");
    return error == 0;
}

/* `whole`: others get it before its first callback. */
static py_connection *group_type_make_connection(py_group *self, io_native native, int family,
                                                 const io_address *peer, PyObject *context,
                                                 bool whole, bool post) {
    py_connection *connection = py_connection_new(self, peer);
    size_t number = 0;
    bool counted = connection != NULL && py_host_count(self, connection, &number);
    bool refused = self->max_per_address != 0 && number > self->max_per_address;
    if (!counted || refused) {
        group_type_discard(self, native, family);
        if (refused) {
            py_host_uncount(self, connection);
            group_type_refuse_host(self, connection);
        }
        Py_XDECREF((PyObject *)connection);
        return NULL;
    }
    if (context != NULL)
        Py_SETREF(connection->context, Py_NewRef(context));
    if (whole && !py_connection_equip(connection))
        group_type_discard(self, native, family);
    else if (group_type_open_connection(connection, native, family, post))
        return connection;
    PyObject *error = py_error_take();
    py_host_uncount(self, connection);
    py_connection_unequip(connection);
    Py_DECREF((PyObject *)connection);
    PyErr_SetRaisedException(error);
    return NULL;
}

py_connection *py_group_accept(py_group *self, io_native native, int family, const io_address *peer,
                               bool post) {
    return group_type_make_connection(self, native, family, peer, NULL, false, post);
}

/* ---- the clock ------------------------------------------------------------------------------- */

/* True: it is overdue, and its stage is to say so first, which this lock does not allow. */
static bool group_type_tick(py_group *self, py_connection *connection) {
    uint32_t silent = io_connection_tick(&connection->io);
    bool overdue = self->idle_ticks != 0 && silent >= self->idle_ticks;
    if (!connection->told && self->handshake_ticks != 0)
        overdue |= connection->handshake_ticks++ >= self->handshake_ticks;
    connection->overdue = overdue && connection->told && connection->stage_sends;
    if (overdue && !connection->overdue)
        py_connection_time_out(connection, false);
    return connection->overdue;
}

static void group_type_end_overdue(py_group *self) {
    PyObject *connections = group_type_list_connections(self->port, self, false);
    if (connections == NULL)
        PyErr_WriteUnraisable((PyObject *)self); /* the next tick tries again */
    for (Py_ssize_t i = 0; connections != NULL && i < PyTuple_GET_SIZE(connections); i++) {
        py_connection *connection = (py_connection *)PyTuple_GET_ITEM(connections, i);
        if (connection->overdue)
            py_connection_time_out(connection, true);
    }
    Py_XDECREF(connections);
}

static void group_type_collect(io_op *op, bool leaked) {
    py_group *self = op->owner;
    if (leaked)
        return;
    self->clock = NULL;
    io_op_release(op);
    Py_DECREF((PyObject *)self);
}

static bool group_type_take(io_op *op) {
    py_group *self = op->owner;
    py_registry *registry = &self->port->registry;
    bool due = op->result >= 0 && io_port_enter(self->port->port) == 0;
    bool overdue = false;
    io_op_release(op);
    io_mutex_lock(&registry->lock);
    self->clock = NULL;
    if (due) {
        io_list *list = &registry->connections;
        for (io_link *link = list->next; link != list; link = link->next) {
            py_connection *connection = IO_CONTAINER(link, py_connection, link);
            if (connection->group == self)
                overdue |= group_type_tick(self, connection);
        }
        group_type_start_clock(self);
    }
    io_mutex_unlock(&registry->lock);
    if (overdue)
        group_type_end_overdue(self);
    if (due)
        py_port_leave(self->port);
    Py_DECREF((PyObject *)self);
    return true;
}

/* ---- making ---------------------------------------------------------------------------------- */

static const char *const group_type_callback_names[PY_CALLBACKS] = {
    "on_connect", "on_data",   "on_message", "on_eof",          "on_drain",   "on_close",
    "on_error",   "on_failed", "on_empty",   "on_accept_error", "on_refused", "on_lost"};

typedef struct group_arguments {
    PyObject *callbacks[PY_CALLBACKS];
    PyObject *framing, *stage, *executor, *idle_timeout, *handshake_timeout;
    unsigned long long write_high, write_low, max_write_buffer, max_connections, max_per_address;
    unsigned int read_size;
    int reads_on;
} group_arguments;

static bool group_type_take_callable(PyObject *value, const char *name, PyObject **place) {
    if (value == NULL || value == Py_None)
        return true;
    if (!PyCallable_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be callable, not %.200s", name,
                     Py_TYPE(value)->tp_name);
        return false;
    }
    *place = Py_NewRef(value);
    return true;
}

static bool group_type_take_callables(py_group *self, const group_arguments *given) {
    for (int i = 0; i < PY_CALLBACKS; i++)
        if (!group_type_take_callable(given->callbacks[i], group_type_callback_names[i],
                                      &self->callbacks[i]))
            return false;
    self->frames = given->framing == NULL || given->framing == Py_None
                       ? NULL
                       : py_framing_of(self->port->state, given->framing);
    if (self->frames != NULL)
        self->framing = Py_NewRef(given->framing);
    else if (!group_type_take_callable(given->framing, "framing", &self->framing))
        return false;
    return group_type_take_callable(given->stage, "stage", &self->make_stage) &&
           group_type_take_callable(given->executor, "executor", &self->get_executor);
}

static uint32_t group_type_ticks_of(uint64_t limit_ns, uint64_t tick_ns) {
    uint64_t ticks = limit_ns == IO_NEVER ? 0 : limit_ns / tick_ns + 1;
    return ticks < UINT32_MAX ? (uint32_t)ticks : UINT32_MAX;
}

static bool group_type_take_limits(py_group *self, const group_arguments *given) {
    uint64_t idle_ns, handshake_ns;
    if (!py_arg_timeout(given->idle_timeout, "idle_timeout", &idle_ns) ||
        !py_arg_timeout(given->handshake_timeout, "handshake_timeout", &handshake_ns))
        return false;
    if (given->read_size < 1 || given->read_size > IO_BUFFER_POOLED_MAX) {
        PyErr_Format(PyExc_ValueError, "read_size must be 1 to %d", (int)IO_BUFFER_POOLED_MAX);
        return false;
    }
    if (self->make_stage == NULL)
        handshake_ns = IO_NEVER; /* there is none */
    uint64_t least_ns = idle_ns < handshake_ns ? idle_ns : handshake_ns;
    self->tick_ns = least_ns / TICKS_OF_A_LIMIT;
    if (self->tick_ns < TICK_LEAST_NS)
        self->tick_ns = TICK_LEAST_NS;
    if (self->tick_ns > TICK_MOST_NS)
        self->tick_ns = TICK_MOST_NS;
    self->idle_ticks = group_type_ticks_of(idle_ns, self->tick_ns);
    self->handshake_ticks = group_type_ticks_of(handshake_ns, self->tick_ns);
    self->limits = (io_connection_limits){
        .write_high = given->write_high,
        .write_low = given->write_low,
        .max_write_buffer = given->max_write_buffer,
        .read_size = given->read_size,
        .reads_on = given->reads_on != 0,
    };
    self->max_connections = (size_t)given->max_connections;
    self->max_per_address = (size_t)given->max_per_address;
    return true;
}

static PyObject *group_type_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"port",
                            "on_connect",
                            "on_data",
                            "on_message",
                            "on_eof",
                            "on_drain",
                            "on_close",
                            "on_error",
                            "on_failed",
                            "on_empty",
                            "on_accept_error",
                            "on_refused",
                            "on_lost",
                            "framing",
                            "stage",
                            "executor",
                            "idle_timeout",
                            "handshake_timeout",
                            "write_high",
                            "write_low",
                            "max_write_buffer",
                            "max_connections",
                            "max_connections_per_address",
                            "read_size",
                            "reads_on",
                            NULL};
    py_state *state = PyType_GetModuleState(type);
    PyObject *port;
    group_arguments given = {.write_high = 1 << 18,
                             .write_low = 1 << 16,
                             .max_write_buffer = 1 << 24,
                             .read_size = 1 << 16};
    PyObject **callback = given.callbacks;
    if (!PyArg_ParseTupleAndKeywords(
            args, keywords, "O!|$OOOOOOOOOOOOOOOOOKKKKKIp:ConnectionGroup", names, state->port_type,
            &port, &callback[0], &callback[1], &callback[2], &callback[3], &callback[4],
            &callback[5], &callback[6], &callback[7], &callback[8], &callback[9], &callback[10],
            &callback[11], &given.framing, &given.stage, &given.executor, &given.idle_timeout,
            &given.handshake_timeout, &given.write_high, &given.write_low, &given.max_write_buffer,
            &given.max_connections, &given.max_per_address, &given.read_size, &given.reads_on))
        return NULL;
    py_group *self = (py_group *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->port = (py_port *)Py_NewRef(port);
    self->addresses = PyDict_New();
    if (self->addresses == NULL || !group_type_take_callables(self, &given) ||
        !group_type_take_limits(self, &given))
        Py_CLEAR(self);
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

/* Not the port, which connections need to the last. */
static int group_type_clear(PyObject *object) {
    py_group *self = group_type_self_of(object);
    for (int i = 0; i < PY_CALLBACKS; i++)
        Py_CLEAR(self->callbacks[i]);
    Py_CLEAR(self->make_stage);
    Py_CLEAR(self->get_executor);
    return 0;
}

static void group_type_dealloc(PyObject *object) {
    py_group *self = group_type_self_of(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    (void)group_type_clear(object);
    Py_CLEAR(self->framing);
    Py_CLEAR(self->addresses);
    Py_CLEAR(self->port);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- methods --------------------------------------------------------------------------------- */

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
        PyErr_Clear(); /* the name of an interface may be in it; then the system is asked later */
        address.length = 0;
    }
    return (PyObject *)group_type_make_connection(group_type_self_of(object), (io_native)native,
                                                  family, &address, context, true, true);
}

static PyObject *group_type_connections(PyObject *object, PyObject *Py_UNUSED(unused)) {
    return group_type_list_connections(group_type_self_of(object)->port, group_type_self_of(object),
                                       true);
}

/* The connections that are there to be ended: none if their port is closed, which ends them. */
static PyObject *group_type_list_living(py_group *self) {
    if (io_port_enter(self->port->port) != 0)
        return PyTuple_New(0);
    io_port_leave(self->port->port);
    return group_type_list_connections(self->port, self, false);
}

static PyObject *group_type_shutdown(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_group *self = group_type_self_of(object);
    io_mutex_lock(&self->port->registry.lock);
    self->shut = true;
    io_mutex_unlock(&self->port->registry.lock);
    PyObject *connections = group_type_list_living(self);
    if (connections == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(connections); i++) {
        py_connection *connection = (py_connection *)PyTuple_GET_ITEM(connections, i);
        if (connection->told) {
            py_connection_end(connection, true, false);
        } else {
            connection->ending = connection->closing = true;
            (void)io_connection_give_up(&connection->io, false);
        }
    }
    Py_DECREF(connections);
    Py_RETURN_NONE;
}

static PyObject *group_type_abort(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_group *self = group_type_self_of(object);
    PyObject *connections = group_type_list_living(self);
    long aborted = 0;
    if (connections == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(connections); i++) {
        py_connection *connection = (py_connection *)PyTuple_GET_ITEM(connections, i);
        connection->ending = connection->closing = true;
        aborted += io_connection_give_up(&connection->io, py_connection_withholds(connection));
    }
    Py_DECREF(connections);
    atomic_fetch_add_explicit(&self->aborted, (uint64_t)aborted, memory_order_relaxed);
    return PyLong_FromLong(aborted);
}

typedef struct totals {
    uint64_t established, establishing, queued, received, sent;
} totals;

/* Of those that are gone and those that are not. */
static totals group_type_add_up(py_group *self) {
    py_registry *registry = &self->port->registry;
    io_mutex_lock(&registry->lock);
    totals sum = {.received = self->bytes_received, .sent = self->bytes_sent};
    for (io_link *link = registry->connections.next; link != &registry->connections;
         link = link->next) {
        py_connection *connection = IO_CONTAINER(link, py_connection, link);
        uint64_t received, sent;
        if (connection->group != self)
            continue;
        sum.established += connection->told;
        sum.establishing += !connection->told;
        sum.queued += io_connection_pending(&connection->io, &received, &sent);
        sum.received += received;
        sum.sent += sent;
    }
    io_mutex_unlock(&registry->lock);
    return sum;
}

static PyObject *group_type_stats(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_group *self = group_type_self_of(object);
    totals sum = group_type_add_up(self);
    uint64_t runs = self->runs;
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsKsKsdsd}", "accepted", self->accepted,
                         "connections", sum.established, "establishing", sum.establishing, "closed",
                         self->closed, "failed", self->failed, "refused", self->refused, "aborted",
                         self->aborted, "accept_errors", self->accept_errors, "bytes_received",
                         sum.received, "bytes_sent", sum.sent, "bytes_queued", sum.queued,
                         "messages", self->messages, "callback_seconds_mean",
                         runs ? (double)self->callback_ns / (double)runs * 1e-9 : 0.0,
                         "callback_seconds_max", (double)self->callback_max_ns * 1e-9);
}

static PyObject *group_type_get_count(PyObject *object, void *Py_UNUSED(closure)) {
    py_group *self = group_type_self_of(object);
    io_mutex_lock(&self->port->registry.lock);
    size_t count = self->count;
    io_mutex_unlock(&self->port->registry.lock);
    return PyLong_FromSize_t(count);
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
    {"adopt", (PyCFunction)(void (*)(void))group_type_adopt, METH_VARARGS | METH_KEYWORDS, group_type_adopt_doc},
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

PyDoc_STRVAR(group_type_doc,
             "What the connections of one server, or of one kind of client, have in "
             "common. Private: see Server and connect().");

static PyType_Slot group_type_slots[] = {
    {Py_tp_doc, (void *)group_type_doc},   {Py_tp_new, group_type_new},
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
