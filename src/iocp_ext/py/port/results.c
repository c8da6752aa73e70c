/* results.c: turns a completed io_op into a finished Operation.
 *
 * This happens exactly once per Operation, in an attached thread: either get(), get_many() or run()
 * hands it out, or the end of the port collects it. The order matters. The result is stored first,
 * then `done` is set, then the io_op is released, and only then may Python code run that could see
 * the Operation. */
#include "py/port/port.h"

/* The readiness as bits of the mask that poll() was given: 1 is EVENT_READ and POLLIN, 2 is
 * EVENT_WRITE, 4 is POLLOUT. */
static PyObject *results_poll_result(const py_operation *self, const io_poll *poll) {
    unsigned long held = 0;
    if (poll->ready & IO_READABLE)
        held |= 1;
    if (poll->ready & IO_WRITABLE)
        held |= 2 | 4;
    return PyLong_FromUnsignedLong(held & self->events);
}

static PyObject *results_datagram_result(py_operation *self, const io_datagram *datagram) {
    PyObject *data = py_buffers_bytes(&self->pinned, &datagram->transfer);
    PyObject *address = data == NULL ? NULL : py_address_object(&datagram->address);
    PyObject *pair = address == NULL ? NULL : PyTuple_Pack(2, data, address);
    Py_XDECREF(data);
    Py_XDECREF(address);
    return pair;
}

/* Takes the accepted socket over from the core. The socket object is made by result(), if at all:
 * making one can fail and runs Python code. */
static PyObject *results_accepted_address(py_operation *self, io_accept *accept) {
    self->accepted = accept->accepted;
    accept->accepted = IO_NATIVE_NONE;
    return py_address_object(&accept->peer);
}

static PyObject *results_result_of(py_operation *self, io_op *op) {
    switch ((py_kind)self->kind) {
    case PY_RECV:
    case PY_READ:
        return py_buffers_bytes(&self->pinned, (io_transfer *)op);
    case PY_RECV_FROM:
        return results_datagram_result(self, (io_datagram *)op);
    case PY_ACCEPT:
        return results_accepted_address(self, (io_accept *)op);
    case PY_POLL:
        return results_poll_result(self, (io_poll *)op);
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

/* Separates the Operation from its io_op. The release store publishes all fields that were written
 * before. */
static void results_mark_done(py_operation *self) {
    Py_BEGIN_CRITICAL_SECTION(self); /* cancel() uses `op` in one, before this or never */
    self->op = NULL;
    Py_END_CRITICAL_SECTION();
    atomic_store_explicit(&self->done, true, memory_order_release);
}

/* Stores the current exception as the error, since the operation has ended in any case. */
static void results_keep_exception(py_operation *self) {
    self->error = py_error_take();
}

py_operation *py_hand_out(io_op *op) {
    py_operation *self = op->owner;
    if (op->result >= 0) {
        self->result = results_result_of(self, op);
        if (self->result == NULL)
            results_keep_exception(self);
    } else {
        self->cancelled = op->result == -IOE_CANCELED;
        self->error = py_error_of(py_kinds[self->kind].name, op);
        if (self->error == NULL)
            results_keep_exception(self);
    }
    /* Dropping the pin can run Python code (a memoryview's exporter), so it comes last. */
    PyObject *pinned = self->pinned;
    self->pinned = NULL;
    results_mark_done(self);
    io_op_release(op);
    Py_XDECREF(pinned);
    return self;
}

/* The port was closed before anybody took this operation: it ends as cancelled. If it leaked, the
 * kernel may still use its memory, so the op, the pin and the core's reference stay forever. */
static void results_collect(io_op *op, bool leaked) {
    py_operation *self = op->owner;
    if (op->kind == IO_ACCEPT && !leaked && op->result >= 0) /* it had accepted a socket */
        io_port_close_native(self->port->port, ((io_accept *)op)->accepted, IO_FAMILY_SOCKET);
    self->cancelled = true;
    self->error = py_error_object(-IOE_CANCELED, 0, py_kinds[self->kind].name);
    if (self->error == NULL)
        results_keep_exception(self);
    results_mark_done(self);
    if (leaked)
        return;
    PyObject *pinned = self->pinned;
    self->pinned = NULL;
    io_op_release(op);
    Py_XDECREF(pinned);
    Py_DECREF((PyObject *)self);
}

/* Hands out an operation in run(), by calling its callback. Returns false if KeyboardInterrupt or
 * SystemExit must leave run(). */
static bool results_take(io_op *op) {
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

const io_owner_ops py_operation_owner_ops = {results_take, results_collect};
