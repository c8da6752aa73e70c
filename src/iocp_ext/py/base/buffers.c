/* buffers.c: Python buffers as the memory of an operation.
 *
 * The kernel reads and writes the memory while the operation is in flight, so it must neither move
 * nor be freed. The operation's `pinned` object guarantees that:
 *
 *      exact bytes            a reference to the object, which is immutable
 *      any other buffer       a memoryview, which holds the export (bytearrays cannot be resized)
 *      a sequence of buffers  a tuple of the above; joined if it is empty or too long for a writev
 *      recv, read, small      NULL: the core's pooled memory, copied into the result
 *      recv, read, large      the bytes object that becomes the result, so nothing is copied
 *
 * Small means up to IO_BUFFER_POOLED_MAX. */
#include "py/base/py.h"

#include <string.h>

/* The memory of one pinned buffer: exact bytes or a memoryview. */
static const char *buffers_memory_of(PyObject *pinned, size_t *length) {
    if (PyBytes_CheckExact(pinned)) {
        *length = (size_t)PyBytes_GET_SIZE(pinned);
        return PyBytes_AS_STRING(pinned);
    }
    const Py_buffer *view = PyMemoryView_GET_BUFFER(pinned);
    *length = (size_t)view->len;
    return view->buf;
}

/* Adds the argument's name to the exception of an object that refuses to export its memory, such as
 * a released memoryview. */
static void buffers_name_refusal(const char *name) {
    PyObject *type = PyErr_ExceptionMatches(PyExc_ValueError)    ? PyExc_ValueError
                     : PyErr_ExceptionMatches(PyExc_BufferError) ? PyExc_BufferError
                                                                 : NULL;
    if (type == NULL)
        return;
    PyObject *raised = py_error_take();
    PyErr_Format(type, "%s: %S", name, raised);
    Py_DECREF(raised);
}

/* Pins one buffer. The kernel needs it to be contiguous. A subclass of bytes is pinned by a
 * memoryview, since it may export other memory than that of its base. */
static PyObject *buffers_pin(PyObject *data, const char *name) {
    if (PyBytes_CheckExact(data))
        return Py_NewRef(data);
    if (!PyObject_CheckBuffer(data)) {
        PyErr_Format(PyExc_TypeError, "%s must be a bytes-like object, not %.200s", name,
                     Py_TYPE(data)->tp_name);
        return NULL;
    }
    PyObject *view = PyMemoryView_FromObject(data);
    if (view == NULL) {
        buffers_name_refusal(name);
    } else if (!PyBuffer_IsContiguous(PyMemoryView_GET_BUFFER(view), 'C')) {
        PyErr_Format(PyExc_ValueError, "%s must be contiguous", name);
        Py_CLEAR(view);
    }
    return view;
}

static bool buffers_fits(size_t length, const char *name) {
    if (length > IO_LENGTH_MAX)
        PyErr_Format(PyExc_ValueError, "%s must be at most 2 GiB - 1 bytes", name);
    return length <= IO_LENGTH_MAX;
}

/* Returns a tuple of the pins of all items, and their total length. The length is checked after
 * each item, so the sum cannot overflow. */
static PyObject *buffers_pin_all(PyObject *items, const char *name, size_t *length) {
    Py_ssize_t count = PyTuple_GET_SIZE(items);
    PyObject *pins = PyTuple_New(count);
    *length = 0;
    for (Py_ssize_t i = 0; pins != NULL && i < count; i++) {
        char item_name[48];
        size_t item_length = 0;
        PyOS_snprintf(item_name, sizeof item_name, "%.20s[%zd]", name, i);
        PyObject *pinned = buffers_pin(PyTuple_GET_ITEM(items, i), item_name);
        if (pinned != NULL) {
            PyTuple_SET_ITEM(pins, i, pinned);
            buffers_memory_of(pinned, &item_length);
            *length += item_length;
        }
        if (pinned == NULL || !buffers_fits(*length, name))
            Py_CLEAR(pins);
    }
    return pins;
}

/* Copies all of them into one bytes object. It is not shared yet, so it may be written to. */
static PyObject *buffers_join(PyObject *pins, size_t length) {
    PyObject *joined = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (joined == NULL)
        return NULL;
    char *end = PyBytes_AS_STRING(joined);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(pins); i++) {
        size_t item_length;
        const char *memory = buffers_memory_of(PyTuple_GET_ITEM(pins, i), &item_length);
        if (item_length > 0)
            memcpy(end, memory, item_length);
        end += item_length;
    }
    return joined;
}

