/* framing_type.c: iocpcore.LengthPrefixed, Delimited and FixedSize: how a stream is cut into
 * messages.
 *
 * Three types around one C struct, io_framing. Connections pass it to net/framing.c directly and
 * never call these objects; encode() and decode() are for users. The objects are immutable and
 * refer to no others, so any number of connections and threads can share one without locks, and
 * they need no garbage collection.
 *
 * Attributes, repr, equality, hash and pickling all derive from one tuple, the arguments of the
 * constructor (framing_type_arguments). It is rebuilt on demand, because that is rare. */
#include "py/server/server.h"

#include <string.h>

/* Defaults of max_size. */
static const long long framing_type_length_max_size = 16 * 1024 * 1024;
static const long long framing_type_delimited_max_size = 64 * 1024;

static py_framing *framing_type_self_of(PyObject *object) {
    return (py_framing *)object;
}

/* Exact types suffice, because none of the three can be subclassed. So nobody can override
 * encode(), which connections do not call. */
const io_framing *py_framing_of(const py_state *state, PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    bool is_one = type == state->length_prefixed_type || type == state->delimited_type ||
                  type == state->fixed_size_type;
    return is_one ? &framing_type_self_of(object)->framing : NULL;
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* The text for -IOE_MSGSIZE, when receiving or sending. A size that does not exceed max_size means
 * that another limit was hit: the width of the length, or a missing delimiter. */
static PyObject *framing_type_too_large(const io_framing *framing, size_t size) {
    if (framing->kind == IO_FRAMING_FIXED)
        return PyUnicode_FromFormat("message of %zu bytes instead of %zu", size, framing->max_size);
    if (size > framing->max_size)
        return PyUnicode_FromFormat("message of %zu bytes is larger than max_size %zu", size,
                                    framing->max_size);
    if (framing->kind == IO_FRAMING_LENGTH)
        return PyUnicode_FromFormat("message of %zu bytes is too large for a length of size %d",
                                    size, (int)framing->header_size);
    return PyUnicode_FromFormat("message is larger than max_size %zu, and no delimiter has come",
                                framing->max_size);
}

/* The text for any other error: a length smaller than its own header, or a message to be sent that
 * contains its delimiter. */
static PyObject *framing_type_malformed(const io_framing *framing, size_t size) {
    if (framing->kind == IO_FRAMING_LENGTH)
        return PyUnicode_FromFormat("length %zu is smaller than its own size %d, which it includes",
                                    size, (int)framing->header_size);
    PyObject *delimiter = PyBytes_FromStringAndSize(framing->delimiter, framing->delimiter_length);
    PyObject *text = delimiter == NULL
                         ? NULL
                         : PyUnicode_FromFormat("message contains its delimiter %R", delimiter);
    Py_XDECREF(delimiter);
    return text;
}

PyObject *py_framing_error(const py_state *state, const io_framing *framing, int error,
                           size_t size) {
    PyObject *text = error == -IOE_MSGSIZE ? framing_type_too_large(framing, size)
                                           : framing_type_malformed(framing, size);
    PyObject *exception = text == NULL ? NULL : PyObject_CallOneArg(state->framing_error, text);
    Py_XDECREF(text);
    return exception;
}

/* If the exception cannot be created, the reason for that is raised instead. */
static void framing_type_raise_error(PyObject *object, int error, size_t size) {
    const py_state *state = PyType_GetModuleState(Py_TYPE(object));
    PyObject *exception =
        py_framing_error(state, &framing_type_self_of(object)->framing, error, size);
    if (exception != NULL)
        PyErr_SetObject(state->framing_error, exception);
    Py_XDECREF(exception);
}

/* ---- making them ----------------------------------------------------------------------------- */

/* Views a contiguous bytes-like object; the caller releases the view. Asks for any layout first, so
 * that a non-contiguous object gets its own message. */
static bool framing_type_view_of(PyObject *value, const char *name, Py_buffer *view) {
    if (!PyObject_CheckBuffer(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be a bytes-like object, not %.200s", name,
                     Py_TYPE(value)->tp_name);
        return false;
    }
    if (PyObject_GetBuffer(value, view, PyBUF_FULL_RO) < 0)
        return false;
    if (PyBuffer_IsContiguous(view, 'C'))
        return true;
    PyBuffer_Release(view);
    PyErr_Format(PyExc_ValueError, "%s must be contiguous", name);
    return false;
}

/* A bool only: any other true value in a framing is probably a misplaced argument. NULL, an
 * argument that is not given, means False. */
static bool framing_type_parse_bool(PyObject *value, const char *name, bool *is_true) {
    if (value != NULL && !PyBool_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be a bool, not %.200s", name,
                     Py_TYPE(value)->tp_name);
        return false;
    }
    *is_true = value == Py_True;
    return true;
}

