/* connection_type.c: iocpcore.Connection: its life and all methods but the sending ones
 * (connection_send.c). Its callbacks are called in connection_events.c.
 *
 * Any method may be called from any thread, and none waits for the runner: most set a flag in the
 * core, which acts on it or wakes a worker. Sending never raises because of the peer, so a
 * broadcast that meets a dead connection does not end the callback, and with it the connection, of
 * the sender.
 *
 * Three things protect the fields. What the runner alone uses (input, carry) needs no lock. What
 * other threads change as well (error, peername, timers, serial, the stage) is under the critical
 * section of the object. The state of the connection itself is in the core, under the connection's
 * lock; it is changed through net/connection.h only, and partly atomic. */
#include "py/server/server.h"

#include <string.h>

static py_connection *connection_type_self_of(PyObject *object) {
    return (py_connection *)object;
}

static py_state *connection_type_state_of(const py_connection *self) {
    return self->group->port->state;
}

/* ---- making and freeing ---------------------------------------------------------------------- */

py_connection *py_connection_new(py_group *group, const io_address *peer) {
    py_state *state = group->port->state;
    PyTypeObject *type = state->connection_type;
    py_connection *self = (py_connection *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->group = (py_group *)Py_NewRef((PyObject *)group);
    self->context = Py_NewRef(Py_None);
    self->id = atomic_fetch_add_explicit(&state->connection_ids, 1, memory_order_relaxed) + 1;
    int family = peer != NULL && peer->length > 0 ? peer->storage.ss_family : 0;
    if (family == AF_INET || family == AF_INET6) { /* for others, the socket is asked */
        memcpy(&self->peer, &peer->storage, sizeof self->peer);
        self->peer_known = true;
    }
    return self;
}

static int connection_type_traverse(PyObject *object, visitproc visit, void *arg) {
    py_connection *self = connection_type_self_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->group);
    Py_VISIT(self->context);
    Py_VISIT(self->stage.object);
    Py_VISIT(self->framer);
    Py_VISIT(self->error);
    Py_VISIT(self->timers);
    Py_VISIT(self->input);
    return 0;
}

/* Never called while the connection is open, because of the group's reference, which the collector
 * cannot see. The group stays until dealloc: the core's part points to its limits. The cached
 * peername is neither visited nor cleared: it contains strings and integers only. */
static int connection_type_clear(PyObject *object) {
    py_connection *self = connection_type_self_of(object);
    Py_CLEAR(self->context);
    Py_CLEAR(self->stage.object);
    Py_CLEAR(self->framer);
    Py_CLEAR(self->error);
    Py_CLEAR(self->timers);
    Py_CLEAR(self->input);
    return 0;
}

