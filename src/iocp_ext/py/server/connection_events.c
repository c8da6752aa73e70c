/* connection_events.c: what happens to a connection becomes calls of its callbacks.
 *
 * A thread that took one of its operations runs it: event after event until there is none. What
 * callbacks send meanwhile leaves when the last of them has returned, in one go. Input goes
 *
 *      receive buffer ──► stage (TLS; if any) ──► framing (if any) ──► on_message, on_data
 *
 * and stops anywhere when the connection is paused; what is left is handed on later. Framing in C
 * works on the receive buffer itself, and only the beginning of a message whose end has not come
 * is copied (`carry`). */
#include "py/server/server.h"

#include <assert.h>
#include <string.h>

enum { CARRY_LEAST = 496 }; /* with its head and malloc's, 512 */

typedef struct turn {
    py_connection *self;
    PyObject *leaving; /* KeyboardInterrupt or SystemExit, for run() */
    uint64_t messages;
    bool last; /* on_close is called: nothing comes after it */
} turn;

/* Where an exception comes from, which says who is told of it besides on_close. */
typedef enum error_origin {
    USER,  /* a callback: on_error, otherwise sys.unraisablehook */
    PEER,  /* what the peer sent is not in the framing: on_error, if there is one */
    STAGE, /* TLS failed, and can send no closing handshake: nobody */
} error_origin;

/* ---- exceptions ------------------------------------------------------------------------------ */

static bool connection_events_is_leaving(PyObject *error) {
    return PyErr_GivenExceptionMatches(error, PyExc_KeyboardInterrupt) ||
           PyErr_GivenExceptionMatches(error, PyExc_SystemExit);
}

static void connection_events_leave(turn *at, PyObject *error) {
    if (at->leaving == NULL)
        at->leaving = Py_NewRef(error);
}

static void connection_events_tell_error(turn *at, PyObject *error, error_origin origin,
                                         PyObject *source) {
    py_connection *self = at->self;
    PyObject *on_error = at->last ? NULL : self->group->callbacks[PY_ON_ERROR];
    if (on_error == NULL && origin == PEER)
        return;
    if (on_error == NULL) {
        PyErr_SetRaisedException(Py_NewRef(error));
        PyErr_WriteUnraisable(source);
        return;
    }
    PyObject *answer = PyObject_CallFunctionObjArgs(on_error, (PyObject *)self, error, NULL);
    PyObject *another = answer == NULL ? py_error_take() : NULL;
    Py_XDECREF(answer);
    if (another == NULL)
        return;
    if (connection_events_is_leaving(another)) {
        connection_events_leave(at, another);
    } else {
        PyErr_SetRaisedException(Py_NewRef(another));
        PyErr_WriteUnraisable(on_error);
    }
    Py_DECREF(another);
}

/* This exception, which it takes over, ends this connection, and no other. */
static void connection_events_failed(turn *at, PyObject *error, error_origin origin,
                                     PyObject *source) {
    py_connection *self = at->self;
    if (connection_events_is_leaving(error)) {
        connection_events_leave(at, error);
    } else if (io_connection_is_known(&self->io) && origin != STAGE) {
        connection_events_tell_error(at, error, origin, source);
    }
    py_connection_fail(self, error, origin != STAGE);
}

/* The same with the exception that is set. */
static void connection_events_raised(turn *at, error_origin origin, PyObject *source) {
    connection_events_failed(at, py_error_take(), origin, source);
}