/* Pins a sequence of buffers, to be sent as one. */
static bool buffers_gather(PyObject *data, const char *name, py_buffers *buffers) {
    /* A tuple first: pinning runs Python code, which may change a list. */
    PyObject *items = PySequence_Tuple(data);
    if (items == NULL)
        return false;
    PyObject *pins = buffers_pin_all(items, name, &buffers->length);
    Py_DECREF(items);
    if (pins == NULL)
        return false;
    Py_ssize_t count = PyTuple_GET_SIZE(pins);
    /* The kernel takes no more than IO_VECS_MAX vectors, and at least one. */
    if (count > 0 && count <= IO_VECS_MAX) {
        buffers->pinned = pins;
        buffers->count = (uint32_t)count;
        return true;
    }
    buffers->pinned = buffers_join(pins, buffers->length);
    buffers->count = 1;
    Py_DECREF(pins);
    return buffers->pinned != NULL;
}

static bool buffers_pin_one(PyObject *data, const char *name, py_buffers *buffers) {
    buffers->count = 1;
    buffers->pinned = buffers_pin(data, name);
    if (buffers->pinned == NULL)
        return false;
    buffers_memory_of(buffers->pinned, &buffers->length);
    if (!buffers_fits(buffers->length, name))
        Py_CLEAR(buffers->pinned);
    return buffers->pinned != NULL;
}

bool py_buffers_to_read(PyObject *data, const char *name, py_buffers *buffers) {
    if (PyObject_CheckBuffer(data))
        return buffers_pin_one(data, name, buffers);
    if (PySequence_Check(data) && !PyUnicode_Check(data))
        return buffers_gather(data, name, buffers);
    PyErr_Format(PyExc_TypeError,
                 "%s must be a bytes-like object or a sequence of them, not %.200s", name,
                 Py_TYPE(data)->tp_name);
    return false;
}

bool py_buffers_to_write(PyObject *buffer, const char *name, py_buffers *buffers) {
    if (!buffers_pin_one(buffer, name, buffers))
        return false;
    PyObject *pinned = buffers->pinned;
    if (PyBytes_CheckExact(pinned) || PyMemoryView_GET_BUFFER(pinned)->readonly)
        PyErr_Format(PyExc_TypeError, "%s must be writable, not a read-only %.200s", name,
                     Py_TYPE(buffer)->tp_name);
    else if (buffers->length == 0)
        PyErr_Format(PyExc_ValueError, "%s must not be empty", name);
    else
        return true;
    Py_CLEAR(buffers->pinned);
    return false;
}

bool py_buffers_for_bytes(size_t length, py_buffers *buffers) {
    *buffers = (py_buffers){.pinned = NULL, .count = 1, .length = length};
    if (length > IO_BUFFER_POOLED_MAX)
        buffers->pinned = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    return length <= IO_BUFFER_POOLED_MAX || buffers->pinned != NULL;
}

void py_buffers_vec(const py_buffers *buffers, io_vec *vec) {
    size_t length;
    const char *memory = buffers_memory_of(buffers->pinned, &length);
    io_vec_set(vec, (void *)memory, length);
}

bool py_buffers_fill(const py_buffers *buffers, io_transfer *transfer) {
    if (!io_transfer_reserve(transfer, buffers->count))
        return false;
    transfer->vec_count = buffers->count;
    transfer->length = buffers->length;
    if (buffers->pinned == NULL) {
        io_vec_set(&transfer->vecs[0], NULL, buffers->length);
        return true;
    }
    /* A tuple is always one of buffers_pin_all: no tuple exports a buffer. */
    bool several = PyTuple_CheckExact(buffers->pinned);
    for (uint32_t i = 0; i < buffers->count; i++) {
        size_t length;
        const char *memory = buffers_memory_of(
            several ? PyTuple_GET_ITEM(buffers->pinned, (Py_ssize_t)i) : buffers->pinned, &length);
        io_vec_set(&transfer->vecs[i], (void *)memory, length);
    }
    return true;
}

/* Small results are copied, so their bytes object has exactly the size that was moved. A large one
 * is shrunk in place. */
PyObject *py_buffers_bytes(PyObject **pinned, const io_transfer *transfer) {
    Py_ssize_t moved = (Py_ssize_t)transfer->op.result;
    if (*pinned == NULL)
        return PyBytes_FromStringAndSize(io_vec_base(&transfer->vecs[0]), moved);
    PyObject *bytes = *pinned;
    *pinned = NULL;
    /* Nobody else has a reference to the object yet, so it may be resized. */
    if (PyBytes_GET_SIZE(bytes) != moved)
        _PyBytes_Resize(&bytes, moved); /* sets it to NULL if out of memory */
    return bytes;
}