/* The core's part is closed, or was never opened: the group holds a reference until GONE. */
static void connection_type_dealloc(PyObject *object) {
    py_connection *self = connection_type_self_of(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weak_references != NULL)
        PyObject_ClearWeakRefs(object);
    py_pieces_release_spent(&self->io);
    (void)connection_type_clear(object);
    Py_CLEAR(self->peername);
    PyMem_RawFree(self->carry);
    Py_CLEAR(self->group);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- addresses and errors -------------------------------------------------------------------- */

/* The peer's IP address as it was when the connection was made; length 0 if unknown. */
static void connection_type_peer_address(const py_connection *self, io_address *address) {
    address->length = 0;
    if (!self->peer_known)
        return;
    bool six = self->peer.any.sa_family == AF_INET6;
    address->length = (io_socklen)(six ? sizeof self->peer.inet6 : sizeof self->peer.inet);
    memcpy(&address->storage, &self->peer, (size_t)address->length);
}

/* Cached, so that repeated calls cost nothing and the address outlives the socket. Creating the
 * tuple runs no Python code, so it is done inside the critical section; all callers get the same
 * object. The connection's lock, which io_connection_address takes, is always inside this
 * section. */
static PyObject *connection_type_peername(py_connection *self) {
    PyObject *name = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    name = Py_XNewRef(self->peername);
    if (name == NULL) {
        io_address address;
        connection_type_peer_address(self, &address);
        if (address.length == 0)
            io_connection_address(&self->io, true, &address);
        name = py_address_object(&address);
        if (address.length > 0) /* else the socket is not open yet, or already closed */
            self->peername = Py_XNewRef(name);
    }
    Py_END_CRITICAL_SECTION();
    return name;
}

/* A handshake that takes too long stays the reason, also if the connection is idle as well. */
PyObject *py_connection_reason(py_connection *self) {
    io_address peer;
    if (self->io.reason == IO_REASON_EMBEDDER && self->error != NULL)
        return Py_NewRef(self->error);
    connection_type_peer_address(self, &peer);
    return py_reason_object(&self->io, connection_type_state_of(self), &peer);
}

/* ---- ending ---------------------------------------------------------------------------------- */

/* Returns true if the stage still has something to write; then _finish follows. */
static bool connection_type_close_stage(py_connection *self, bool whole) {
    return py_stage_close(&self->stage, (PyObject *)self, connection_type_state_of(self), whole);
}

/* With a stage, the core first stops taking data from the user; the stage writes its closing
 * handshake, and _finish ends the stream behind that. In the other order, another thread could send
 * data behind the closing handshake. */
void py_connection_end(py_connection *self, bool whole, bool linger) {
    if (self->stage.sends) {
        io_connection_begin_end(&self->io, whole, linger);
        if (connection_type_close_stage(self, whole))
            return;
    }
    if (whole)
        io_connection_close(&self->io, linger);
    else
        io_connection_shutdown(&self->io);
}

/* Ends the connection because of an error. The stage gets one chance to write its closing
 * handshake: whatever it has not written when its close() returns is lost. */
static void connection_type_fail_with(py_connection *self, io_reason reason, int error,
                                      bool tell_stage) {
    if (tell_stage && self->stage.sends) {
        io_connection_begin_end(&self->io, true, true);
        (void)connection_type_close_stage(self, true);
    }
    (void)io_connection_fail(&self->io, reason, error);
}

void py_connection_fail(py_connection *self, PyObject *error, bool tell_stage) {
    bool first = false;
    /* The first error is the cause; later ones usually follow from it. It is stored before the core
     * learns of it, because the runner may call on_close at once. */
    Py_BEGIN_CRITICAL_SECTION(self);
    first = self->error == NULL;
    if (first)
        self->error = error;
    Py_END_CRITICAL_SECTION();
    if (!first) /* outside the critical section: it may be the last reference */
        Py_DECREF(error);
    connection_type_fail_with(self, IO_REASON_EMBEDDER, 0, tell_stage);
}

/* The core records the reason; py_connection_reason makes an exception of it at the end. */
void py_connection_time_out(py_connection *self, io_reason reason, bool tell_stage) {
    connection_type_fail_with(self, reason, -IOE_TIMEDOUT, tell_stage);
}

PyDoc_STRVAR(connection_type_close_doc,
             "close($self, /)\n--\n\n"
             "Send what is queued, however long that takes, end our stream, and close.\n\n"
             "No callback but on_close is called from now on, with None. What arrives meanwhile\n"
             "is thrown away; the peer has two seconds to end its stream too. May be called\n"
             "from any thread, and more than once.");

/* Lingers: the peer gets the time to end its stream, so that the system does not reset it. */
static PyObject *connection_type_close(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_connection_end(connection_type_self_of(object), true, true);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_type_shutdown_doc,
             "shutdown($self, /)\n--\n\n"
             "End our stream when what is queued has been sent (half-close); go on receiving.\n\n"
             "send() returns False from now on. The connection is closed when the peer has\n"
             "ended its stream too. May be called from any thread.");

static PyObject *connection_type_shutdown(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_connection_end(connection_type_self_of(object), false, true);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_type_abort_doc,
             "abort($self, /)\n--\n\n"
             "Close at once; what is queued is lost, and the peer sees a reset.\n\n"
             "on_close(conn, None) follows. May be called from any thread, and more than once.");

/* Does not call the stage: without its closing handshake the peer can tell that data is missing. */
static PyObject *connection_type_abort(PyObject *object, PyObject *Py_UNUSED(unused)) {
    (void)io_connection_abort(&connection_type_self_of(object)->io);
    Py_RETURN_NONE;
}

/* ---- receiving ------------------------------------------------------------------------------- */

PyDoc_STRVAR(connection_type_pause_doc,
             "pause_receiving($self, /)\n--\n\n"
             "Call neither on_data nor on_message until resume_receiving().\n\n"
             "Nothing is lost: what has been received is kept, and the rest stays in the\n"
             "system's buffers, so that the peer has to wait. May be called from any thread;\n"
             "from another than that of the connection's callbacks, one more may follow.");

/* IO_HOLD_PAUSED is only one of several holds, so this does not undo offload(serial=True), nor does
 * resuming deliver anything before that has ended. */
static PyObject *connection_type_pause(PyObject *object, PyObject *Py_UNUSED(unused)) {
    io_connection_hold(&connection_type_self_of(object)->io, IO_HOLD_PAUSED, true);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_type_resume_doc, "resume_receiving($self, /)\n--\n\n"
                                         "Undo pause_receiving(). May be called from any thread.");

static PyObject *connection_type_resume(PyObject *object, PyObject *Py_UNUSED(unused)) {
    io_connection_hold(&connection_type_self_of(object)->io, IO_HOLD_PAUSED, false);
    Py_RETURN_NONE;
}

/* ---- work ------------------------------------------------------------------------------------ */

/* Calls function(object, *args, **keywords). offload() and call_later() are written in Python: they
 * combine executors, futures and timers, and call back by _run. */
static PyObject *connection_type_with_self(PyObject *function, PyObject *object, PyObject *args,
                                           PyObject *keywords) {
    Py_ssize_t count = PyTuple_GET_SIZE(args);
    PyObject *all = PyTuple_New(count + 1);
    if (all == NULL)
        return NULL;
    PyTuple_SET_ITEM(all, 0, Py_NewRef(object));
    for (Py_ssize_t i = 0; i < count; i++)
        PyTuple_SET_ITEM(all, i + 1, Py_NewRef(PyTuple_GET_ITEM(args, i)));
    PyObject *answer = PyObject_Call(function, all, keywords);
    Py_DECREF(all);
    return answer;
}

PyDoc_STRVAR(
    connection_type_offload_doc,
    "offload($self, function, /, *args, then=None, serial=False)\n--\n\n"
    "Run function(*args) on a thread of its own, then then(conn, result) as a callback.\n\n"
    "Callbacks of the connection go on meanwhile; serial=True holds them until then has\n"
    "returned. What function raises is treated as if a callback had raised it. After\n"
    "close() then is not called. May be called from any thread.");

static PyObject *connection_type_offload(PyObject *object, PyObject *args, PyObject *keywords) {
    return connection_type_with_self(
        connection_type_state_of(connection_type_self_of(object))->offload, object, args, keywords);
}

PyDoc_STRVAR(connection_type_call_later_doc,
             "call_later($self, seconds, function, /, *args)\n--\n\n"
             "Call function(*args) as a callback of this connection after so many seconds.\n\n"
             "Returns an object with cancel(). After close() it is not called. May be called\n"
             "from any thread.");

static PyObject *connection_type_call_later(PyObject *object, PyObject *args) {
    return connection_type_with_self(
        connection_type_state_of(connection_type_self_of(object))->call_later, object, args, NULL);
}

/* ---- for stages and _connection_tasks.py ----------------------------------------------------- */

/* Stages call the methods of Link (python/iocpcore/_stage.py), perhaps with their own lock held, so
 * these run no user code. A callback that called back into the stage would wait for that lock. */

PyDoc_STRVAR(connection_type_established_doc,
             "_established($self, /)\n--\n\nThe handshake of the stage is complete.");

/* Called by the stage on the strand, while the runner is inside one of the stage's methods. The
 * runner checks the flag when the method has returned. */
static PyObject *connection_type_established(PyObject *object, PyObject *Py_UNUSED(unused)) {
    connection_type_self_of(object)->stage.ready = true;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_type_fail_doc,
             "_fail($self, exception, /)\n--\n\nEnd it because of an exception.");

/* Without telling the stage, which is the caller: it has written what it had to write. */
static PyObject *connection_type_fail(PyObject *object, PyObject *error) {
    if (!PyExceptionInstance_Check(error)) {
        PyErr_Format(PyExc_TypeError, "exception must be an exception, not %.200s",
                     Py_TYPE(error)->tp_name);
        return NULL;
    }
    py_connection_fail(connection_type_self_of(object), Py_NewRef(error), false);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_type_set_stage_doc,
             "_set_stage($self, stage, /)\n--\n\nAnother stage, or None.");

/* Called on the strand, inside a method of the old stage. py_stage_set drops the connection's
 * reference to that stage; the call in stage.c still holds another. */
static PyObject *connection_type_set_stage(PyObject *object, PyObject *stage) {
    py_connection *self = connection_type_self_of(object);
    if (!py_stage_set(&self->stage, object, connection_type_state_of(self),
                      stage == Py_None ? NULL : stage))
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_type_set_peername_doc,
             "_set_peername($self, address, /)\n--\n\nWhat peername says.");

/* For the PROXY protocol: the address that the proxy has reported. */
static PyObject *connection_type_set_peername(PyObject *object, PyObject *address) {
    py_connection *self = connection_type_self_of(object);
    PyObject *old;
    Py_BEGIN_CRITICAL_SECTION(self);
    old = self->peername;
    self->peername = Py_NewRef(address);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_type_run_doc,
             "_run($self, function, /)\n--\n\n"
             "Call function() on the strand. False: it is closed, and nobody will.");

/* Raw memory, because the core frees nothing: connection_events_on_jobs frees every posted job.
 * Once posted, the job belongs to the strand and may already be freed, so it is not used below.
 * Returning true promises only that the runner gets the job: it drops those that it finds after
 * close(). */
static PyObject *connection_type_run(PyObject *object, PyObject *function) {
    py_job *job = PyMem_RawMalloc(sizeof *job);
    if (job == NULL)
        return PyErr_NoMemory();
    job->function = Py_NewRef(function);
    bool posted = io_connection_post(&connection_type_self_of(object)->io, &job->job);
    if (!posted) {
        Py_DECREF(function);
        PyMem_RawFree(job);
    }
    return PyBool_FromLong(posted);
}

PyDoc_STRVAR(connection_type_add_timer_doc,
             "_add_timer($self, timer, /)\n--\n\n"
             "Register a timer to cancel when the connection ends. False: it has ended.");

/* `added` becomes -1 with an exception, 0 if the connection is closing, else 1. The critical
 * section orders this against connection_events_drop, which takes the set away. By then the core
 * says that the end is requested, whatever the cause, so a timer is either in the set that is taken
 * or not added. Timers hash by identity, so adding one runs no Python code. */
static PyObject *connection_type_add_timer(PyObject *object, PyObject *timer) {
    py_connection *self = connection_type_self_of(object);
    int added = 0;
    Py_BEGIN_CRITICAL_SECTION(self);
    bool open = !io_connection_close_requested(&self->io);
    if (open && self->timers == NULL) {
        self->timers = PySet_New(NULL);
        added = self->timers == NULL ? -1 : 0;
    }
    if (open && self->timers != NULL)
        added = PySet_Add(self->timers, timer) < 0 ? -1 : 1;
    Py_END_CRITICAL_SECTION();
    return added < 0 ? NULL : PyBool_FromLong(added);
}

PyDoc_STRVAR(connection_type_remove_timer_doc,
             "_remove_timer($self, timer, /)\n--\n\nForget a timer.");

/* The set may be gone: then connection_events_drop is cancelling its timers, or has done so. */
static PyObject *connection_type_remove_timer(PyObject *object, PyObject *timer) {
    py_connection *self = connection_type_self_of(object);
    int removed = 0;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->timers != NULL)
        removed = PySet_Discard(self->timers, timer);
    Py_END_CRITICAL_SECTION();
    return removed < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *connection_type_get_port(PyObject *object, void *Py_UNUSED(closure)) {
    return Py_NewRef((PyObject *)connection_type_self_of(object)->group->port);
}

PyDoc_STRVAR(connection_type_hold_doc,
             "_hold($self, held, /)\n--\n\nHold all callbacks but those of _run.");

/* Counts the running offload(serial=True) calls; callbacks are held while there are any. The count
 * and the hold change together, or one call could undo the hold of another. */
static PyObject *connection_type_hold(PyObject *object, PyObject *held) {
    py_connection *self = connection_type_self_of(object);
    int is_true = PyObject_IsTrue(held);
    if (is_true < 0)
        return NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    self->serial = is_true ? self->serial + 1 : self->serial - 1;
    io_connection_hold(&self->io, IO_HOLD_SERIAL, self->serial > 0);
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_type_ask_for_room_doc,
             "_ask_for_room($self, /)\n--\n\n"
             "Call stage.room() once there is room to send more.");

static PyObject *connection_type_ask_for_room(PyObject *object, PyObject *Py_UNUSED(unused)) {
    io_connection_ask_for_room(&connection_type_self_of(object)->io);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_type_finish_doc,
             "_finish($self, /)\n--\n\nThe stage, whose close() was true, is done.");

/* Does what was waiting for the stage's closing handshake, which is queued now. Nothing waits if
 * the stage calls this on its own, or twice: py_stage_finish answers once. */
static PyObject *connection_type_finish(PyObject *object, PyObject *Py_UNUSED(unused)) {
    py_connection *self = connection_type_self_of(object);
    py_stage_end wanted = py_stage_finish(&self->stage);
    if (wanted == PY_STAGE_SHUTS_DOWN_AFTER)
        io_connection_shutdown(&self->io);
    else if (wanted == PY_STAGE_CLOSES_AFTER)
        io_connection_close(&self->io, true);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connection_type_executor_doc,
             "_executor($self, /)\n--\n\nWhere offload() runs things.");

static PyObject *connection_type_executor(PyObject *object, PyObject *Py_UNUSED(unused)) {
    PyObject *get_executor = connection_type_self_of(object)->group->get_executor;
    if (get_executor == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "there is no executor");
        return NULL;
    }
    return PyObject_CallNoArgs(get_executor);
}

