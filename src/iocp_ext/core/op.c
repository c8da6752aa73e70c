/* op.c: allocation of operations.
 *
 * Operations come from slabs that live as long as the port. So a pointer that arrives late, in a
 * completion or in a cancel, still points to an operation, and the generation in its token tells if
 * it is the same one. There are two sizes: posts, timers and polls are many and small; transfers
 * contain gather lists and addresses.
 *
 * In guard mode (guard.c) each operation has its own pages instead. They become inaccessible when
 * it is released, so a late write faults. */
#include "core/io.h"

#include "core/token.h"

#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define IO_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define IO_ASAN 1
#endif
#endif

#ifdef IO_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(memory, size) ASAN_POISON_MEMORY_REGION(memory, size)
#define UNPOISON(memory, size) ASAN_UNPOISON_MEMORY_REGION(memory, size)
#else
#define POISON(memory, size) ((void)(memory), (void)(size))
#define UNPOISON(memory, size) ((void)(memory), (void)(size))
#endif

enum { SMALL, LARGE };
enum { SLAB_OPERATIONS = 64 };

typedef union small_op {
    io_op op;
    io_timer timer;
    io_poll poll;
} small_op;

typedef union large_op {
    io_transfer transfer;
    io_datagram datagram;
    io_accept accept;
    io_connect connect;
    io_send_file send_file;
} large_op;

#define ALIGNED(size) (((size) + IO_CACHE_LINE - 1) & ~(size_t)(IO_CACHE_LINE - 1))

static const size_t op_size[2] = {ALIGNED(sizeof(small_op)), ALIGNED(sizeof(large_op))};

struct io_slab {
    struct io_slab *next;
    void *memory; /* as allocated; the operations in it are aligned */
};

static const char *const op_kind_names[IO_KINDS] = {
    [IO_POST] = "post",       [IO_TIMER] = "timer",         [IO_POLL] = "poll",
    [IO_RECV] = "recv",       [IO_SEND] = "send",           [IO_ACCEPT] = "accept",
    [IO_CONNECT] = "connect", [IO_RECV_FROM] = "recv_from", [IO_SEND_TO] = "send_to",
    [IO_READ] = "read",       [IO_SEND_FILE] = "send_file", [IO_WRITE] = "write",
    [IO_SYNC] = "sync",       [IO_RECEIVE] = "receive",
};

const char *io_kind_name(io_kind kind) {
    return op_kind_names[kind];
}

static int op_class_of(uint8_t kind) {
    return kind == IO_POST || kind == IO_TIMER || kind == IO_POLL ? SMALL : LARGE;
}

/* slab_lock must be held. */
static bool op_slab_grow(io_port *port, int size_class) {
    io_assert(io_lock_is_mine(&port->slab_lock));
    size_t size = op_size[size_class];
    struct io_slab *slab = malloc(sizeof *slab);
    void *memory = calloc(1, size * SLAB_OPERATIONS + IO_CACHE_LINE);
    if (slab == NULL || memory == NULL) {
        free(slab);
        free(memory);
        return false;
    }
    slab->memory = memory;
    slab->next = port->slabs[size_class];
    port->slabs[size_class] = slab;
    char *first =
        (char *)(((uintptr_t)memory + IO_CACHE_LINE - 1) & ~(uintptr_t)(IO_CACHE_LINE - 1));
    for (int i = SLAB_OPERATIONS - 1; i >= 0; i--) {
        io_op *op = (io_op *)(first + (size_t)i * size);
        op->link.next = (io_link *)port->free_ops[size_class];
        port->free_ops[size_class] = op;
        POISON(op + 1, size - sizeof *op);
    }
    return true;
}

static io_op *op_slab_take(io_port *port, int size_class) {
    io_lock_acquire(&port->slab_lock);
    io_op *op = NULL;
    if (port->free_ops[size_class] != NULL || op_slab_grow(port, size_class)) {
        op = port->free_ops[size_class];
        port->free_ops[size_class] = (io_op *)op->link.next;
        UNPOISON(op + 1, op_size[size_class] - sizeof *op);
    }
    io_lock_release(&port->slab_lock);
    return op;
}

/* Counts unreleased operations in assertion builds. */
static void op_count_out(io_port *port, int64_t change) {
#ifdef IO_ASSERTIONS
    int64_t before = atomic_fetch_add_explicit(&port->ops_out, change, memory_order_relaxed);
    io_assert(before + change >= 0);
#else
    (void)port;
    (void)change;
#endif
}

