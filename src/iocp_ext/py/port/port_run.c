/* port_run.c: run(), the worker loop.
 *
 * A worker waits for completions, detached from the interpreter, and then takes and serves them one
 * by one. Which of several workers may be in callbacks at once is decided by the lane
 * (core/worker.c). */
#include "py/port/port.h"

/* How a busy worker shares the GIL. Each time it releases the GIL, a thread that wants it is woken.
 * But if completions are ready already, the worker takes the GIL back before the other thread runs,
 * which can starve that thread for a second: it forces a release only after an interval (5 ms)
 * in which there was none. So after DETACHING_NS of such turns, the worker polls for ATTACHED_NS
 * without releasing the GIL. That is longer than the interval, so a thread that wants the GIL
 * requests and gets it. If there is no such thread, polling costs nothing. */
enum {
    DETACHING_NS = 20 * 1000 * 1000,
#ifdef Py_GIL_DISABLED
    ATTACHED_NS = 0,
#else
    ATTACHED_NS = 10 * 1000 * 1000,
#endif
};

/* Returns what io_worker_wait returns. The worker waits normally for DETACHING_NS, then polls until
 * nothing is ready or ATTACHED_NS have passed, and begins anew. */
static int port_run_wait_for_work(py_waiter *self) {
    uint64_t now_ns = io_clock_ns(), passed_ns = now_ns - self->detaching_ns;
    if (passed_ns < DETACHING_NS)
        return py_wait_until(self, IO_NEVER);
    if (passed_ns < DETACHING_NS + ATTACHED_NS) {
        static const io_wait look = {.deadline_ns = 0};
        int answer = io_worker_wait(self->worker, &look);
        if (answer != -IOE_INTR)
            return answer;
    }
    self->detaching_ns = now_ns;
    return py_wait_until(self, IO_NEVER);
}

/* Serves everything that the last wait has found. Returns false if run() must return: because of an
 * exception, or because this is a child process that a callback has forked. */
static bool port_run_call_back_all(const py_waiter *self) {
    io_op *op;
    while ((op = io_worker_take(self->worker)) != NULL)
        if (!op->owner_ops->take(op) || io_port_forked(self->port->port))
            return false;
    return true;
}

/* Leaves the lane and decides what run() returns or raises. A forked child touches neither the
 * worker nor the port, which are the parent's. */
static PyObject *port_run_leave(py_waiter *self, int answer) {
    bool forked = io_port_forked(self->port->port);
    bool raised = PyErr_Occurred() != NULL;
    if (!forked)
        io_worker_leave(self->worker);
    if (raised)
        return NULL;
    if (forked)
        return py_error_entering(-IOE_FORKED);
    /* Closing the port in its own callback, or at exit, is a normal way to end run(). */
    bool expected = self->port->closer == PyThread_get_thread_ident() || self->port->state->ending;
    return answer >= 0 || (answer == -IOE_CLOSED && expected) ? Py_NewRef(Py_None)
                                                              : py_raise_wait_error(answer);
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
        return error == -IOE_CLOSED && self->state->ending ? Py_NewRef(Py_None)
                                                           : py_error_entering(error);
    error = io_worker_enter(&worker, &self->port->lane);
    py_port_leave(self);
    if (error)
        return py_error_raise(error, 0, "run");
    py_waiter runner = {.port = self, .worker = &worker};
    int answer;
    do
        answer = port_run_wait_for_work(&runner);
    while (answer > 0 && port_run_call_back_all(&runner));
    return port_run_leave(&runner, answer);
}
