/* port_type.c: iocpcore.CompletionPort: opening and closing, handles, figures.
 *
 * The submitting methods are in port_submit.c, get() and get_many() in port_get.c, run() in
 * port_run.c.
 *
 * Closing is the hard part. It must end everything in flight exactly once, while other threads are
 * inside the port, and must not free memory that the kernel may still write to. See
 * port_type_close_completely.
 *
 * The Python object outlives the closed port: Operations, associations, groups and sockets refer to
 * it. io_port is freed with the object, so they can call the core at any time, which refuses. */
#include "py/port/port.h"

static const uint64_t port_type_close_timeout_ns = 5 * IO_NS_PER_SECOND;

static py_port *port_type_self_of(PyObject *object) {
    return (py_port *)object;
}

/* ---- opening --------------------------------------------------------------------------------- */

#ifdef Py_GIL_DISABLED

/* module.name() */
static PyObject *port_type_call_imported(const char *module, const char *name) {
    PyObject *imported = PyImport_ImportModule(module);
    PyObject *answer = imported ? PyObject_CallMethod(imported, name, NULL) : NULL;
    Py_XDECREF(imported);
    return answer;
}

/* A free-threaded build: the number of processors, or 1 if the GIL is enabled at run time. With a
 * GIL, more than one worker in callbacks would only contend for it. */
static bool port_type_default_concurrency(long long *concurrency) {
    PyObject *gil = port_type_call_imported("sys", "_is_gil_enabled");
    PyObject *count = gil == Py_False ? port_type_call_imported("os", "process_cpu_count") : NULL;
    *concurrency = count != NULL && PyLong_Check(count) ? PyLong_AsLong(count) : 1;
    Py_XDECREF(count);
    Py_XDECREF(gil);
    return PyErr_Occurred() == NULL;
}

#else

static bool port_type_default_concurrency(long long *concurrency) {
    *concurrency = 1;
    return true;
}

#endif

/* 0 and an argument that is not given both mean the default. */
static bool port_type_parse_concurrency(PyObject *value, long long *concurrency) {
    *concurrency = 0;
    if (value != NULL && !py_arg_integer(value, "concurrency", 0, INT32_MAX, concurrency))
        return false;
    return *concurrency > 0 || port_type_default_concurrency(concurrency);
}

/* ---- open ports ------------------------------------------------------------------------------ */

/* Adds the port to the module's list of open ports, which finds handles that belong to another port
 * and closes ports at exit. A dict, not a WeakSet: other threads open and close ports during an
 * iteration, and only a dict's values can be copied in one step. The references are weak, so that a
 * forgotten port is still closed by its finalizer. The address of the port can serve as key because
 * closing removes it before the memory is freed. */
static bool port_type_list(py_port *self) {
    PyObject *address = PyLong_FromVoidPtr(self);
    PyObject *reference = PyWeakref_NewRef((PyObject *)self, NULL);
    bool listed = address != NULL && reference != NULL &&
                  PyDict_SetItem(self->state->open_ports, address, reference) == 0;
    Py_XDECREF(address);
    Py_XDECREF(reference);
    return listed;
}

static bool port_type_unlist(py_port *self) {
    if (self->state->open_ports == NULL) /* the module was cleared first */
        return true;
    PyObject *address = PyLong_FromVoidPtr(self);
    bool unlisted = address != NULL && PyDict_DelItem(self->state->open_ports, address) == 0;
    /* Not listed if opening has failed. */
    if (!unlisted && address != NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
        unlisted = true;
    }
    Py_XDECREF(address);
    return unlisted;
}

/* The list keeps the ports alive, but another thread may close them at any time. Ports that have
 * died since the dict was copied are left out. */
PyObject *py_open_ports(py_state *state) {
    PyObject *references = PyDict_Values(state->open_ports);
    PyObject *ports = references == NULL ? NULL : PyList_New(0);
    for (Py_ssize_t i = 0; ports != NULL && i < PyList_GET_SIZE(references); i++) {
        PyObject *port = NULL;
        int found = PyWeakref_GetRef(PyList_GET_ITEM(references, i), &port);
        if (found < 0 || (found > 0 && PyList_Append(ports, port) < 0))
            Py_CLEAR(ports);
        Py_XDECREF(port);
    }
    Py_XDECREF(references);
    return ports;
}

