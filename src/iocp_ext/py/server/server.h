/* server.h: the Python objects of servers and connections, and what their files share.
 *
 * Each object contains a struct of net/, which does the work without Python:
 *
 *      ConnectionGroup  py_group              io_group             net/group.h
 *      Listener         py_listener           io_listener          net/listener.h
 *      Connection       py_connection         io_member            net/connection.h
 *      DatagramSocket   py_datagram_socket    io_datagram_socket   net/datagram.h
 *
 * A *connection group* is what the connections of one server, or of one kind of client, have in
 * common. Admission, membership, the clock and the end of the port are decided in net/group.c,
 * which calls the hooks of group_type.c.
 *
 * Ownership: a connection and a listener refer to their group, a group to its port. The group owns
 * a reference to each of its members and listeners, until net/ calls the hook that releases it. So
 * a connection lives at least until on_close has returned, whether the user keeps it or not. */
#ifndef IOCPCORE_PY_SERVER_SERVER_H
#define IOCPCORE_PY_SERVER_SERVER_H

#include "net/framing.h"
#include "net/listener.h"
#include "py/port/port.h"
#include "py/server/group_options.h"
#include "py/stream/stream.h"

typedef struct py_group {
    PyObject_HEAD
    io_group io;
    py_port *port;
    /* Immutable once made: */
    PyObject *callbacks[PY_CALLBACKS]; /* NULL: none */
    PyObject *framing;                 /* a framing in C, or a factory of framers; NULL: none */
    const io_framing *frames;          /* inside `framing`, if that is a framing in C */
    PyObject *make_stage;              /* a factory of stages; NULL: none */
    PyObject *get_executor;            /* returns where offload() runs functions; NULL: none */
    /* Figures of callbacks. A run is one turn of a connection that called user code. */
    _Atomic uint64_t messages, runs;
    _Atomic uint64_t callback_ns, callback_max_ns;
} py_group;

/* The first part of a message whose rest has not arrived yet. */
typedef struct py_carry {
    size_t length, capacity;
    char data[];
} py_carry;

/* An IP address. Smaller than an io_address, since every connection has one; other families are
 * asked of the socket. */
typedef union py_peer {
    struct sockaddr any;
    struct sockaddr_in inet;
    struct sockaddr_in6 inet6;
} py_peer;

typedef struct py_connection {
    PyObject_HEAD
    union { /* an io_member begins with its io_connection */
        io_connection io;
        io_member member; /* of `group` */
    };
    py_group *group;
    PyObject *context;  /* the user's */
    PyObject *framer;   /* a user-defined framer; NULL: none */
    PyObject *error;    /* the exception behind IO_REASON_EMBEDDER; the first one stays */
    PyObject *peername; /* cached, or set by a stage; NULL: not asked for yet */
    PyObject *timers;   /* a set of call_later's timers; NULL: none yet, or dropped */
    PyObject *input;    /* received and not delivered yet: bytes, or an iterator of messages */
    PyObject *weak_references;
    py_carry *carry; /* NULL: the next byte begins a message */
    py_stage stage;
    uint64_t id;
    py_peer peer;
    uint32_t input_used; /* bytes of `input` that are delivered */
    uint32_t serial;     /* running offload(serial=True) calls; under the critical section */
    bool peer_known;     /* `peer` is set */
    bool equipped;       /* py_connection_equip was called */
} py_connection;         /* input, input_used and carry belong to the runner */

/* A job for the strand: calls `function`, a strong reference. */
typedef struct py_job {
    io_job job;
    PyObject *function;
} py_job;

typedef struct py_listener {
    PyObject_HEAD
    io_listener io;
    py_group *group;
} py_listener;

extern PyType_Spec py_group_spec, py_listener_spec, py_connection_spec;

/* ---- groups and listeners (group_type.c, listener_type.c) ------------------------------------ */

/* Calls a callback of the group with up to two arguments (NULL: not given). Exceptions go to
 * sys.unraisablehook. */
void py_group_report(py_group *group, py_callback which, PyObject *one, PyObject *two);

/* A new Listener. It takes over the listening socket; if it fails the socket stays the caller's. */
PyObject *py_listener_new(py_group *group, io_native native, int family);
/* Windows: a new Listener of a named pipe, which it creates. */
PyObject *py_listener_new_pipe(py_group *group, PyObject *name);
/* These implement hooks of io_group_hooks. */
void py_listener_paused(io_listener *listener, int error, uint32_t os_error);
void py_listener_release(io_listener *listener);

/* ---- connections (connection_type.c, connection_events.c) ------------------------------------ */

/* A new Connection, not open yet. `peer` may be NULL or empty if it is unknown. */
py_connection *py_connection_new(py_group *group, const io_address *peer);
/* Creates the framer and the stage by calling the group's factories. A connection made by adopt()
 * is visible to its creator before the first callback, so it is equipped before it is opened. An
 * accepted one is equipped by its first event, on the strand. */
bool py_connection_equip(py_connection *self);
/* Drops both. */
void py_connection_unequip(py_connection *self);
extern const io_owner_ops py_connection_owner_ops;
/* Runs the connection, starting with this event. The calling thread must be its runner already, and
 * hold a reference that outlives the call. Returns false, with the exception set, if
 * KeyboardInterrupt or SystemExit must leave run(). */
bool py_connection_run(py_connection *self, io_connection_event event);
/* Ends the connection because of an exception; takes the reference to it. If `tell_stage`, the
 * stage may send its closing handshake. */
void py_connection_fail(py_connection *self, PyObject *error, bool tell_stage);
/* Flushes and closes the connection if `whole`, else ends our stream; a stage sends its closing
 * handshake first. `linger`: wait for the peer to end its stream, too. */
void py_connection_end(py_connection *self, bool whole, bool linger);
/* A time limit is up. */
void py_connection_time_out(py_connection *self, io_reason reason, bool tell_stage);
/* Methods of Connection (connection_send.c). */
extern const char py_connection_send_doc[], py_connection_send_message_doc[],
    py_connection_send_file_doc[], py_connection_write_doc[];
PyObject *py_connection_send(PyObject *connection, PyObject *data);
PyObject *py_connection_send_message(PyObject *connection, PyObject *message);
PyObject *py_connection_send_file(PyObject *connection, PyObject *const *args, Py_ssize_t count,
                                  PyObject *keywords);
PyObject *py_connection_write(PyObject *connection, PyObject *data);
/* The argument of on_close: an exception or None. */
PyObject *py_connection_reason(py_connection *self);

/* ---- framing (framing_type.c) ---------------------------------------------------------------- */

/* A LengthPrefixed, Delimited or FixedSize: immutable. */
typedef struct py_framing {
    PyObject_HEAD
    io_framing framing;
} py_framing;

extern PyType_Spec py_length_prefixed_spec;
extern PyType_Spec py_delimited_spec;
extern PyType_Spec py_fixed_size_spec;

/* The framing inside one of the three objects; valid while the object lives. Returns NULL, without
 * an exception, for any other object. */
const io_framing *py_framing_of(const py_state *state, PyObject *object);
/* A new FramingError for a negative result of net/framing.h. `size` belongs to the result:
 * frame->size of io_framing_next, *wanted of io_framing_join, or the size that was passed to
 * io_framing_wrap. */
PyObject *py_framing_error(const py_state *state, const io_framing *framing, int error,
                           size_t size);

/* ---- datagrams (datagram_type.c) ------------------------------------------------------------- */

extern PyType_Spec py_datagram_socket_spec;

#endif
