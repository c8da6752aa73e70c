/* ring.c: one io_uring, used by one thread, with the flags that serve that best.
 *
 * With DEFER_TASKRUN the kernel does its part only while this thread waits: nothing interrupts it,
 * and everything submitted since the last wait goes in with the next one, in one system call. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "listen.h"
#include "ring.h"

static void *map(int fd, size_t bytes, off_t offset) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED | MAP_POPULATE;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (memory == MAP_FAILED)
        die("mmap");
    return memory;
}

void ring_open(struct ring *ring, uint32_t sq_entries, uint32_t cq_entries) {
    struct ring_params params = {.cq_entries = cq_entries};
    uint32_t *array;
    size_t bytes;
    char *rings;
    params.flags = SETUP_CQSIZE | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN;
    ring->fd = (int)syscall(SYS_RING_SETUP, sq_entries, &params);
    if (ring->fd < 0)
        die("io_uring_setup");
    bytes = params.cq.cqes + params.cq_entries * sizeof(struct cqe);
    if (bytes < params.sq.array + params.sq_entries * sizeof(uint32_t))
        bytes = params.sq.array + params.sq_entries * sizeof(uint32_t);
    rings = map(ring->fd, bytes, 0);
    ring->sqes = map(ring->fd, params.sq_entries * sizeof(struct sqe), 0x10000000);
    ring->sq_tail = (uint32_t *)(void *)(rings + params.sq.tail);
    ring->sq_mask = params.sq_entries - 1;
    ring->cq_head = (uint32_t *)(void *)(rings + params.cq.head);
    ring->cq_tail = (uint32_t *)(void *)(rings + params.cq.tail);
    ring->cq_mask = params.cq_entries - 1;
    ring->cqes = (struct cqe *)(void *)(rings + params.cq.cqes);
    array = (uint32_t *)(void *)(rings + params.sq.array);
    for (uint32_t i = 0; i < params.sq_entries; i++)
        array[i] = i;
}

void ring_provide(struct ring *ring, uint32_t count, uint32_t bytes) {
    struct ring_buffers buffers = {.entries = count};
    ring->buffers = map(-1, count * sizeof *ring->buffers, 0);
    ring->memory = map(-1, (size_t)count * bytes, 0);
    ring->buffers_mask = count - 1;
    ring->buffer_bytes = bytes;
    buffers.address = (uint64_t)(uintptr_t)ring->buffers;
    if (syscall(SYS_RING_REGISTER, ring->fd, REGISTER_BUFFER_RING, &buffers, 1) < 0)
        die("io_uring_register: provided buffers");
    for (uint32_t id = 0; id < count; id++)
        ring_give_back(ring, (uint16_t)id);
}

char *ring_memory(const struct ring *ring, uint16_t id) {
    return ring->memory + (size_t)id * ring->buffer_bytes;
}

void ring_give_back(struct ring *ring, uint16_t id) {
    struct ring_buffer *buffer = &ring->buffers[ring->buffers_tail & ring->buffers_mask];
    buffer->address = (uint64_t)(uintptr_t)ring_memory(ring, id);
    buffer->length = ring->buffer_bytes;
    buffer->id = id;
    ring->buffers_tail++;
    __atomic_store_n(&ring->buffers[0].tail, ring->buffers_tail, __ATOMIC_RELEASE);
}

static void enter(struct ring *ring, uint32_t wanted) {
    int count = (int)syscall(SYS_RING_ENTER, ring->fd, ring->unsubmitted, wanted,
                             wanted ? ENTER_GETEVENTS : 0, NULL, 0);
    if (count >= 0)
        ring->unsubmitted -= (uint32_t)count;
    else if (errno != EINTR && errno != EBUSY && errno != EAGAIN)
        die("io_uring_enter");
}

struct sqe *ring_next(struct ring *ring) {
    struct sqe *sqe;
    while (ring->unsubmitted > ring->sq_mask)
        enter(ring, 0);
    sqe = &ring->sqes[*ring->sq_tail & ring->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    /* The kernel looks at the tail only in this thread's own calls. */
    __atomic_store_n(ring->sq_tail, *ring->sq_tail + 1, __ATOMIC_RELAXED);
    ring->unsubmitted++;
    return sqe;
}

void ring_wait(struct ring *ring) {
    enter(ring, 1);
}

const struct cqe *ring_take(struct ring *ring) {
    static struct cqe taken;
    uint32_t head = *ring->cq_head;
    if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE))
        return NULL;
    taken = ring->cqes[head & ring->cq_mask];
    __atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
    return &taken;
}
