/* port.h: CompletionPort and Operation: the Python objects of a port, and what their files share.
 *
 *      port_type    the type: opening, closing, figures
 *      port_submit  methods that submit:  arguments ──► association ──► Operation ──► core
 *      port_get     get, get_many     ┐
 *      port_run     run               ┴── waiting ──► core ──► results ──► Operation, done
 *
 * An *association* records which io_handle stands for a Python handle. The port's table of them has
 * a mutex of its own, which is never held across a Python call. An Operation goes from "in flight"
 * to "done" once, inside its critical section. */
#ifndef IOCPCORE_PY_PORT_PORT_H
#define IOCPCORE_PY_PORT_PORT_H

#include "core/backend.h"
#include "py/base/py.h"

/* The methods that make operations; the index into py_kinds. */
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

/* What the first argument of such a method must be. */
typedef enum py_handle_kind { PY_NO_HANDLE, PY_ANY_HANDLE, PY_SOCKET, PY_FILE } py_handle_kind;

typedef struct py_kind_info {
    const char *name; /* the method's */
    io_kind kind;     /* what the core calls it */
    py_handle_kind handle;
} py_kind_info;

extern const py_kind_info py_kinds[PY_KINDS];

extern PyMethodDef py_sim_methods[];  /* sim_api.c */
extern PyMethodDef py_pipe_methods[]; /* pipe_api.c */

/* ---- objects --------------------------------------------------------------------------------- */

/* Links a Python handle to its io_handle in one port. Immutable, apart from the fields under the
 * table's lock. It holds the io_handle, so a stale association never refers to another file. */
typedef struct py_association {
    PyObject_HEAD
    struct py_port *port;
    io_handle *handle;
    io_native native;
    int family;
    const void *identity; /* address of the Python object, only compared; NULL for an integer */
    /* Under the table's lock: */
    struct py_association *next; /* in its bucket */
    bool listed;                 /* in the table, which then owns a reference to this */
    PyObject *reference;         /* weak, to the Python object; NULL for an integer */
    PyObject *key;               /* what op.key will be */
} py_association;

/* A hash table from native handles to associations (association_table.c). */
typedef struct py_table {
    io_mutex lock;
    py_association **buckets; /* NULL: not open */
    size_t bucket_count;      /* a power of two */
    size_t count;
} py_table;

typedef struct py_port {
    PyObject_HEAD
    py_state *state;
    io_port *port;
    PyObject *weak_references;
    py_table table;
    _Atomic unsigned long closer; /* the thread that called close(): its run() just returns */
    _Atomic int wait_error_told;  /* the lane's wait_error that was logged last */
    _Atomic bool closed;
} py_port;

/* `result` and `error` are written once, before `done` is set with release semantics; readers check
 * `done` first. Only the result of an accept changes later, in a critical section. */
typedef struct py_operation {
    PyObject_HEAD
    py_port *port;
    io_op *op;        /* while in flight, when the core owns a reference to this object */
    PyObject *handle; /* as the caller passed it; NULL for posts and timers */
    PyObject *key;
    PyObject *callback; /* or NULL */
    PyObject *pinned;   /* memory in use by the kernel, see buffers.c; of a post, its value */
    PyObject *result;   /* of an accept: the address, until result() makes the pair */
    PyObject *error;    /* the exception, or NULL */
    PyObject *weak_references;
    io_native accepted; /* an accepted socket that no socket object owns yet */
    uint8_t kind;       /* py_kind */
    uint8_t events;     /* the mask that poll() was given */
    bool cancelled;
    _Atomic bool done;
} py_operation;

/* ---- associations (association_table.c, association_lookup.c) -------------------------------- */

extern PyType_Spec py_association_spec;

bool py_table_open(py_table *table);
/* Frees an empty table. */
void py_table_close(py_port *port);
/* Removes everything. The port must be closed, so that nothing is added any more. */
void py_table_clear(py_port *port);
int py_table_traverse(py_port *port, visitproc visit, void *arg);
/* The association of a native handle, and its key: new references. Returns NULL, without an
 * exception, if there is none. */
