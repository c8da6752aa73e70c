/* port_run.c: the one place where a completion becomes an object handed out, or a Python call.
 *
 * Threads wait with the interpreter released. What they took from the core is converted while they
 * are attached, and released to the core before Python code hears of it.
 *
 * Signals end waits in the main thread only. It waits with every signal blocked except inside the
 * kernel's wait, so that one that arrives between Python's look and the wait is not missed. Another
 * thread that runs Python code just then may take it instead; the main thread does not hear of
 * that, so it looks again, soon at first and then once a second.
 *
 * Handlers run while no signal is blocked, because threads and processes that they start inherit
 * the mask. So once signals are blocked it is only asked whether SIGINT has come after the look
 * before; another signal that comes in that instant waits until the main thread looks again. */
#include "py/server/server.h"

#ifdef _WIN32
PyAPI_FUNC(void *) _PyOS_SigintEvent(void);
#endif

enum {
    GET_MANY_MAX = 1024,
    GET_MANY_DEFAULT = 64,
    FIRST_RECHECK_NS = 10 * 1000 * 1000,
    POLL_LOOKS = 16, /* of get(0), for what is ready behind the work of connections */
};

/* ---- results --------------------------------------------------------------------------------- */

static PyObject *port_run_poll_result(const py_operation *self, const io_poll *poll) {
    unsigned long held = 0;
    if (poll->ready & IO_READABLE)
        held |= 1;
    if (poll->ready & IO_WRITABLE)
        held |= 2 | 4;
    return PyLong_FromUnsignedLong(held & self->events);
}

static PyObject *port_run_datagram_result(py_operation *self, const io_datagram *datagram) {
    PyObject *data = py_buffers_bytes(self, &datagram->transfer);
    PyObject *address = data == NULL ? NULL : py_address_object(&datagram->address);
    PyObject *pair = address == NULL ? NULL : PyTuple_Pack(2, data, address);
    Py_XDECREF(data);
    Py_XDECREF(address);
    return pair;
}

static PyObject *port_run_accepted_address(py_operation *self, io_accept *accept) {
    self->accepted = accept->accepted;
    accept->accepted = IO_NATIVE_NONE;
    return py_address_object(&accept->peer);
}

static PyObject *port_run_result_of(py_operation *self, io_op *op) {
    switch ((py_kind)self->kind) {
    case PY_RECV:
    case PY_READ:
        return py_buffers_bytes(self, (io_transfer *)op);
    case PY_RECV_FROM:
        return port_run_datagram_result(self, (io_datagram *)op);
    case PY_ACCEPT:
        return port_run_accepted_address(self, (io_accept *)op);
    case PY_POLL:
        return port_run_poll_result(self, (io_poll *)op);
    case PY_POST:
        return Py_NewRef(self->pinned);
    case PY_CONNECT:
    case PY_SYNC:
    case PY_TIMER:
        return Py_NewRef(Py_None);
    default:
        return PyLong_FromLongLong(op->result);
    }
}

static void port_run_mark_done(py_operation *self) {
    Py_BEGIN_CRITICAL_SECTION(self); /* orders cancel() before this, or after it */
    self->op = NULL;
    Py_END_CRITICAL_SECTION();
    atomic_store_explicit(&self->done, true, memory_order_release);
}

/* Stores the exception that is set: the operation has ended all the same. */
static void port_run_keep_exception(py_operation *self) {
    self->error = py_error_take();
}

py_operation *py_hand_out(io_op *op) {
    py_operation *self = op->owner;
    if (op->result >= 0) {
        self->result = port_run_result_of(self, op);
        if (self->result == NULL)
            port_run_keep_exception(self);
    } else {
        self->cancelled = op->result == -IOE_CANCELED;
        self->error = py_error_of(py_kinds[self->kind].name, op);
        if (self->error == NULL)
            port_run_keep_exception(self);
    }
    PyObject *pinned = self->pinned;
    self->pinned = NULL;
    port_run_mark_done(self);
    io_op_release(op);
    Py_XDECREF(pinned);
    return self;
}

