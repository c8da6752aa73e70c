/* server.h: servers and connections: what group_type.c, listener_type.c, connection_type.c and
 * connection_events.c share.
 *
 * A *group* is what the connections of one server, or of one kind of client, have in common. Who is
 * accepted, who is in the group, and what its clock and its end mean to them is net/group.h; here
 * it gets callbacks and objects. An object is kept by its group until net/group.h releases it. */
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
    PyObject *callbacks[PY_CALLBACKS]; /* NULL: none */
    PyObject *framing;                 /* of `frames`, or makes a framer for each connection */
    const io_framing *frames;
    PyObject *make_stage;
    PyObject *get_executor;
    /* Figures of callbacks: */
    _Atomic uint64_t messages, runs;
    _Atomic uint64_t callback_ns, callback_max_ns;
} py_group;

/* The beginning of a message whose end has not come. */
typedef struct py_carry {
    size_t length, capacity;
    char data[];
} py_carry;

typedef union py_peer {
    struct sockaddr any;
    struct sockaddr_in inet;
    struct sockaddr_in6 inet6;
} py_peer;

typedef struct py_connection {
    PyObject_HEAD
    union { /* a member begins with its connection */
        io_connection io;
        io_member member; /* of `group` */
    };
    py_group *group;
    PyObject *context;
    PyObject *framer;   /* of one's own; NULL: none */
    PyObject *error;    /* why it was ended, if Python knows */
    PyObject *peername; /* that somebody has asked for, or has set */
    PyObject *timers;   /* of call_later; NULL: none yet */
    PyObject *input;    /* bytes, or an iterator of messages, not all handed on */
    PyObject *weak_references;
    py_carry *carry;
    py_stage stage;
    uint64_t id;
    py_peer peer;
    uint32_t input_used;
    uint32_t serial; /* offload(serial=True) under way; under the object's own lock */
    bool peer_known;
    bool equipped; /* it has its framer and its stage */
} py_connection;

/* Work for the strand: function() */
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

/* Calls a callback of the group; what it raises goes to sys.unraisablehook. */
void py_group_report(py_group *group, py_callback which, PyObject *one, PyObject *two);

PyObject *py_listener_new(py_group *group, io_native native, int family);
PyObject *py_listener_new_pipe(py_group *group, PyObject *name); /* Windows */
/* Hooks of io_group_hooks. */
void py_listener_paused(io_listener *listener, int error, uint32_t os_error);
void py_listener_release(io_listener *listener);

/* ---- connections (connection_type.c, connection_events.c)
 * ----------------------------------------------- */

py_connection *py_connection_new(py_group *group, const io_address *peer);
/* Makes its framer and its stage, which calls Python. Where others get the connection before its
 * first callback, that is done before it is opened; else it is the first thing on the strand. */
bool py_connection_equip(py_connection *self);
/* Lets go of both. */
void py_connection_unequip(py_connection *self);
extern const io_owner_ops py_connection_owner_ops;
/* An operation of a connection: its callbacks. False: an exception is to leave run(). */
bool py_connection_take(io_op *op);
/* The same for one that is run already, beginning with this event. */
bool py_connection_run(py_connection *self, io_connection_event event);
/* Ends it because of an exception, which it takes over. `tell_stage`: its
 * stage may send its closing handshake. */
void py_connection_fail(py_connection *self, PyObject *error, bool tell_stage);
/* Flushes and closes (`whole`), or ends our stream, through the stage. */
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
PyObject *py_connection_peername(py_connection *self);
/* What on_close is given; a new reference. */
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

/* What one of the three says, for as long as the object lives; NULL, without an exception, if it is
 * none of them. */
const io_framing *py_framing_of(const py_state *state, PyObject *object);
/* A new FramingError for what net/framing.h has answered, below 0. `size` is the number that came
 * with it: frame->size of io_framing_next, *wanted of io_framing_join, or the size that
 * io_framing_wrap was asked about. NULL with an exception without memory. */
PyObject *py_framing_error(const py_state *state, const io_framing *framing, int error,
                           size_t size);

/* ---- datagrams (datagram_type.c) ------------------------------------------------------------- */

extern PyType_Spec py_datagram_socket_spec;

#endif