/* ---- opening and closing --------------------------------------------------------------------- */

/* If this fails, the caller frees the object. The finalizer then closes what was opened: a port
 * that could not be listed is open. */
static bool port_type_open(py_port *self, const io_backend *backend, uint32_t concurrency) {
    uint32_t os_error = 0;
    if (!py_table_open(&self->table))
        return false;
    int error = io_port_open(&self->port, backend, concurrency, &os_error);
    if (error) {
        self->port = NULL;
        py_error_raise(error, os_error, "open the port");
        return false;
    }
    return port_type_list(self);
}

/* The backend is chosen before the object exists, so a refused backend leaves nothing to close. */
static PyObject *port_type_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"concurrency", "backend", NULL};
    PyObject *concurrency_value = NULL, *wanted = Py_None;
    long long concurrency;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O$O:CompletionPort", names,
                                     &concurrency_value, &wanted) ||
        !port_type_parse_concurrency(concurrency_value, &concurrency))
        return NULL;
    const io_backend *backend = py_backend_choose(wanted);
    py_port *self = backend == NULL ? NULL : (py_port *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = PyType_GetModuleState(type);
    if (!port_type_open(self, backend, (uint32_t)concurrency))
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* ---- closing --------------------------------------------------------------------------------- */

/* The owner of each operation knows what its end means: an Operation becomes done, a connection
 * records it, an accepted socket is closed. */
static void port_type_end_operation(io_op *op, bool leaked, void *Py_UNUSED(context)) {
    op->owner_ops->collect(op, leaked);
}

/* Returns false if warnings are turned into errors. Called when everything else is done, since the
 * warning may raise. */
static bool port_type_warn_of_leak(py_port *self, size_t leaked) {
    return PyErr_ResourceWarning((PyObject *)self, 1,
                                 "the kernel has kept %zu operations of %R; their memory is "
                                 "leaked on purpose",
                                 leaked, (PyObject *)self) == 0;
}

/* Closes the port, once; later calls return at once. The steps:
 *
 *      begin_close      no thread can enter any more, waiting ones wake up
 *      drain            waits until the others have left, cancels everything, collects completions
 *      take_remaining   every operation ends as cancelled or, if the kernel keeps it, as leaked
 *      registry, table  connections get their last callbacks, handles are forgotten
 *      finish_close     closes the kernel's objects
 *
 * Operations come before the registry: a connection gets its last event when all its operations
 * have been collected. The kernel's objects come last: connections and listeners close their
 * handles through the backend.
 *
 * Detached where it may block: threads that are inside the port may need the interpreter to leave
 * it. Returns false with an exception, such as a warning that is an error; the port is closed in
 * any case. */
static bool port_type_close_completely(py_port *self, uint64_t timeout_ns) {
    io_port *port = self->port;
    if (!io_port_begin_close(port))
        return true;
    /* Set after the workers were woken, which is no race: each worker compares it with itself. */
    self->closer = PyThread_get_thread_ident();
    self->closed = true;
    PyThreadState *thread = PyEval_SaveThread();
    size_t leaked = io_port_drain(port, timeout_ns);
    PyEval_RestoreThread(thread);
    io_port_take_remaining(port, port_type_end_operation, NULL);
    io_port_end_resident(port, leaked > 0);
    py_table_clear(self);
    thread = PyEval_SaveThread();
    io_port_finish_close(port, leaked);
    PyEval_RestoreThread(thread);
    return port_type_unlist(self) && (leaked == 0 || port_type_warn_of_leak(self, leaked));
}

/* Whether this is a forked child and the port belongs to its parent. */
static bool port_type_forked(py_port *self) {
    int error = io_port_enter(self->port);
    if (error == 0)
        io_port_leave(self->port);
    return error == -IOE_FORKED;
}

/* For methods that also work on a closed port, where py_port_check would raise. */
static bool port_type_refuse_forked(py_port *self) {
    if (!port_type_forked(self))
        return true;
    py_error_entering(-IOE_FORKED);
    return false;
}

PyDoc_STRVAR(
    port_type_close_doc,
    "close($self, /, timeout=5.0)\n--\n\n"
    "Close the port: everything in flight ends as cancelled.\n\n"
    "Waits at most timeout seconds for the kernel to give back what it owns; what it\n"
    "keeps is leaked on purpose, with a ResourceWarning. Waits and calls in other threads\n"
    "end with ValueError. Sockets and files stay open. Closing twice is harmless.");

static PyObject *port_type_close(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                 PyObject *keywords) {
    static const py_signature signature = {"close", {"timeout"}, 1, 0};
    PyObject *timeout;
    uint64_t timeout_ns = port_type_close_timeout_ns;
    if (!py_parse(&signature, args, count, keywords, &timeout) ||
        (timeout != NULL && !py_arg_timeout(timeout, "timeout", &timeout_ns)) ||
        !port_type_refuse_forked(port_type_self_of(object)) ||
        !port_type_close_completely(port_type_self_of(object), timeout_ns))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *port_type_enter(PyObject *object, PyObject *Py_UNUSED(unused)) {
    return py_port_check(port_type_self_of(object)) ? Py_NewRef(object) : NULL;
}

static PyObject *port_type_exit(PyObject *object, PyObject *Py_UNUSED(exception)) {
    if (!port_type_refuse_forked(port_type_self_of(object)) ||
        !port_type_close_completely(port_type_self_of(object), port_type_close_timeout_ns))
        return NULL;
    Py_RETURN_NONE;
}

/* Closes a port that the user has forgotten, with a ResourceWarning. Nothing is in flight, because
 * operations refer to their port, so no waiting is needed. The warning comes first, while repr()
 * still shows an open port. An exception that is set already belongs to the code that dropped the
 * port, and is restored. */
static void port_type_finalize(PyObject *object) {
    py_port *self = port_type_self_of(object);
    if (self->port == NULL || self->closed || port_type_forked(self))
        return;
    PyObject *raised = PyErr_GetRaisedException();
    if (PyErr_ResourceWarning(object, 1, "unclosed %R", object) < 0)
        PyErr_WriteUnraisable(object);
    if (!port_type_close_completely(self, 0))
        PyErr_WriteUnraisable(object);
    if (raised != NULL)
        PyErr_SetRaisedException(raised);
}

/* There is no tp_clear. The cycles of a port lead through its associations; the finalizer empties
 * the table, which breaks them. */
static int port_type_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    return py_table_traverse(port_type_self_of(object), visit, arg);
}

/* The finalizer has closed the port. A forked child frees only the Python object and its table:
 * io_port_destroy does nothing there. A warning filter may have stored the object, which is then
 * alive again. */
static void port_type_dealloc(PyObject *object) {
    py_port *self = port_type_self_of(object);
    PyTypeObject *type = Py_TYPE(object);
    if (PyObject_CallFinalizerFromDealloc(object) < 0)
        return;
    PyObject_GC_UnTrack(object);
    if (self->weak_references != NULL)
        PyObject_ClearWeakRefs(object);
    if (self->port != NULL)
        io_port_destroy(self->port);
    py_table_close(self);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- stop and handles (association_lookup.c) ------------------------------------------------- */

/* Unlike close(), this needs no waiting and loses nothing: operations stay in flight, and get()
 * still hands them out. */

PyDoc_STRVAR(port_type_stop_doc,
             "stop($self, /)\n--\n\n"
             "End every run(), present and later ones; get() goes on.\n\n"
             "A callback that is running is waited for by nobody. May be called from any thread.");

static PyObject *port_type_stop(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_port *self = port_type_self_of(object);
    if (!py_port_enter(self))
        return NULL;
    io_port_stop(self->port);
    py_port_leave(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(port_type_associate_doc,
             "associate($self, /, handle, key=None)\n--\n\n"
             "Tell the port of a socket, a file object or an integer handle, and set its key.\n\n"
             "The key is what op.key is for operations submitted from now on. A socket becomes\n"
             "non-blocking. A handle belongs to one port at a time: another port's raises\n"
             "ValueError. Using a handle associates it too, without a key.");

/* Keys may be any object; the association owns a reference. */
static PyObject *port_type_associate(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                     PyObject *keywords) {
    static const py_signature signature = {"associate", {"handle", "key"}, 2, 1};
    PyObject *values[2];
    if (!py_parse(&signature, args, count, keywords, values) ||
        !py_handle_associate(port_type_self_of(object), values[0], values[1] ? values[1] : Py_None))
        return NULL;
    Py_RETURN_NONE;
}

/* A method whose only argument is a handle. */
static PyObject *port_type_pass_handle(PyObject *object, const py_signature *signature,
                                       bool (*function)(py_port *port, PyObject *handle),
                                       PyObject *const *args, Py_ssize_t count,
                                       PyObject *keywords) {
    PyObject *handle;
    if (!py_parse(signature, args, count, keywords, &handle) ||
        !function(port_type_self_of(object), handle))
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(port_type_dissociate_doc,
             "dissociate($self, /, handle)\n--\n\n"
             "Give a handle back, open as it is.\n\n"
             "Raises ValueError if it has operations in flight, or is not associated. Integer\n"
             "handles must be given back before they are closed.");

static PyObject *port_type_dissociate(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                      PyObject *keywords) {
    static const py_signature signature = {"dissociate", {"handle"}, 1, 1};
    return port_type_pass_handle(object, &signature, py_handle_dissociate, args, count, keywords);
}

PyDoc_STRVAR(port_type_close_handle_doc,
             "close_handle($self, /, sock)\n--\n\n"
             "Close a socket or an integer handle, with operations in flight or without.\n\n"
             "A socket object is closed at once, what is in flight ends as cancelled, and the\n"
             "descriptor is closed when the last operation has ended. Waits for nothing.");

static PyObject *port_type_close_handle(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                        PyObject *keywords) {
    static const py_signature signature = {"close_handle", {"sock"}, 1, 1};
    return port_type_pass_handle(object, &signature, py_handle_close, args, count, keywords);
}

/* ---- figures --------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    port_type_stats_doc,
    "stats($self, /)\n--\n\n"
    "Figures since the port was opened, as a dict of counts.\n\n"
    "submitted; completed, failed, cancelled: the three ends of operations; in_flight;\n"
    "waits: times a thread asked the kernel; wakes: times a waiting thread had to be\n"
    "woken; handovers: times a spare took over from a blocked worker; wait_failures: waits\n"
    "that the system refused; workers: threads in run() now; handles: associated now. Works\n"
    "on a closed port too.");

/* Works on a closed port, but not in a forked child: a lock of the lane may be held for ever there,
 * by a thread that only the parent has. */
static PyObject *port_type_stats(PyObject *object, PyObject *Py_UNUSED(unused)) {
    io_port_figures figures;
    if (!port_type_refuse_forked(port_type_self_of(object)))
        return NULL;
    io_port_stats(port_type_self_of(object)->port, &figures);
#define FIGURE(name) #name, (unsigned long long)figures.name
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsK}", FIGURE(submitted), FIGURE(completed),
                         FIGURE(failed), FIGURE(cancelled), FIGURE(in_flight), FIGURE(waits),
                         FIGURE(wakes), FIGURE(handovers), FIGURE(wait_failures), FIGURE(workers),
                         FIGURE(handles));
#undef FIGURE
}

static PyObject *port_type_get_backend(PyObject *object, void *Py_UNUSED(closure)) {
    return PyUnicode_InternFromString(port_type_self_of(object)->port->backend->name);
}

static PyObject *port_type_get_concurrency(PyObject *object, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(port_type_self_of(object)->port->lane.concurrency);
}

static PyObject *port_type_get_in_flight(PyObject *object, void *Py_UNUSED(closure)) {
    if (!port_type_refuse_forked(port_type_self_of(object)))
        return NULL;
    return PyLong_FromLongLong(port_type_self_of(object)->port->in_flight);
}

static PyObject *port_type_get_closed(PyObject *object, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(port_type_self_of(object)->closed);
}

/* Reads without a lock: this is for people, and must work in every state, even in a forked
 * child. */
static PyObject *port_type_repr(PyObject *object) {
    py_port *self = port_type_self_of(object);
    const char *name = self->port->backend->name;
    if (self->closed)
        return PyUnicode_FromFormat("<iocpcore.CompletionPort %s, closed>", name);
    int broken = self->port->lane.broken;
    if (broken)
        return PyUnicode_FromFormat("<iocpcore.CompletionPort %s, failed: %s>", name,
                                    io_error_text(broken));
    return PyUnicode_FromFormat("<iocpcore.CompletionPort %s, %lld in flight>", name,
                                (long long)self->port->in_flight);
}

/* ---- the type -------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    port_type_doc,
    "CompletionPort(concurrency=0, *, backend=None)\n--\n\n"
    "A completion port: a queue of finished work, and everything that is associated with "
    "it.\n\n"
    "concurrency is how many threads in run() may be in callbacks at once; 0 is 1 with\n"
    "the GIL and the number of processors without. backend is \"iocp\", \"io_uring\",\n"
    "\"epoll\" or \"sim\"; None takes the environment variable IOCPCORE_BACKEND, else the\n"
    "best that works here. Raises RuntimeError if the backend does not work here,\n"
    "ValueError for an unknown one.\n\n"
    "All methods may be called from any thread. A context manager that closes the port.");

#define PY_FASTCALL(function) ((PyCFunction)(void (*)(void))(function))
#define METHOD(name) \
    {#name, PY_FASTCALL(port_type_##name), METH_FASTCALL | METH_KEYWORDS, port_type_##name##_doc},
#define METHOD_ELSEWHERE(name) \
    {#name, PY_FASTCALL(py_port_##name), METH_FASTCALL | METH_KEYWORDS, py_port_##name##_doc},

// clang-format off
static PyMethodDef port_type_methods[] = {
    PY_PORT_METHODS(METHOD_ELSEWHERE)
    METHOD(associate)
    METHOD(dissociate)
    METHOD(close_handle)
    METHOD(close)
    {"stop", port_type_stop, METH_NOARGS, port_type_stop_doc},
    {"stats", port_type_stats, METH_NOARGS, port_type_stats_doc},
    {"__enter__", port_type_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nThe port itself."},
    {"__exit__", port_type_exit, METH_VARARGS,
     "__exit__($self, /, *exception)\n--\n\nClose the port; exceptions pass."},
    {NULL, NULL, 0, NULL},
};
// clang-format on

static PyGetSetDef port_type_getset[] = {
    {"backend", port_type_get_backend, NULL, "Name of the backend: \"epoll\", for example.", NULL},
    {"concurrency", port_type_get_concurrency, NULL, "How many callbacks may run at once.", NULL},
    {"in_flight", port_type_get_in_flight, NULL,
     "How many operations have not been handed out, timers and posts too.", NULL},
    {"closed", port_type_get_closed, NULL, "Whether close() has begun.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef port_type_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(py_port, weak_references), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot port_type_slots[] = {
    {Py_tp_doc, (void *)port_type_doc},   {Py_tp_new, port_type_new},
    {Py_tp_repr, port_type_repr},         {Py_tp_methods, port_type_methods},
    {Py_tp_getset, port_type_getset},     {Py_tp_members, port_type_members},
    {Py_tp_traverse, port_type_traverse}, {Py_tp_finalize, port_type_finalize},
    {Py_tp_dealloc, port_type_dealloc},   {0, NULL},
};

PyType_Spec py_port_spec = {
    .name = "iocpcore.CompletionPort",
    .basicsize = sizeof(py_port),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = port_type_slots,
};
