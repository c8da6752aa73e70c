/* association_table.c: a port's hash table from native handles to associations, and their type.
 *
 * The table only stores associations; association_lookup.c decides whether one is still valid. Its
 * lock is held for a few instructions and, once per handle, for the system call that registers the
 * handle with the kernel. So a handle is in the table exactly when the core has opened it.
 *
 * References: the table owns one to each association it lists. An association owns one to its port,
 * and only a weak one to the Python object, which the user may drop at any time. Operations need no
 * association: each refers to its io_handle, which the core keeps while anything is in flight.
 *
 * Table memory is raw memory, because it is allocated with the lock held. The other allocators can
 * run the garbage collector or need the interpreter. */
#include "py/port/port.h"

/* ---- the table ------------------------------------------------------------------------------- */

enum { BUCKETS_AT_FIRST = 64 };

/* Multiplicative hashing: consecutive descriptors spread over all buckets. */
static py_association **association_table_bucket(const py_table *table, io_native native) {
    uint64_t hash = (uint64_t)native * UINT64_C(0x9E3779B97F4A7C15);
    return &table->buckets[(size_t)(hash >> 32) & (table->bucket_count - 1)];
}

bool py_table_open(py_table *table) {
    table->buckets = PyMem_RawCalloc(BUCKETS_AT_FIRST, sizeof *table->buckets);
    table->bucket_count = BUCKETS_AT_FIRST;
    if (table->buckets == NULL || io_mutex_init(&table->lock) != 0) {
        PyMem_RawFree(table->buckets);
        table->buckets = NULL;
        PyErr_NoMemory();
        return false;
    }
    return true;
}

/* Doubles the number of buckets. Not fatal if out of memory: the chains get longer, and the next
 * association tries again. Must be called with the lock held. */
static void association_table_grow(py_table *table) {
    py_table larger = {.bucket_count = 2 * table->bucket_count};
    larger.buckets = PyMem_RawCalloc(larger.bucket_count, sizeof *larger.buckets);
    if (larger.buckets == NULL)
        return;
    for (size_t i = 0; i < table->bucket_count; i++) {
        for (py_association *each = table->buckets[i], *next; each != NULL; each = next) {
            py_association **place = association_table_bucket(&larger, each->native);
            next = each->next;
            each->next = *place;
            *place = each;
        }
    }
    PyMem_RawFree(table->buckets);
    table->buckets = larger.buckets;
    table->bucket_count = larger.bucket_count;
}

/* Must be called with the lock held. Returns a borrowed reference. */
static py_association *association_table_find(const py_table *table, io_native native) {
    py_association *each = *association_table_bucket(table, native);
    while (each != NULL && each->native != native)
        each = each->next;
    return each;
}

/* The key is read with the lock held, because py_table_set_key may replace it. Taking references
 * with the lock held is fine, dropping them is not: that could run a finalizer. */
py_association *py_table_find(py_port *port, io_native native, PyObject **key) {
    py_table *table = &port->table;
    io_mutex_lock(&table->lock);
    py_association *found = association_table_find(table, native);
    Py_XINCREF(found);
    *key = found == NULL ? NULL : Py_NewRef(found->key);
    io_mutex_unlock(&table->lock);
    return found;
}

/* The search and the opening are one step under the lock: two threads that associate one handle at
 * once must not both register it with the kernel. The lock of the table is taken before those of
 * the core. */
bool py_table_add(py_association *self, int *error, uint32_t *os_error) {
    py_table *table = &self->port->table;
    *error = 0;
    io_mutex_lock(&table->lock);
    bool added = association_table_find(table, self->native) == NULL;
    if (added) {
        *error = io_handle_open(&self->port->port->lane, self->native, &self->handle, os_error);
        added = *error == 0;
    }
    if (added) {
        self->family = self->handle->family;
        if (table->count++ >= table->bucket_count)
            association_table_grow(table);
        py_association **place = association_table_bucket(table, self->native);
        self->next = *place;
        *place = self;
        self->listed = true;
        Py_INCREF(self);
    }
    io_mutex_unlock(&table->lock);
    return added;
}

/* Must be called with the lock held. */
static void association_table_unlink(py_table *table, py_association *self) {
    py_association **place = association_table_bucket(table, self->native);
    while (*place != self)
        place = &(*place)->next;
    *place = self->next;
    table->count--;
    self->listed = false;
}

/* Drops the table's reference, without the lock. Also drops the weak reference: its callback refers
 * to the association, which is a cycle. If the object dies now, the callback may still run; it then
 * finds that the association is no longer listed. */
static void association_table_let_go(py_association *self, PyObject *reference) {
    Py_XDECREF(reference);
    Py_DECREF(self);
}

/* `listed` decides which of several callers ends the association: the user, the callback of the
 * weak reference, a thread that found it stale, or the end of the port. */
bool py_table_remove(py_association *self) {
    py_table *table = &self->port->table;
    PyObject *reference = NULL;
    io_mutex_lock(&table->lock);
    bool removed = self->listed;
    if (removed) {
        association_table_unlink(table, self);
        reference = self->reference;
        self->reference = NULL;
    }
    io_mutex_unlock(&table->lock);
    if (removed)
        association_table_let_go(self, reference);
    return removed;
}

/* One at a time, because removing an association runs Python code and needs the lock. The port is
 * closed by now, so nothing is added and the number of buckets stays. Does not touch the
 * io_handles: io_port_finish_close closes them. */