py_association *py_table_find(py_port *port, io_native native, PyObject **key);
/* Opens the io_handle and adds the association, in an entered port. Returns false without an
 * exception: `error` says why, or is 0 if the native handle has an association already. */
bool py_table_add(py_association *association, int *error, uint32_t *os_error);
/* Removes the association and drops the table's reference to it. Returns true for exactly one
 * caller, which must then deal with the io_handle. The caller holds a reference. */
bool py_table_remove(py_association *association);
void py_table_set_key(py_association *association, PyObject *key);
/* A new association, not in the table yet. */
py_association *py_association_new(py_port *port, PyObject *object, io_native native,
                                   PyObject *key);
/* A new reference to the Python object, or to None if that is gone. NULL, without an exception, for
 * an integer. */
PyObject *py_association_target(py_association *association);

/* Finds or makes the association of a Python handle. Returns new references to it and to its key.
 * `name` is the argument's name in messages. */
py_association *py_handle_find(py_port *port, PyObject *object, const char *name, PyObject **key);
/* These three implement the methods of CompletionPort. */
bool py_handle_associate(py_port *port, PyObject *object, PyObject *key);
bool py_handle_dissociate(py_port *port, PyObject *object);
bool py_handle_close(py_port *port, PyObject *object);
/* The native handle of a Python handle. */
bool py_handle_native(py_port *port, PyObject *object, const char *name, io_native *native);

/* ---- backends (backends.c) ------------------------------------------------------------------- */

/* The backend of this name, or the default one for None. NULL with an exception if it is unknown or
 * does not work here. */
const io_backend *py_backend_choose(PyObject *wanted);
extern const char py_backends_doc[];
PyObject *py_backends(PyObject *module, PyObject *unused); /* iocpcore.backends() */

/* ---- ports and operations -------------------------------------------------------------------- */

extern PyType_Spec py_port_spec;
extern PyType_Spec py_operation_spec;

/* The methods of CompletionPort that port_submit.c, port_get.c and port_run.c define. */
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

/* Enters the port: it stays open until py_port_leave. No Python code may run in between. */
static inline bool py_port_enter(py_port *self) {
    int error = io_port_enter(self->port);
    if (error)
        py_error_entering(error);
    return error == 0;
}

static inline void py_port_leave(py_port *self) {
    io_port_leave(self->port);
}

/* Raises if the port is closed or belongs to the parent process. A port that passes may be closed
 * at any time after that; this only gives early, consistent errors. */
static inline bool py_port_check(py_port *self) {
    if (!py_port_enter(self))
        return false;
    py_port_leave(self);
    return true;
}

/* Whether native handles are the backend's own numbers, as in the simulation. No Python object has
 * such a handle, and other ports use the same numbers for other things. */
static inline bool py_port_own_natives(const py_port *self) {
    return self->port->backend->own_natives != NULL;
}

/* A new Operation, not submitted yet. */
py_operation *py_operation_new(py_port *port, py_kind kind);

/* ---- handing out (results.c) ----------------------------------------------------------------- */

/* Completes the Operation that belongs to an op taken from the core, and releases the op. Returns
 * the core's reference to the Operation. Cannot fail: an exception becomes its error. */
py_operation *py_hand_out(io_op *op);
/* What marks an io_op as that of an Operation, and not of a connection or the like. */
extern const io_owner_ops py_operation_owner_ops;

/* ---- waiting (waiting.c) --------------------------------------------------------------------- */

typedef struct py_waiter {
    py_port *port;
    io_worker *worker; /* of run(); NULL for a getter, which has: */
    io_op **ops;       /* where completed operations go */
    int maximum;
    uint64_t detaching_ns; /* of run(): when it began to release the GIL in every wait */
} py_waiter;

/* Waits until the deadline, 0 for not at all, and returns what io_worker_wait or io_lane_get
 * returns. -IOE_INTR comes with an exception set, by a signal handler. */
int py_wait_until(const py_waiter *self, uint64_t deadline_ns);
bool py_in_main_thread(const py_port *port);
/* Raises the exception for a negative result of py_wait_until. Always returns NULL. */
PyObject *py_raise_wait_error(int error);

#endif