static void port_run_hand_out_cancelled(io_op *op, bool leaked) {
    py_operation *self = op->owner;
    if (op->kind == IO_ACCEPT && !leaked && op->result >= 0) /* nobody will take it */
        io_port_close_native(self->port->port, ((io_accept *)op)->accepted, IO_FAMILY_SOCKET);
    self->cancelled = true;
    self->error = py_error_object(IOE_CANCELED, 0, py_kinds[self->kind].name);
    if (self->error == NULL)
        port_run_keep_exception(self);
    port_run_mark_done(self);
    if (leaked)
        return; /* with its buffers, and with the core's reference to it */
    PyObject *pinned = self->pinned;
    self->pinned = NULL;
    io_op_release(op);
    Py_XDECREF(pinned);
    Py_DECREF((PyObject *)self);
}

/* An operation that is not a user's: callbacks of its connection or socket. False: an exception
 * is to leave run(). */
static bool port_run_serve(io_op *op) {
    if (op->sink == IO_SINK_CONNECTION)
        return py_connection_take(op);
    if (op->sink == IO_SINK_DATAGRAM)
        return py_datagram_socket_take(op);
    if (op->sink == IO_SINK_LISTENER)
        return py_listener_take(op);
    py_group_tick(op);
    return true;
}

void py_collect(io_op *op, bool leaked) {
    if (op->sink == IO_SINK_OPERATION)
        port_run_hand_out_cancelled(op, leaked);
    else if (leaked)
        return;
    else if (op->sink == IO_SINK_CONNECTION)
        io_connection_collected(op->owner, op);
    else if (op->sink == IO_SINK_LISTENER)
        py_listener_collect(op);
    else if (op->sink == IO_SINK_DATAGRAM)
        py_datagram_socket_collect(op);
    else
        py_group_collect(op);
}

/* ---- waiting --------------------------------------------------------------------------------- */

typedef struct waiter {
    py_port *port;
    io_worker *worker; /* run(); else NULL, and: */
    io_op **ops;
    int maximum;
    uint64_t detaching_ns; /* a worker's: since when it lets go of the GIL in every turn */
} waiter;

/* One wait in the core, by a thread that is detached. For a getter the port was entered. */
static int port_run_wait_in_core(const waiter *self, const io_wait *wait) {
    if (self->worker != NULL)
        return io_worker_wait(self->worker, wait);
    int count = io_lane_get(&self->port->port->lane, wait, self->ops, self->maximum);
    py_port_leave(self->port);
    return count;
}

static int port_run_wait_detached(const waiter *self, const io_wait *wait) {
    int answer = self->worker == NULL ? -io_port_enter(self->port->port) : 0;
    if (answer)
        return answer;
    PyThreadState *thread = PyEval_SaveThread();
    answer = port_run_wait_in_core(self, wait);
    PyEval_RestoreThread(thread);
    return answer;
}

#ifdef _WIN32

/* One wait that a signal ends. */
static int port_run_wait_for_signals(const waiter *self, uint64_t deadline_ns,
                                     uint64_t recheck_ns) {
    (void)recheck_ns; /* the event is set whichever thread took the signal */
    void *event = _PyOS_SigintEvent();
    io_wait wait = {.deadline_ns = deadline_ns, .signals = true, .mask = event};
    io_event_reset(event);
    return PyErr_CheckSignals() < 0 ? -IOE_INTR : port_run_wait_detached(self, &wait);
}

#else

/* Whether a SIGINT has arrived whose handler has not run yet. */
static bool port_run_interrupted(void) {
    bool arrived = PyOS_InterruptOccurred(); /* which forgets it */
    if (arrived)
        PyErr_SetInterrupt();
    return arrived;
}

static int port_run_wait_for_signals(const waiter *self, uint64_t deadline_ns,
                                     uint64_t recheck_ns) {
    io_signals saved;
    io_wait wait = {
        .deadline_ns = deadline_ns, .signals = true, .mask = &saved.mask, .recheck_ns = recheck_ns};
    io_signals_block(&saved);
    int answer = port_run_interrupted() ? -IOE_INTR : port_run_wait_detached(self, &wait);
    io_signals_restore(&saved);
    return answer;
}

#endif

static bool port_run_in_main_thread(const py_port *port) {
    return PyThread_get_thread_ident() == port->state->main_thread;
}

