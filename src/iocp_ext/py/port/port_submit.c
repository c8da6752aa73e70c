/* port_submit.c: the methods of CompletionPort that submit operations.
 *
 * Each has the same steps:
 *
 *      py_parse, py_arg_...   arguments to C values      ┐
 *      port_submit_prepare    Operation and association  ┴ runs Python code, may raise
 *      port_submit_begin      enters the port, io_op_new ┐
 *      fill in the io_op                                 │ no Python code, may lack memory
 *      port_submit_op         submits, leaves the port   ┴ cannot fail
 *
 * Once submitted, every failure is the operation's own error. Submitting does not block, so the
 * thread stays attached to the interpreter.
 *
 * The port is entered as late as possible, because no Python code may run while it is. A port that
 * another thread closes before that raises ValueError; later, the operation ends as cancelled. */
#include "py/port/port.h"

#define CALLBACK_DOC                                                                      \
    "\n\ncallback, if given, is what run() calls with the Operation when it is done.\n"   \
    "Any thread may submit. Raises TypeError or ValueError for bad arguments and for a\n" \
    "closed port; what the operating system refuses is the operation's own error."

#define SUBMIT_DOC(name, signature, text) \
    const char py_port_##name##_doc[] = #name "($self, /, " signature ")\n--\n\n" text CALLBACK_DOC

/* ---- from arguments to a submitted operation ------------------------------------------------- */

/* An operation on its way into the core, on the stack of the method. */
typedef struct submission {
    py_operation *operation;
    py_association *association; /* NULL for posts and timers */
    io_op *op;                   /* NULL before port_submit_begin */
} submission;

/* Drops what port_submit_prepare has made. Returns NULL. */
static PyObject *port_submit_drop(submission *self) {
    Py_CLEAR(self->operation);
    Py_CLEAR(self->association);
    return NULL;
}

/* Whether the handle is a socket or a file, as the method needs it. */
static bool port_submit_suits(const py_association *association, py_kind kind, const char *name) {
    bool file = association->handle->type == IO_FILE;
    if (py_kinds[kind].handle == (file ? PY_SOCKET : PY_FILE)) {
        PyErr_Format(PyExc_ValueError, file ? "%s is not a socket" : "%s is a socket", name);
        return false;
    }
    return true;
}

/* Makes the Operation and finds the association of its handle. Takes the reference to `pinned`,
 * even on failure. From here on the Operation owns everything, so its dealloc cleans up. The
 * association stays with the submission: only the io_handle is needed once the operation is
 * submitted. */
static bool port_submit_prepare(submission *self, PyObject *port, py_kind kind, PyObject *handle,
                                const char *name, PyObject *callback, PyObject *pinned) {
    *self = (submission){.operation = NULL};
    if (callback == Py_None)
        callback = NULL;
    if (callback != NULL && !PyCallable_Check(callback)) {
        PyErr_Format(PyExc_TypeError, "callback must be callable or None, not %.200s",
                     Py_TYPE(callback)->tp_name);
    } else {
        self->operation = py_operation_new((py_port *)port, kind);
    }
    if (self->operation == NULL) {
        Py_XDECREF(pinned);
        return false;
    }
    self->operation->pinned = pinned;
    self->operation->callback = Py_XNewRef(callback);
    if (handle == NULL)
        return true;
    self->operation->handle = Py_NewRef(handle);
    self->association = py_handle_find((py_port *)port, handle, name, &self->operation->key);
    if (self->association == NULL || !port_submit_suits(self->association, kind, name))
        port_submit_drop(self);
    return self->association != NULL;
}

/* Enters the port and makes the io_op. On failure the submission is dropped. */
static bool port_submit_begin(submission *self) {
    py_port *port = self->operation->port;
    if (!py_port_enter(port)) {
        port_submit_drop(self);
        return false;
    }
    self->op = io_op_new(&port->port->lane, py_kinds[self->operation->kind].kind,
                         &py_operation_owner_ops, self->operation);
    if (self->op == NULL) {
        py_port_leave(port);
        port_submit_drop(self);
        PyErr_NoMemory();
    }
    return self->op != NULL;
}