static void connection_events_call_back(turn *at, py_callback which, PyObject *argument) {
    py_connection *self = at->self;
    PyObject *function = self->group->callbacks[which];
    if (function == NULL)
        return;
    assert(!PyErr_Occurred());
    PyObject *args[] = {NULL, (PyObject *)self, argument};
    PyObject *answer = PyObject_Vectorcall(
        function, args + 1, (argument ? 2u : 1u) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (answer == NULL)
        connection_events_raised(at, USER, function);
    Py_XDECREF(answer);
}

static bool connection_events_delivers(const turn *at) {
    return io_connection_delivers(&at->self->io);
}

/* ---- messages -------------------------------------------------------------------------------- */

/* Steals the message. */
static void connection_events_hand_on(turn *at, py_callback which, PyObject *data) {
    if (data == NULL) {
        connection_events_raised(at, USER, Py_None);
        return;
    }
    at->messages++;
    connection_events_call_back(at, which, data);
    Py_DECREF(data);
}

static void connection_events_refuse(turn *at, int64_t error, size_t size) {
    py_group *group = at->self->group;
    PyObject *exception = py_framing_error(group->port->state, group->frames, (int)error, size);
    if (exception != NULL)
        PyErr_SetRaisedException(exception);
    connection_events_raised(at, PEER, (PyObject *)at->self);
}

/* Room for `more` bytes behind what is carried; of the whole message, as far as that is known, at
 * once if it is not large: memory is given for what has come, not for what was announced. */
static bool connection_events_carry_grow(py_connection *self, size_t more, size_t wanted) {
    py_carry *carry = self->carry;
    size_t length = carry ? carry->length : 0, capacity = carry ? carry->capacity : 0;
    size_t needed = length + more;
    if (needed <= capacity)
        return true;
    size_t grown = capacity ? 2 * capacity : CARRY_LEAST;
    if (grown < wanted && wanted <= IO_BUFFER_POOLED_MAX)
        grown = wanted;
    if (wanted != 0 && grown > wanted)
        grown = wanted;
    if (grown < needed)
        grown = needed;
    carry = PyMem_RawRealloc(self->carry, sizeof *carry + grown);
    if (carry == NULL) {
        PyErr_NoMemory();
        return false;
    }
    carry->length = length;
    carry->capacity = grown;
    self->carry = carry;
    return true;
}

static bool connection_events_carry_append(py_connection *self, const char *data, size_t length,
                                           size_t wanted) {
    if (!connection_events_carry_grow(self, length, wanted))
        return false;
    memcpy(self->carry->data + self->carry->length, data, length);
    self->carry->length += length;
    return true;
}

/* Goes on with the message of which the beginning is carried; how many bytes it has taken. */
static size_t connection_events_go_on(turn *at, const char *data, size_t length) {
    py_connection *self = at->self;
    const io_framing *frames = self->group->frames;
    bool complete = false;
    size_t wanted = 0;
    int64_t part = io_framing_join(frames, self->carry->data, self->carry->length, data, length,
                                   &complete, &wanted);
    if (part < 0) {
        connection_events_refuse(at, part, wanted);
        return length;
    }
    if (!connection_events_carry_append(self, data, (size_t)part, wanted)) {
        connection_events_raised(at, USER, (PyObject *)self);
        return length;
    }
    if (complete) {
        io_frame frame;
        io_framing_whole(frames, self->carry->data, self->carry->length, &frame);
        PyObject *message =
            PyBytes_FromStringAndSize(self->carry->data + frame.start, (Py_ssize_t)frame.size);
        PyMem_RawFree(self->carry);
        self->carry = NULL;
        connection_events_hand_on(at, PY_ON_MESSAGE, message);
    }
    return (size_t)part;
}

/* Cuts messages out of what has arrived; how many bytes of it are done with. */
static size_t connection_events_cut(turn *at, const char *data, size_t length) {
    py_connection *self = at->self;
    const io_framing *frames = self->group->frames;
    size_t used = 0;
    while (used < length && connection_events_delivers(at)) {
        io_frame frame;
        if (self->carry != NULL) {
            used += connection_events_go_on(at, data + used, length - used);
            continue;
        }
        int found = io_framing_next(frames, data + used, length - used, &frame);
        if (found == 1) {
            connection_events_hand_on(
                at, PY_ON_MESSAGE,
                PyBytes_FromStringAndSize(data + used + frame.start, (Py_ssize_t)frame.size));
            used += frame.total;
        } else if (found == 0) {
            if (!connection_events_carry_append(self, data + used, length - used, 0))
                connection_events_raised(at, USER, (PyObject *)self);
            return length;
        } else {
            connection_events_refuse(at, found, frame.size);
            return length;
        }
    }
    return used;
}

/* ---- input ----------------------------------------------------------------------------------- */

/* A framer of one's own gives something that yields messages, and may raise after some of them. */
static PyObject *connection_events_feed(turn *at, PyObject *data) {
    PyObject *messages =
        PyObject_CallMethodOneArg(at->self->framer, at->self->group->port->state->str_feed, data);
    PyObject *iterator = NULL;
    if (messages != NULL && PyBytes_Check(messages)) /* else each byte would be a message */
        PyErr_Format(PyExc_TypeError,
                     "%.200s.feed() must return an iterable of messages, not bytes",
                     Py_TYPE(at->self->framer)->tp_name);
    else if (messages != NULL)
        iterator = PyObject_GetIter(messages);
    Py_XDECREF(messages);
    return iterator;
}

/* Its exception: what it says of the peer, or its own fault. */
static void connection_events_framer_raised(turn *at) {
    py_connection *self = at->self;
    bool peer = PyErr_ExceptionMatches(self->group->port->state->framing_error);
    connection_events_raised(at, peer ? PEER : USER, self->framer);
}

/* Keeps what a stage or the socket has given, to be handed on. It takes `data` over; NULL is an
 * exception of this origin. */
static void connection_events_keep(turn *at, PyObject *data, error_origin origin) {
    py_connection *self = at->self;
    if (data == NULL) {
        connection_events_raised(at, origin, (PyObject *)self);
        return;
    }
    if (self->framer != NULL && PyBytes_GET_SIZE(data) > 0) {
        Py_SETREF(data, connection_events_feed(at, data));
        if (data == NULL) {
            connection_events_framer_raised(at);
            return;
        }
    }
    self->input = data;
    self->input_used = 0;
}

static void connection_events_hand_on_messages(turn *at) {
    py_connection *self = at->self;
    while (connection_events_delivers(at)) {
        PyObject *message = PyIter_Next(self->input);
        if (message == NULL) {
            if (PyErr_Occurred())
                connection_events_framer_raised(at);
            Py_CLEAR(self->input);
            return;
        }
        connection_events_hand_on(at, PY_ON_MESSAGE, message);
    }
}

/* A stage may give more at once than the user wants. */
static PyObject *connection_events_next_piece(py_connection *self, PyObject *input, size_t size) {
    size_t start = self->input_used, most = self->group->io.limits.read_size;
    size_t length = size - start < most ? size - start : most;
    self->input_used += (uint32_t)length;
    return length == size
               ? Py_NewRef(input)
               : PyBytes_FromStringAndSize(PyBytes_AS_STRING(input) + start, (Py_ssize_t)length);
}

/* Hands on what is kept, as far as it is wanted. */
static void connection_events_hand_on_kept(turn *at) {
    py_connection *self = at->self;
    PyObject *input = self->input;
    if (!PyBytes_Check(input)) {
        connection_events_hand_on_messages(at);
        return;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(input);
    while (self->input_used < size && connection_events_delivers(at)) {
        if (self->group->frames != NULL) {
            self->input_used += (uint32_t)connection_events_cut(
                at, PyBytes_AS_STRING(input) + self->input_used, size - self->input_used);
        } else {
            connection_events_hand_on(at, PY_ON_DATA,
                                      connection_events_next_piece(self, input, size));
        }
    }
    if (self->input_used == size)
        Py_CLEAR(self->input);
}

static void connection_events_establish(turn *at) {
    py_connection *self = at->self;
    if (self->stage.ready && !io_connection_is_known(&self->io)) {
        io_connection_establish(&self->io);
        connection_events_call_back(at, PY_ON_CONNECT, NULL);
    }
}

/* The bytes may end the handshake and be damaged behind it: the connection exists first, and then
 * fails. */
static void connection_events_receive_through_stage(turn *at, const char *data, size_t length) {
    py_connection *self = at->self;
    PyObject *plain = py_stage_receive(&self->stage, self->group->port->state, data, length);
    PyObject *error = plain == NULL ? py_error_take() : NULL;
    io_connection_used(&self->io, length);
    connection_events_establish(at);
    if (error != NULL)
        connection_events_failed(at, error, STAGE, (PyObject *)self);
    else
        connection_events_keep(at, plain, STAGE);
}

static void connection_events_on_input(turn *at) {
    py_connection *self = at->self;
    bool kept = self->input != NULL;
    if (!kept) {
        size_t length;
        const char *data = io_connection_input(&self->io, &length);
        if (self->stage.object != NULL) {
            connection_events_receive_through_stage(at, data, length);
        } else if (self->group->frames != NULL) {
            io_connection_used(&self->io, connection_events_cut(at, data, length));
        } else {
            PyObject *bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)length);
            io_connection_used(&self->io, length);
            if (self->framer != NULL)
                connection_events_keep(at, bytes, USER);
            else
                connection_events_hand_on(at, PY_ON_DATA, bytes);
        }
    }
    if (self->input != NULL)
        connection_events_hand_on_kept(at);
    if (kept != (self->input != NULL))
        io_connection_keep_input(&self->io, self->input != NULL);
    if (self->stage.object != NULL && self->input == NULL &&
        py_stage_peer_ended(&self->stage, self->group->port->state))
        io_connection_end_input(&self->io);
}

