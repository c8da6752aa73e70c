/* uring_ring.c: the shared memory of one ring and its arithmetic.
 *
 * Two queues are shared with the kernel. We write submission entries and move their tail; the
 * kernel writes completions and moves theirs. Every submission enters the kernel at once. So a
 * descriptor in an entry means what the caller meant, and the queue never holds more than one
 * entry.
 *
 * When the completion queue is full, the kernel keeps the rest and sets a flag. Entering the ring
 * brings them in, so no completion is lost. */
#include "backends/linux/uring_ring.h"

#include "core/assert.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { BUSY_RETRIES_MAX = 64 };

static const uint32_t uring_ring_features_needed =
    URING_FEATURE_SINGLE_MMAP | URING_FEATURE_NODROP | URING_FEATURE_SUBMIT_STABLE;

static void *uring_ring_map(int fd, size_t bytes, off_t offset) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
    if (memory == MAP_FAILED)
        return NULL;
    /* A forked child must not see the parent's queues. */
    if (madvise(memory, bytes, MADV_DONTFORK) != 0) {
        int error = errno;
        munmap(memory, bytes);
        errno = error;
        return NULL;
    }
    return memory;
}

int uring_ring_open(uring_ring *ring, uint32_t sq_entries, uint32_t cq_entries) {
    struct uring_params params;
    memset(ring, 0, sizeof *ring);
    memset(&params, 0, sizeof params);
    params.flags = URING_SETUP_CQSIZE | URING_SETUP_COOP_TASKRUN;
    params.cq_entries = cq_entries;
    ring->fd = uring_sys_setup(sq_entries, &params); /* always close-on-exec */
    if (ring->fd < 0)
        return io_error_from_errno(errno);
    int error = 0;
    if ((params.features & uring_ring_features_needed) != uring_ring_features_needed) {
        error = -IOE_NOSYS;
        goto failed;
    }
    size_t sq_bytes = params.sq.array + params.sq_entries * sizeof(uint32_t);
    size_t cq_bytes = params.cq.cqes + params.cq_entries * sizeof(struct uring_cqe);
    ring->rings_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
    ring->rings = uring_ring_map(ring->fd, ring->rings_bytes, URING_OFFSET_RINGS);
    if (ring->rings == NULL) {
        error = io_error_from_errno(errno);
        goto failed;
    }
    ring->sqes_bytes = params.sq_entries * sizeof(struct uring_sqe);
    ring->sqes = uring_ring_map(ring->fd, ring->sqes_bytes, URING_OFFSET_SQES);
    if (ring->sqes == NULL) {
        error = io_error_from_errno(errno);
        goto failed;
    }
    char *base = ring->rings;
    ring->sq_head = (_Atomic uint32_t *)(void *)(base + params.sq.head);
    ring->sq_tail = (_Atomic uint32_t *)(void *)(base + params.sq.tail);
    ring->sq_flags = (_Atomic uint32_t *)(void *)(base + params.sq.flags);
    ring->sq_mask = *(uint32_t *)(void *)(base + params.sq.ring_mask);
    ring->cq_head = (_Atomic uint32_t *)(void *)(base + params.cq.head);
    ring->cq_tail = (_Atomic uint32_t *)(void *)(base + params.cq.tail);
    ring->cq_mask = *(uint32_t *)(void *)(base + params.cq.ring_mask);
    ring->cqes = (struct uring_cqe *)(void *)(base + params.cq.cqes);
    uint32_t *array = (uint32_t *)(void *)(base + params.sq.array);
    for (uint32_t i = 0; i < params.sq_entries; i++)
        array[i] = i; /* we do not use the indirection */
    return 0;

failed:
    uring_ring_close(ring);
    return error;
}

void uring_ring_close(uring_ring *ring) {
    if (ring->sqes != NULL)
        munmap(ring->sqes, ring->sqes_bytes);
    if (ring->rings != NULL)
        munmap(ring->rings, ring->rings_bytes);
    if (ring->fd >= 0)
        close(ring->fd);
}

int uring_ring_submit(uring_ring *ring, const struct uring_sqe *entry) {
    uint32_t tail = atomic_load_explicit(ring->sq_tail, memory_order_relaxed);
    io_assert(atomic_load_explicit(ring->sq_head, memory_order_acquire) == tail);
    ring->sqes[tail & ring->sq_mask] = *entry;
    atomic_store_explicit(ring->sq_tail, tail + 1, memory_order_release);
    int error = 0;
    for (int tries = 0; tries < BUSY_RETRIES_MAX; tries++) {
        int entered = uring_sys_enter(ring->fd, 1, 0, 0);
        if (entered == 1)
            return 0;
        error = entered < 0 ? io_error_from_errno(errno) : -IOE_AGAIN;
        int refused =
            error == -IOE_BUSY ? uring_ring_flush(ring) : 0; /* held-back completions need room */
        if (refused)
            error = refused;
        if (error != -IOE_INTR && error != -IOE_AGAIN && error != -IOE_BUSY)
            break;
    }
    /* The kernel consumes an entry that it refuses, and posts a completion for it. */
    if (atomic_load_explicit(ring->sq_head, memory_order_acquire) == tail + 1)
        return 0;
    atomic_store_explicit(ring->sq_tail, tail, memory_order_release);
    return error;
}

int uring_ring_reap(uring_ring *ring, struct uring_cqe *completions, int maximum) {
    uint32_t head = atomic_load_explicit(ring->cq_head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(ring->cq_tail, memory_order_acquire);
    int count = 0;
    io_assert(tail - head <= ring->cq_mask + 1);
    while (head != tail && count < maximum)
        completions[count++] = ring->cqes[head++ & ring->cq_mask];
    if (count > 0)
        atomic_store_explicit(ring->cq_head, head, memory_order_release);
    return count;
}

bool uring_ring_overflown(const uring_ring *ring) {
    return atomic_load_explicit(ring->sq_flags, memory_order_relaxed) & URING_SQ_CQ_OVERFLOW;
}

int uring_ring_flush(uring_ring *ring) {
    int error;
    do
        error = uring_sys_enter(ring->fd, 0, 0, URING_ENTER_GETEVENTS) < 0
                    ? io_error_from_errno(errno)
                    : 0;
    while (error == -IOE_INTR);
    return error;
}