static bool framing_type_parse_size(PyObject *value, const char *name, long long otherwise,
                                    size_t *size) {
    *size = (size_t)otherwise;
    return value == NULL || py_arg_length(value, name, size);
}

/* Takes the words of int.from_bytes(). The default is network order. */
static bool framing_type_parse_byteorder(PyObject *value, bool *little_endian) {
    *little_endian = false;
    if (value == NULL)
        return true;
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "byteorder must be a str, not %.200s",
                     Py_TYPE(value)->tp_name);
        return false;
    }
    *little_endian = PyUnicode_CompareWithASCIIString(value, "little") == 0;
    if (*little_endian || PyUnicode_CompareWithASCIIString(value, "big") == 0)
        return true;
    PyErr_Format(PyExc_ValueError, "byteorder must be 'big' or 'little', not %R", value);
    return false;
}

/* Copies the delimiter, so that a bytearray can be changed or freed afterwards. */
static bool framing_type_parse_delimiter(PyObject *value, io_framing *framing) {
    Py_buffer view;
    if (!framing_type_view_of(value, "delimiter", &view))
        return false;
    bool fits = view.len >= 1 && view.len <= IO_DELIMITER_MAX;
    if (fits) {
        framing->delimiter_length = (uint8_t)view.len;
        memcpy(framing->delimiter, view.buf, (size_t)view.len);
    } else {
        PyErr_Format(PyExc_ValueError, "delimiter must have 1 to %d bytes, not %zd",
                     IO_DELIMITER_MAX, view.len);
    }
    PyBuffer_Release(&view);
    return fits;
}

/* A new object of the type with a copy of the framing. Only the constructors call this, before
 * anyone else sees the object; that makes it immutable. */
static PyObject *framing_type_make(PyTypeObject *type, const io_framing *framing) {
    PyObject *object = type->tp_alloc(type, 0);
    if (object != NULL)
        framing_type_self_of(object)->framing = *framing;
    return object;
}

/* In all three constructors, arguments that have a default are parsed as objects. A NULL then means
 * "not given", and each converter names its argument in its errors. */
static PyObject *framing_type_length_prefixed_new(PyTypeObject *type, PyObject *args,
                                                  PyObject *keywords) {
    static char *names[] = {"size", "byteorder", "max_size", "includes_header", NULL};
    io_framing framing = {.kind = IO_FRAMING_LENGTH};
    PyObject *size = NULL, *byteorder = NULL, *max_size = NULL, *includes_header = NULL;
    long long header_size = 4;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|OOOO:LengthPrefixed", names, &size,
                                     &byteorder, &max_size, &includes_header) ||
        (size != NULL && !py_arg_integer(size, "size", 1, IO_FRAME_HEADER_MAX, &header_size)) ||
        !framing_type_parse_byteorder(byteorder, &framing.little_endian) ||
        !framing_type_parse_size(max_size, "max_size", framing_type_length_max_size,
                                 &framing.max_size) ||
        !framing_type_parse_bool(includes_header, "includes_header", &framing.includes_header))
        return NULL;
    framing.header_size = (uint8_t)header_size;
    return framing_type_make(type, &framing);
}

static PyObject *framing_type_delimited_new(PyTypeObject *type, PyObject *args,
                                            PyObject *keywords) {
    static char *names[] = {"delimiter", "max_size", "keep", NULL};
    io_framing framing = {.kind = IO_FRAMING_DELIMITER};
    PyObject *delimiter, *max_size = NULL, *keep = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|OO:Delimited", names, &delimiter, &max_size,
                                     &keep) ||
        !framing_type_parse_delimiter(delimiter, &framing) ||
        !framing_type_parse_size(max_size, "max_size", framing_type_delimited_max_size,
                                 &framing.max_size) ||
        !framing_type_parse_bool(keep, "keep", &framing.keep))
        return NULL;
    return framing_type_make(type, &framing);
}

