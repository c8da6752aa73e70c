/* py.h: what every file of py/ uses: module state, arguments, buffers, addresses, errors.
 *
 * Rules for all of py/:
 *
 *   - Nothing relies on the GIL. Shared fields are atomic, immutable, or changed inside a critical
 *     section of the object or under a lock of the core.
 *   - No Python code runs between io_port_enter and io_port_leave. It could close the port, and
 *     close() waits for every thread that has entered.
 *   - No Python call is made while a mutex is held.
 *   - References are dropped after critical sections and locks have been left, because a finalizer
 *     can run any code.
 *   - Unless their comment says otherwise, functions that return bool return false with a Python
 *     exception set, and functions that return PyObject * return a new reference, or NULL with an
 *     exception set. */
#ifndef IOCPCORE_PY_BASE_PY_H
#define IOCPCORE_PY_BASE_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "py/base/compat.h"
#include "core/io.h"

/* ---- module state (module.c) ----------------------------------------------------------------- */

/* Each of these tables is the one list of its kind: module.c makes, visits and clears what they
 * name.
 *
 * X(name, is_public): the type py_<name>_spec, in `<name>_type`. A base comes before its heirs. */
#define PY_TYPES(X)          \
    X(operation, true)       \
    X(association, false)    \
    X(length_prefixed, true) \
    X(delimited, true)       \
    X(fixed_size, true)      \
    X(group, true)           \
    X(listener, true)        \
    X(connection, true)      \
    X(datagram_socket, true) \
    X(port, true)

/* X(field, module, name): what is imported. */
#define PY_IMPORTS(X)                                               \
    X(invalid_state_error, "iocpcore.errors", "InvalidStateError")  \
    X(framing_error, "iocpcore.errors", "FramingError")             \
    X(slow_reader_error, "iocpcore.errors", "SlowReaderError")      \
    X(offload, "iocpcore._connection_tasks", "offload")             \
    X(call_later, "iocpcore._connection_tasks", "call_later")       \
    X(cancel_timers, "iocpcore._connection_tasks", "cancel_timers") \
    X(waits_changed, "iocpcore._waits", "changed")                  \
    X(unsupported_operation, "io", "UnsupportedOperation")          \
    X(socket_class, "socket", "socket")                             \
    PY_SYSTEM_IMPORTS(X)

#ifdef _WIN32
#define PY_SYSTEM_IMPORTS(X) X(get_osfhandle, "msvcrt", "get_osfhandle")
#else
#define PY_SYSTEM_IMPORTS(X)
#endif

/* X(name): names of attributes and methods, interned in `str_<name>`. */
// clang-format off
#define PY_STRINGS(X)                                                                          \
    X(fileno) X(setblocking) X(detach) X(name)                                                 \
    /* Methods of stages and framers. */                                                       \
    X(feed) X(receive) X(peer_ended) X(eof) X(start) X(room) X(send) X(close) X(encode)        \
    X(ssl_object)
// clang-format on

typedef struct py_state {
#define X(name, is_public) PyTypeObject *name##_type;
    PY_TYPES(X)
#undef X
#define X(field, module, name) PyObject *field;
    PY_IMPORTS(X)
#undef X
#define X(name) PyObject *str_##name;
    PY_STRINGS(X)
#undef X
    PyObject *open_ports; /* dict: address of a port to its weak reference */
    _Atomic uint64_t connection_ids;
    _Atomic unsigned long main_thread; /* whose waits signals end */
    _Atomic bool ending;               /* the interpreter is: workers expect closed ports */
} py_state;

/* The state of the module that defines the object's type or one of its bases. */
py_state *py_state_of(PyObject *object);

/* ---- arguments (arguments.c) ----------------------------------------------------------------- */

#define PY_ARGUMENTS_MAX 6

