/* connection_send.c: what Connection sends: data, messages in its framing, files.
 *
 * Bytes objects are kept until they are sent, small ones and other buffers copied. What goes
 * through a stage (TLS) is given to it as a list, to be sent as one; the stage calls _write. */
#include "py/server/server.h"

#include <string.h>

enum { PIECES_MAX = 64 };

static py_connection *connection_send_self_of(PyObject *object) {
    return (py_connection *)object;
}

static py_state *connection_send_state_of(const py_connection *self) {
    return self->group->port->state;
}

/* ---- sending --------------------------------------------------------------------------------- */

void py_connection_release_spent(py_connection *self) {
    for (io_chunk *next, *chunk = io_connection_take_spent(&self->io); chunk != NULL;
         chunk = next) {
        PyObject *owner = chunk->owner;
        next = chunk->next;
        io_chunk_free(&self->io, chunk);
        Py_XDECREF(owner);
    }
}

static bool connection_send_check_fork(const py_connection *self) {
    if (!io_port_forked(self->group->port->port))
        return true;
    py_error_entering(IOE_FORKED);
    return false;
}

static bool connection_send_is_bytes_like(PyObject *data, const char *name) {
    if (PyObject_CheckBuffer(data))
        return true;
    PyErr_Format(PyExc_TypeError, "%s must be a bytes-like object, not %.200s", name,
                 Py_TYPE(data)->tp_name);
    return false;
}

/* Bytes objects may be kept; other buffers are copied, since they may change. */
static bool connection_send_view(PyObject *data, const char *name, io_piece *piece,
                                 Py_buffer *buffer) {
    buffer->obj = NULL;
    if (PyBytes_CheckExact(data)) {
        *piece = (io_piece){PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), data};
        return true;
    }
    if (!connection_send_is_bytes_like(data, name) ||
        PyObject_GetBuffer(data, buffer, PyBUF_SIMPLE) < 0)
        return false;
    *piece = (io_piece){buffer->buf, (size_t)buffer->len, NULL};
    return true;
}

/* Takes a reference for each piece that is kept. */
static PyObject *connection_send_pieces(py_connection *self, io_piece *pieces, size_t count) {
    for (size_t i = 0; i < count; i++)
        Py_XINCREF((PyObject *)pieces[i].owner);
    int sent = connection_send_check_fork(self) ? io_connection_send(&self->io, pieces, count) : -1;
    for (size_t i = 0; i < count; i++)
        Py_XDECREF((PyObject *)pieces[i].owner);
    py_connection_release_spent(self);
    if (sent == -IOE_NOMEM && !PyErr_Occurred())
        PyErr_NoMemory();
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}

static PyObject *connection_send_one(py_connection *self, PyObject *data) {
    io_piece piece;
    Py_buffer buffer;
    if (!connection_send_view(data, "data", &piece, &buffer))
        return NULL;
    PyObject *answer = connection_send_pieces(self, &piece, 1);
    PyBuffer_Release(&buffer);
    return answer;
}

/* A sequence of buffers, as one. */
static PyObject *connection_send_several(py_connection *self, PyObject *sequence) {
    io_piece pieces[PIECES_MAX];
    Py_buffer buffers[PIECES_MAX];
    PyObject *items = PySequence_Tuple(sequence);
    PyObject *answer = NULL;
    if (items == NULL)
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(items), viewed = 0;
    if (count > PIECES_MAX) {
        PyObject *empty = PyBytes_FromStringAndSize(NULL, 0);
        PyObject *joined = empty == NULL ? NULL : PyObject_CallMethod(empty, "join", "(O)", items);
        answer = joined == NULL ? NULL : connection_send_one(self, joined);
        Py_XDECREF(empty);
        Py_XDECREF(joined);
        Py_DECREF(items);
        return answer;
    }
    while (viewed < count && connection_send_view(PyTuple_GET_ITEM(items, viewed), "data",
                                                  &pieces[viewed], &buffers[viewed]))
        viewed++;
    if (viewed == count)
        answer = connection_send_pieces(self, pieces, (size_t)count);
    while (viewed > 0)
        PyBuffer_Release(&buffers[--viewed]);
    Py_DECREF(items);
    return answer;
}

static bool connection_send_is_sequence(PyObject *data) {
    return PyList_Check(data) || PyTuple_Check(data);
}