static void connection_events_on_eof(turn *at) {
    py_connection *self = at->self;
    py_state *state = self->group->port->state;
    if (self->stage.object != NULL) {
        int later = py_stage_eof(&self->stage, state);
        if (later < 0)
            connection_events_raised(at, STAGE, (PyObject *)self);
        if (later != 0)
            return;
    }
    if (io_connection_close_requested(&self->io))
        return;
    if (!io_connection_is_known(&self->io)) {
        PyErr_SetString(PyExc_ConnectionResetError,
                        "the peer closed the connection before it was established");
        connection_events_raised(at, STAGE, (PyObject *)self);
    } else if (self->carry != NULL) {
        PyErr_Format(state->framing_error,
                     "the stream ended within a message, after %zu bytes of it",
                     self->carry->length);
        connection_events_raised(at, PEER, (PyObject *)self);
    } else if (self->group->callbacks[PY_ON_EOF] != NULL) {
        connection_events_call_back(at, PY_ON_EOF, NULL);
    } else {
        py_connection_end(self, true, true);
    }
}

/* ---- beginning and end ----------------------------------------------------------------------- */

bool py_connection_equip(py_connection *self) {
    py_group *group = self->group;
    self->equipped = true;
    if (group->frames == NULL && group->framing != NULL) {
        self->framer = PyObject_CallNoArgs(group->framing);
        if (self->framer == NULL)
            return false;
    }
    if (group->make_stage == NULL)
        return true;
    PyObject *stage = PyObject_CallOneArg(group->make_stage, (PyObject *)self);
    if (stage == NULL)
        return false;
    bool set =
        stage == Py_None || py_stage_set(&self->stage, (PyObject *)self, group->port->state, stage);
    Py_DECREF(stage);
    return set;
}