/* There is no memory to fill in the io_op: undoes port_submit_begin, too. Returns NULL. */
static PyObject *port_submit_give_up(submission *self) {
    io_op_release(self->op);
    py_port_leave(self->operation->port);
    port_submit_drop(self);
    return PyErr_NoMemory();
}

/* Gives the core a reference to the Operation. Must come before submitting: another thread may
 * complete the operation at once. No other thread knows the Operation yet, so `op` is set without a
 * critical section. */
static void port_submit_hand_over(submission *self) {
    self->operation->op = self->op;
    Py_INCREF((PyObject *)self->operation);
}

/* Submits to the handle and leaves the port. Returns the Operation. The association is dropped
 * after leaving, because freeing it enters the port again and may run Python code. */
static PyObject *port_submit_op(submission *self) {
    port_submit_hand_over(self);
    io_op_submit(self->op, self->association->handle);
    py_port_leave(self->operation->port);
    Py_DECREF((PyObject *)self->association);
    return (PyObject *)self->operation;
}

/* ---- methods that a table describes ---------------------------------------------------------- */

/* What the second argument is. */
typedef enum port_submit_bytes {
    BYTES_NONE,
    BYTES_NEW,      /* nbytes: the size of a new bytes object, the result */
    BYTES_WRITABLE, /* buffer: memory to receive or read into */
    BYTES_READABLE, /* data: memory to send or write */
} port_submit_bytes;

/* The first argument is the handle, the second says what is moved, the last is the callback. */
typedef struct port_submit_method {
    py_signature signature;
    py_kind kind;
    port_submit_bytes bytes;
    uint8_t offset, address; /* indices of these arguments; 0: none */
} port_submit_method;

/* Converts the second argument. */
static bool port_submit_buffers(port_submit_bytes bytes, PyObject *value, const char *name,
                                py_buffers *buffers) {
    size_t length;
    switch (bytes) {
    case BYTES_NEW:
        return py_arg_length(value, name, &length) && py_buffers_for_bytes(length, buffers);
    case BYTES_WRITABLE:
        return py_buffers_to_write(value, name, buffers);
    case BYTES_READABLE:
        return py_buffers_to_read(value, name, buffers);
    default:
        return true;
    }
}

/* Fills in the io_op. Returns false if out of memory, without an exception. */
static bool port_submit_fill(const port_submit_method *method, io_op *op, const py_buffers *buffers,
                             uint64_t offset, const io_address *address) {
    if (method->kind == PY_CONNECT)
        ((io_connect *)op)->address = *address;
    if (method->bytes == BYTES_NONE)
        return true;
    ((io_transfer *)op)->offset = offset;
    if (method->kind == PY_SEND_TO)
        ((io_datagram *)op)->address = *address;
    return py_buffers_fill(buffers, (io_transfer *)op);
}

/* All methods of the table. The address comes after the association, which knows its family. */
static PyObject *port_submit_call(const port_submit_method *method, PyObject *port,
                                  PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    const char *const *names = method->signature.names;
    submission self;
    PyObject *values[PY_ARGUMENTS_MAX];
    py_buffers buffers = {.pinned = NULL};
    io_address address = {0};
    uint64_t offset = 0;
    int last = 0;
    while (names[last + 1] != NULL)
        last++;
    if (!py_parse(&method->signature, args, count, keywords, values) ||
        (method->offset != 0 && !py_arg_offset(values[method->offset], "offset", &offset)) ||
        !port_submit_buffers(method->bytes, values[1], names[1], &buffers) ||
        !port_submit_prepare(&self, port, method->kind, values[0], names[0], values[last],
                             buffers.pinned))
        return NULL;
    if (method->address != 0 &&
        !py_address_parse(values[method->address], "address", self.association->family, &address))
        return port_submit_drop(&self);
    if (!port_submit_begin(&self))
        return NULL;
    if (!port_submit_fill(method, self.op, &buffers, offset, &address))
        return port_submit_give_up(&self);
    return port_submit_op(&self);
}

