/* py.h: what the files of py/ share: module state, the objects, and the helpers between them.
 *
 * Nothing here relies on the GIL. A port's table of associations is under its own mutex, which is
 * never held across a Python call; an Operation's way from "in flight" to "done" is under its
 * critical section. Between io_port_enter and io_port_leave no Python code may run, since it could
 * close the port, which waits for the leaving.
 *
 * Functions that return bool return false with a Python exception set. */
#ifndef IOCPCORE_PY_BASE_PY_H
#define IOCPCORE_PY_BASE_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "py/base/compat.h"
#include "core/backend.h"
#include "net/framing.h"

/* ---- module state (module.c) ----------------------------------------------------------------- */

typedef struct py_state {
    PyTypeObject *port_type;
    PyTypeObject *operation_type;
    PyTypeObject *association_type;
    PyTypeObject *group_type;
    PyTypeObject *listener_type;
    PyTypeObject *connection_type;
    PyTypeObject *datagram_socket_type;
    PyTypeObject *length_prefixed_type;
    PyTypeObject *delimited_type;
    PyTypeObject *fixed_size_type;
    PyObject *invalid_state_error;   /* iocpcore.InvalidStateError */
    PyObject *framing_error;         /* iocpcore.FramingError */
    PyObject *unsupported_operation; /* io.UnsupportedOperation */
    PyObject *socket_class;          /* socket.socket */
    PyObject *get_osfhandle;         /* msvcrt.get_osfhandle; NULL elsewhere */
    PyObject *open_ports;            /* dict: address of a port to its weak reference */
    PyObject *slow_reader_error;     /* iocpcore.SlowReaderError */
    PyObject *offload;               /* iocpcore._connection_tasks.offload */
    PyObject *call_later;            /* iocpcore._connection_tasks.call_later */
    PyObject *cancel_timers;         /* iocpcore._connection_tasks.cancel_timers */
    PyObject *waits_changed;         /* iocpcore._waits.changed */
    _Atomic uint64_t connection_ids;
    PyObject *str_fileno;
    PyObject *str_feed;
    PyObject *str_receive;
    PyObject *str_peer_ended;
    PyObject *str_eof;
    PyObject *str_start;
    PyObject *str_room;
    PyObject *str_send;
    PyObject *str_close;
    PyObject *str_encode;
    PyObject *str_ssl_object;
    PyObject *str_setblocking;
    PyObject *str_detach;
    _Atomic unsigned long main_thread; /* whose waits signals end */
    _Atomic bool ending;               /* the interpreter is: workers expect closed ports */
} py_state;

/* The methods that make operations, in the order of py_kinds. */
typedef enum py_kind {
    PY_POST,
    PY_TIMER,
    PY_POLL,
    PY_RECV,
    PY_RECV_INTO,
    PY_SEND,
    PY_ACCEPT,
    PY_CONNECT,
    PY_RECV_FROM,
    PY_SEND_TO,
    PY_SEND_FILE,
    PY_READ,
    PY_READ_INTO,
    PY_WRITE,
    PY_SYNC,
    PY_KINDS
} py_kind;

typedef enum py_handle_kind { PY_NO_HANDLE, PY_ANY_HANDLE, PY_SOCKET, PY_FILE } py_handle_kind;

typedef struct py_kind_info {
    const char *name;
    io_kind kind;
    py_handle_kind handle;
} py_kind_info;

extern const py_kind_info py_kinds[PY_KINDS];

/* Of an object whose type, or a base of it, is the module's; NULL with an exception. */
py_state *py_state_of(PyObject *object);

extern PyMethodDef py_sim_methods[];  /* sim_api.c */
extern PyMethodDef py_pipe_methods[]; /* pipe_api.c */

/* ---- objects --------------------------------------------------------------------------------- */

/* Which io_handle of a port a Python handle is; immutable, but for what the table's lock covers.
 * It holds the io_handle, so that a stale one is never another file. */