/* ---- attributes ------------------------------------------------------------------------------ */

static PyObject *connection_type_get_peername(PyObject *object, void *Py_UNUSED(closure)) {
    return connection_type_peername(connection_type_self_of(object));
}

/* Not cached, unlike peername, so it is None once the socket is closed. */
static PyObject *connection_type_get_sockname(PyObject *object, void *Py_UNUSED(closure)) {
    io_address address;
    io_connection_address(&connection_type_self_of(object)->io, false, &address);
    return py_address_object(&address);
}

enum { PENDING, RECEIVED, SENT }; /* the closures of the three getters */

static PyObject *connection_type_get_bytes(PyObject *object, void *closure) {
    uint64_t received, sent;
    uint64_t pending =
        io_connection_pending(&connection_type_self_of(object)->io, &received, &sent);
    intptr_t which = (intptr_t)closure;
    return PyLong_FromUnsignedLongLong(which == PENDING    ? pending
                                       : which == RECEIVED ? received
                                                           : sent);
}

static PyObject *connection_type_get_id(PyObject *object, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLongLong(connection_type_self_of(object)->id);
}

static PyObject *connection_type_get_closing(PyObject *object, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(io_connection_is_closing(&connection_type_self_of(object)->io));
}

/* Asks the stage, because only a TLS stage has one. The extra reference keeps the stage alive, in
 * case it is replaced meanwhile. */
