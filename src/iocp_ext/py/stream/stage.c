/* stage.c: calls the methods of a stage, such as TLS, that sits between a stream and its user
 * (python/iocpcore/_stage.py is the protocol).
 *
 * Each call holds a reference to the stage, because a method may remove it from its owner: the
 * PROXY protocol's stage replaces itself by TLS or by none.
 *
 * Receiving is done by the runner of the connection only, which reads `object` without a lock.
 * Sending and closing come from any thread, and use py_stage_get. */
#include "py/stream/stream.h"

PyObject *py_stage_get(const py_stage *self, PyObject *owner) {
    PyObject *object;
    (void)owner; /* unused by the empty macros of builds with the GIL */
    Py_BEGIN_CRITICAL_SECTION(owner);
    object = Py_XNewRef(self->object);
    Py_END_CRITICAL_SECTION();
    return object;
}

/* The attribute is looked up before the critical section, because that runs Python code; the old
 * stage is dropped after it, for the same reason. */
bool py_stage_set(py_stage *self, PyObject *owner, const py_state *state, PyObject *object) {
    PyObject *old = NULL, *send = NULL;
    (void)owner;
    if (object != NULL && PyObject_GetOptionalAttr(object, state->str_send, &send) < 0)
        return false; /* treating it as a stage without send() would send plain text */
    Py_BEGIN_CRITICAL_SECTION(owner);
    old = self->object;
    self->object = Py_XNewRef(object);
    Py_END_CRITICAL_SECTION();
    self->sends = send != NULL; /* a hint for senders: py_stage_send looks again */
    Py_XDECREF(send);
    Py_XDECREF(old);
    return true;
}

/* ---- receiving ------------------------------------------------------------------------------- */

bool py_stage_start(py_stage *self, const py_state *state) {
    if (self->object == NULL) { /* no handshake */
        self->ready = true;
        return true;
    }
    PyObject *object = Py_NewRef(self->object);
    PyObject *answer = PyObject_CallMethodNoArgs(object, state->str_start);
    Py_DECREF(object);
    Py_XDECREF(answer);
    return answer != NULL;
}

PyObject *py_stage_receive(const py_stage *self, const py_state *state, const char *data,
                           size_t length) {
    PyObject *raw = PyBytes_FromStringAndSize(data, (Py_ssize_t)length);
    if (raw == NULL)
        return NULL;
    PyObject *object = Py_NewRef(self->object);
    PyObject *plain = PyObject_CallMethodOneArg(object, state->str_receive, raw);
    Py_DECREF(raw);
    if (plain != NULL && !PyBytes_Check(plain)) {
        PyErr_Format(PyExc_TypeError, "%.200s.receive() must return bytes, not %.200s",
                     Py_TYPE(object)->tp_name, Py_TYPE(plain)->tp_name);
        Py_CLEAR(plain);
    }
    Py_DECREF(object);
    return plain;
}

bool py_stage_peer_ended(const py_stage *self, const py_state *state) {
    /* Optional for a stage: without the attribute, or with a failing one, the peer has not ended.
     * The end of the raw stream is seen in any case. */
    PyObject *object = Py_NewRef(self->object), *value = NULL;
    int is_true = PyObject_GetOptionalAttr(object, state->str_peer_ended, &value);
    if (value != NULL)
        is_true = PyObject_IsTrue(value);
    Py_XDECREF(value);
    if (is_true < 0)
        PyErr_WriteUnraisable(object);
    Py_DECREF(object);
    return is_true > 0;
}

int py_stage_eof(const py_stage *self, const py_state *state) {
    PyObject *object = Py_NewRef(self->object);
    PyObject *answer = PyObject_CallMethodNoArgs(object, state->str_eof);
    /* True only: a stage that returns nothing leaves the end of the stream to the connection. */
    int later = answer == NULL ? -1 : answer == Py_True;
    Py_XDECREF(answer);
    Py_DECREF(object);
    return later;
}

/* ---- sending --------------------------------------------------------------------------------- */

bool py_stage_room(const py_stage *self, const py_state *state) {
    PyObject *object = Py_NewRef(self->object);
    PyObject *answer = PyObject_CallMethodNoArgs(object, state->str_room);
    Py_XDECREF(answer);
    Py_DECREF(object);
    return answer != NULL;
}

/* The stage always gets a list of buffers, which it sends as one. They are checked here, so that a
 * wrong type raises TypeError before the stage has taken anything. */
PyObject *py_stage_send(const py_stage *self, PyObject *owner, const py_state *state,
                        PyObject *data) {
    PyObject *object = py_stage_get(self, owner), *answer = NULL;
    if (object == NULL) /* removed since the caller looked at `sends` */
        return Py_NewRef(Py_False);
    PyObject *list = py_is_pieces(data) ? PySequence_List(data) : Py_BuildValue("[O]", data);
    bool good = list != NULL;
    for (Py_ssize_t i = 0; good && i < PyList_GET_SIZE(list); i++)
        good = py_is_bytes_like(PyList_GET_ITEM(list, i), "data");
    if (good)
        answer = PyObject_CallMethodOneArg(object, state->str_send, list);
    Py_XDECREF(list);
    Py_DECREF(object);
    return answer;
}

PyObject *py_stage_send_file(const py_stage *self, PyObject *owner, PyObject *file, uint64_t offset,
                             PyObject *count) {
    PyObject *object = py_stage_get(self, owner);
    if (object == NULL)
        return Py_NewRef(Py_False);
    PyObject *answer =
        PyObject_CallMethod(object, "send_file", "OKO", file, (unsigned long long)offset,
                            count == NULL ? Py_None : count);
    Py_DECREF(object);
    return answer;
}

/* ---- closing handshake ----------------------------------------------------------------------- */

/* `end` moves from OPEN to one of the two AFTER states to ENDED. A close() that follows a
 * shutdown() upgrades the AFTER state; it never goes back. */

bool py_stage_close(py_stage *self, PyObject *owner, const py_state *state, bool whole) {
    uint8_t open = PY_STAGE_OPEN;
    uint8_t waits = whole ? PY_STAGE_CLOSES_AFTER : PY_STAGE_SHUTS_DOWN_AFTER;
    if (!self->sends)
        return false;
    if (!atomic_compare_exchange_strong(&self->end, &open, waits)) {
        uint8_t shutdown = PY_STAGE_SHUTS_DOWN_AFTER;
        if (whole)
            (void)atomic_compare_exchange_strong(&self->end, &shutdown, PY_STAGE_CLOSES_AFTER);
        return self->end != PY_STAGE_ENDED;
    }
    PyObject *object = py_stage_get(self, owner);
    if (object == NULL) { /* removed meanwhile: nothing is left to write */
        self->end = PY_STAGE_ENDED;
        return false;
    }
    PyObject *answer = PyObject_CallMethodNoArgs(object, state->str_close);
    int later = answer == NULL ? -1 : PyObject_IsTrue(answer);
    if (later < 0)
        PyErr_WriteUnraisable(object);
    Py_XDECREF(answer);
    Py_DECREF(object);
    /* Not `later`: the stage has written its closing handshake already, or cannot. */
    if (later <= 0)
        self->end = PY_STAGE_ENDED;
    return later > 0;
}

py_stage_end py_stage_finish(py_stage *self) {
    return (py_stage_end)atomic_exchange(&self->end, PY_STAGE_ENDED);
}

bool py_stage_pending(const py_stage *self) {
    uint8_t end = self->end;
    return end == PY_STAGE_CLOSES_AFTER || end == PY_STAGE_SHUTS_DOWN_AFTER;
}
