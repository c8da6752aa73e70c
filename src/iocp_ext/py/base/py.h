/* py.h: what every file of py/ uses: the module's state, arguments, buffers, addresses, errors.
 *
 * Nothing here relies on the GIL. Between io_port_enter and io_port_leave no Python code may run,
 * since it could close the port, which waits for the leaving.
 *
 * Functions that return bool return false with a Python exception set. */
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

/* Of an object whose type, or a base of it, is the module's; NULL with an exception. */
py_state *py_state_of(PyObject *object);

/* ---- arguments (arguments.c) --------------------------------------------------------------------
 */

#define PY_ARGUMENTS_MAX 6

typedef struct py_signature {
    const char *method;
    const char *names[PY_ARGUMENTS_MAX + 1];
    int positional; /* those before the keyword-only ones */
    int required;
} py_signature;

/* Sorts the arguments into `values`, in the order of the names; NULL for those not given. */
bool py_parse(const py_signature *signature, PyObject *const *args, Py_ssize_t count,
              PyObject *keywords, PyObject **values);
bool py_arg_integer(PyObject *value, const char *name, long long least, long long most,
                    long long *number);
bool py_arg_length(PyObject *value, const char *name, size_t *length); /* 1 to IO_LENGTH_MAX */
bool py_arg_offset(PyObject *value, const char *name, uint64_t *offset);
bool py_arg_seconds(PyObject *value, const char *name, uint64_t *ns); /* IO_NEVER if too long */
/* The same, and None or NULL for never. */
bool py_arg_timeout(PyObject *value, const char *name, uint64_t *ns);

/* ---- buffers (buffers.c) -----------------------------------------------------------------------
 */

typedef struct py_buffers {
    PyObject *pinned; /* strong; NULL: the core's pooled memory */
    uint32_t count;
    size_t length;
} py_buffers;

bool py_buffers_to_read(PyObject *data, const char *name, py_buffers *buffers);
bool py_buffers_to_write(PyObject *buffer, const char *name, py_buffers *buffers);
bool py_buffers_for_bytes(size_t length, py_buffers *buffers);
/* Runs no Python code; false without memory, and no exception is set. */
bool py_buffers_fill(const py_buffers *buffers, io_transfer *transfer);
/* The same for buffers that are one. */
void py_buffers_vec(const py_buffers *buffers, io_vec *vec);
/* What a receive or read has put there. May take `pinned`. */
PyObject *py_buffers_bytes(PyObject **pinned, const io_transfer *transfer);

/* ---- addresses (addresses.c) --------------------------------------------------------------------
 */

bool py_address_parse(PyObject *value, const char *name, int family, io_address *address);
PyObject *py_address_object(const io_address *address);

/* ---- errors (errors.c) ------------------------------------------------------------------------
 */

/* The exception for a portable error: "[Errno 111] connect to 127.0.0.1:9: Connection refused". */
PyObject *py_error_object(int error, uint32_t os_error, const char *what);
PyObject *py_error_raise(int error, uint32_t os_error, const char *what); /* NULL */
/* ... that an operation of this name has ended with. */
PyObject *py_error_of(const char *name, const io_op *op);
/* The exception that is set, which is the caller's from now on: nothing of Python is called while
 * one is set. Never NULL: a SystemError if there is none. */
PyObject *py_error_take(void);
/* What io_port_enter answered, as ValueError or RuntimeError. NULL. */
PyObject *py_error_entering(int error);

#endif
