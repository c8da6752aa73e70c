/* pieces.c: passes what Python sends to a connection's write queue.
 *
 * The queue keeps large bytes objects until they are sent, without a copy; they are immutable. It
 * copies small ones, and all other buffers, which may change after send() has returned.
 *
 * A kept bytes object is the `owner` of its chunk. Any thread can finish sending it, with or
 * without the interpreter, so the core only collects the spent chunks. The next attached thread
 * that comes by releases them (py_pieces_release_spent). */
#include "py/stream/stream.h"

enum { PIECES_MAX = 64 }; /* longer sequences are joined first */

void py_pieces_release_spent(io_connection *connection) {
    for (io_chunk *next, *chunk = io_connection_take_spent(connection); chunk != NULL;
         chunk = next) {
        PyObject *owner = chunk->owner;
        next = chunk->next;
        /* The reference last: dropping it can run Python code. */
        io_chunk_free(connection, chunk);
        Py_XDECREF(owner);
    }
}

/* A forked child has a copy of the connection, and shares its socket with the parent. What it sent
 * would get into the middle of the parent's stream. */
bool py_stream_check_fork(const io_connection *connection) {
    if (!io_port_forked(connection->wakeup.lane->port))
        return true;
    py_error_entering(-IOE_FORKED);
    return false;
}

bool py_is_bytes_like(PyObject *data, const char *name) {
    if (PyObject_CheckBuffer(data))
        return true;
    PyErr_Format(PyExc_TypeError, "%s must be a bytes-like object, not %.200s", name,
                 Py_TYPE(data)->tp_name);
    return false;
}

bool py_piece_view(PyObject *data, const char *name, io_piece *piece, Py_buffer *buffer) {
    buffer->obj = NULL; /* PyBuffer_Release does nothing then */
    if (PyBytes_CheckExact(data)) {
        *piece = (io_piece){PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), data};
        return true;
    }
    if (!py_is_bytes_like(data, name) || PyObject_GetBuffer(data, buffer, PyBUF_SIMPLE) < 0)
        return false;
    *piece = (io_piece){buffer->buf, (size_t)buffer->len, NULL};
    return true;
}

/* Takes a reference for every owner beforehand, because another thread may send and release a chunk
 * at once. io_connection_send sets `owner` to NULL in the pieces that it has kept, so the loop
 * behind it drops only the other references. */
PyObject *py_pieces_send(io_connection *connection, io_piece *pieces, size_t count) {
    for (size_t i = 0; i < count; i++)
        Py_XINCREF((PyObject *)pieces[i].owner);
    int sent =
        py_stream_check_fork(connection) ? io_connection_send(connection, pieces, count) : -1;
    for (size_t i = 0; i < count; i++)
        Py_XDECREF((PyObject *)pieces[i].owner);
    py_pieces_release_spent(connection);
    if (sent == -IOE_NOMEM && !PyErr_Occurred())
        PyErr_NoMemory();
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}

/* The view is released after sending: what the queue has not copied by then is exact bytes, whose
 * reference it owns. */
static PyObject *pieces_send_one(io_connection *connection, PyObject *data) {
    io_piece piece;
    Py_buffer buffer;
    if (!py_piece_view(data, "data", &piece, &buffer))
        return NULL;
    PyObject *answer = py_pieces_send(connection, &piece, 1);
    PyBuffer_Release(&buffer);
    return answer;
}

/* Sends a sequence of buffers as one: no other thread's data gets between them. */
static PyObject *pieces_send_several(io_connection *connection, PyObject *sequence) {
    io_piece pieces[PIECES_MAX];
    Py_buffer buffers[PIECES_MAX];
    /* A tuple first: viewing an item runs Python code, which may change a list. */
    PyObject *items = PySequence_Tuple(sequence);
    PyObject *answer = NULL;
    if (items == NULL)
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(items), viewed = 0;
    if (count > PIECES_MAX) {
        PyObject *empty = PyBytes_FromStringAndSize(NULL, 0);
        PyObject *joined = empty == NULL ? NULL : PyObject_CallMethod(empty, "join", "(O)", items);
        answer = joined == NULL ? NULL : pieces_send_one(connection, joined);
        Py_XDECREF(empty);
        Py_XDECREF(joined);
        Py_DECREF(items);
        return answer;
    }
    while (viewed < count && py_piece_view(PyTuple_GET_ITEM(items, viewed), "data", &pieces[viewed],
                                           &buffers[viewed]))
        viewed++;
    if (viewed == count)
        answer = py_pieces_send(connection, pieces, (size_t)count);
    while (viewed > 0)
        PyBuffer_Release(&buffers[--viewed]);
    Py_DECREF(items);
    return answer;
}

bool py_is_pieces(PyObject *data) {
    return PyList_Check(data) || PyTuple_Check(data);
}

PyObject *py_pieces_send_data(io_connection *connection, PyObject *data) {
    return py_is_pieces(data) ? pieces_send_several(connection, data)
                              : pieces_send_one(connection, data);
}