io_op *io_op_new(io_lane *lane, io_kind kind, const io_owner_ops *owner_ops, void *owner) {
    int size_class = op_class_of((uint8_t)kind);
    io_op *op = io_guard_enabled() ? io_guard_alloc(op_size[size_class])
                                   : op_slab_take(lane->port, size_class);
    if (op == NULL)
        return NULL;
    io_assert(op->state == IO_OP_FREE);
    op_count_out(lane->port, 1);
    uint32_t generation = op->generation;
    memset(op, 0, op_size[size_class]);
    op->generation = generation;
    op->kind = (uint8_t)kind;
    op->lane = lane;
    op->owner_ops = owner_ops;
    op->owner = owner;
    io_list_init(&op->link);
    op->state = IO_OP_PREPARED;
    if (size_class == LARGE && kind != IO_ACCEPT && kind != IO_CONNECT && kind != IO_SEND_FILE) {
        io_transfer *transfer = (io_transfer *)op;
        transfer->vecs = transfer->inline_vecs;
    }
    if (kind == IO_ACCEPT)
        ((io_accept *)op)->accepted = IO_NATIVE_NONE;
    return op;
}

void io_op_embed(io_op *op, io_lane *lane, io_kind kind, const io_owner_ops *owner_ops,
                 void *owner) {
    memset(op, 0, sizeof *op);
    io_list_init(&op->link);
    op->kind = (uint8_t)kind;
    op->lane = lane;
    op->owner_ops = owner_ops;
    op->owner = owner;
    op->state = IO_OP_PREPARED;
}

void io_receive_release(io_receive *receive) {
    io_lane *lane = receive->op.lane;
    if (receive->buffer == NULL)
        return;
    io_buffer_release(&lane->port->buffers, receive->buffer);
    receive->buffer = NULL;
}

void io_op_release(io_op *op) {
    io_port *port = op->lane->port;
    int size_class = op_class_of(op->kind);
    if (io_port_forked(port))
        return; /* a thread of the parent may hold the locks forever */
    io_assert(io_op_is_idle(op));
    op_count_out(port, -1);
    if (size_class == LARGE && op->kind != IO_ACCEPT && op->kind != IO_CONNECT &&
        op->kind != IO_SEND_FILE) {
        io_transfer *transfer = (io_transfer *)op;
        free(transfer->vecs_allocated);
        if (transfer->pooled != NULL)
            io_buffer_release(&port->buffers, transfer->pooled);
    }
    op->state = IO_OP_FREE;
    op->generation++;
    if (io_guard_enabled()) {
        io_guard_free(op, op_size[size_class]);
        return;
    }
    io_lock_acquire(&port->slab_lock);
    op->link.next = (io_link *)port->free_ops[size_class];
    port->free_ops[size_class] = op;
    POISON(op + 1, op_size[size_class] - sizeof *op);
    io_lock_release(&port->slab_lock);
}

void io_slabs_free(io_port *port) {
#ifdef IO_ASSERTIONS
    io_assert(port->ops_out == 0);
#endif
    for (int size_class = SMALL; size_class <= LARGE; size_class++) {
        while (port->slabs[size_class] != NULL) {
            struct io_slab *slab = port->slabs[size_class];
            port->slabs[size_class] = slab->next;
            UNPOISON(slab->memory, op_size[size_class] * SLAB_OPERATIONS + IO_CACHE_LINE);
            free(slab->memory);
            free(slab);
        }
        port->free_ops[size_class] = NULL;
    }
}

bool io_transfer_reserve(io_transfer *transfer, uint32_t count) {
    io_assert(transfer->op.state == IO_OP_PREPARED && transfer->vecs_allocated == NULL);
    if (count <= IO_INLINE_VECS)
        return true;
    transfer->vecs_allocated = malloc(count * sizeof *transfer->vecs_allocated);
    if (transfer->vecs_allocated == NULL)
        return false;
    transfer->vecs = transfer->vecs_allocated;
    return true;
}

bool io_transfer_acquire(io_transfer *transfer) {
    if (io_vec_base(&transfer->vecs[0]) != NULL)
        return true;
    size_t length = io_vec_length(&transfer->vecs[0]);
    io_assert(transfer->pooled == NULL);
    transfer->pooled = io_buffer_acquire(&transfer->op.lane->port->buffers, length);
    if (transfer->pooled == NULL)
        return false;
    io_vec_set(&transfer->vecs[0], transfer->pooled, length);
    return true;
}

uint64_t io_op_token(const io_op *op) {
    io_assert(op->state != IO_OP_FREE);
    return io_token(op, op->generation);
}

io_op *io_op_from_token(uint64_t token) {
    io_op *op = io_token_pointer(token);
    return io_token_is_of(token, op->generation) ? op : NULL;
}