/* Tells the log that waits have begun to fail, or that they do not fail any more. */
static void port_run_tell_wait_error(py_port *self) {
    const io_lane *lane = &self->port->lane;
    int error = atomic_load_explicit(&lane->wait_error, memory_order_relaxed);
    if (error == self->wait_error_told || atomic_exchange(&self->wait_error_told, error) == error)
        return;
    PyObject *exception = error == 0 ? Py_NewRef(Py_None) : py_error_object(error, 0, "wait");
    PyObject *answer =
        exception == NULL ? NULL : PyObject_CallOneArg(self->state->waits_changed, exception);
    if (answer == NULL)
        PyErr_WriteUnraisable((PyObject *)self);
    Py_XDECREF(answer);
    Py_XDECREF(exception);
}

/* In the main thread: -IOE_INTR may come with an exception. */
static int port_run_wait_in_main_thread(const waiter *self, uint64_t deadline_ns,
                                        uint64_t *recheck_ns) {
    if (PyErr_CheckSignals() < 0) /* handlers run with signals as they were */
        return -IOE_INTR;
    int answer = port_run_wait_for_signals(self, deadline_ns, *recheck_ns);
    *recheck_ns = 2 * *recheck_ns < IO_NS_PER_SECOND ? 2 * *recheck_ns : IO_NS_PER_SECOND;
    return answer;
}

/* Waits until the core has an answer; -IOE_INTR with an exception set. */
static int port_run_wait_until(const waiter *self, uint64_t deadline_ns) {
    bool signals = deadline_ns != 0 && port_run_in_main_thread(self->port);
    uint64_t recheck_ns = FIRST_RECHECK_NS;
    io_wait wait = {.deadline_ns = deadline_ns};
    int answer;
    do {
        answer = signals ? port_run_wait_in_main_thread(self, deadline_ns, &recheck_ns)
                         : port_run_wait_detached(self, &wait);
        if (!PyErr_Occurred())
            port_run_tell_wait_error(self->port);
    } while (answer == -IOE_INTR && !PyErr_Occurred());
    return answer;
}

static PyObject *port_run_raise_wait_error(int error) {
    if (PyErr_Occurred())
        return NULL;
    if (error == IOE_CLOSED || error == IOE_FORKED)
        return py_error_entering(error);
    return py_error_raise(error, 0, "wait");
}

/* ---- get ------------------------------------------------------------------------------------- */

/* What is there already is taken without the cost of waiting for signals. How many were taken, or
 * a negative error. */
static int port_run_take(py_port *self, uint64_t timeout_ns, io_op **ops, int maximum) {
    waiter getter = {.port = self, .ops = ops, .maximum = maximum};
    int count = 0;
    if (timeout_ns == 0 || port_run_in_main_thread(self))
        count = port_run_wait_until(&getter, 0);
    if (count != 0 || timeout_ns == 0)
        return count;
    int error = io_port_enter(self->port);
    if (error)
        return -error;
    uint64_t now_ns = io_lane_now(&self->port->lane);
    py_port_leave(self);
    return port_run_wait_until(&getter,
                               timeout_ns < IO_NEVER - now_ns ? now_ns + timeout_ns : IO_NEVER);
}

/* With an exception that is to be raised: what was taken is for the next getter, or ends with the
 * port if that was closed meanwhile. */
static void port_run_give_back(py_port *self, io_op **ops, int count) {
    if (io_port_enter(self->port) == 0) {
        io_lane_give_back(&self->port->lane, ops, count);
        py_port_leave(self);
        return;
    }
    PyObject *error = py_error_take();
    for (int i = 0; i < count; i++) {
        if (ops[i]->sink == IO_SINK_OPERATION)
            py_collect(ops[i], false);
        else if (!port_run_serve(ops[i])) /* that may be the end of its connection */
            PyErr_WriteUnraisable((PyObject *)self);
    }
    PyErr_SetRaisedException(error);
}

/* Serves what belongs to connections; how many operations are left. With an exception that is to be
 * raised everything not served yet goes back, for the next getter. */
