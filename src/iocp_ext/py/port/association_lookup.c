/* association_lookup.c: finds the association of a Python handle, or makes one.
 *
 * A Python handle is a socket, a file object or an integer. The problem is that numbers are reused:
 * a program may close a socket behind our back, and the next one gets its descriptor. So:
 *
 *   - Each call asks the object for its native handle, which notices a closed or reopened object.
 *   - The association of that number is valid only if it was made for this very object.
 *   - An association is stale if its object is gone or has another number now. Its operations are
 *     ended without touching the number, which may mean another file, and it is replaced.
 *   - A number that another live object or another port has associated is refused.
 *
 * An integer has no identity, so it stays associated until dissociate() or close_handle().
 *
 * fileno(), detach() and setblocking() run Python code, which may do anything, such as close the
 * port or associate the same handle. So nothing is locked or entered during these calls, and what
 * was true before them is checked again. */
#include "py/port/port.h"

#include <string.h>

/* What an argument of this name may be, for the TypeError. */
static const char *association_lookup_wanted(const py_port *port, const char *name) {
    if (py_port_own_natives(port))
        return port->port->backend->own_natives;
    if (strcmp(name, "file") == 0)
        return "a file object or an integer handle";
    if (strcmp(name, "handle") == 0)
        return "a socket, a file object or an integer handle";
    return "a socket or an integer handle";
}

static PyObject *association_lookup_refuse(const py_port *port, PyObject *object,
                                           const char *name) {
    PyErr_Format(PyExc_TypeError, "%s must be %s, not %.200s", name,
                 association_lookup_wanted(port, name), Py_TYPE(object)->tp_name);
    return NULL;
}

static PyObject *association_lookup_refuse_closed(const char *name) {
    PyErr_Format(PyExc_ValueError, "%s is closed", name);
    return NULL;
}

/* ---- native handles -------------------------------------------------------------------------- */

/* Replaces an exception of fileno() by one that names the argument. Closed files raise ValueError;
 * objects like BytesIO raise UnsupportedOperation, which is a ValueError too, so it is tested
 * first. Other exceptions pass. */
static PyObject *association_lookup_explain_fileno_error(const py_port *port, PyObject *object,
                                                         const char *name) {
    bool foreign = PyErr_ExceptionMatches(port->state->unsupported_operation) ||
                   PyErr_ExceptionMatches(PyExc_AttributeError);
    if (!foreign && !PyErr_ExceptionMatches(PyExc_ValueError))
        return NULL;
    PyErr_Clear();
    return foreign ? association_lookup_refuse(port, object, name)
                   : association_lookup_refuse_closed(name);
}

/* Calls object.fileno(). */
static PyObject *association_lookup_ask_number(const py_port *port, PyObject *object,
                                               const char *name) {
    PyObject *number = PyObject_CallMethodNoArgs(object, port->state->str_fileno);
    if (number == NULL)
        return association_lookup_explain_fileno_error(port, object, name);
    if (!PyLong_Check(number)) {
        PyErr_Format(PyExc_TypeError, "%s.fileno() must return an integer, not %.200s", name,
                     Py_TYPE(number)->tp_name);
        Py_CLEAR(number);
    }
    return number;
}

#ifdef _WIN32
/* fileno() of a socket is a SOCKET, that of a file a descriptor of the C library, which is
 * converted to a HANDLE. An object with setblocking() is taken for a socket. Takes the reference to
 * `number`. */
static PyObject *association_lookup_os_handle_of(const py_port *port, PyObject *object,
                                                 PyObject *number) {
    PyObject *method = NULL;
    if (PyObject_TypeCheck(object, (PyTypeObject *)port->state->socket_class))
        return number;
    if (PyObject_GetOptionalAttr(object, port->state->str_setblocking, &method) < 0)
        Py_CLEAR(number);
    if (method == NULL && number != NULL)
        Py_SETREF(number, PyObject_CallOneArg(port->state->get_osfhandle, number));
    Py_XDECREF(method);
    return number;
}
#endif