static PyObject *framing_type_fixed_size_new(PyTypeObject *type, PyObject *args,
                                             PyObject *keywords) {
    static char *names[] = {"size", NULL};
    io_framing framing = {.kind = IO_FRAMING_FIXED};
    PyObject *size;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:FixedSize", names, &size) ||
        !py_arg_length(size, "size", &framing.max_size))
        return NULL;
    return framing_type_make(type, &framing);
}

/* An object of a heap type owns a reference to its type. */
static void framing_type_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- attributes ------------------------------------------------------------------------------ */

/* The constructor's arguments as a tuple, in the order of its parameters. If one cannot be created,
 * Py_BuildValue releases the others (N takes over a reference even on failure). */
static PyObject *framing_type_arguments(PyObject *object) {
    const io_framing *framing = &framing_type_self_of(object)->framing;
    Py_ssize_t max_size = (Py_ssize_t)framing->max_size;
    switch (framing->kind) {
    case IO_FRAMING_LENGTH:
        return Py_BuildValue("isnN", (int)framing->header_size,
                             framing->little_endian ? "little" : "big", max_size,
                             PyBool_FromLong(framing->includes_header));
    case IO_FRAMING_DELIMITER:
        return Py_BuildValue("y#nN", framing->delimiter, (Py_ssize_t)framing->delimiter_length,
                             max_size, PyBool_FromLong(framing->keep));
    default:
        return Py_BuildValue("(n)", max_size);
    }
}

/* `closure` is the index of the argument in that tuple. */
static PyObject *framing_type_get_argument(PyObject *object, void *closure) {
    PyObject *values = framing_type_arguments(object);
    PyObject *value =
        values == NULL ? NULL : Py_NewRef(PyTuple_GET_ITEM(values, (Py_ssize_t)(intptr_t)closure));
    Py_XDECREF(values);
    return value;
}

/* The formats use no more items than their kind has arguments; the others are ignored. */
static PyObject *framing_type_repr(PyObject *object) {
    static const char *const formats[] = {
        [IO_FRAMING_LENGTH] =
            "iocpcore.LengthPrefixed(size=%R, byteorder=%R, max_size=%R, includes_header=%R)",
        [IO_FRAMING_DELIMITER] = "iocpcore.Delimited(%R, max_size=%R, keep=%R)",
        [IO_FRAMING_FIXED] = "iocpcore.FixedSize(%R)",
    };
    PyObject *values = framing_type_arguments(object);
    if (values == NULL)
        return NULL;
    PyObject *items[4] = {NULL};
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(values); i++)
        items[i] = PyTuple_GET_ITEM(values, i);
    PyObject *text = PyUnicode_FromFormat(formats[framing_type_self_of(object)->framing.kind],
                                          items[0], items[1], items[2], items[3]);
    Py_DECREF(values);
    return text;
}

/* Equal if of the same kind and made with equal arguments. Must agree with framing_type_hash, which
 * hashes the same tuple. There is no order. */
