/* address_cache.h: caches the tuples of the addresses that datagrams come from.
 *
 * It saves two things. A peer that sends often does not cost a new tuple per datagram. And a
 * callback that answers to the tuple it was given, the usual case, does not cost a parsing of it:
 * py_address_cache_find recognises the object by identity. */
#ifndef IOCPCORE_PY_SERVER_ADDRESS_CACHE_H
#define IOCPCORE_PY_SERVER_ADDRESS_CACHE_H

#include "py/base/py.h"

enum {
    PY_CACHED_BITS = 6,
    PY_CACHED_WORDS = sizeof(struct sockaddr_in6) / sizeof(uint32_t),
};

/* An address and the tuple that callbacks were given for it. */
typedef struct py_cached_address {
    uint32_t address[PY_CACHED_WORDS];
    io_socklen length;
    PyObject *tuple; /* NULL: none yet */
} py_cached_address;

/* Zero-initialised: empty. One thread at a time is the writer, which calls _tuple and _keep. Any
 * thread may call _find. */
typedef struct py_address_cache {
    io_lock lock;        /* protects entries from _find; the writer reads without it */
    const io_port *port; /* for the fork check; NULL: not known yet */
    _Atomic(py_cached_address *) last; /* the sender of the latest datagram, or NULL */
    py_cached_address entries[1 << PY_CACHED_BITS];
} py_address_cache;

/* Returns the tuple for this address, cached or new, and the entry that it belongs in, for
 * py_address_cache_keep. */
PyObject *py_address_cache_tuple(py_address_cache *self, const io_address *address,
                                 py_cached_address **place);
/* Stores the tuple in its entry, and makes that the latest one. Call it before the callback gets
 * the tuple. */
void py_address_cache_keep(py_address_cache *self, py_cached_address *place,
                           const io_address *address, PyObject *tuple);
/* If `tuple` is the object that was kept last, sets its address and returns true. Sets no
 * exception. */
bool py_address_cache_find(py_address_cache *self, PyObject *tuple, io_address *address);
void py_address_cache_clear(py_address_cache *self);

#endif
