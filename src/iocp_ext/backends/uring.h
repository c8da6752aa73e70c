/* uring.h: what the files of the io_uring backend share. */
#ifndef IOCPCORE_URING_H
#define IOCPCORE_URING_H

#include "core/backend.h"

#include "uring_ring.h"

/* What user_data is: an operation's token (its low bits are 0), one of these, or a receiver. */
enum {
    URING_TOKEN_WAKE = 1,
    URING_TOKEN_CANCEL = 2,
    URING_TOKEN_RECEIVER = 4, /* added to the address of an uring_receiver */
    URING_TOKEN_BITS = 7,
};

/* How the receives of connections wait for data. */
typedef enum uring_way {
    URING_WAY_UNKNOWN,
    URING_BY_POLL,   /* a poll, and then recv(2) */
    URING_MULTISHOT, /* one submission for many receives, up to so many bytes in all */
} uring_way;

/* The buffers of those receives (uring_receive.c). */
typedef struct uring_intake {
    uring_way way;
    struct uring_buffer *ring; /* of buffers the kernel may take; only the thread in wait() adds */
    char *memory;
    uint16_t tail;
    uint32_t provided;      /* so many buffers exist by now */
    _Atomic uint32_t armed; /* receivers whose last completion has not come */
} uring_intake;

typedef struct uring_lane {
    uring_ring ring;
    io_mutex submit_lock;
    int wake; /* eventfd, watched by a multishot poll */
    _Atomic bool wake_armed;
    _Atomic bool owes; /* a cancel, or the watch over `wake`, that the kernel had no memory for */
    uring_intake intake;
} uring_lane;

static inline uint64_t uring_pointer(const void *memory) {
    return (uint64_t)(uintptr_t)memory;
}

/* From any thread. 0 or an errno: not submitted. */
int uring_submit_entry(uring_lane *state, const struct uring_sqe *entry);
int uring_submit_cancel(uring_lane *state, uint64_t token, uint32_t flags);
/* The next completion, within about a second: 0 or an errno. Only while nobody is in wait(). */
int uring_wait_briefly(uring_lane *state, struct uring_cqe *completion);

#endif