/* Defines py_port_<name>. `given` is how many arguments must be given; they may be positional. */
// clang-format off
#define SUBMIT_METHOD(name, kind, bytes, offset, address, given, ...)                             \
    PyObject *py_port_##name(PyObject *port, PyObject *const *args, Py_ssize_t count,             \
                             PyObject *keywords) {                                                \
        static const port_submit_method method = {                                                \
            {#name, {__VA_ARGS__, "callback"}, given, given}, kind, bytes, offset, address};      \
        return port_submit_call(&method, port, args, count, keywords);                            \
    }
// clang-format on

SUBMIT_DOC(recv, "sock, nbytes, *, callback=None",
           "Receive at most nbytes (1 to 2 GiB - 1) from a stream. The result is bytes; b\"\" is\n"
           "the end of the stream.");
SUBMIT_METHOD(recv, PY_RECV, BYTES_NEW, 0, 0, 2, "sock", "nbytes")

SUBMIT_DOC(
    recv_from, "sock, nbytes, *, callback=None",
    "Receive one datagram. The result is (bytes, address); what does not fit into nbytes is\n"
    "cut off.");
SUBMIT_METHOD(recv_from, PY_RECV_FROM, BYTES_NEW, 0, 0, 2, "sock", "nbytes")

SUBMIT_DOC(recv_into, "sock, buffer, *, callback=None",
           "Receive into a writable buffer, which stays exported until the operation is done. The\n"
           "result is the number of bytes; 0 is the end of the stream.");
SUBMIT_METHOD(recv_into, PY_RECV_INTO, BYTES_WRITABLE, 0, 0, 2, "sock", "buffer")

SUBMIT_DOC(send, "sock, data, *, callback=None",
           "Send all of data: a bytes-like object, or a sequence of them that is sent as one. It\n"
           "is used in place: do not change it before the operation is done. The result is the\n"
           "number of bytes.");
SUBMIT_METHOD(send, PY_SEND, BYTES_READABLE, 0, 0, 2, "sock", "data")

SUBMIT_DOC(send_to, "sock, data, address, *, callback=None",
           "Send data as one datagram to an address with a numeric host. The result is the number\n"
           "of bytes.");
SUBMIT_METHOD(send_to, PY_SEND_TO, BYTES_READABLE, 0, 2, 3, "sock", "data", "address")

SUBMIT_DOC(connect, "sock, address, *, callback=None",
           "Connect a stream to an address with a numeric host, or to a path. The result is None.");
SUBMIT_METHOD(connect, PY_CONNECT, BYTES_NONE, 0, 1, 2, "sock", "address")

SUBMIT_DOC(accept, "listener, *, callback=None",
           "Accept one connection. The result is (socket, address), the socket non-blocking; if\n"
           "nobody takes the result, it is closed with the Operation.");
SUBMIT_METHOD(accept, PY_ACCEPT, BYTES_NONE, 0, 0, 1, "listener")

SUBMIT_DOC(read, "file, nbytes, offset, *, callback=None",
           "Read at most nbytes (1 to 2 GiB - 1) at an offset. The result is bytes; b\"\" is the\n"
           "end of the file.");
SUBMIT_METHOD(read, PY_READ, BYTES_NEW, 2, 0, 3, "file", "nbytes", "offset")

SUBMIT_DOC(read_into, "file, buffer, offset, *, callback=None",
           "Read at an offset into a writable buffer, which stays exported until the operation is\n"
           "done. The result is the number of bytes; 0 is the end of the file.");
SUBMIT_METHOD(read_into, PY_READ_INTO, BYTES_WRITABLE, 2, 0, 3, "file", "buffer", "offset")

SUBMIT_DOC(write, "file, data, offset, *, callback=None",
           "Write all of data (as for send) at an offset. The result is the number of bytes.");
SUBMIT_METHOD(write, PY_WRITE, BYTES_READABLE, 2, 0, 3, "file", "data", "offset")

SUBMIT_DOC(sync, "file, *, callback=None",
           "Write what the system has buffered of a file to its storage. The result is None.");
SUBMIT_METHOD(sync, PY_SYNC, BYTES_NONE, 0, 0, 1, "file")

/* ---- the others ------------------------------------------------------------------------------ */

SUBMIT_DOC(send_file, "sock, file, offset=0, count=None, *, callback=None",
           "Send count bytes of a file from an offset, or all from there to its end. The file's\n"
           "own position does not move. The result is the number of bytes.");

PyObject *py_port_send_file(PyObject *port, PyObject *const *args, Py_ssize_t count,
                            PyObject *keywords) {
    /* The file is pinned like a buffer: its finalizer would close the descriptor that is in use. */
    static const py_signature signature = {
        "send_file", {"sock", "file", "offset", "count", "callback"}, 4, 2};
    submission self;
    PyObject *values[5];
    uint64_t offset = 0, length = UINT64_MAX;
    io_native file;
    if (!py_parse(&signature, args, count, keywords, values) ||
        (values[2] != NULL && !py_arg_offset(values[2], "offset", &offset)) ||
        (values[3] != NULL && values[3] != Py_None &&
         !py_arg_offset(values[3], "count", &length)) ||
        !py_handle_native((py_port *)port, values[1], "file", &file) ||
        !port_submit_prepare(&self, port, PY_SEND_FILE, values[0], "sock", values[4],
                             Py_NewRef(values[1])) ||
        !port_submit_begin(&self))
        return NULL;
    io_send_file *op = (io_send_file *)self.op;
    op->file = file;
    op->offset = offset;
    op->remaining = length;
    return port_submit_op(&self);
}

SUBMIT_DOC(
    poll, "sock, events, *, callback=None",
    "Wait until a socket is ready. events is a mask of selectors.EVENT_READ and EVENT_WRITE\n"
    "(or select.POLLIN and POLLOUT); the result is those of them that hold.");

PyObject *py_port_poll(PyObject *port, PyObject *const *args, Py_ssize_t count,
                       PyObject *keywords) {
    static const py_signature signature = {"poll", {"sock", "events", "callback"}, 2, 2};
    submission self;
    PyObject *values[3];
    long long events;
    if (!py_parse(&signature, args, count, keywords, values) ||
        !py_arg_integer(values[1], "events", 1, 1 | 2 | 4, &events) ||
        !port_submit_prepare(&self, port, PY_POLL, values[0], "sock", values[2], NULL))
        return NULL;
    self.operation->events = (uint8_t)events;
    if (!port_submit_begin(&self))
        return NULL;
    ((io_poll *)self.op)->events =
        (events & 1 ? IO_READABLE : 0u) | (events & (2 | 4) ? IO_WRITABLE : 0u);
    return port_submit_op(&self);
}

SUBMIT_DOC(timer, "seconds, *, callback=None",
           "Complete after a number of seconds, not negative. The result is None.");

PyObject *py_port_timer(PyObject *port, PyObject *const *args, Py_ssize_t count,
                        PyObject *keywords) {
    static const py_signature signature = {"timer", {"seconds", "callback"}, 1, 1};
    submission self;
    PyObject *values[2];
    uint64_t delay_ns;
    if (!py_parse(&signature, args, count, keywords, values) ||
        !py_arg_seconds(values[0], "seconds", &delay_ns) ||
        !port_submit_prepare(&self, port, PY_TIMER, NULL, NULL, values[1], NULL) ||
        !port_submit_begin(&self))
        return NULL;
    port_submit_hand_over(&self);
    io_timer_submit((io_timer *)self.op, delay_ns);
    py_port_leave((py_port *)port);
    return (PyObject *)self.operation;
}

const char py_port_post_doc[] =
    "post($self, /, value=None, key=None, *, callback=None)\n--\n\n"
    "Put a packet into the port: some thread is handed an Operation of kind \"post\" with\n"
    "this value as its result. Posts of one thread arrive in order.\n\n"
    "callback, if given, is what run() calls with the Operation. Any thread may post.\n"
    "Raises ValueError when the port is closed.";

PyObject *py_port_post(PyObject *port, PyObject *const *args, Py_ssize_t count,
                       PyObject *keywords) {
    static const py_signature signature = {"post", {"value", "key", "callback"}, 2, 0};
    submission self;
    PyObject *values[3];
    if (!py_parse(&signature, args, count, keywords, values) ||
        !port_submit_prepare(&self, port, PY_POST, NULL, NULL, values[2],
                             Py_NewRef(values[0] != NULL ? values[0] : Py_None)))
        return NULL;
    self.operation->key = Py_XNewRef(values[1]);
    if (!port_submit_begin(&self))
        return NULL;
    self.operation->op = self.op;
    io_post_submit(self.op); /* with our reference: post() does not return the Operation */
    py_port_leave((py_port *)port);
    Py_RETURN_NONE;
}
