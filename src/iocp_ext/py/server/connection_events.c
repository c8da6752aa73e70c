/* connection_events.c: turns the events of a connection into calls of its callbacks.
 *
 * A thread that has taken an operation of the connection becomes its runner and handles one event
 * after another until there is none (a turn). Data that callbacks send meanwhile is queued, and
 * leaves together when the last of them has returned.
 *
 * Input takes this path:
 *
 *      receive buffer ──► stage, if any ──► framing, if any ──► on_message or on_data
 *
 * Delivery can stop at any point, because any callback may pause or close the connection. So every
 * loop asks connection_events_delivers before each message. What is left is kept in one of three
 * places, and delivered by a later INPUT event:
 *
 *      the receive buffer  raw bytes, if there is neither a stage nor a framer
 *      self->input         what a stage or a framer has returned: bytes, or an iterator of messages
 *      self->carry         the first part of a message, if the framing is one in C
 *
 * A framing in C works on the receive buffer itself; nothing but `carry` is copied.
 *
 * An exception ends its own connection, and no other. KeyboardInterrupt and SystemExit also leave
 * run(), at the end of the turn. */
#include "py/server/server.h"

#include <assert.h>
#include <string.h>

enum { CARRY_LEAST = 496 }; /* 512 bytes with the struct's header and malloc's */

/* One thread's run of a connection, on its stack. */
typedef struct turn {
    py_connection *self;
    PyObject *leaving; /* KeyboardInterrupt or SystemExit, for run(); the first one */
    uint64_t messages; /* delivered, for the group's figures */
    bool last;         /* on_close is being called: no callback follows, not even on_error */
} turn;

/* The source of an exception. It decides who is notified, apart from on_close. */
typedef enum error_origin {
    USER,  /* a callback: on_error, otherwise sys.unraisablehook */
    PEER,  /* the peer violated the framing: on_error, if there is one */
    STAGE, /* the stage failed: nobody; it cannot send a closing handshake any more either */
} error_origin;

/* ---- exceptions ------------------------------------------------------------------------------ */

/* Whether the exception must leave run(). */
static bool connection_events_is_leaving(PyObject *error) {
    return PyErr_GivenExceptionMatches(error, PyExc_KeyboardInterrupt) ||
           PyErr_GivenExceptionMatches(error, PyExc_SystemExit);
}

static void connection_events_leave(turn *at, PyObject *error) {
    if (at->leaving == NULL)
        at->leaving = Py_NewRef(error);
}

/* Reports the error, which stays the caller's. If on_error itself raises, that goes to
 * sys.unraisablehook, unless it must leave run(). */
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

/* Reports the error and ends the connection because of it. Takes the reference to `error`. A
 * connection that was never established has no user to report to. */
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

/* Does that with the exception that is currently set. */
static void connection_events_raised(turn *at, error_origin origin, PyObject *source) {
    connection_events_failed(at, py_error_take(), origin, source);
}