typedef struct py_association {
    PyObject_HEAD
    struct py_port *port;
    io_handle *handle;
    io_native native;
    int family;
    const void *identity; /* address of the Python object; NULL for an integer */
    /* Under the table's lock: */
    struct py_association *next; /* in its bucket */
    bool listed;                 /* in the table, which then has a reference to this */
    PyObject *reference;         /* weak, to the Python object; NULL for an integer */
    PyObject *key;
} py_association;

typedef struct py_table { /* association_table.c */
    io_mutex lock;
    py_association **buckets;
    size_t bucket_count; /* a power of two */
    size_t count;
} py_table;

/* What lives on a port besides operations. Each in a list is referred to by it. */
typedef struct py_registry { /* group_type.c */
    io_mutex lock;           /* before a connection's */
    io_list connections;     /* that are not gone */
    io_list listeners;       /* that are not closed */
} py_registry;

typedef struct py_port {
    PyObject_HEAD
    py_state *state;
    io_port *port;
    py_registry registry;
    PyObject *weak_references;
    py_table table;
    _Atomic unsigned long closer; /* the thread that closed it */
    _Atomic int wait_error_told;  /* of the lane's wait_error */
    _Atomic bool closed;
} py_port;

/* `result` and `error` are written once, before `done`. */
typedef struct py_operation {
    PyObject_HEAD
    py_port *port;
    io_op *op;        /* while in flight; the core then has a reference to this object */
    PyObject *handle; /* as it was given; NULL for posts and timers */
    PyObject *key;
    PyObject *callback; /* or NULL */
    PyObject *pinned;   /* what the kernel reads or writes: see buffers.c */
    PyObject *result;   /* of an accept: the address, until somebody asks for the socket */
    PyObject *error;    /* the exception, or NULL */
    PyObject *weak_references;
    io_native accepted; /* a socket that nobody has taken yet */
    uint8_t kind;       /* py_kind */
    uint8_t events;     /* what a poll was asked for */
    bool cancelled;
    _Atomic bool done;
} py_operation;

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
/* What a receive or read has put there. May take the operation's `pinned`. */
PyObject *py_buffers_bytes(py_operation *operation, const io_transfer *transfer);

/* ---- addresses (addresses.c) --------------------------------------------------------------------
 */

bool py_address_parse(PyObject *value, const char *name, int family, io_address *address);
PyObject *py_address_object(const io_address *address);

/* ---- errors (errors.c) ------------------------------------------------------------------------
 */

/* The exception for a portable error: "[Errno 111] connect to 127.0.0.1:9: Connection refused". */
PyObject *py_error_object(int portable, uint32_t os_error, const char *what);
PyObject *py_error_raise(int portable, uint32_t os_error, const char *what); /* NULL */
/* ... that an operation of this name has ended with. */
PyObject *py_error_of(const char *name, const io_op *op);
/* The exception that is set, which is the caller's from now on: nothing of Python is called while
 * one is set. Never NULL: a SystemError if there is none. */
PyObject *py_error_take(void);
/* What io_port_enter answered, as ValueError or RuntimeError. NULL. */
PyObject *py_error_entering(int error);

/* ---- associations (association_table.c, association_lookup.c)
 * -------------------------------------------------- */

extern PyType_Spec py_association_spec;

bool py_table_open(py_table *table);
void py_table_close(py_port *port);
void py_table_clear(py_port *port);
int py_table_traverse(py_port *port, visitproc visit, void *arg);
size_t py_table_count(py_port *port);
/* New references to the association of a number and to its key; NULL if there is none. */
py_association *py_table_find(py_port *port, io_native native, PyObject **key);
/* Opens the handle and enters it. False: `error` says why, or (0) somebody was faster. */
bool py_table_add(py_association *association, int *error, uint32_t *os_error);
/* True for the one caller that takes it out; the table's reference goes with it. */
bool py_table_remove(py_association *association);
void py_table_set_key(py_association *association, PyObject *key);
py_association *py_association_new(py_port *port, PyObject *object, io_native native,
                                   PyObject *key);
/* The object itself (strong), Py_None if it is gone, NULL for an integer. */
PyObject *py_association_target(py_association *association);

