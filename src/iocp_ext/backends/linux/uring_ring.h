/* uring_ring.h: one ring, independent of its use. */
#ifndef IOCPCORE_BACKENDS_LINUX_URING_RING_H
#define IOCPCORE_BACKENDS_LINUX_URING_RING_H

#include <stdatomic.h>
#include <stdbool.h>

#include "backends/linux/uring_sys.h"
#include "core/error.h"

typedef struct uring_ring {
    int fd;
    void *rings; /* both queues */
    size_t rings_bytes;
    struct uring_sqe *sqes;
    size_t sqes_bytes;
    _Atomic uint32_t *sq_head, *sq_tail, *sq_flags;
    uint32_t sq_mask;
    _Atomic uint32_t *cq_head, *cq_tail;
    uint32_t cq_mask;
    struct uring_cqe *cqes;
} uring_ring;

int uring_ring_open(uring_ring *ring, uint32_t sq_entries, uint32_t cq_entries);
void uring_ring_close(uring_ring *ring);
/* Submits one entry at once. The caller must exclude other submitters. On an error nothing was
 * submitted. */
int uring_ring_submit(uring_ring *ring, const struct uring_sqe *entry);
/* Takes up to `maximum` completions. Must be called by one thread at a time. */
int uring_ring_reap(uring_ring *ring, struct uring_cqe *completions, int maximum);
/* Whether the kernel holds back completions because the queue was full. */
bool uring_ring_overflown(const uring_ring *ring);
/* Makes the kernel deliver them, as far as there is room. */
int uring_ring_flush(uring_ring *ring);

#endif