/* Calls a callback, if there is one, with the connection and an optional argument. */
static void connection_events_call_back(turn *at, py_callback which, PyObject *argument) {
    py_connection *self = at->self;
    PyObject *function = self->group->callbacks[which];
    if (function == NULL)
        return;
    assert(!PyErr_Occurred());
    PyObject *args[] = {NULL, (PyObject *)self, argument}; /* the first slot is the callee's */
    PyObject *answer = PyObject_Vectorcall(
        function, args + 1, (argument ? 2u : 1u) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (answer == NULL)
        connection_events_raised(at, USER, function);
    Py_XDECREF(answer);
}

/* Whether the next message may be delivered: the connection is neither held nor closing. */
static bool connection_events_delivers(const turn *at) {
    return io_connection_delivers(&at->self->io);
}

/* ---- messages -------------------------------------------------------------------------------- */

/* Delivers one message. Takes the reference to `data`; NULL means that creating it failed. */
static void connection_events_hand_on(turn *at, py_callback which, PyObject *data) {
    if (data == NULL) {
        connection_events_raised(at, USER, Py_None);
        return;
    }
    at->messages++;
    connection_events_call_back(at, which, data);
    Py_DECREF(data);
}

/* Ends the connection because the peer violated the framing. If the FramingError cannot be created,
 * the reason for that takes its place. */
static void connection_events_refuse(turn *at, int64_t error, size_t size) {
    py_group *group = at->self->group;
    PyObject *exception = py_framing_error(group->port->state, group->frames, (int)error, size);
    if (exception != NULL)
        PyErr_SetRaisedException(exception);
    connection_events_raised(at, PEER, (PyObject *)at->self);
}

/* Makes room for `more` bytes behind those that are carried. `wanted` is the size of the whole
 * frame, or 0 if it is unknown. If that is small, all of it is allocated at once. Otherwise the
 * memory doubles as data arrives: a peer that merely announces a large message gets no memory. */
static bool connection_events_carry_grow(py_connection *self, size_t more, size_t wanted) {
    py_carry *carry = self->carry;
    size_t length = carry ? carry->length : 0, capacity = carry ? carry->capacity : 0;
    size_t needed = length + more;
    if (needed <= capacity)
        return true;
    size_t grown = capacity ? 2 * capacity : CARRY_LEAST;
    if (grown < wanted && wanted <= IO_BUFFER_POOLED_MAX)
        grown = wanted;
    /* No more than the message needs, and no less than has arrived. */
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

/* Appends to the carried bytes, creating `carry` if needed. */
static bool connection_events_carry_append(py_connection *self, const char *data, size_t length,
                                           size_t wanted) {
    if (!connection_events_carry_grow(self, length, wanted))
        return false;
    memcpy(self->carry->data + self->carry->length, data, length);
    self->carry->length += length;
    return true;
}

/* Continues the message whose first part is carried, and delivers it if that completes it. Returns
 * how many bytes it has consumed; after an error all of them, since the connection ends. */
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
        /* The carry goes before the callback is called, so that the runner's state is consistent
         * whatever the callback does. */
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

/* Cuts messages out of the data and delivers them. Returns how many bytes are consumed: all, unless
 * delivery has stopped. An incomplete message at the end is moved to `carry`. */
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

/* Passes data to the user-defined framer. Returns an iterator of messages, not a list: feed() may
 * be a generator, which raises only after the messages before the faulty one. */
static PyObject *connection_events_feed(turn *at, PyObject *data) {
    PyObject *messages =
        PyObject_CallMethodOneArg(at->self->framer, at->self->group->port->state->str_feed, data);
    PyObject *iterator = NULL;
    if (messages != NULL && PyBytes_Check(messages)) /* iterating it would yield integers */
        PyErr_Format(PyExc_TypeError,
                     "%.200s.feed() must return an iterable of messages, not bytes",
                     Py_TYPE(at->self->framer)->tp_name);
    else if (messages != NULL)
        iterator = PyObject_GetIter(messages);
    Py_XDECREF(messages);
    return iterator;
}

/* The framer raised: a FramingError blames the peer, anything else is a bug of the framer. */
static void connection_events_framer_raised(turn *at) {
    py_connection *self = at->self;
    bool peer = PyErr_ExceptionMatches(self->group->port->state->framing_error);
    connection_events_raised(at, peer ? PEER : USER, self->framer);
}

/* Stores received bytes in self->input, passing them through the framer if there is one. Takes the
 * reference to `data`; NULL means that an exception of this origin is set. */
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

/* Delivers from the framer's iterator, which runs the framer's own code. */
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

/* Returns the next piece for on_data, at most read_size bytes: a stage may return more at once than
 * the user wants to get. */
static PyObject *connection_events_next_piece(py_connection *self, PyObject *input, size_t size) {
    size_t start = self->input_used, most = self->group->io.limits.read_size;
    size_t length = size - start < most ? size - start : most;
    self->input_used += (uint32_t)length;
    return length == size
               ? Py_NewRef(input)
               : PyBytes_FromStringAndSize(PyBytes_AS_STRING(input) + start, (Py_ssize_t)length);
}

/* Delivers self->input until it is used up or delivery stops. */
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

/* Calls on_connect, once, when the stage's handshake is complete. */
static void connection_events_establish(turn *at) {
    py_connection *self = at->self;
    if (self->stage.ready && !io_connection_is_known(&self->io)) {
        io_connection_establish(&self->io);
        connection_events_call_back(at, PY_ON_CONNECT, NULL);
    }
}

/* The bytes may complete the handshake and be corrupt behind it. So a failure of the stage is
 * reported only after the connection has been established. */
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

/* Handles INPUT. What was kept is delivered first; new input is read only if nothing was. */
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
    /* The core repeats INPUT as long as it believes that input is kept. */
    if (kept != (self->input != NULL))
        io_connection_keep_input(&self->io, self->input != NULL);
    /* The peer has ended its application stream: EOF follows, but only behind the input. */
    if (self->stage.object != NULL && self->input == NULL &&
        py_stage_peer_ended(&self->stage, self->group->port->state))
        io_connection_end_input(&self->io);
}

/* Handles EOF. Without on_eof the connection is closed in turn. */
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
    /* The stage may have closed the connection. */
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

/* The critical section is for senders in other threads, which read `framer` in one. */
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
    /* A connection of adopt() was equipped before it was opened. */
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

/* Handles ROOM, which only stages ask for. */
static void connection_events_on_room(turn *at) {
    py_connection *self = at->self;
    if (self->stage.object != NULL && !py_stage_room(&self->stage, self->group->port->state))
        connection_events_raised(at, STAGE, (PyObject *)self);
}

/* Runs the jobs, or merely drops them once the connection is closing. */
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

/* Drops what refers to other objects or is useless now, so that a connection that the user keeps
 * costs little and keeps nothing else alive. The context stays: it belongs to the user. */
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

/* Drops the error, whose traceback refers to the connection: a reference cycle. */
static void connection_events_forget_error(py_connection *self) {
    PyObject *error;
    Py_BEGIN_CRITICAL_SECTION(self);
    error = self->error;
    self->error = NULL;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(error);
}

/* Handles GONE, the last event. After io_group_leave only the references of the turn are left. */
static void connection_events_on_gone(turn *at) {
    py_connection *self = at->self;
    /* Before anything is dropped: the reason may be in self->error. */
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

/* Dispatches one event. Never fails: every exception is dealt with by then. */
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

/* True if the event runs no user code, so it does not count as callback time. Then the clock is not
 * read either, which keeps connections without callbacks cheap. */
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

/* Adds the turn to the group's figures. The maximum may miss a concurrent larger one. */
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
    /* GONE drops the group's reference to the connection, which may be the last one. */
    Py_INCREF((PyObject *)self);
    Py_INCREF((PyObject *)group);
    do {
        if (began_ns == 0 && !connection_events_is_internal(self, event))
            began_ns = io_clock_ns();
        connection_events_handle(&at, event);
        /* Sent data is released between events, so that long turns do not keep it. */
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

/* The reference outlives py_connection_run, because spent data is released once more after it: the
 * event may be IDLE, when there was no run. */
static bool connection_events_take(io_op *op) {
    io_connection *io = op->owner;
    py_connection *self = IO_CONTAINER(io, py_connection, io);
    Py_INCREF((PyObject *)self);
    bool go_on = py_connection_run(self, io_connection_taken(io, op));
    py_pieces_release_spent(&self->io);
    Py_DECREF((PyObject *)self);
    return go_on;
}

/* The port was closed before anybody took this operation. */
static void connection_events_collect(io_op *op, bool leaked) {
    if (!leaked)
        io_connection_collected(op->owner, op);
}

const io_owner_ops py_connection_owner_ops = {connection_events_take, connection_events_collect};