void py_table_clear(py_port *port) {
    py_table *table = &port->table;
    for (size_t i = 0; i < table->bucket_count;) {
        io_mutex_lock(&table->lock);
        py_association *first = table->buckets[i];
        Py_XINCREF(first);
        io_mutex_unlock(&table->lock);
        if (first == NULL) {
            i++;
        } else {
            py_table_remove(first);
            Py_DECREF(first);
        }
    }
}

/* Called when the port is freed. The table is empty then, because each association owns a reference
 * to the port. */
void py_table_close(py_port *port) {
    if (port->table.buckets == NULL)
        return;
    PyMem_RawFree(port->table.buckets);
    port->table.buckets = NULL;
    io_mutex_destroy(&port->table.lock);
}

void py_table_set_key(py_association *self, PyObject *key) {
    py_table *table = &self->port->table;
    Py_INCREF(key);
    io_mutex_lock(&table->lock);
    PyObject *old = self->key;
    self->key = key;
    io_mutex_unlock(&table->lock);
    Py_DECREF(old);
}

/* Without the lock: no thread is inside it when the collector runs, because no Python call is made
 * with the lock held. That holds in free-threaded builds as well, where the collector stops all
 * other threads. Taking the lock could not work in a forked child. */
int py_table_traverse(py_port *port, visitproc visit, void *arg) {
    const py_table *table = &port->table;
    for (size_t i = 0; table->buckets != NULL && i < table->bucket_count; i++)
        for (py_association *each = table->buckets[i]; each != NULL; each = each->next)
            Py_VISIT(each);
    return 0;
}

/* ---- the type -------------------------------------------------------------------------------- */

/* Callback of the weak reference: the Python object has died. Its descriptor is closed, or belongs
 * to another object by now, so it is left alone. Operations in flight are cancelled by
 * io_handle_abandon; without any, io_handle_forget is enough. */
static PyObject *association_table_object_died(PyObject *association,
                                               PyObject *Py_UNUSED(reference)) {
    py_association *self = (py_association *)association;
    io_port *port = self->port->port;
    if (io_port_enter(port) == 0) { /* else the table is being cleared, or it is the parent's */
        if (py_table_remove(self) && io_handle_forget(self->handle, true) != 0)
            io_handle_abandon(self->handle);
        io_port_leave(port);
    }
    Py_RETURN_NONE;
}

static PyMethodDef association_table_died_method = {"object_died", association_table_object_died,
                                                    METH_O, NULL};

/* A weak reference whose callback removes the association. The callback owns a reference to the
 * association, so the association is still there when the object dies. */
static PyObject *association_table_refer_to(py_association *self, PyObject *object) {
    PyObject *callback = PyCFunction_New(&association_table_died_method, (PyObject *)self);
    if (callback == NULL)
        return NULL;
    PyObject *reference = PyWeakref_NewRef(object, callback);
    Py_DECREF(callback);
    return reference;
}

py_association *py_association_new(py_port *port, PyObject *object, io_native native,
                                   PyObject *key) {
    PyTypeObject *type = port->state->association_type;
    py_association *self = (py_association *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->port = (py_port *)Py_NewRef((PyObject *)port);
    self->native = native;
    self->key = Py_NewRef(key);
    if (PyLong_Check(object)) /* no weak reference: an integer has no life to follow */
        return self;
    self->identity = object;
    self->reference = association_table_refer_to(self, object);
    if (self->reference == NULL)
        Py_CLEAR(self);
    return self;
}

/* The reference is taken with the lock held, because py_table_remove takes it away. It is followed
 * without: the target may die meanwhile, which runs Python code. */
PyObject *py_association_target(py_association *self) {
    if (self->identity == NULL)
        return NULL;
    io_mutex_lock(&self->port->table.lock);
    PyObject *reference = Py_XNewRef(self->reference);
    io_mutex_unlock(&self->port->table.lock);
    PyObject *target = NULL;
    if (reference != NULL)
        (void)PyWeakref_GetRef(reference, &target); /* cannot fail: it is a weak reference */
    Py_XDECREF(reference);
    return target != NULL ? target : Py_NewRef(Py_None);
}

static int association_table_traverse(PyObject *object, visitproc visit, void *arg) {
    py_association *self = (py_association *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->port);
    Py_VISIT(self->reference);
    Py_VISIT(self->key);
    return 0;
}

/* The port stays until dealloc: the io_handle belongs to it. */
static int association_table_clear(PyObject *object) {
    py_association *self = (py_association *)object;
    Py_CLEAR(self->reference);
    Py_CLEAR(self->key);
    return 0;
}

static void association_table_dealloc(PyObject *object) {
    py_association *self = (py_association *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    association_table_clear(object);
    /* A closed port frees its handles by itself. In a forked child they are the parent's. */
    if (self->handle != NULL && io_port_enter(self->port->port) == 0) {
        io_handle_release(self->handle);
        io_port_leave(self->port->port);
    }
    Py_XDECREF((PyObject *)self->port);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot association_table_slots[] = {
    {Py_tp_traverse, association_table_traverse},
    {Py_tp_clear, association_table_clear},
    {Py_tp_dealloc, association_table_dealloc},
    {0, NULL},
};

PyType_Spec py_association_spec = {
    .name = "iocpcore._core._Association",
    .basicsize = sizeof(py_association),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = association_table_slots,
};
