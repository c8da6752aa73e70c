/* buffer.c: the pool of receive buffers.
 *
 * A receive that does not know how much will arrive gets a buffer of the requested size and
 * releases it as soon as the bytes have been copied out, so a few buffers serve many operations.
 * Sizes are powers of two from 512 bytes to 64 KiB; larger receives bring their own memory. The
 * most recently released buffer of each size is likely in the processor's cache, and is taken
 * without a lock. */
#include "core/io.h"

#include <stdlib.h>

enum { CLASSES = 8, SMALLEST_SHIFT = 9, KEPT_PER_CLASS_BYTES = 1 << 20 };

typedef struct io_buffer { /* the header in front of the memory */
    struct io_buffer *next;
    uint32_t size_class;
    uint32_t owner; /* assertion builds: OWNER_POOL or OWNER_USER */
} io_buffer;

/* Values unlikely to precede a pointer that is not one of our buffers. */
enum { OWNER_POOL = 0x706f6f6c, OWNER_USER = 0x75736572 };

/* Changes the owner in assertion builds, and catches a double release. */
static void buffer_set_owner(io_buffer_pool *pool, io_buffer *buffer, uint32_t to) {
#ifdef IO_ASSERTIONS
    bool acquired = to == OWNER_USER;
    io_assert(acquired || buffer->owner == OWNER_USER);
    buffer->owner = to;
    int64_t before = atomic_fetch_add_explicit(&pool->out, acquired ? 1 : -1, memory_order_relaxed);
    io_assert(acquired || before > 0);
#else
    (void)pool;
    (void)buffer;
    (void)to;
#endif
}

static size_t buffer_class_bytes(uint32_t size_class) {
    return (size_t)1 << (SMALLEST_SHIFT + size_class);
}

/* Searches from the largest class, because most receives have that size. */
static uint32_t buffer_class_for(size_t size) {
    uint32_t size_class = CLASSES - 1;
    while (size_class > 0 && buffer_class_bytes(size_class - 1) >= size)
        size_class--;
    return size_class;
}

void io_buffer_pool_close(io_buffer_pool *pool) {
#ifdef IO_ASSERTIONS
    io_assert(pool->out == 0);
#endif
    for (int i = 0; i < CLASSES; i++) {
        free(pool->last[i]);
        pool->last[i] = NULL;
        while (pool->free[i] != NULL) {
            io_buffer *buffer = pool->free[i];
            pool->free[i] = buffer->next;
            free(buffer);
        }
        pool->free_count[i] = 0;
    }
}

static io_buffer *buffer_take(io_buffer_pool *pool, uint32_t size_class) {
    io_buffer *buffer =
        atomic_exchange_explicit(&pool->last[size_class], NULL, memory_order_acquire);
    if (buffer != NULL)
        return buffer;
    io_lock_acquire(&pool->lock);
    buffer = pool->free[size_class];
    if (buffer != NULL) {
        pool->free[size_class] = buffer->next;
        pool->free_count[size_class]--;
    }
    io_lock_release(&pool->lock);
    return buffer != NULL ? buffer : malloc(sizeof(io_buffer) + buffer_class_bytes(size_class));
}

void *io_buffer_acquire(io_buffer_pool *pool, size_t size) {
    io_assert(size <= IO_BUFFER_POOLED_MAX);
    uint32_t size_class = buffer_class_for(size);
    size_t bytes = sizeof(io_buffer) + buffer_class_bytes(size_class);
    io_buffer *buffer;
    if (io_guard_enabled())
        buffer = io_guard_alloc(bytes);
    else
        buffer = buffer_take(pool, size_class);
    if (buffer == NULL)
        return NULL;
    buffer->size_class = size_class;
    buffer_set_owner(pool, buffer, OWNER_USER);
    return buffer + 1;
}

void io_buffer_release(io_buffer_pool *pool, void *memory) {
    io_buffer *buffer = (io_buffer *)memory - 1;
    uint32_t size_class = buffer->size_class;
    size_t bytes = buffer_class_bytes(size_class);
    buffer_set_owner(pool, buffer, OWNER_POOL);
    if (io_guard_enabled()) {
        io_guard_free(buffer, sizeof *buffer + bytes);
        return;
    }
    struct io_buffer *none = NULL;
    if (atomic_compare_exchange_strong_explicit(&pool->last[size_class], &none, buffer,
                                                memory_order_release, memory_order_relaxed))
        return;
    bool kept = false;
    io_lock_acquire(&pool->lock);
    if (pool->free_count[size_class] * bytes < KEPT_PER_CLASS_BYTES) {
        buffer->next = pool->free[size_class];
        pool->free[size_class] = buffer;
        pool->free_count[size_class]++;
        kept = true;
    }
    io_lock_release(&pool->lock);
    if (!kept)
        free(buffer);
}