void py_connection_unequip(py_connection *self) {
    PyObject *framer;
    Py_BEGIN_CRITICAL_SECTION(self);
    framer = self->framer;
    self->framer = NULL;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(framer);
    (void)py_stage_set(&self->stage, (PyObject *)self, self->group->port->state, NULL);
}

static bool connection_events_start(py_connection *self) {
    if (!self->equipped && !py_connection_equip(self))
        return false;
    return py_stage_start(&self->stage, self->group->port->state);
}

static void connection_events_on_start(turn *at) {
    if (!connection_events_start(at->self))
        connection_events_raised(at, STAGE, (PyObject *)at->self);
    else
        connection_events_establish(at);
}

/* Stages that have more to send. */
static void connection_events_on_room(turn *at) {
    py_connection *self = at->self;
    if (self->stage.object != NULL && !py_stage_room(&self->stage, self->group->port->state))
        connection_events_raised(at, STAGE, (PyObject *)self);
}

/* Once it is closing, they are only dropped. */
static void connection_events_on_jobs(turn *at) {
    py_connection *self = at->self;
    for (io_job *next, *job = io_connection_take_jobs(&self->io); job != NULL; job = next) {
        PyObject *function = ((py_job *)job)->function, *answer = NULL;
        next = job->next;
        PyMem_RawFree(job);
        if (!io_connection_close_requested(&self->io)) {
            answer = PyObject_CallNoArgs(function);
            if (answer == NULL)
                connection_events_raised(at, USER, function);
        }
        Py_XDECREF(answer);
        Py_DECREF(function);
    }
}

/* What holds others, or is of no use any more. The context stays: it is the user's. */
static void connection_events_drop(turn *at) {
    py_connection *self = at->self;
    PyObject *timers;
    Py_BEGIN_CRITICAL_SECTION(self);
    timers = self->timers;
    self->timers = NULL;
    Py_END_CRITICAL_SECTION();
    if (timers != NULL) {
        PyObject *answer = PyObject_CallOneArg(self->group->port->state->cancel_timers, timers);
        if (answer == NULL)
            PyErr_WriteUnraisable((PyObject *)self);
        Py_XDECREF(answer);
        Py_DECREF(timers);
    }
    connection_events_on_jobs(at);
    Py_CLEAR(self->input);
    PyMem_RawFree(self->carry);
    self->carry = NULL;
}

