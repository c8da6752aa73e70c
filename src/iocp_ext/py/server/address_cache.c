/* address_cache.c: a direct-mapped cache: every address has one possible entry, and a later address
 * replaces an earlier one there. See address_cache.h.
 *
 * The lock is held for copies of a few words only. No object is created or dropped under it. */
#include "py/server/address_cache.h"

#include <string.h>

/* A forked child skips the lock: a thread of the parent may have held it during fork(), and it
 * would never be released. */
static void address_cache_lock(py_address_cache *self) {
    if (self->port == NULL || !io_port_forked(self->port))
        io_lock_acquire(&self->lock);
}

static void address_cache_unlock(py_address_cache *self) {
    if (self->port == NULL || !io_port_forked(self->port))
        io_lock_release(&self->lock);
}

/* The entry for this address, or NULL for a family that is not cached. A multiplicative hash: its
 * upper bits are the good ones. */
static py_cached_address *address_cache_place(py_address_cache *self, const io_address *address) {
    uint32_t words[PY_CACHED_WORDS], hash = 0;
    if (address->length != sizeof(struct sockaddr_in) &&
        address->length != sizeof(struct sockaddr_in6))
        return NULL;
    size_t count = (size_t)address->length / sizeof words[0];
    memcpy(words, &address->storage, count * sizeof words[0]);
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ words[i]) * UINT32_C(0x9E3779B1);
    return &self->entries[hash >> (32 - PY_CACHED_BITS)];
}

/* Reads without the lock, because only the calling thread writes. */
PyObject *py_address_cache_tuple(py_address_cache *self, const io_address *address,
                                 py_cached_address **place) {
    const py_cached_address *entry = *place = address_cache_place(self, address);
    if (entry != NULL && entry->tuple != NULL && entry->length == address->length &&
        memcmp(entry->address, &address->storage, (size_t)address->length) == 0)
        return Py_NewRef(entry->tuple);
    return py_address_object(address);
}

void py_address_cache_keep(py_address_cache *self, py_cached_address *place,
                           const io_address *address, PyObject *tuple) {
    if (place != NULL && place->tuple != tuple) {
        PyObject *old = place->tuple;
        address_cache_lock(self);
        memcpy(place->address, &address->storage, (size_t)address->length);
        place->length = address->length;
        place->tuple = Py_NewRef(tuple);
        address_cache_unlock(self);
        Py_XDECREF(old);
    }
    /* NULL if the address is not cached, so that `last` never names an older datagram. */
    atomic_store_explicit(&self->last, place, memory_order_relaxed);
}

/* Compares objects by identity only, so it never compares a tuple by calling Python. The entry owns
 * its tuple, so a new object cannot have the same address. */
bool py_address_cache_find(py_address_cache *self, PyObject *tuple, io_address *address) {
    address_cache_lock(self);
    const py_cached_address *last = atomic_load_explicit(&self->last, memory_order_relaxed);
    bool found = last != NULL && last->tuple == tuple;
    if (found) {
        address->length = last->length;
        memcpy(&address->storage, last->address, sizeof last->address);
    }
    address_cache_unlock(self);
    return found;
}

void py_address_cache_clear(py_address_cache *self) {
    for (size_t i = 0; i < sizeof self->entries / sizeof self->entries[0]; i++)
        Py_CLEAR(self->entries[i].tuple);
}