/* A bool is an int in Python, but as a handle it is a mistake. */
static bool association_lookup_is_integer(PyObject *object) {
    return PyLong_Check(object) && !PyBool_Check(object);
}

/* SOCKET and HANDLE are unsigned and as wide as a pointer, but the kernel never sets the upper bit,
 * so a signed type holds them. */
static bool association_lookup_to_native(PyObject *number, const char *name, io_native *native) {
    long long value = PyLong_AsLongLong(number);
    if (value == -1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return false;
        PyErr_Format(PyExc_ValueError, "%s is not a handle: %R", name, number);
        return false;
    }
    *native = (io_native)value;
    return true;
}

/* A closed socket object answers -1; a negative integer is the caller's mistake. The difference is
 * in the messages only. */
bool py_handle_native(py_port *port, PyObject *object, const char *name, io_native *native) {
    if (association_lookup_is_integer(object)) {
        if (!association_lookup_to_native(object, name, native))
            return false;
        if (*native < 0)
            PyErr_Format(PyExc_ValueError, "%s must not be negative", name);
        return *native >= 0;
    }
    if (py_port_own_natives(port) || PyBool_Check(object))
        return association_lookup_refuse(port, object, name) != NULL;
    PyObject *number = association_lookup_ask_number(port, object, name);
#ifdef _WIN32
    if (number != NULL && PyLong_AsLongLong(number) != -1)
        number = association_lookup_os_handle_of(port, object, number);
#endif
    bool known = number != NULL && association_lookup_to_native(number, name, native);
    Py_XDECREF(number);
    if (known && *native < 0)
        return association_lookup_refuse_closed(name) != NULL;
    return known;
}

/* ---- finding and making associations --------------------------------------------------------- */

/* Identifies the Python object; NULL for every integer. The address is only compared. A new object
 * may get the address of a dead one, but the callback of the weak reference has removed the
 * association by then. */
static const void *association_lookup_identity_of(PyObject *object) {
    return PyLong_Check(object) ? NULL : object;
}

/* Whether the association is not stale. That of an integer never is. Sets no exception: the object
 * is not the caller's argument, so an error of its fileno() concerns nobody. */
static bool association_lookup_current(py_association *association) {
    PyObject *target = py_association_target(association);
    if (target == NULL)
        return true;
    io_native native = IO_NATIVE_NONE;
    bool same = target != Py_None &&
                py_handle_native(association->port, target, "handle", &native) &&
                native == association->native;
    if (PyErr_Occurred())
        PyErr_Clear();
    Py_DECREF(target);
    return same;
}

/* Raises ValueError: the number is associated through another object. Always returns false. */
static bool association_lookup_refuse_other(py_association *other, const char *name) {
    PyObject *target = py_association_target(other);
    if (target == NULL)
        PyErr_Format(PyExc_ValueError,
                     "%s has a number that is associated already, as the integer %lld", name,
                     (long long)other->native);
    else
        PyErr_Format(PyExc_ValueError,
                     "%s has a number that is associated already, through another object: %R", name,
                     target);
    Py_XDECREF(target);
    return false;
}

/* Removes a stale association and ends its operations. If another thread was faster, that is
 * fine. */
static bool association_lookup_abandon(py_port *port, py_association *stale) {
    if (!py_port_enter(port))
        return false;
    if (py_table_remove(stale))
        io_handle_abandon(stale->handle);
    py_port_leave(port);
    return true;
}

/* Raises ValueError and returns false if another open port has a current association of this
 * number, through any object. */
