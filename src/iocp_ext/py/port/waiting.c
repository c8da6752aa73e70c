/* waiting.c: a thread's wait for completions, with the interpreter released.
 *
 * Signals end waits in the main thread only. It waits with every signal blocked except inside the
 * kernel's wait, so that one that arrives between Python's look and the wait is not missed. Another
 * thread that runs Python code just then may take it instead; the main thread does not hear of
 * that, so it looks again, soon at first and then once a second.
 *
 * Handlers run while no signal is blocked, because threads and processes that they start inherit
 * the mask. So once signals are blocked it is only asked whether SIGINT has come after the look
 * before; another signal that comes in that instant waits until the main thread looks again. */
#include "py/port/port.h"

#ifdef _WIN32
PyAPI_FUNC(void *) _PyOS_SigintEvent(void);
#endif

#define FIRST_RECHECK_NS (10 * IO_NS_PER_MS)

/* One wait in the core, by a thread that is detached. For a getter the port was entered. */
static int waiting_wait_in_core(const py_waiter *self, const io_wait *wait) {
    if (self->worker != NULL)
        return io_worker_wait(self->worker, wait);
    int count = io_lane_get(&self->port->port->lane, wait, self->ops, self->maximum);
    py_port_leave(self->port);
    return count;
}

static int waiting_wait_detached(const py_waiter *self, const io_wait *wait) {
    int answer = self->worker == NULL ? io_port_enter(self->port->port) : 0;
    if (answer)
        return answer;
    PyThreadState *thread = PyEval_SaveThread();
    answer = waiting_wait_in_core(self, wait);
    PyEval_RestoreThread(thread);
    return answer;
}

#ifdef _WIN32

/* One wait that a signal ends. */
static int waiting_wait_for_signals(const py_waiter *self, uint64_t deadline_ns,
                                    uint64_t recheck_ns) {
    (void)recheck_ns; /* the event is set whichever thread took the signal */
    void *event = _PyOS_SigintEvent();
    io_wait wait = {.deadline_ns = deadline_ns, .signals = true, .mask = event};
    io_event_reset(event);
    return PyErr_CheckSignals() < 0 ? -IOE_INTR : waiting_wait_detached(self, &wait);
}

#else

/* Whether a SIGINT has arrived whose handler has not run yet. */
static bool waiting_interrupted(void) {
    bool arrived = PyOS_InterruptOccurred(); /* which forgets it */
    if (arrived)
        PyErr_SetInterrupt();
    return arrived;
}

static int waiting_wait_for_signals(const py_waiter *self, uint64_t deadline_ns,
                                    uint64_t recheck_ns) {
    io_signals saved;
    io_wait wait = {
        .deadline_ns = deadline_ns, .signals = true, .mask = &saved.mask, .recheck_ns = recheck_ns};
    io_signals_block(&saved);
    int answer = waiting_interrupted() ? -IOE_INTR : waiting_wait_detached(self, &wait);
    io_signals_restore(&saved);
    return answer;
}

#endif

bool py_in_main_thread(const py_port *port) {
    return PyThread_get_thread_ident() == port->state->main_thread;
}

/* Tells the log that waits have begun to fail, or that they do not fail any more. */
static void waiting_tell_wait_error(py_port *self) {
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
static int waiting_wait_in_main_thread(const py_waiter *self, uint64_t deadline_ns,
                                       uint64_t *recheck_ns) {
    if (PyErr_CheckSignals() < 0) /* handlers run with signals as they were */
        return -IOE_INTR;
    int answer = waiting_wait_for_signals(self, deadline_ns, *recheck_ns);
    *recheck_ns = 2 * *recheck_ns < IO_NS_PER_SECOND ? 2 * *recheck_ns : IO_NS_PER_SECOND;
    return answer;
}

int py_wait_until(const py_waiter *self, uint64_t deadline_ns) {
    bool signals = deadline_ns != 0 && py_in_main_thread(self->port);
    uint64_t recheck_ns = FIRST_RECHECK_NS;
    io_wait wait = {.deadline_ns = deadline_ns};
    int answer;
    do {
        answer = signals ? waiting_wait_in_main_thread(self, deadline_ns, &recheck_ns)
                         : waiting_wait_detached(self, &wait);
        if (!PyErr_Occurred())
            waiting_tell_wait_error(self->port);
    } while (answer == -IOE_INTR && !PyErr_Occurred());
    return answer;
}

PyObject *py_raise_wait_error(int error) {
    if (PyErr_Occurred())
        return NULL;
    if (error == -IOE_CLOSED || error == -IOE_FORKED)
        return py_error_entering(error);
    return py_error_raise(error, 0, "wait");
}
