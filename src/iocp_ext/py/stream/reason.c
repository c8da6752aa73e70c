/* reason.c: turns the reason why a connection ended into an exception.
 *
 * The core records the first reason only (io_reason), so what on_close reports is the cause and not
 * a consequence of it, such as a failed send after a reset. */
#include "py/stream/stream.h"

void py_reason_what(const io_address *peer, const char *verb, const char *preposition, char *text,
                    size_t size) {
    char address[160];
    if (peer->length == 0) {
        PyOS_snprintf(text, size, "%s", verb);
        return;
    }
    io_address_text(peer, address, sizeof address);
    PyOS_snprintf(text, size, "%s %s %s", verb, preposition, address);
}

/* The OSError for the error that the core has recorded. */
static PyObject *reason_of_system(const io_connection *connection, const io_address *peer,
                                  const char *verb, const char *preposition) {
    char what[224];
    py_reason_what(peer, verb, preposition, what, sizeof what);
    return py_error_object(connection->error, connection->os_error, what);
}

/* SlowReaderError: the peer did not read fast enough. */
static PyObject *reason_of_overflow(const io_connection *connection, const py_state *state) {
    return PyObject_CallFunction(
        state->slow_reader_error, "N",
        PyUnicode_FromFormat("more than max_write_buffer, %llu bytes, waited to be sent",
                             (unsigned long long)connection->limits->max_write_buffer));
}

PyObject *py_reason_object(const io_connection *connection, const py_state *state,
                           const io_address *peer) {
    bool closed = connection->error == -IOE_CANCELED;
    switch ((io_reason)connection->reason) {
    case IO_REASON_RECEIVE:
        return reason_of_system(connection, peer, "receive", "from");
    case IO_REASON_SEND:
        return reason_of_system(connection, peer, "send", "to");
    case IO_REASON_IDLE:
        return PyObject_CallFunction(PyExc_TimeoutError, "s", "idle for longer than idle_timeout");
    case IO_REASON_HANDSHAKE:
        return PyObject_CallFunction(PyExc_TimeoutError, "s",
                                     "not established within handshake_timeout");
    case IO_REASON_OVERFLOW:
        return reason_of_overflow(connection, state);
    case IO_REASON_PORT: /* operations end as cancelled if the port was closed */
        return reason_of_system(
            connection, peer,
            closed ? "the port was closed; connection" : "the port failed; connection", "with");
    case IO_REASON_EMBEDDER: /* the caller has the exception itself */
    case IO_REASON_NONE:     /* from here on: an ordinary end, no exception */
    case IO_REASON_CLOSE:
    case IO_REASON_ABORT:
    case IO_REASON_PEER:
        break;
    }
    return Py_NewRef(Py_None);
}