static int port_run_serve_all(py_port *self, io_op **ops, int count) {
    int kept = 0;
    bool go_on = true;
    for (int i = 0; i < count; i++) {
        if (!go_on || ops[i]->sink == IO_SINK_OPERATION)
            ops[kept++] = ops[i];
        else
            go_on = port_run_serve(ops[i]);
    }
    if (go_on)
        return kept;
    port_run_give_back(self, ops, kept);
    return -IOE_INTR;
}

/* The same, of operations only. */
static int port_run_take_operations(py_port *self, uint64_t timeout_ns, io_op **ops, int maximum) {
    uint64_t began_ns = io_clock_ns();
    for (int looks_left = timeout_ns == 0 ? POLL_LOOKS : 1; looks_left > 0;) {
        uint64_t waited_ns =
            timeout_ns == IO_NEVER || timeout_ns == 0 ? 0 : io_clock_ns() - began_ns;
        bool passed = waited_ns >= timeout_ns;
        int count = port_run_take(self, passed ? 0 : timeout_ns - waited_ns, ops, maximum);
        if (count > 0)
            count = port_run_serve_all(self, ops, count);
        else
            return count;
        if (count != 0)
            return count;
        looks_left -= passed;
    }
    return 0; /* connections that are always busy hold up nobody beyond the timeout */
}

const char py_port_get_doc[] =
    "get($self, /, timeout=None)\n--\n\n"
    "Wait for one operation and hand it out.\n\n"
    "timeout is in seconds; None waits for ever, 0 not at all. Returns None when it has\n"
    "passed. Any number of threads may wait; a closed port ends their wait with\n"
    "ValueError. Signals end a wait in the main thread as they do elsewhere in Python.";

PyObject *py_port_get(PyObject *object, PyObject *const *args, Py_ssize_t count,
                      PyObject *keywords) {
    static const py_signature signature = {"get", {"timeout"}, 1, 0};
    py_port *self = (py_port *)object;
    PyObject *timeout;
    uint64_t timeout_ns;
    if (!py_parse(&signature, args, count, keywords, &timeout) ||
        !py_arg_timeout(timeout, "timeout", &timeout_ns))
        return NULL;
    io_op *op;
    int taken = port_run_take_operations(self, timeout_ns, &op, 1);
    if (taken < 0)
        return port_run_raise_wait_error(-taken);
    return taken == 0 ? Py_NewRef(Py_None) : (PyObject *)py_hand_out(op);
}

static PyObject *port_run_hand_out_all(py_port *self, io_op **ops, int count) {
    PyObject *list = PyList_New(count);
    if (list == NULL) {
        port_run_give_back(self, ops, count);
        return NULL;
    }
    for (int i = 0; i < count; i++)
        PyList_SET_ITEM(list, i, (PyObject *)py_hand_out(ops[i]));
    return list;
}

const char py_port_get_many_doc[] =
    "get_many($self, /, maximum=64, timeout=None)\n--\n\n"
    "Wait for operations and hand out up to maximum of them, as a list.\n\n"
    "Returns as soon as there is one; the list is empty when timeout (seconds, as for\n"
    "get) has passed. At most 1024 are handed out at once.";

PyObject *py_port_get_many(PyObject *object, PyObject *const *args, Py_ssize_t count,
                           PyObject *keywords) {
    static const py_signature signature = {"get_many", {"maximum", "timeout"}, 2, 0};
    py_port *self = (py_port *)object;
    PyObject *values[2];
    long long maximum = GET_MANY_DEFAULT;
    uint64_t timeout_ns;
    if (!py_parse(&signature, args, count, keywords, values) ||
        (values[0] != NULL && !py_arg_integer(values[0], "maximum", 1, INT64_MAX, &maximum)) ||
        !py_arg_timeout(values[1], "timeout", &timeout_ns))
        return NULL;
    io_op *ops[GET_MANY_MAX];
    int taken = port_run_take_operations(self, timeout_ns, ops,
                                         maximum < GET_MANY_MAX ? (int)maximum : GET_MANY_MAX);
    return taken < 0 ? port_run_raise_wait_error(-taken) : port_run_hand_out_all(self, ops, taken);
}

/* ---- run ------------------------------------------------------------------------------------- */

