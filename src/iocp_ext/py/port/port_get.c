/* port_get.c: get() and get_many(), which hand out Operations to the caller.
 *
 * The ready queue also contains the operations of connections, listeners and datagram sockets. A
 * getter that takes one of those serves it on the spot, calling callbacks as run() would, and then
 * waits on. It cannot leave them to others: there may be no worker in run().
 *
 * Taken operations belong to the getter. Whenever it must raise instead of returning them, it puts
 * them back, so none is lost. */
#include "py/port/port.h"

enum {
    GET_MANY_MAX = 1024,
    GET_MANY_DEFAULT = 64,
    GET_POLLS = 16, /* polls of get(0), to reach Operations queued behind connections' work */
};

static bool port_get_is_operation(const io_op *op) {
    return op->owner_ops == &py_operation_owner_ops;
}

/* Takes ready operations of any owner. Returns how many, or a negative error. The main thread polls
 * first, because a wait that signals can interrupt costs two more system calls. */
static int port_get_take(py_port *self, uint64_t timeout_ns, io_op **ops, int maximum) {
    py_waiter getter = {.port = self, .ops = ops, .maximum = maximum};
    int count = 0;
    if (timeout_ns == 0 || py_in_main_thread(self))
        count = py_wait_until(&getter, 0);
    if (count != 0 || timeout_ns == 0)
        return count;
    int error = io_port_enter(self->port);
    if (error)
        return error;
    uint64_t now_ns = io_lane_now(&self->port->lane);
    py_port_leave(self);
    return py_wait_until(&getter, timeout_ns < IO_NEVER - now_ns ? now_ns + timeout_ns : IO_NEVER);
}

/* Puts taken operations back for the next getter, because an exception is about to be raised. If
 * the port has been closed meanwhile, they end with it here. The exception stays set. */
static void port_get_give_back(py_port *self, io_op **ops, int count) {
    if (io_port_enter(self->port) == 0) {
        io_lane_give_back(&self->port->lane, ops, count);
        py_port_leave(self);
        return;
    }
    PyObject *error = py_error_take();
    for (int i = 0; i < count; i++) {
        if (port_get_is_operation(ops[i]))
            ops[i]->owner_ops->collect(ops[i], false);
        else if (!ops[i]->owner_ops->take(ops[i])) /* the connection needs it for its own end */
            PyErr_WriteUnraisable((PyObject *)self);
    }
    PyErr_SetRaisedException(error);
}

/* Serves the operations that are not Operations' and moves the others to the front. Returns how
 * many those are. If an exception must be raised, everything that is left is put back; returns
 * -IOE_INTR. */
static int port_get_serve_all(py_port *self, io_op **ops, int count) {
    int kept = 0;
    bool go_on = true;
    for (int i = 0; i < count; i++) {
        if (!go_on || port_get_is_operation(ops[i]))
            ops[kept++] = ops[i];
        else
            go_on = ops[i]->owner_ops->take(ops[i]);
    }
    if (go_on)
        return kept;
    port_get_give_back(self, ops, kept);
    return -IOE_INTR;
}

/* Takes Operations only. After serving connections it goes on waiting for the rest of the timeout;
 * once that has passed, it polls a last time. */
static int port_get_take_operations(py_port *self, uint64_t timeout_ns, io_op **ops, int maximum) {
    uint64_t began_ns = io_clock_ns();
    for (int polls_left = timeout_ns == 0 ? GET_POLLS : 1; polls_left > 0;) {
        uint64_t waited_ns =
            timeout_ns == IO_NEVER || timeout_ns == 0 ? 0 : io_clock_ns() - began_ns;
        bool passed = waited_ns >= timeout_ns;
        int count = port_get_take(self, passed ? 0 : timeout_ns - waited_ns, ops, maximum);
        if (count > 0)
            count = port_get_serve_all(self, ops, count);
        else
            return count;
        if (count != 0)
            return count;
        polls_left -= passed;
    }
    return 0; /* busy connections do not hold up the caller beyond its timeout */
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
    int taken = port_get_take_operations(self, timeout_ns, &op, 1);
    if (taken < 0)
        return py_raise_wait_error(taken);
    return taken == 0 ? Py_NewRef(Py_None) : (PyObject *)py_hand_out(op);
}

/* The list comes first: once an Operation is done it cannot be put back. Handing out cannot
 * fail. */
static PyObject *port_get_hand_out_all(py_port *self, io_op **ops, int count) {
    PyObject *list = PyList_New(count);
    if (list == NULL) {
        port_get_give_back(self, ops, count);
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
    /* On the stack, so that nothing can fail between taking operations and storing them. */
    io_op *ops[GET_MANY_MAX];
    int taken = port_get_take_operations(self, timeout_ns, ops,
                                         maximum < GET_MANY_MAX ? (int)maximum : GET_MANY_MAX);
    return taken < 0 ? py_raise_wait_error(taken) : port_get_hand_out_all(self, ops, taken);
}
