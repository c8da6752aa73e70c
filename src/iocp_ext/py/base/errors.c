/* errors.c: turns portable errors (core/error.h) into Python exceptions.
 *
 * OSError chooses its subclass by errno, on Windows by winerror. Both numbers come from the one
 * table in error.h, so a refused connection is a ConnectionRefusedError on every platform. */
#include "py/base/py.h"

#include <errno.h>

/* The system's own code is used only where the table has none for the portable error. */
static PyObject *errors_os_error_object(int error, uint32_t os_error, PyObject *text) {
#ifdef _WIN32
    uint32_t code = io_error_to_windows(error);
    if (code == 0)
        code = os_error;
    /* CPython maps ERROR_OPERATION_ABORTED to no useful errno, so a cancellation gets ECANCELED. */
    if (error != -IOE_CANCELED && code != 0)
        return PyObject_CallFunction(PyExc_OSError, "iOOk", 0, text, Py_None, (unsigned long)code);
    return PyObject_CallFunction(PyExc_OSError, "iO", error == -IOE_CANCELED ? ECANCELED : EIO,
                                 text);
#else
    int number = error == -IOE_OTHER && os_error != 0 ? (int)os_error : io_error_to_errno(error);
    return PyObject_CallFunction(PyExc_OSError, "iO", number, text);
#endif
}

PyObject *py_error_object(int error, uint32_t os_error, const char *what) {
    io_assert(error < 0);
    PyObject *text = PyUnicode_FromFormat("%s: %s", what, io_error_text(error));
    if (text == NULL)
        return NULL;
    PyObject *object = errors_os_error_object(error, os_error, text);
    Py_DECREF(text);
    return object;
}

/* Creating the exception can fail; then the reason for that, such as a MemoryError, is set. */
PyObject *py_error_raise(int error, uint32_t os_error, const char *what) {
    PyObject *object = py_error_object(error, os_error, what);
    if (object != NULL)
        PyErr_SetRaisedException(object);
    return NULL;
}

/* The texts are "connect to 127.0.0.1:9", "send_to 127.0.0.1:9", or just "recv". The address of
 * other operations is that of their socket, which the caller knows. */
PyObject *py_error_of(const char *name, const io_op *op) {
    const io_address *address = NULL;
    if (op->kind == IO_CONNECT)
        address = &((const io_connect *)op)->address;
    else if (op->kind == IO_SEND_TO)
        address = &((const io_datagram *)op)->address;
    char text[160], what[192];
    if (address != NULL) {
        io_address_text(address, text, sizeof text);
        PyOS_snprintf(what, sizeof what, op->kind == IO_CONNECT ? "%s to %s" : "%s %s", name, text);
        name = what;
    }
    return py_error_object((int)op->result, op->os_error, name);
}

PyObject *py_error_take(void) {
    /* A NULL that travelled on as an exception would crash far from the faulty call. */
    PyObject *error = PyErr_GetRaisedException();
    if (error == NULL) {
        PyErr_SetString(PyExc_SystemError, "a call has failed without an exception");
        error = PyErr_GetRaisedException();
    }
    return error;
}

PyObject *py_error_entering(int error) {
    if (error == -IOE_FORKED)
        PyErr_SetString(PyExc_RuntimeError, "the port belongs to the parent process");
    else
        PyErr_SetString(PyExc_ValueError, "port is closed");
    return NULL;
}