/* False: an exception leaves run(). */
static bool port_run_call_back(io_op *op) {
    if (op->sink != IO_SINK_OPERATION)
        return port_run_serve(op);
    py_operation *operation = py_hand_out(op);
    bool go_on = true;
    if (operation->callback != NULL) {
        PyObject *answer = PyObject_CallOneArg(operation->callback, (PyObject *)operation);
        Py_XDECREF(answer);
        if (answer == NULL) {
            go_on = !PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) &&
                    !PyErr_ExceptionMatches(PyExc_SystemExit);
            if (go_on)
                PyErr_WriteUnraisable(operation->callback);
        }
    }
    Py_DECREF((PyObject *)operation);
    return go_on;
}

/* Who wants the GIL is woken whenever a worker lets go of it. But where completions wait already,
 * the worker has it again before the other has come round; so it may go on for a second, because
 * the other asks for it only after an interval (5 ms) in which nobody has let go. So a busy worker
 * keeps it for longer than that now and then, and looks for completions without waiting: who asks
 * meanwhile is given it. That costs nothing if nobody does. */
enum {
    DETACHING_NS = 20 * 1000 * 1000,
#ifdef Py_GIL_DISABLED
    ATTACHED_NS = 0,
#else
    ATTACHED_NS = 10 * 1000 * 1000,
#endif
};

static int port_run_wait_for_work(waiter *self) {
    uint64_t now_ns = io_clock_ns(), passed_ns = now_ns - self->detaching_ns;
    if (passed_ns < DETACHING_NS)
        return port_run_wait_until(self, IO_NEVER);
    if (passed_ns < DETACHING_NS + ATTACHED_NS) {
        static const io_wait look = {.deadline_ns = 0};
        int answer = io_worker_wait(self->worker, &look);
        if (answer != -IOE_INTR)
            return answer;
    }
    self->detaching_ns = now_ns;
    return port_run_wait_until(self, IO_NEVER);
}

/* False too in a child that the callback has forked. */
static bool port_run_call_back_all(const waiter *self) {
    io_op *op;
    while ((op = io_worker_take(self->worker)) != NULL)
        if (!port_run_call_back(op) || io_port_forked(self->port->port))
            return false;
    return true;
}

/* The end of run(). What a forked child has of the worker and its port is the parent's. */
static PyObject *port_run_leave(waiter *self, int answer) {
    bool forked = io_port_forked(self->port->port);
    bool raised = PyErr_Occurred() != NULL;
    if (!forked)
        io_worker_leave(self->worker);
    if (raised)
        return NULL;
    if (forked)
        return py_error_entering(IOE_FORKED);
    bool expected = self->port->closer == PyThread_get_thread_ident() || self->port->state->ending;
    return answer >= 0 || (answer == -IOE_CLOSED && expected) ? Py_NewRef(Py_None)
                                                              : port_run_raise_wait_error(-answer);
}

const char py_port_run_doc[] =
    "run($self, /)\n--\n\n"
    "Be a worker: call op.callback(op) for one completion after another, until stop().\n\n"
    "Any number of threads may be in run(); up to concurrency of them are in callbacks\n"
    "at once, and when one of those blocks another takes its place. An operation without\n"
    "callback merely becomes done. What a callback raises goes to sys.unraisablehook,\n"
    "except KeyboardInterrupt and SystemExit, which leave run(). Returns when the port is\n"
    "closed by a callback of this thread or by the end of the interpreter; raises\n"
    "ValueError when it is closed otherwise.";

PyObject *py_port_run(PyObject *object, PyObject *const *args, Py_ssize_t count,
                      PyObject *keywords) {
    static const py_signature signature = {"run", {NULL}, 0, 0};
    py_port *self = (py_port *)object;
    io_worker worker;
    if (!py_parse(&signature, args, count, keywords, NULL))
        return NULL;
    int error = io_port_enter(self->port);
    if (error)
        return error == IOE_CLOSED && self->state->ending ? Py_NewRef(Py_None)
                                                          : py_error_entering(error);
    error = io_worker_enter(&worker, &self->port->lane);
    py_port_leave(self);
    if (error)
        return py_error_raise(-error, 0, "run");
    waiter runner = {.port = self, .worker = &worker};
    int answer;
    do
        answer = port_run_wait_for_work(&runner);
    while (answer > 0 && port_run_call_back_all(&runner));
    return port_run_leave(&runner, answer);
}