/* The association of a handle, made if there is none, and its key; both new references. `name` is
 * what messages call the argument. */
py_association *py_handle_find(py_port *port, PyObject *object, const char *name, PyObject **key);
bool py_handle_associate(py_port *port, PyObject *object, PyObject *key);
bool py_handle_dissociate(py_port *port, PyObject *object);
bool py_handle_close(py_port *port, PyObject *object);
/* What the kernel calls a handle. */
bool py_handle_native(py_port *port, PyObject *object, const char *name, io_native *native);

/* ---- framing (framing_type.c) ---------------------------------------------------------------- */

/* A LengthPrefixed, Delimited or FixedSize: immutable. */
typedef struct py_framing {
    PyObject_HEAD
    io_framing framing;
} py_framing;

extern PyType_Spec py_length_prefixed_spec;
extern PyType_Spec py_delimited_spec;
extern PyType_Spec py_fixed_size_spec;

/* What one of the three says, for as long as the object lives; NULL, without an exception, if it is
 * none of them. */
const io_framing *py_framing_of(const py_state *state, PyObject *object);
/* A new FramingError for what net/framing.h has answered, below 0. `size` is the number that came
 * with it: frame->size of io_framing_next, *wanted of io_framing_join, or the size that
 * io_framing_wrap was asked about. NULL with an exception without memory. */
PyObject *py_framing_error(const py_state *state, const io_framing *framing, int error,
                           size_t size);

/* ---- backends (backends.c) ---------------------------------------------------------------------
 */

/* The backend of this name (a str or None), if it works here; NULL with an exception. */
const io_backend *py_backend_choose(PyObject *wanted);
extern const char py_backends_doc[];
PyObject *py_backends(PyObject *module, PyObject *unused); /* iocpcore.backends() */

/* ---- ports and operations -------------------------------------------------------------------- */

extern PyType_Spec py_port_spec;
extern PyType_Spec py_operation_spec;

/* The methods of CompletionPort that port_submit.c and port_run.c define. */
// clang-format off
#define PY_PORT_METHODS(X)                                                                \
    X(recv) X(recv_into) X(send) X(accept) X(connect) X(recv_from) X(send_to) X(send_file) \
    X(read) X(read_into) X(write) X(sync) X(poll) X(timer) X(post) X(get) X(get_many) X(run)
// clang-format on

#define X(name)                                                                       \
    extern const char py_port_##name##_doc[];                                         \
    PyObject *py_port_##name(PyObject *port, PyObject *const *args, Py_ssize_t count, \
                             PyObject *keywords);
PY_PORT_METHODS(X)
#undef X

PyObject *py_open_ports(py_state *state); /* a list of those that are not closed */

static inline bool py_port_enter(py_port *self) {
    int error = io_port_enter(self->port);
    if (error)
        py_error_entering(error);
    return error == 0;
}

static inline void py_port_leave(py_port *self) {
    io_port_leave(self->port);
}

/* False with an exception if the port is closed, or the parent process's. */
static inline bool py_port_check(py_port *self) {
    if (!py_port_enter(self))
        return false;
    py_port_leave(self);
    return true;
}

/* Its natives are not the system's: no Python object has one, and no other port. */
static inline bool py_port_own_natives(const py_port *self) {
    return self->port->backend->own_natives != NULL;
}

py_operation *py_operation_new(py_port *port, py_kind kind);

/* ---- handing out (port_run.c) -------------------------------------------------------------------
 */

/* Makes the Operation of one that was taken from the core done, and returns the core's reference
 * to it. */
py_operation *py_hand_out(io_op *op);
/* What is left as the port ends: cancelled. What the kernel still owns is never released. */
void py_collect(io_op *op, bool leaked);

/* ---- datagrams (datagram_type.c) ------------------------------------------------------------- */

extern PyType_Spec py_datagram_socket_spec;

/* An operation of an socket: its callbacks. False: an exception is to leave run(). */
bool py_datagram_socket_take(io_op *op);
void py_datagram_socket_collect(io_op *op); /* as the port ends */

#endif