static bool association_lookup_unknown_elsewhere(py_port *port, const char *name,
                                                 io_native native) {
    PyObject *ports = py_open_ports(port->state);
    bool unknown = ports != NULL;
    for (Py_ssize_t i = 0; unknown && i < PyList_GET_SIZE(ports); i++) {
        py_port *other = (py_port *)PyList_GET_ITEM(ports, i);
        /* Entered for the search only: association_lookup_current runs Python code. */
        if (other == port || py_port_own_natives(other) || io_port_enter(other->port) != 0)
            continue; /* closed, or the parent process's */
        PyObject *key;
        py_association *found = py_table_find(other, native, &key);
        py_port_leave(other);
        if (found != NULL && association_lookup_current(found)) {
            PyErr_Format(PyExc_ValueError, "%s is associated with another port", name);
            unknown = false;
        }
        Py_XDECREF((PyObject *)found);
        Py_XDECREF(key);
    }
    Py_XDECREF(ports);
    return unknown;
}

/* Calls object.setblocking(False), if there is such a method. The core makes the descriptor
 * non-blocking, but a socket object has its own idea of its timeout. */
static bool association_lookup_unblock(py_port *port, PyObject *object) {
    if (PyLong_Check(object))
        return true;
    PyObject *method;
    int found = PyObject_GetOptionalAttr(object, port->state->str_setblocking, &method);
    if (found <= 0)
        return found == 0;
    PyObject *done = PyObject_CallOneArg(method, Py_False);
    Py_DECREF(method);
    Py_XDECREF(done);
    return done != NULL;
}

/* A new association; an object without weak references raises a TypeError that names `name`. */
static py_association *association_lookup_new_record(py_port *port, PyObject *object,
                                                     const char *name, io_native native,
                                                     PyObject *key) {
    py_association *association = py_association_new(port, object, native, key);
    if (association == NULL && PyErr_ExceptionMatches(PyExc_TypeError))
        PyErr_Format(PyExc_TypeError, "%s must be an object with weak references, not %.200s", name,
                     Py_TYPE(object)->tp_name);
    return association;
}

/* Removes an association that was added in vain, unless another thread uses it already. Keeps the
 * current exception. */
static void association_lookup_take_back(py_port *port, py_association *association) {
    PyObject *raised = py_error_take();
    if (io_port_enter(port->port) == 0) {
        bool idle = io_handle_forget(association->handle, false) == 0;
        py_port_leave(port);
        if (idle)
            (void)py_table_remove(association);
    }
    PyErr_SetRaisedException(raised);
}

/* Adds a new association to the table. That another thread has added one meanwhile is not an error:
 * the caller searches again. But if another port has associated the handle meanwhile, at most one
 * may keep it. So each port checks the others again after it has added its own; then at least one
 * of the two sees the other's and takes its own back. */
static bool association_lookup_enter(py_port *port, PyObject *object, const char *name,
                                     io_native native, PyObject *key) {
    py_association *association = association_lookup_new_record(port, object, name, native, key);
    if (association == NULL)
        return false;
    int error = 0;
    uint32_t os_error = 0;
    bool added = false, entered = py_port_enter(port);
    if (entered) {
        added = py_table_add(association, &error, &os_error);
        py_port_leave(port);
    }
    if (error == -IOE_BADF)
        association_lookup_refuse_closed(name);
    else if (error)
        py_error_raise(error, os_error, "associate");
    bool alone = !added || py_port_own_natives(port) ||
                 association_lookup_unknown_elsewhere(port, name, native);
    if (!alone)
        association_lookup_take_back(port, association);
    Py_DECREF((PyObject *)association);
    return entered && error == 0 && alone;
}

/* Makes the association of a number that has none, or only one of another object (`other`), which
 * is replaced if it is stale. */
static bool association_lookup_associate(py_port *port, PyObject *object, const char *name,
                                         io_native native, py_association *other, PyObject *key) {
    if (other != NULL) {
        if (association_lookup_current(other))
            return association_lookup_refuse_other(other, name);
        if (!association_lookup_abandon(port, other))
            return false;
    }
    return (py_port_own_natives(port) ||
            association_lookup_unknown_elsewhere(port, name, native)) &&
           association_lookup_unblock(port, object) &&
           association_lookup_enter(port, object, name, native, key);
}