static PyObject *connection_send_raw(py_connection *self, PyObject *data) {
    return connection_send_is_sequence(data) ? connection_send_several(self, data)
                                             : connection_send_one(self, data);
}

/* The stage is given a list of buffers, to be sent as one. */
static PyObject *connection_send_through_stage(py_connection *self, PyObject *data) {
    PyObject *stage = py_connection_stage(self), *answer = NULL;
    if (stage == NULL) /* it has ended meanwhile */
        return Py_NewRef(Py_False);
    PyObject *list =
        connection_send_is_sequence(data) ? PySequence_List(data) : Py_BuildValue("[O]", data);
    bool good = list != NULL;
    for (Py_ssize_t i = 0; good && i < PyList_GET_SIZE(list); i++)
        good = connection_send_is_bytes_like(PyList_GET_ITEM(list, i), "data");
    if (good)
        answer = PyObject_CallMethodOneArg(stage, connection_send_state_of(self)->str_send, list);
    Py_XDECREF(list);
    Py_DECREF(stage);
    return answer;
}

const char py_connection_send_doc[] =
    "send($self, data, /)\n--\n\n"
    "Queue data (bytes-like, or a list or tuple of such, sent as one); send what can be sent.\n\n"
    "Returns True if it was taken: it will arrive unless the connection breaks. Returns\n"
    "False if the connection is closing, and when pending_bytes has reached\n"
    "max_write_buffer, which ends it. Raises TypeError for other data, never because of\n"
    "the peer. bytes are kept, other buffers copied. What one thread sends goes out in\n"
    "order; sends of several threads do not mix. May be called from any thread.";

PyObject *py_connection_send(PyObject *object, PyObject *data) {
    py_connection *self = connection_send_self_of(object);
    if (io_connection_end_requested(&self->io))
        return connection_send_is_sequence(data) || connection_send_is_bytes_like(data, "data")
                   ? Py_NewRef(Py_False)
                   : NULL;
    return self->stage_sends ? connection_send_through_stage(self, data)
                             : connection_send_raw(self, data);
}

static PyObject *connection_send_framed(py_connection *self, io_piece *message) {
    const io_framing *frames = self->group->frames;
    char header[IO_FRAME_HEADER_MAX];
    size_t header_size, trailer_size;
    int error = io_framing_wrap(frames, message->data, message->length, header, &header_size,
                                &trailer_size);
    if (error) {
        PyObject *exception =
            py_framing_error(connection_send_state_of(self), frames, error, message->length);
        if (exception != NULL)
            PyErr_SetRaisedException(exception);
        return NULL;
    }
    if (!self->stage_sends) {
        io_piece pieces[3] = {
            {header, header_size, NULL}, *message, {frames->delimiter, trailer_size, NULL}};
        return connection_send_pieces(self, pieces, 3);
    }
    PyObject *whole =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(header_size + message->length + trailer_size));
    if (whole == NULL)
        return NULL;
    char *place = PyBytes_AS_STRING(whole);
    memcpy(place, header, header_size);
    memcpy(place + header_size, message->data, message->length);
    memcpy(place + header_size + message->length, frames->delimiter, trailer_size);
    PyObject *answer = connection_send_through_stage(self, whole);
    Py_DECREF(whole);
    return answer;
}

static PyObject *connection_send_by_framer(py_connection *self, PyObject *message) {
    PyObject *framer = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    framer = Py_XNewRef(self->framer);
    Py_END_CRITICAL_SECTION();
    if (framer == NULL)
        return Py_NewRef(Py_False);
    PyObject *data =
        PyObject_CallMethodOneArg(framer, connection_send_state_of(self)->str_encode, message);
    PyObject *answer = data == NULL ? NULL : py_connection_send((PyObject *)self, data);
    Py_DECREF(framer);
    Py_XDECREF(data);
    return answer;
}

const char py_connection_send_message_doc[] =
    "send_message($self, message, /)\n--\n\n"
    "Send a message (bytes-like) in the framing of the connection.\n\n"
    "As send(). Raises FramingError for a message that the framing cannot carry, and\n"
    "TypeError on a connection without framing.";

