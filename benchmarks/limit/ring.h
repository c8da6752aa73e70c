/* ring.h: io_uring's system calls and structures, as the kernel defines them.
 *
 * Written out because the headers of the machine that builds may be older than its kernel, and
 * because nothing but a C compiler should be needed. */
#ifndef BENCHMARKS_RING_H
#define BENCHMARKS_RING_H

#include <stddef.h>
#include <stdint.h>

struct sqe {
    uint8_t opcode, flags;
    uint16_t io_priority;
    int32_t fd;
    uint64_t offset, address;
    uint32_t length, op_flags;
    uint64_t user_data;
    uint16_t buffer_group, personality;
    int32_t file_index;
    uint64_t address3, padding;
};
_Static_assert(sizeof(struct sqe) == 64, "layout");

struct cqe {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
};
_Static_assert(sizeof(struct cqe) == 16, "layout");

struct ring_params {
    uint32_t sq_entries, cq_entries, flags, sq_cpu, sq_idle, features, wq_fd, reserved[3];
    struct {
        uint32_t head, tail, mask, entries, flags, dropped, array, reserved;
        uint64_t address;
    } sq;
    struct {
        uint32_t head, tail, mask, entries, overflow, cqes, flags, reserved;
        uint64_t address;
    } cq;
};
_Static_assert(sizeof(struct ring_params) == 120, "layout");

/* An entry of a ring of provided buffers; the first one's last field is the ring's tail. */
struct ring_buffer {
    uint64_t address;
    uint32_t length;
    uint16_t id, tail;
};
_Static_assert(sizeof(struct ring_buffer) == 16, "layout");

struct ring_buffers {
    uint64_t address;
    uint32_t entries;
    uint16_t group, flags;
    uint64_t reserved[3];
};
_Static_assert(sizeof(struct ring_buffers) == 40, "layout");

enum { SYS_RING_SETUP = 425, SYS_RING_ENTER = 426, SYS_RING_REGISTER = 427 };
enum { OP_ACCEPT = 13, OP_CLOSE = 19, OP_READ = 22, OP_SEND = 26, OP_RECV = 27 };
enum { REGISTER_BUFFER_RING = 22 };

#define SETUP_CQSIZE (1u << 3)
#define SETUP_SINGLE_ISSUER (1u << 12)
#define SETUP_DEFER_TASKRUN (1u << 13)
#define ENTER_GETEVENTS 1u
#define SQE_BUFFER_SELECT (1u << 5)
#define CQE_BUFFER 1u
#define CQE_MORE (1u << 1)
#define CQE_BUFFER_SHIFT 16
#define RECV_MULTISHOT (1u << 1)
#define ACCEPT_MULTISHOT 1u

/* One ring, used by one thread. */
struct ring {
    int fd;
    struct sqe *sqes;
    struct cqe *cqes;
    uint32_t *sq_tail, *cq_head, *cq_tail;
    uint32_t sq_mask, cq_mask;
    uint32_t unsubmitted;
    struct ring_buffer *buffers; /* the ring of provided buffers, group 0 */
    char *memory;
    uint32_t buffers_mask, buffer_bytes;
    uint16_t buffers_tail;
};

void ring_open(struct ring *ring, uint32_t sq_entries, uint32_t cq_entries);
/* `count` (a power of two) buffers for receiving, all of them given to the kernel. */
void ring_provide(struct ring *ring, uint32_t count, uint32_t bytes);
/* A zeroed entry, submitted with the next ring_wait(). */
struct sqe *ring_next(struct ring *ring);
/* Submits, and waits for at least one completion. */
void ring_wait(struct ring *ring);
/* The next completion, or NULL. It is gone with the next call. */
const struct cqe *ring_take(struct ring *ring);
char *ring_memory(const struct ring *ring, uint16_t id);
void ring_give_back(struct ring *ring, uint16_t id);

#endif