/* Loops because other threads may add and remove associations of the same number meanwhile. The
 * check of the port comes first, so that a closed port is the error that is reported. */
static py_association *association_lookup_find(py_port *port, PyObject *object, const char *name,
                                               PyObject *new_key, PyObject **key) {
    io_native native;
    if (!py_port_check(port) || !py_handle_native(port, object, name, &native))
        return NULL;
    for (;;) {
        py_association *found = py_table_find(port, native, key);
        if (found != NULL && found->identity == association_lookup_identity_of(object))
            return found;
        Py_CLEAR(*key);
        bool associated = association_lookup_associate(port, object, name, native, found, new_key);
        Py_XDECREF((PyObject *)found);
        if (!associated)
            return NULL;
    }
}

py_association *py_handle_find(py_port *port, PyObject *object, const char *name, PyObject **key) {
    return association_lookup_find(port, object, name, Py_None, key);
}

/* ---- methods of the port --------------------------------------------------------------------- */

/* Setting the key is a step of its own, because the handle may have had an association already. */
bool py_handle_associate(py_port *port, PyObject *object, PyObject *key) {
    PyObject *old_key = NULL;
    py_association *association = association_lookup_find(port, object, "handle", key, &old_key);
    if (association == NULL)
        return false;
    py_table_set_key(association, key);
    Py_DECREF(old_key);
    Py_DECREF((PyObject *)association);
    return true;
}

/* The existing association of a handle; ValueError if there is none. */
static py_association *association_lookup_find_existing(py_port *port, PyObject *object,
                                                        const char *name) {
    io_native native;
    PyObject *key;
    if (!py_port_check(port) || !py_handle_native(port, object, name, &native))
        return NULL;
    py_association *found = py_table_find(port, native, &key);
    Py_XDECREF(key);
    if (found != NULL && found->identity == association_lookup_identity_of(object))
        return found;
    Py_XDECREF((PyObject *)found);
    PyErr_Format(PyExc_ValueError, "%s is not associated with this port", name);
    return NULL;
}

bool py_handle_dissociate(py_port *port, PyObject *object) {
    py_association *association = association_lookup_find_existing(port, object, "handle");
    if (association == NULL)
        return false;
    bool entered = py_port_enter(port);
    if (entered) {
        bool idle = io_handle_forget(association->handle, false) == 0;
        py_port_leave(port);
        if (idle)
            (void)py_table_remove(association);
        else
            PyErr_SetString(PyExc_ValueError, "handle has operations in flight");
        entered = idle;
    }
    Py_DECREF((PyObject *)association);
    return entered;
}

/* Detaches the descriptor from the socket object; the core closes it when the last operation on it
 * has ended. Until then its number cannot be reused. File objects cannot be detached, so they are
 * refused. The association is made if there is none, so that the core closes every handle in the
 * same way. */
bool py_handle_close(py_port *port, PyObject *object) {
    PyObject *key;
    if (!PyLong_Check(object) &&
        !PyObject_TypeCheck(object, (PyTypeObject *)port->state->socket_class)) {
        PyErr_Format(PyExc_TypeError, "sock must be a socket or an integer handle, not %.200s",
                     Py_TYPE(object)->tp_name);
        return false;
    }
    py_association *association = py_handle_find(port, object, "sock", &key);
    if (association == NULL)
        return false;
    Py_DECREF(key);
    PyObject *detached = PyLong_Check(object)
                             ? Py_NewRef(Py_None)
                             : PyObject_CallMethodNoArgs(object, port->state->str_detach);
    bool entered = detached != NULL && py_port_enter(port);
    if (entered) {
        if (py_table_remove(association))
            io_handle_close(association->handle);
        py_port_leave(port);
    }
    Py_XDECREF(detached);
    Py_DECREF((PyObject *)association);
    return entered;
}
