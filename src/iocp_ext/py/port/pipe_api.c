/* pipe_api.c: opens the client end of a named pipe (Windows).
 *
 * Returns it as a number, from which ConnectionGroup.adopt() makes a connection. Windows has no
 * overlapped connect for pipes: a busy server can only be waited for by a blocking call, which is
 * made in short pieces so that signals are handled. */
#include "py/port/port.h"

#ifdef _WIN32

enum { LOOK_MS = 1000 }; /* how often signals are checked for */

/* Tries once, and waits if the server is busy. Returns -IOE_AGAIN if the caller should try again:
 * another client may be faster even after a successful wait. */
static int pipe_api_try_to_connect(const wchar_t *name, uint64_t left_ns, io_native *native,
                                   uint32_t *os_error) {
    uint64_t ms = left_ns / IO_NS_PER_MS;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = io_pipe_connect(name, native, os_error);
    if (error == -IOE_AGAIN && left_ns > 0) {
        int waited = io_pipe_wait(name, ms < LOOK_MS ? (uint32_t)ms : LOOK_MS, os_error);
        if (waited != 0 && waited != -IOE_TIMEDOUT)
            error = waited;
    }
    Py_END_ALLOW_THREADS
    return error;
}

/* Tries until the timeout has passed. At least once, even with a timeout of 0. */
static PyObject *pipe_api_connect_until(const wchar_t *name, const char *text,
                                        uint64_t timeout_ns) {
    uint64_t began_ns = io_clock_ns();
    for (;;) {
        uint64_t passed_ns = io_clock_ns() - began_ns;
        uint64_t left_ns = passed_ns < timeout_ns ? timeout_ns - passed_ns : 0;
        io_native native;
        uint32_t os_error = 0;
        int error = pipe_api_try_to_connect(name, left_ns, &native, &os_error);
        if (error == 0)
            return PyLong_FromSsize_t((Py_ssize_t)native);
        if (error != -IOE_AGAIN || left_ns == 0) {
            char what[288];
            PyOS_snprintf(what, sizeof what, "connect to %s", text);
            return py_error_raise(error == -IOE_AGAIN ? -IOE_TIMEDOUT : error, os_error, what);
        }
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
}

static PyObject *pipe_api_connect(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *name, *timeout;
    uint64_t timeout_ns;
    if (!PyArg_ParseTuple(args, "UO:pipe_connect", &name, &timeout) ||
        !py_arg_timeout(timeout, "timeout", &timeout_ns))
        return NULL;
    const char *text = PyUnicode_AsUTF8(name);
    wchar_t *wide = text == NULL ? NULL : PyUnicode_AsWideCharString(name, NULL);
    if (wide == NULL)
        return NULL;
    PyObject *handle = pipe_api_connect_until(wide, text, timeout_ns);
    PyMem_Free(wide);
    return handle;
}

static PyObject *pipe_api_close(PyObject *Py_UNUSED(module), PyObject *object) {
    Py_ssize_t handle = PyLong_AsSsize_t(object);
    if (handle == -1 && PyErr_Occurred())
        return NULL;
    io_native_close_file((io_native)handle);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(pipe_api_connect_doc,
             "pipe_connect(name, timeout, /)\n--\n\n"
             "The handle of a pipe's client end, which the caller owns.\n\n"
             "Waits, at most timeout seconds (None: without limit), while all instances of the\n"
             "pipe have clients. The server may learn who the client is, but not act as it.");
PyDoc_STRVAR(pipe_api_close_doc, "pipe_close(handle, /)\n--\n\nCloses what was not given away.");

#endif

PyMethodDef py_pipe_methods[] = {
#ifdef _WIN32
    {"pipe_connect", pipe_api_connect, METH_VARARGS, pipe_api_connect_doc},
    {"pipe_close", pipe_api_close, METH_O, pipe_api_close_doc},
#endif
    {NULL, NULL, 0, NULL},
};
