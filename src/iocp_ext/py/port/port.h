/* port.h: CompletionPort and Operation, and what else is Python's of a port.
 *
 * A port's table of associations is under its own mutex, which is never held across a Python call.
 * An Operation goes from "in flight" to "done" under its critical section. */
#ifndef IOCPCORE_PY_PORT_PORT_H
#define IOCPCORE_PY_PORT_PORT_H

#include "core/backend.h"
#include "py/base/py.h"

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

typedef struct py_port {
    PyObject_HEAD
    py_state *state;
    io_port *port;
    struct io_registry *registry; /* what lives on it besides operations: net/group.h */
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

/* ---- associations (association_table.c, association_lookup.c) -------------------------------- */

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

/* ---- backends (backends.c) ------------------------------------------------------------------- */

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

/* Its connections and listeners (group_type.c). */
bool py_registry_open(py_port *port);
void py_registry_close(py_port *port);
/* The end of a port. */
void py_registry_end(py_port *port, bool leaked);

py_operation *py_operation_new(py_port *port, py_kind kind);

/* ---- handing out (results.c) ----------------------------------------------------------------- */

/* Makes the Operation of one that was taken from the core done, and returns the core's reference
 * to it. */
py_operation *py_hand_out(io_op *op);
/* Operations of users. */
extern const io_owner_ops py_operation_owner_ops;

/* ---- waiting (waiting.c) --------------------------------------------------------------------- */

typedef struct py_waiter {
    py_port *port;
    io_worker *worker; /* run(); else NULL, and: */
    io_op **ops;
    int maximum;
    uint64_t detaching_ns; /* a worker's: since when it lets go of the GIL in every turn */
} py_waiter;

/* Waits until the core has an answer, which is returned; -IOE_INTR with an exception set. */
int py_wait_until(const py_waiter *self, uint64_t deadline_ns);
bool py_in_main_thread(const py_port *port);
/* For what py_wait_until answered, a portable error. NULL. */
PyObject *py_raise_wait_error(int error);

#endif
