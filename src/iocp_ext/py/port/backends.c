/* backends.c: lists the backends of this platform and chooses the one for a new port.
 *
 * io_backends() has them best first. Each has a probe, which tries whether the kernel supports it
 * and permits it, for example inside a container, and says why not. The order of choice: the
 * argument, the environment variable IOCPCORE_BACKEND, the first one whose probe succeeds.
 *
 * A backend that was asked for by name and does not work is an error; it is never
 * replaced by another one. */
#include "py/port/port.h"

#include <string.h>

const char py_backends_doc[] =
    "backends()\n--\n\n"
    "Every backend of this platform, best first: a dict of its name to the reason why it\n"
    "cannot be used here, or None if it can.";

PyObject *py_backends(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    PyObject *found = PyDict_New();
    for (const io_backend *const *backend = io_backends(); found && *backend; backend++) {
        char reason[256] = "";
        PyObject *text = (*backend)->probe(reason, sizeof reason) == 0
                             ? Py_NewRef(Py_None)
                             : PyUnicode_DecodeUTF8(reason, (Py_ssize_t)strlen(reason), "replace");
        if (text == NULL || PyDict_SetItemString(found, (*backend)->name, text) < 0)
            Py_CLEAR(found);
        Py_XDECREF(text);
    }
    return found;
}

/* Raises RuntimeError with the probe's reason. Always returns NULL. */
static const io_backend *backends_refuse(const char *name, const char *reason) {
    PyErr_Format(PyExc_RuntimeError, "backend '%s' does not work here: %s", name, reason);
    return NULL;
}

/* The first backend that works. If none does, the error names the last one that was tried. The
 * simulation is never chosen by default: it has no real sockets. */
static const io_backend *backends_best(void) {
    const io_backend *refused = NULL;
    char reason[256] = "there is none";
    for (const io_backend *const *each = io_backends(); *each != NULL; each++) {
        if ((*each)->flags & IO_NEVER_DEFAULT)
            continue;
        if ((*each)->probe(reason, sizeof reason) == 0)
            return *each;
        refused = *each;
    }
    return backends_refuse(refused != NULL ? refused->name : "", reason);
}

/* The backend of this name. `argument` is where the name comes from, for messages. A name with an
 * embedded NUL is unknown, whatever is before the NUL. */
static const io_backend *backends_named(PyObject *wanted, const char *argument) {
    char reason[256] = "";
    Py_ssize_t length;
    const char *name = PyUnicode_AsUTF8AndSize(wanted, &length);
    if (name == NULL && !PyErr_ExceptionMatches(PyExc_UnicodeError))
        return NULL;
    const io_backend *backend = NULL;
    if (name != NULL && strlen(name) == (size_t)length)
        backend = io_backend_by_name(name);
    if (backend == NULL) {
        char names[64] = "";
        PyErr_Clear(); /* from a name that cannot be encoded */
        for (const io_backend *const *each = io_backends(); *each != NULL; each++) {
            strncat(names, each == io_backends() ? "" : ", ", sizeof names - strlen(names) - 1);
            strncat(names, (*each)->name, sizeof names - strlen(names) - 1);
        }
        PyErr_Format(PyExc_ValueError, "%s: there is no backend %.100R on this platform, but %s",
                     argument, wanted, names);
        return NULL;
    }
    return backend->probe(reason, sizeof reason) == 0 ? backend : backends_refuse(name, reason);
}

/* The value of IOCPCORE_BACKEND; NULL, without an exception, if it is unset or empty. Asks
 * os.environ and not getenv(), so that a program can set it for itself. */
static PyObject *backends_of_environment(void) {
    PyObject *os = PyImport_ImportModule("os");
    PyObject *environment = os == NULL ? NULL : PyObject_GetAttrString(os, "environ");
    PyObject *name = environment == NULL
                         ? NULL
                         : PyObject_CallMethod(environment, "get", "s", "IOCPCORE_BACKEND");
    Py_XDECREF(environment);
    Py_XDECREF(os);
    if (name != NULL && (!PyUnicode_Check(name) || PyUnicode_GET_LENGTH(name) == 0))
        Py_CLEAR(name);
    return name;
}

const io_backend *py_backend_choose(PyObject *wanted) {
    const char *argument = "backend";
    if (wanted != Py_None && !PyUnicode_Check(wanted)) {
        PyErr_Format(PyExc_TypeError, "backend must be a str or None, not %.200s",
                     Py_TYPE(wanted)->tp_name);
        return NULL;
    }
    if (wanted == Py_None) {
        argument = "IOCPCORE_BACKEND";
        wanted = backends_of_environment();
        if (wanted == NULL)
            return PyErr_Occurred() ? NULL : backends_best();
    } else {
        Py_INCREF(wanted);
    }
    const io_backend *backend = backends_named(wanted, argument);
    Py_DECREF(wanted);
    return backend;
}
