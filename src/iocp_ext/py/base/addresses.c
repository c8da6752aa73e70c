/* addresses.c: converts addresses between Python and C.
 *
 * Python objects have the form that the socket module uses: ("127.0.0.1", 80), ("::1", 80, 0, 0),
 * or the path of a unix socket, which is bytes in the abstract namespace. Hosts must be numeric:
 * nothing here blocks on a name lookup. */
#include "py/base/py.h"

#include <string.h>

/* Parses the number at this index of the tuple. The number is optional: `value` keeps its default
 * if the tuple is shorter. `what` is its name in error messages. py_arg_integer can run Python
 * code, but tuples are immutable, so their length need not be checked again. */
static bool addresses_number(PyObject *address, Py_ssize_t index, const char *name,
                             const char *what, long long most, long long *value) {
    char part[48];
    PyOS_snprintf(part, sizeof part, "%.20s: %s", name, what);
    return index >= PyTuple_GET_SIZE(address) ||
           py_arg_integer(PyTuple_GET_ITEM(address, index), part, 0, most, value);
}

/* A host with an embedded NUL is refused here, because the core takes a C string and would see a
 * shorter host. */
static bool addresses_parse_inet(PyObject *value, const char *name, int family,
                                 io_address *address) {
    bool six = family == AF_INET6;
    Py_ssize_t count = PyTuple_Check(value) ? PyTuple_GET_SIZE(value) : 0;
    if (count < 2 || count > (six ? 4 : 2) || !PyUnicode_Check(PyTuple_GET_ITEM(value, 0))) {
        PyErr_Format(PyExc_TypeError, "%s must be a tuple (host, port%s), not %.200R", name,
                     six ? "[, flowinfo[, scope_id]]" : "", value);
        return false;
    }
    long long port = 0, flow_info = 0, scope_id = 0;
    if (!addresses_number(value, 1, name, "port", UINT16_MAX, &port) ||
        !addresses_number(value, 2, name, "flowinfo", 0xFFFFF, &flow_info) ||
        !addresses_number(value, 3, name, "scope_id", UINT32_MAX, &scope_id))
        return false;
    Py_ssize_t size;
    const char *host = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(value, 0), &size);
    if (host == NULL && !PyErr_ExceptionMatches(PyExc_UnicodeError))
        return false;
    if (host == NULL || strlen(host) != (size_t)size ||
        io_address_inet(address, host, (uint16_t)port, (uint32_t)flow_info, (uint32_t)scope_id,
                        family) != 0) {
        PyErr_Clear(); /* from a host that cannot be encoded */
        PyErr_Format(PyExc_ValueError, "%s must have a numeric IPv%d host, not %R", name,
                     six ? 6 : 4, PyTuple_GET_ITEM(value, 0));
        return false;
    }
    return true;
}

/* A path that cannot be encoded, is empty, or is too long all raise the same ValueError. */
static bool addresses_parse_unix(PyObject *value, const char *name, io_address *address) {
    PyObject *path = NULL;
    if (PyUnicode_Check(value)) {
        path = PyUnicode_EncodeFSDefault(value);
    } else if (PyObject_CheckBuffer(value)) {
        path = PyBytes_FromObject(value);
    } else {
        PyErr_Format(PyExc_TypeError, "%s must be a path (str or bytes), not %.200s", name,
                     Py_TYPE(value)->tp_name);
    }
    if (path == NULL && !PyErr_ExceptionMatches(PyExc_ValueError))
        return false; /* ValueError: it cannot be encoded, or is a released memoryview */
    int error =
        path == NULL || PyBytes_GET_SIZE(path) == 0
            ? -IOE_INVAL
            : io_address_unix(address, PyBytes_AS_STRING(path), (size_t)PyBytes_GET_SIZE(path));
    Py_XDECREF(path);
    if (error) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s is not a path that a unix socket can have: %R", name,
                     value);
    }
    return error == 0;
}

/* The family decides the form, not the value: ('::1', 80) is wrong for an IPv4 socket, and is
 * refused here with a message that names the expected form. */
bool py_address_parse(PyObject *value, const char *name, int family, io_address *address) {
    switch (family) {
    case AF_INET:
    case AF_INET6:
        return addresses_parse_inet(value, name, family, address);
    case AF_UNIX:
        return addresses_parse_unix(value, name, address);
    default:
        PyErr_Format(PyExc_ValueError, "%s: there are no addresses of family %d", name, family);
        return false;
    }
}

/* Families that this file does not know cannot be parsed either; raw bytes at least lose
 * nothing. */
PyObject *py_address_object(const io_address *address) {
    io_address_parts parts;
    io_address_split(address, &parts);
    Py_ssize_t length = (Py_ssize_t)parts.path_length;
    switch (parts.family) {
    case 0:
        return Py_NewRef(Py_None);
    case AF_INET:
        return Py_BuildValue("si", parts.host, (int)parts.port);
    case AF_INET6:
        return Py_BuildValue("siII", parts.host, (int)parts.port, (unsigned int)parts.flow_info,
                             (unsigned int)parts.scope_id);
    case AF_UNIX: /* a leading NUL marks the abstract namespace, which is not text */
        return length > 0 && parts.path[0] == '\0'
                   ? PyBytes_FromStringAndSize(parts.path, length)
                   : PyUnicode_DecodeFSDefaultAndSize(parts.path, length);
    default:
        return PyBytes_FromStringAndSize((const char *)&address->storage,
                                         (Py_ssize_t)address->length);
    }
}
