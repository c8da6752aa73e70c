/* hosts.c: how many connections of a group each address has, for max_connections_per_address.
 *
 * A place that is not given back is lost for ever, and so in the end is the address. So one fewer
 * needs no memory: connections keep the key under which they are counted, and the number is changed
 * in place. */
#include "py/server/server.h"

/* The host of an address, as the key of those that are counted; NULL: not counted, or an
 * exception. */
static PyObject *hosts_host_of(const py_connection *connection) {
    if (!connection->peer_known || connection->group->max_per_address == 0)
        return NULL;
    if (connection->peer.any.sa_family == AF_INET6)
        return PyBytes_FromStringAndSize((const char *)&connection->peer.inet6.sin6_addr,
                                         sizeof connection->peer.inet6.sin6_addr);
    return PyBytes_FromStringAndSize((const char *)&connection->peer.inet.sin_addr,
                                     sizeof connection->peer.inet.sin_addr);
}

/* The number of connections of this host, to be changed in place, or NULL. */
static size_t *hosts_find_number(const py_group *self, PyObject *host) {
    PyObject *number = PyDict_GetItemWithError(self->addresses, host);
    return number == NULL ? NULL : (size_t *)(void *)PyByteArray_AS_STRING(number);
}

static size_t *hosts_find_or_add_number(py_group *self, PyObject *host) {
    static const size_t none = 0;
    size_t *found = hosts_find_number(self, host);
    if (found != NULL || PyErr_Occurred())
        return found;
    PyObject *number = PyByteArray_FromStringAndSize((const char *)&none, sizeof none);
    if (number != NULL && PyDict_SetItem(self->addresses, host, number) == 0)
        found = hosts_find_number(self, host);
    Py_XDECREF(number);
    return found;
}

bool py_host_count(py_group *self, py_connection *connection, size_t *number) {
    PyObject *host = hosts_host_of(connection);
    *number = 0;
    if (host == NULL)
        return !PyErr_Occurred();
    size_t *counted;
    Py_BEGIN_CRITICAL_SECTION(self);
    counted = hosts_find_or_add_number(self, host);
    if (counted != NULL)
        *number = ++*counted;
    Py_END_CRITICAL_SECTION();
    if (counted == NULL)
        Py_DECREF(host);
    else
        connection->host = host;
    return counted != NULL;
}

void py_host_uncount(py_group *self, py_connection *connection) {
    if (connection->host == NULL)
        return;
    bool done = true;
    Py_BEGIN_CRITICAL_SECTION(self);
    size_t *counted = hosts_find_number(self, connection->host);
    if (counted != NULL && --*counted == 0)
        done = PyDict_DelItem(self->addresses, connection->host) == 0;
    Py_END_CRITICAL_SECTION();
    if (!done)
        PyErr_WriteUnraisable((PyObject *)self);
    Py_CLEAR(connection->host);
}
