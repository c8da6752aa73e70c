/* address_cache.h: the tuples of addresses that datagrams came from, so that peers who send often
 * cost no new ones, and answers to them no parsing. */
#ifndef IOCPCORE_PY_SERVER_ADDRESS_CACHE_H
#define IOCPCORE_PY_SERVER_ADDRESS_CACHE_H

#include "py/base/py.h"

enum {
    PY_CACHED_BITS = 6,
    PY_CACHED_WORDS = sizeof(struct sockaddr_in6) / sizeof(uint32_t),
};

/* An address, and the tuple that it was handed out as. */
typedef struct py_cached_address {
    uint32_t address[PY_CACHED_WORDS];
    io_socklen length;
    PyObject *tuple; /* NULL: none yet */
} py_cached_address;

/* All zero: empty. One thread at a time is the writer, who calls _tuple and _keep; any thread calls
 * _find. */
typedef struct py_address_cache {
    io_lock lock;                      /* the writer changes an entry under it, and reads without */
    const io_port *port;               /* NULL: not known yet; for the fork check */
    _Atomic(py_cached_address *) last; /* whose datagram was handed on last */
    py_cached_address entries[1 << PY_CACHED_BITS];
} py_address_cache;

/* A new reference to the tuple of this address, cached or new, and its `place`. NULL with an
 * exception. */
PyObject *py_address_cache_tuple(py_address_cache *self, const io_address *address,
                                 py_cached_address **place);
/* It is handed on now. */
void py_address_cache_keep(py_address_cache *self, py_cached_address *place,
                           const io_address *address, PyObject *tuple);
/* True: this is the very tuple that was handed on last, and here is its address. */
bool py_address_cache_find(py_address_cache *self, PyObject *tuple, io_address *address);
void py_address_cache_clear(py_address_cache *self);

#endif