static PyObject *framing_type_compare(PyObject *object, PyObject *other, int op) {
    if (Py_TYPE(object) != Py_TYPE(other) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    PyObject *mine = framing_type_arguments(object), *others = framing_type_arguments(other),
             *answer = NULL;
    if (mine != NULL && others != NULL)
        answer = PyObject_RichCompare(mine, others, op);
    Py_XDECREF(mine);
    Py_XDECREF(others);
    return answer;
}

static Py_hash_t framing_type_hash(PyObject *object) {
    PyObject *values = framing_type_arguments(object);
    Py_hash_t hash = values == NULL ? -1 : PyObject_Hash(values);
    Py_XDECREF(values);
    return hash;
}

PyDoc_STRVAR(framing_type_reduce_doc, "__reduce__($self, /)\n--\n\nFor pickle and copy.");

/* object's own method cannot copy state that is in C. So a copy is made by calling the type with
 * the same arguments. If they are NULL, Py_BuildValue passes on their exception. */
static PyObject *framing_type_reduce(PyObject *object, PyObject *Py_UNUSED(unused)) {
    return Py_BuildValue("ON", (PyObject *)Py_TYPE(object), framing_type_arguments(object));
}

/* ---- frames ---------------------------------------------------------------------------------- */

/* Builds a whole frame as one bytes object. An empty buffer may have no address, and net/framing.h
 * takes no NULL pointers; hence the empty string. */
static PyObject *framing_type_encode_bytes(PyObject *object, const Py_buffer *message) {
    const io_framing *framing = &framing_type_self_of(object)->framing;
    char header[IO_FRAME_HEADER_MAX];
    size_t header_size, trailer_size, size = (size_t)message->len;
    const char *data = size > 0 ? message->buf : "";
    int error = io_framing_wrap(framing, data, size, header, &header_size, &trailer_size);
    if (error) {
        framing_type_raise_error(object, error, size);
        return NULL;
    }
    /* Cannot overflow a size_t: the message is at most PY_SSIZE_T_MAX bytes, the rest a few. */
    size_t total = header_size + size + trailer_size;
    if (total > PY_SSIZE_T_MAX)
        return PyErr_NoMemory();
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    if (frame == NULL)
        return NULL;
    char *end = PyBytes_AS_STRING(frame);
    memcpy(end, header, header_size);
    memcpy(end + header_size, data, size);
    memcpy(end + header_size + size, framing->delimiter, trailer_size);
    return frame;
}

PyDoc_STRVAR(framing_type_encode_doc,
             "encode($self, message, /)\n--\n\n"
             "The frame of a message (bytes-like), as it goes out.\n\n"
             "Raises FramingError if the message is larger than the framing allows or than a\n"
             "length can tell, has not the fixed size, or contains its delimiter. With keep=True\n"
             "the message may end with the delimiter. May be called from any thread.");

/* The view holds the export, so the message cannot be resized while it is copied. */
static PyObject *framing_type_encode(PyObject *object, PyObject *message) {
    Py_buffer view;
    if (!framing_type_view_of(message, "message", &view))
        return NULL;
    PyObject *frame = framing_type_encode_bytes(object, &view);
    PyBuffer_Release(&view);
    return frame;
}

static bool framing_type_append(PyObject *messages, const char *data, size_t size) {
    PyObject *message = PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    bool appended = message != NULL && PyList_Append(messages, message) == 0;
    Py_XDECREF(message);
    return appended;
}

/* Appends the complete messages to the list. Returns how many bytes they took, or -1 with an
 * exception. A faulty message raises only if it is the first one; otherwise the caller gets the
 * messages before it, and the exception by its next call. Nothing is kept between calls: the caller
 * keeps the rest of its data, so one object can serve any number of streams. */
static Py_ssize_t framing_type_decode_bytes(PyObject *object, const char *data, size_t length,
                                            PyObject *messages) {
    const io_framing *framing = &framing_type_self_of(object)->framing;
    size_t done = 0;
    io_frame frame;
    int answer;
    while ((answer = io_framing_next(framing, data + done, length - done, &frame)) > 0) {
        if (!framing_type_append(messages, data + done + frame.start, frame.size))
            return -1;
        done += frame.total;
    }
    if (answer < 0 && done == 0) {
        framing_type_raise_error(object, answer, frame.size);
        return -1;
    }
    return (Py_ssize_t)done;
}

PyDoc_STRVAR(
    framing_type_decode_doc,
    "decode($self, data, /)\n--\n\n"
    "The messages that are complete in data (bytes-like), and how many bytes they took.\n\n"
    "data begins where a message begins; give what is left again, with what comes after\n"
    "it. Raises FramingError if data begins with a message that is too large or\n"
    "malformed; messages before that one are returned first, so that none is lost. May\n"
    "be called from any thread.");

/* Nobody else has a reference to the list before it is returned, so it needs no critical section.
 * The garbage collector may see it, but it contains bytes objects only. */
static PyObject *framing_type_decode(PyObject *object, PyObject *data) {
    Py_buffer view;
    PyObject *messages = PyList_New(0), *answer = NULL;
    if (messages == NULL)
        return NULL;
    if (framing_type_view_of(data, "data", &view)) {
        const char *bytes = view.len > 0 ? view.buf : "";
        Py_ssize_t done = framing_type_decode_bytes(object, bytes, (size_t)view.len, messages);
        if (done >= 0)
            answer = Py_BuildValue("On", messages, done);
        PyBuffer_Release(&view);
    }
    Py_DECREF(messages);
    return answer;
}

/* ---- the types ------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    framing_type_length_prefixed_doc,
    "LengthPrefixed(size=4, byteorder='big', max_size=16777216, includes_header=False)\n--\n\n"
    "Messages with their length in front, as an unsigned number of size bytes (1 to 8).\n\n"
    "byteorder is \"big\" or \"little\". max_size is the largest message in bytes, without the\n"
    "length, 1 to 2 GiB - 1 (default: 16 MiB). With includes_header the number counts its own\n"
    "bytes too. Immutable; may be shared by connections and threads. Raises TypeError or\n"
    "ValueError for a bad argument.");

PyDoc_STRVAR(
    framing_type_delimited_doc,
    "Delimited(delimiter, max_size=65536, keep=False)\n--\n\n"
    "Messages that end with a delimiter: 1 to 16 bytes, as b\"\\r\\n\".\n\n"
    "max_size is the largest message in bytes, without the delimiter, 1 to 2 GiB - 1\n"
    "(default: 64 KiB). With keep the messages received still end with the delimiter.\n"
    "Immutable; may be shared by connections and threads. Raises TypeError or ValueError for a\n"
    "bad argument.");

PyDoc_STRVAR(framing_type_fixed_size_doc,
             "FixedSize(size)\n--\n\n"
             "Messages that all have the same size: 1 to 2 GiB - 1 bytes.\n\n"
             "Immutable; may be shared by connections and threads. Raises TypeError or ValueError\n"
             "for a bad argument.");

static PyMethodDef framing_type_methods[] = {
    {"encode", framing_type_encode, METH_O, framing_type_encode_doc},
    {"decode", framing_type_decode, METH_O, framing_type_decode_doc},
    {"__reduce__", framing_type_reduce, METH_NOARGS, framing_type_reduce_doc},
    {NULL, NULL, 0, NULL},
};

/* A read-only attribute. The index is that of the argument in framing_type_arguments. */
#define ARGUMENT(index, name, doc) \
    { name, framing_type_get_argument, NULL, doc, (void *)(intptr_t)(index) }

static PyGetSetDef framing_type_length_prefixed_getset[] = {
    ARGUMENT(0, "size", "Bytes of the length."),
    ARGUMENT(1, "byteorder", "Of the length: \"big\" or \"little\"."),
    ARGUMENT(2, "max_size", "The largest message, in bytes, without its length."),
    ARGUMENT(3, "includes_header", "Whether the length counts its own bytes too."),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef framing_type_delimited_getset[] = {
    ARGUMENT(0, "delimiter", "What messages end with."),
    ARGUMENT(1, "max_size", "The largest message, in bytes, without its delimiter."),
    ARGUMENT(2, "keep", "Whether messages received still end with the delimiter."),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef framing_type_fixed_size_getset[] = {
    ARGUMENT(0, "size", "Bytes of each message."),
    {NULL, NULL, NULL, NULL, NULL},
};

/* The slots of a type. Only doc, new and getset differ. No traverse and no clear: see the head of
 * this file. */
#define SLOTS(type)                                      \
    static PyType_Slot framing_type_##type##_slots[] = { \
        {Py_tp_doc, (void *)framing_type_##type##_doc},  \
        {Py_tp_new, framing_type_##type##_new},          \
        {Py_tp_getset, framing_type_##type##_getset},    \
        {Py_tp_methods, framing_type_methods},           \
        {Py_tp_repr, framing_type_repr},                 \
        {Py_tp_hash, framing_type_hash},                 \
        {Py_tp_richcompare, framing_type_compare},       \
        {Py_tp_dealloc, framing_type_dealloc},           \
        {0, NULL},                                       \
    }

SLOTS(length_prefixed);
SLOTS(delimited);
SLOTS(fixed_size);

/* No Py_TPFLAGS_BASETYPE: py_framing_of and framing_type_compare rely on exact types. Immutable
 * types also keep users from replacing methods of a type that connections bypass. */
PyType_Spec py_length_prefixed_spec = {
    .name = "iocpcore.LengthPrefixed",
    .basicsize = sizeof(py_framing),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = framing_type_length_prefixed_slots,
};

PyType_Spec py_delimited_spec = {
    .name = "iocpcore.Delimited",
    .basicsize = sizeof(py_framing),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = framing_type_delimited_slots,
};

PyType_Spec py_fixed_size_spec = {
    .name = "iocpcore.FixedSize",
    .basicsize = sizeof(py_framing),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = framing_type_fixed_size_slots,
};