static PyObject *connection_type_get_ssl_object(PyObject *object, void *Py_UNUSED(closure)) {
    py_connection *self = connection_type_self_of(object);
    PyObject *stage = py_stage_get(&self->stage, object), *found = NULL;
    if (stage != NULL && PyObject_GetOptionalAttr(
                             stage, connection_type_state_of(self)->str_ssl_object, &found) < 0) {
        Py_DECREF(stage);
        return NULL;
    }
    Py_XDECREF(stage);
    return found != NULL ? found : Py_NewRef(Py_None);
}

/* The number may be stale by the time the caller uses it, since another thread may close the
 * connection. */
static PyObject *connection_type_fileno(PyObject *object, PyObject *Py_UNUSED(unused)) {
    return PyLong_FromSsize_t(io_connection_native(&connection_type_self_of(object)->io));
}

/* Uses the address that the connection was made with: repr() must also work, and not block, when
 * the socket is closed. */
static PyObject *connection_type_repr(PyObject *object) {
    py_connection *self = connection_type_self_of(object);
    char what[176];
    io_address peer;
    connection_type_peer_address(self, &peer);
    py_reason_what(&peer, "", "with", what, sizeof what);
    return PyUnicode_FromFormat("<iocpcore.Connection %llu%s%s>", (unsigned long long)self->id,
                                what, io_connection_is_closing(&self->io) ? ", closing" : "");
}

