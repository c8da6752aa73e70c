/* connection_send.c: the sending methods of Connection: data, messages, files.
 *
 *      send_message ──► framing ──► send ──┬──► stage, if any ──► _write ──► write queue
 *                                          └──────────────────────────────► write queue
 *
 * Any thread may send, so a check here can only be a hint that the connection is ending. The write
 * queue, or the stage, decides under its own lock.
 *
 * A stage gets the buffers of one send() as a list, and sends them as one. */
#include "py/server/server.h"

#include <string.h>

static py_connection *connection_send_self_of(PyObject *object) {
    return (py_connection *)object;
}

static py_state *connection_send_state_of(const py_connection *self) {
    return self->group->port->state;
}

/* ---- sending --------------------------------------------------------------------------------- */

const char py_connection_send_doc[] =
    "send($self, data, /)\n--\n\n"
    "Queue data (bytes-like, or a list or tuple of such, sent as one); send what can be sent.\n\n"
    "Returns True if it was taken: it will arrive unless the connection breaks. Returns\n"
    "False if the connection is closing, and when pending_bytes has reached\n"
    "max_write_buffer, which ends it. Raises TypeError for other data, never because of\n"
    "the peer. bytes are kept, other buffers copied. What one thread sends goes out in\n"
    "order; sends of several threads do not mix. May be called from any thread.";

/* Wrong types raise even if the connection is ending, so that such a bug does not stay hidden. */
PyObject *py_connection_send(PyObject *object, PyObject *data) {
    py_connection *self = connection_send_self_of(object);
    if (io_connection_end_requested(&self->io))
        return py_is_pieces(data) || py_is_bytes_like(data, "data") ? Py_NewRef(Py_False) : NULL;
    return self->stage.sends
               ? py_stage_send(&self->stage, (PyObject *)self, connection_send_state_of(self), data)
               : py_pieces_send_data(&self->io, data);
}

/* Sends a message in a framing in C. Without a stage the frame is never assembled: header, message
 * and delimiter are three pieces, of which the queue copies what has no owner. A stage gets one
 * bytes object, since it takes Python objects. FramingError is the sender's mistake here, so it is
 * raised, and the connection goes on. */
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
    if (!self->stage.sends) {
        io_piece pieces[3] = {
            {header, header_size, NULL}, *message, {frames->delimiter, trailer_size, NULL}};
        return py_pieces_send(&self->io, pieces, 3);
    }
    PyObject *whole =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(header_size + message->length + trailer_size));
    if (whole == NULL)
        return NULL;
    char *place = PyBytes_AS_STRING(whole);
    memcpy(place, header, header_size);
    memcpy(place + header_size, message->data, message->length);
    memcpy(place + header_size + message->length, frames->delimiter, trailer_size);
    PyObject *answer =
        py_stage_send(&self->stage, (PyObject *)self, connection_send_state_of(self), whole);
    Py_DECREF(whole);
    return answer;
}

/* Sends a message that the user-defined framer encodes. False if the connection is gone, since it
 * has dropped its framer then: hence the critical section. encode() may run in several threads at
 * once, also while the strand is in feed(). */
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
    if (!py_piece_view(message, "message", &piece, &buffer))
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

/* Raises an OSError that names the file, by the number that it has everywhere. If even its name
 * raises, that exception is the one that the caller gets. */
static void connection_send_refuse_file(const py_state *state, PyObject *file, int error) {
    PyObject *name = NULL;
    if (PyObject_GetOptionalAttr(file, state->str_name, &name) < 0)
        return;
    PyObject *exception = PyObject_CallFunction(
        PyExc_OSError, "iNO", io_error_to_errno(error),
        PyUnicode_FromFormat("send_file: %s", io_error_text(error)), name != NULL ? name : file);
    if (exception != NULL)
        PyErr_SetRaisedException(exception);
    Py_XDECREF(name);
}

/* Resolves and checks the file before anything is queued, so that a refusal leaves the connection
 * as it was. A simulated port cannot check a real file; with a stage it need not, since the stage
 * reads the file by itself. */
static bool connection_send_take_file(py_connection *self, PyObject *file, io_native *native) {
    py_port *port = self->group->port;
    if (self->stage.sends && py_port_own_natives(port))
        return true;
    if (!py_handle_native(port, file, "file", native))
        return false;
    int error = io_connection_check_file(&self->io, *native);
    if (error)
        connection_send_refuse_file(port->state, file, error);
    return error == 0;
}

PyObject *py_connection_send_file(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                  PyObject *keywords) {
    static const py_signature signature = {"send_file", {"file", "offset", "count"}, 3, 1};
    py_connection *self = connection_send_self_of(object);
    PyObject *values[3];
    uint64_t offset = 0, length = UINT64_MAX;
    if (!py_parse(&signature, args, count, keywords, values) || !py_stream_check_fork(&self->io) ||
        (values[1] != NULL && !py_arg_offset(values[1], "offset", &offset)) ||
        (values[2] != NULL && values[2] != Py_None && !py_arg_offset(values[2], "count", &length)))
        return NULL;
    if (io_connection_end_requested(&self->io))
        Py_RETURN_FALSE;
    io_native native = IO_NATIVE_NONE;
    uint32_t os_error = 0;
    if (!connection_send_take_file(self, values[0], &native))
        return NULL;
    if (self->stage.sends)
        return py_stage_send_file(&self->stage, object, values[0], offset, values[2]);
    int sent =
        length == 0 ? 1 : io_connection_send_file(&self->io, native, offset, length, &os_error);
    py_pieces_release_spent(&self->io);
    if (sent < 0)
        return py_error_raise(sent, os_error, "send_file");
    return PyBool_FromLong(sent);
}

const char py_connection_write_doc[] = "_write($self, data, /)\n--\n\nSend around the stage.";

/* For the stage: queues raw bytes, which its send() would encode again. Not refused after close(),
 * unlike send(): the closing handshake still has to go out. The core decides what it takes. */
PyObject *py_connection_write(PyObject *object, PyObject *data) {
    return py_pieces_send_data(&connection_send_self_of(object)->io, data);
}