typedef struct py_signature {
    const char *method;
    const char *names[PY_ARGUMENTS_MAX + 1];
    int positional; /* how many may be positional; the rest are keyword-only */
    int required;   /* how many must be given, counted from the first */
} py_signature;

/* Stores the arguments, borrowed, in `values` in the order of the names; NULL if not given. */
bool py_parse(const py_signature *signature, PyObject *const *args, Py_ssize_t count,
              PyObject *keywords, PyObject **values);
/* Converters. `name` is the argument's name in error messages: TypeError for a wrong type,
 * ValueError for a value out of range. */
bool py_arg_integer(PyObject *value, const char *name, long long least, long long most,
                    long long *number);
bool py_arg_length(PyObject *value, const char *name, size_t *length);   /* 1 to IO_LENGTH_MAX */
bool py_arg_offset(PyObject *value, const char *name, uint64_t *offset); /* 0 to INT64_MAX */
/* Seconds as nanoseconds, rounded up; IO_NEVER if the number is too large. */
bool py_arg_seconds(PyObject *value, const char *name, uint64_t *ns);
/* Like py_arg_seconds, but accepts None and NULL, which mean IO_NEVER. */
bool py_arg_timeout(PyObject *value, const char *name, uint64_t *ns);

/* ---- buffers (buffers.c) --------------------------------------------------------------------- */

/* The memory of one operation, see buffers.c. */
typedef struct py_buffers {
    PyObject *pinned; /* strong; NULL: the core's pooled memory */
    uint32_t count;   /* vectors */
    size_t length;    /* bytes, of all vectors together */
} py_buffers;

/* Each of these fills in `buffers`. On success the caller owns `pinned`. */

/* Data to send or write: a bytes-like object or a sequence of them. */
bool py_buffers_to_read(PyObject *data, const char *name, py_buffers *buffers);
/* A writable buffer of the caller's to receive or read into; it must not be empty. */
bool py_buffers_to_write(PyObject *buffer, const char *name, py_buffers *buffers);
/* New memory for a result of up to `length` bytes. */
bool py_buffers_for_bytes(size_t length, py_buffers *buffers);

/* Sets the vectors of a transfer. Runs no Python code, so a port may be entered. Returns false if
 * out of memory, without an exception. */
bool py_buffers_fill(const py_buffers *buffers, io_transfer *transfer);
/* Sets one vector. The buffers must be a single one, and pinned. */
void py_buffers_vec(const py_buffers *buffers, io_vec *vec);
/* The result of a completed receive or read of py_buffers_for_bytes, as bytes. Takes the reference
 * in `pinned`, if there is one, and sets it to NULL. */
PyObject *py_buffers_bytes(PyObject **pinned, const io_transfer *transfer);

/* ---- addresses (addresses.c) ----------------------------------------------------------------- */

/* Parses an address of the given family. Raises TypeError or ValueError, which use `name`. */
bool py_address_parse(PyObject *value, const char *name, int family, io_address *address);
/* The reverse. None for an empty address, raw bytes for an unknown family. */
PyObject *py_address_object(const io_address *address);

/* ---- errors (errors.c) ----------------------------------------------------------------------- */

/* The exception for a portable error: "[Errno 111] connect to 127.0.0.1:9: Connection refused". */
PyObject *py_error_object(int error, uint32_t os_error, const char *what);
/* Raises that exception. Always returns NULL. */
PyObject *py_error_raise(int error, uint32_t os_error, const char *what);
/* The exception for a failed operation. `name` is the method's; connect and send_to add the
 * address. */
PyObject *py_error_of(const char *name, const io_op *op);
/* Clears the current exception and returns it; the caller owns it. Used before any call into
 * Python, which must not be made with an exception set. Never NULL: if no exception is set, returns
 * a SystemError. */
PyObject *py_error_take(void);
/* Raises the exception for an error of io_port_enter: RuntimeError in a forked child, ValueError
 * for a closed port. Always returns NULL. */
PyObject *py_error_entering(int error);

#endif