PyDoc_STRVAR(connection_type_fileno_doc,
             "fileno($self, /)\n--\n\n"
             "What the system calls its socket; -1 when it is closed. The socket stays\n"
             "the connection's: neither read, write nor close it.");

// clang-format off
static PyMethodDef connection_type_methods[] = {
    {"send", py_connection_send, METH_O, py_connection_send_doc},
    {"send_message", py_connection_send_message, METH_O, py_connection_send_message_doc},
    {"send_file", (PyCFunction)(void (*)(void))py_connection_send_file,
     METH_FASTCALL | METH_KEYWORDS, py_connection_send_file_doc},
    {"close", connection_type_close, METH_NOARGS, connection_type_close_doc},
    {"shutdown", connection_type_shutdown, METH_NOARGS, connection_type_shutdown_doc},
    {"abort", connection_type_abort, METH_NOARGS, connection_type_abort_doc},
    {"pause_receiving", connection_type_pause, METH_NOARGS, connection_type_pause_doc},
    {"resume_receiving", connection_type_resume, METH_NOARGS, connection_type_resume_doc},
    {"offload", (PyCFunction)(void (*)(void))connection_type_offload, METH_VARARGS | METH_KEYWORDS,
     connection_type_offload_doc},
    {"call_later", connection_type_call_later, METH_VARARGS, connection_type_call_later_doc},
    {"fileno", connection_type_fileno, METH_NOARGS, connection_type_fileno_doc},
    {"_write", py_connection_write, METH_O, py_connection_write_doc},
    {"_established", connection_type_established, METH_NOARGS, connection_type_established_doc},
    {"_fail", connection_type_fail, METH_O, connection_type_fail_doc},
    {"_set_stage", connection_type_set_stage, METH_O, connection_type_set_stage_doc},
    {"_set_peername", connection_type_set_peername, METH_O, connection_type_set_peername_doc},
    {"_run", connection_type_run, METH_O, connection_type_run_doc},
    {"_add_timer", connection_type_add_timer, METH_O, connection_type_add_timer_doc},
    {"_remove_timer", connection_type_remove_timer, METH_O, connection_type_remove_timer_doc},
    {"_hold", connection_type_hold, METH_O, connection_type_hold_doc},
    {"_ask_for_room", connection_type_ask_for_room, METH_NOARGS, connection_type_ask_for_room_doc},
    {"_finish", connection_type_finish, METH_NOARGS, connection_type_finish_doc},
    {"_executor", connection_type_executor, METH_NOARGS, connection_type_executor_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef connection_type_getset[] = {
    {"peername", connection_type_get_peername, NULL,
     "The peer's address, as the socket module writes it.", NULL},
    {"sockname", connection_type_get_sockname, NULL, "Its own address; None once it is closed.",
     NULL},
    {"pending_bytes", connection_type_get_bytes, NULL,
     "Bytes queued and not yet taken by the system.", (void *)PENDING},
    {"bytes_received", connection_type_get_bytes, NULL, "Bytes received so far.", (void *)RECEIVED},
    {"bytes_sent", connection_type_get_bytes, NULL,
     "Bytes that the system has taken so far.", (void *)SENT},
    {"id", connection_type_get_id, NULL,
     "A number that no other connection of this process has.", NULL},
    {"closing", connection_type_get_closing, NULL, "Whether it is closing, or closed.", NULL},
    {"_port", connection_type_get_port, NULL, "The port it lives on.", NULL},
    {"ssl_object", connection_type_get_ssl_object, NULL,
     "The ssl.SSLObject of a TLS connection, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#if PY_VERSION_HEX < 0x030C0000
#define MEMBER_OBJECT T_OBJECT_EX
#else
#define MEMBER_OBJECT Py_T_OBJECT_EX
#endif

static PyMemberDef connection_type_members[] = {
    {"context", MEMBER_OBJECT, offsetof(py_connection, context), 0,
     "Anything that the user wants to keep with the connection; None at first."},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(py_connection, weak_references), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};
// clang-format on

PyDoc_STRVAR(
    connection_type_doc,
    "A connection of a Server, or made by connect(). Not to be constructed.\n\n"
    "Its callbacks never overlap, and come in order: on_connect, data in the order of the\n"
    "bytes, on_close last and once. All methods may be called from any thread.");

static PyType_Slot connection_type_slots[] = {
    {Py_tp_doc, (void *)connection_type_doc},
    {Py_tp_repr, connection_type_repr},
    {Py_tp_methods, connection_type_methods},
    {Py_tp_getset, connection_type_getset},
    {Py_tp_members, connection_type_members},
    {Py_tp_traverse, connection_type_traverse},
    {Py_tp_clear, connection_type_clear},
    {Py_tp_dealloc, connection_type_dealloc},
    {0, NULL},
};

/* Not to be instantiated: py_connection_new creates connections, for adopt() and for listeners. */
PyType_Spec py_connection_spec = {
    .name = "iocpcore.Connection",
    .basicsize = sizeof(py_connection),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = connection_type_slots,
};
