/* uring_sys.h: io_uring's system calls and structures, as the kernel defines them.
 *
 * Defined here because the headers of the build machine are often older than the kernel that runs.
 * The assertions pin the layout. */
#ifndef IOCPCORE_BACKENDS_LINUX_URING_SYS_H
#define IOCPCORE_BACKENDS_LINUX_URING_SYS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { URING_SYS_SETUP = 425, URING_SYS_ENTER = 426 };

struct uring_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t io_priority;
    int32_t fd;
    uint64_t offset;
    uint64_t address;
    uint32_t length;
    uint32_t op_flags; /* cancel or sync flags */
    uint64_t user_data;
    uint16_t buffer_group;
    uint16_t personality;
    int32_t file_index;
    uint64_t address3;
    uint64_t padding;
};
_Static_assert(sizeof(struct uring_sqe) == 64, "layout");
_Static_assert(offsetof(struct uring_sqe, user_data) == 32, "layout");

struct uring_cqe {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
};
_Static_assert(sizeof(struct uring_cqe) == 16, "layout");

struct uring_sq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, reserved;
    uint64_t user_address;
};

struct uring_cq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, reserved;
    uint64_t user_address;
};

struct uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
    uint32_t reserved[3];
    struct uring_sq_offsets sq;
    struct uring_cq_offsets cq;
};
_Static_assert(sizeof(struct uring_params) == 120, "layout");

enum {
    URING_OP_NOP = 0,
    URING_OP_READV = 1,
    URING_OP_WRITEV = 2,
    URING_OP_FSYNC = 3,
    URING_OP_ASYNC_CANCEL = 14,
};

#define URING_SETUP_CQSIZE (1u << 3)
#define URING_SETUP_COOP_TASKRUN (1u << 8)

#define URING_FEATURE_SINGLE_MMAP (1u << 0)
#define URING_FEATURE_NODROP (1u << 1)
#define URING_FEATURE_SUBMIT_STABLE (1u << 2)

#define URING_ENTER_GETEVENTS (1u << 0)

#define URING_SQ_CQ_OVERFLOW (1u << 1)

#define URING_SQE_ASYNC (1u << 4)

#define URING_OFFSET_RINGS 0
#define URING_OFFSET_SQES 0x10000000

static inline int uring_sys_setup(uint32_t entries, struct uring_params *params) {
    return (int)syscall(URING_SYS_SETUP, entries, params);
}

static inline int uring_sys_enter(int fd, uint32_t submit, uint32_t complete, uint32_t flags) {
    return (int)syscall(URING_SYS_ENTER, fd, submit, complete, flags, NULL, 0);
}

#endif