PyObject *py_connection_send_message(PyObject *object, PyObject *message) {
    py_connection *self = connection_send_self_of(object);
    io_piece piece;
    Py_buffer buffer;
    if (self->group->framing == NULL) {
        PyErr_SetString(PyExc_TypeError, "send_message() needs a connection with framing=");
        return NULL;
    }
    if (io_connection_end_requested(&self->io))
        Py_RETURN_FALSE;
    if (self->group->frames == NULL)
        return connection_send_by_framer(self, message);
    if (!connection_send_view(message, "message", &piece, &buffer))
        return NULL;
    PyObject *answer = connection_send_framed(self, &piece);
    PyBuffer_Release(&buffer);
    return answer;
}

const char py_connection_send_file_doc[] =
    "send_file($self, /, file, offset=0, count=None)\n--\n\n"
    "Send count bytes of a file from offset (both in bytes; None: to its end).\n\n"
    "The kernel sends them without a copy through Python (sendfile, TransmitFile); with\n"
    "TLS the file is read piece by piece. Keeps its place among other sends and counts\n"
    "nothing in pending_bytes. The file (an object with fileno(), or a descriptor) may be\n"
    "closed at once. Returns what send() returns. Raises OSError for what cannot be sent, a\n"
    "directory (IsADirectoryError), a pipe, a file that is not open for reading; that is\n"
    "told before anything is queued, and the connection goes on.";

/* Raises an OSError that names the file, by the number that it has everywhere. */
static void connection_send_refuse_file(PyObject *file, int error) {
    PyObject *attribute = PyUnicode_FromString("name"), *name = NULL;
    if (attribute == NULL || PyObject_GetOptionalAttr(file, attribute, &name) < 0) {
        Py_XDECREF(attribute);
        return;
    }
    PyObject *exception = PyObject_CallFunction(
        PyExc_OSError, "iNO", error, PyUnicode_FromFormat("send_file: %s", io_error_text(error)),
        name != NULL ? name : file);
    if (exception != NULL)
        PyErr_SetRaisedException(exception);
    Py_DECREF(attribute);
    Py_XDECREF(name);
}

/* A stage reads the file itself: a Python object, also where natives are not the system's. */
static bool connection_send_take_file(py_connection *self, PyObject *file, io_native *native) {
    py_port *port = self->group->port;
    if (self->stage_sends && py_port_own_natives(port))
        return true;
    if (!py_handle_native(port, file, "file", native))
        return false;
    int error = io_connection_check_file(&self->io, *native);
    if (error)
        connection_send_refuse_file(file, -error);
    return error == 0;
}

static PyObject *connection_send_file_through_stage(py_connection *self, PyObject *file,
                                                    uint64_t offset, PyObject *count) {
    PyObject *stage = py_connection_stage(self);
    if (stage == NULL)
        return Py_NewRef(Py_False);
    PyObject *answer =
        PyObject_CallMethod(stage, "send_file", "OKO", file, (unsigned long long)offset,
                            count == NULL ? Py_None : count);
    Py_DECREF(stage);
    return answer;
}

PyObject *py_connection_send_file(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                  PyObject *keywords) {
    static const py_signature signature = {"send_file", {"file", "offset", "count"}, 3, 1};
    py_connection *self = connection_send_self_of(object);
    PyObject *values[3];
    uint64_t offset = 0, length = UINT64_MAX;
    if (!py_parse(&signature, args, count, keywords, values) || !connection_send_check_fork(self) ||
        (values[1] != NULL && !py_arg_offset(values[1], "offset", &offset)) ||
        (values[2] != NULL && values[2] != Py_None && !py_arg_offset(values[2], "count", &length)))
        return NULL;
    if (io_connection_end_requested(&self->io))
        Py_RETURN_FALSE;
    io_native native = IO_NATIVE_NONE;
    uint32_t os_error = 0;
    if (!connection_send_take_file(self, values[0], &native))
        return NULL;
    if (self->stage_sends)
        return connection_send_file_through_stage(self, values[0], offset, values[2]);
    int sent =
        length == 0 ? 1 : io_connection_send_file(&self->io, native, offset, length, &os_error);
    py_connection_release_spent(self);
    if (sent < 0)
        return py_error_raise(-sent, os_error, "send_file");
    return PyBool_FromLong(sent);
}

const char py_connection_write_doc[] = "_write($self, data, /)\n--\n\nSend around the stage.";

PyObject *py_connection_write(PyObject *object, PyObject *data) {
    return connection_send_raw(connection_send_self_of(object), data);
}