/* Its traceback knows the connection. */
static void connection_events_forget_error(py_connection *self) {
    PyObject *error;
    Py_BEGIN_CRITICAL_SECTION(self);
    error = self->error;
    self->error = NULL;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(error);
}

static void connection_events_on_gone(turn *at) {
    py_connection *self = at->self;
    PyObject *reason = py_connection_reason(self);
    if (reason == NULL)
        reason = py_error_take();
    connection_events_drop(at);
    at->last = true;
    connection_events_call_back(at, io_connection_is_known(&self->io) ? PY_ON_CLOSE : PY_ON_FAILED,
                                reason);
    Py_DECREF(reason);
    connection_events_forget_error(self);
    py_connection_unequip(self);
    io_group_leave(&self->group->io, &self->member);
}

/* ---- running --------------------------------------------------------------------------------- */

static void connection_events_handle(turn *at, io_connection_event event) {
    switch (event) {
    case IO_CONNECTION_STARTED:
        connection_events_on_start(at);
        break;
    case IO_CONNECTION_JOBS:
        connection_events_on_jobs(at);
        break;
    case IO_CONNECTION_INPUT:
        connection_events_on_input(at);
        break;
    case IO_CONNECTION_EOF:
        connection_events_on_eof(at);
        break;
    case IO_CONNECTION_DRAINED:
        connection_events_call_back(at, PY_ON_DRAIN, NULL);
        break;
    case IO_CONNECTION_ROOM:
        connection_events_on_room(at);
        break;
    case IO_CONNECTION_GONE:
        connection_events_on_gone(at);
        break;
    case IO_CONNECTION_IDLE:
        break;
    }
}

/* Whether the event is nobody's but ours; its time is none of callbacks. */
static bool connection_events_is_internal(const py_connection *self, io_connection_event event) {
    const py_group *group = self->group;
    if (self->stage.object != NULL)
        return false;
    switch (event) {
    case IO_CONNECTION_STARTED:
        return group->callbacks[PY_ON_CONNECT] == NULL &&
               (group->framing == NULL || group->frames != NULL);
    case IO_CONNECTION_EOF:
        return group->callbacks[PY_ON_EOF] == NULL && self->carry == NULL;
    case IO_CONNECTION_GONE:
        return group->callbacks[io_connection_is_known(&self->io) ? PY_ON_CLOSE : PY_ON_FAILED] ==
               NULL;
    default:
        return false;
    }
}

static void connection_events_count(py_group *group, const turn *at, uint64_t took_ns) {
    atomic_fetch_add_explicit(&group->messages, at->messages, memory_order_relaxed);
    atomic_fetch_add_explicit(&group->runs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&group->callback_ns, took_ns, memory_order_relaxed);
    if (took_ns > atomic_load_explicit(&group->callback_max_ns, memory_order_relaxed))
        atomic_store_explicit(&group->callback_max_ns, took_ns, memory_order_relaxed);
}

bool py_connection_run(py_connection *self, io_connection_event event) {
    if (event == IO_CONNECTION_IDLE)
        return true;
    turn at = {.self = self};
    py_group *group = self->group;
    uint64_t began_ns = 0;
    Py_INCREF((PyObject *)self);
    Py_INCREF((PyObject *)group);
    do {
        if (began_ns == 0 && !connection_events_is_internal(self, event))
            began_ns = io_clock_ns();
        connection_events_handle(&at, event);
        py_pieces_release_spent(&self->io);
    } while ((event = io_connection_next(&self->io)) != IO_CONNECTION_IDLE);
    py_pieces_release_spent(&self->io);
    if (began_ns != 0)
        connection_events_count(group, &at, io_clock_ns() - began_ns);
    Py_DECREF((PyObject *)self);
    Py_DECREF((PyObject *)group);
    if (at.leaving != NULL)
        PyErr_SetRaisedException(at.leaving);
    return at.leaving == NULL;
}

bool py_connection_take(io_op *op) {
    io_connection *io = op->owner;
    py_connection *self = IO_CONTAINER(io, py_connection, io);
    Py_INCREF((PyObject *)self);
    bool go_on = py_connection_run(self, io_connection_taken(io, op));
    py_pieces_release_spent(&self->io);
    Py_DECREF((PyObject *)self);
    return go_on;
}

static void connection_events_collect(io_op *op, bool leaked) {
    if (!leaked)
        io_connection_collected(op->owner, op);
}

const io_owner_ops py_connection_owner_ops = {py_connection_take, connection_events_collect};
