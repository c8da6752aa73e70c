/* waiting.c: a thread's wait for completions, detached from the interpreter.
 *
 * Signals interrupt waits in the main thread only. The race to avoid is a signal that arrives after
 * Python has checked for signals and before the kernel begins to wait. So the main thread blocks
 * all signals, and the kernel unblocks them atomically for the duration of the wait (epoll_pwait
 * and the like).
 *
 * Two gaps remain. Another thread that happens to run Python code may receive the signal instead,
 * and the main thread is not woken. And signal handlers must run with signals unblocked, because
 * threads and processes that they start inherit the mask; so between the check and the blocking
 * there is an instant in which a signal can arrive. SIGINT is looked for again after the blocking.
 * For all other cases the wait ends after a while, 10 ms at first and then up to a second, and the
 * main thread checks for signals again. */
#include "py/port/port.h"

#ifdef _WIN32
PyAPI_FUNC(void *) _PyOS_SigintEvent(void);
#endif

#define FIRST_RECHECK_NS (10 * IO_NS_PER_MS)

/* Waits once in the core. The thread is detached. A getter has entered the port, which this leaves;
 * io_worker_wait enters it by itself. */
static int waiting_wait_in_core(const py_waiter *self, const io_wait *wait) {
    if (self->worker != NULL)
        return io_worker_wait(self->worker, wait);
    int count = io_lane_get(&self->port->port->lane, wait, self->ops, self->maximum);
    py_port_leave(self->port);
    return count;
}

/* Enters the port, so that it is not freed during a getter's wait, and detaches for the wait. */
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

/* Waits once, until SIGINT sets CPython's event. Reset first, then check: a signal in between is
 * seen by one of the two. */
static int waiting_wait_for_signals(const py_waiter *self, uint64_t deadline_ns,
                                    uint64_t recheck_ns) {
    (void)recheck_ns; /* not needed: the event is set whichever thread received the signal */
    void *event = _PyOS_SigintEvent();
    io_wait wait = {.deadline_ns = deadline_ns, .signals = true, .mask = event};
    io_event_reset(event);
    return PyErr_CheckSignals() < 0 ? -IOE_INTR : waiting_wait_detached(self, &wait);
}

#else

/* Whether a SIGINT is pending. Runs no handler, since signals are blocked here. */
static bool waiting_interrupted(void) {
    bool arrived = PyOS_InterruptOccurred(); /* clears it: set it again for the next check */
    if (arrived)
        PyErr_SetInterrupt();
    return arrived;
}

/* Waits once, until any signal. See the head of this file. */
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

/* Logs that waits have begun to fail, or work again. The lane keeps trying meanwhile, so nobody
 * else would notice. The exchange lets one thread log each change. */
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

/* Waits once in the main thread. -IOE_INTR comes with an exception if a handler has raised. */
static int waiting_wait_in_main_thread(const py_waiter *self, uint64_t deadline_ns,
                                       uint64_t *recheck_ns) {
    if (PyErr_CheckSignals() < 0) /* runs handlers, with the signal mask of the caller */
        return -IOE_INTR;
    int answer = waiting_wait_for_signals(self, deadline_ns, *recheck_ns);
    *recheck_ns = 2 * *recheck_ns < IO_NS_PER_SECOND ? 2 * *recheck_ns : IO_NS_PER_SECOND;
    return answer;
}

int py_wait_until(const py_waiter *self, uint64_t deadline_ns) {
    /* A poll does not block, so it is spared the system calls for the mask. */
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
