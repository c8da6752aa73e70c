/* io.h: every type and function of the core. Read this file first.
 *
 * A *port* is a completion queue. An *operation* is one piece of overlapped work. It is submitted
 * once, belongs to the kernel until its completion is reported, enters the ready queue, and is
 * taken from there exactly once, by any thread. A *lane* is one kernel queue of the port with the
 * threads that wait on it. A *handle* is a socket or file associated with the port; its queues keep
 * its operations in order.
 *
 *      io_op_submit ──► handle queue ──► backend->submit ──► kernel
 *                                                              │
 *      io_lane_get ◄── ready queue ◄── io_op_reported ◄────────┘  (backend->wait)
 *      io_worker_take
 *
 * The core does not know Python: owners are opaque pointers, and no function here calls back.
 *
 * Functions that return int return 0 or a portable error < 0, unless their comment says otherwise.
 *
 * Lock order, outermost first: handle->lock, lane->lock. All others (handles_lock, slab_lock, pool
 * locks, backend locks) are innermost. No lock is held while a thread waits in the kernel.
 * Assertion builds check this (assert.h, lock_owner.c). */
#ifndef IOCPCORE_IO_H
#define IOCPCORE_IO_H

#include <stdatomic.h>

#include "core/error.h"
#include "core/list.h"
#include "core/platform.h"
#include "core/thread.h"

typedef struct io_backend io_backend;
typedef struct io_port io_port;
typedef struct io_lane io_lane;
typedef struct io_handle io_handle;
typedef struct io_op io_op;

/* The largest length of one transfer that every kernel accepts in one call. */
#define IO_LENGTH_MAX INT32_MAX
#define IO_CACHE_LINE 64

/* ---- sockets (backends/linux/socket.c, backends/windows/socket.c) ---------------------------- */

void io_native_close_file(io_native native);
#define IO_FAMILY_SOCKET AF_INET /* for calls that only tell sockets from pipes */
/* Reads family, type and protocol of a socket. -IOE_NOTSOCK if it is not one. */
int io_socket_describe(io_native native, int *family, int *type, int *protocol);

#ifdef _WIN32
/* ---- named pipes, backend iocp only (backends/windows/pipe.c) -----------------------------------
 *
 * A pipe is a stream of family IO_FAMILY_PIPE: io_handle_adopt(lane, native, IO_FAMILY_PIPE, ...)
 * takes a connected or accepted native. A pipe has no addresses and cannot be shut down. Close a
 * native that was not adopted with io_native_close_file. */
#define IO_FAMILY_PIPE 0 /* AF_UNSPEC */

/* Creates an owned handle that supports accepts only. -IOE_ADDRINUSE if the name is taken. */
int io_pipe_listen(io_lane *lane, const wchar_t *name, io_handle **handle, uint32_t *os_error);
/* Opens the client end without waiting. -IOE_AGAIN if the server is busy: try again. */
int io_pipe_connect(const wchar_t *name, io_native *native, uint32_t *os_error);
/* Blocks until a busy server may be free again. -IOE_TIMEDOUT after `ms`. */
int io_pipe_wait(const wchar_t *name, uint32_t ms, uint32_t *os_error);
#endif

/* ---- addresses (address.c) ------------------------------------------------------------------- */

typedef struct io_address {
    io_socklen length; /* 0: no address */
    struct sockaddr_storage storage;
} io_address;

/* Accepts numeric hosts only: -IOE_INVAL for a name. */
int io_address_inet(io_address *address, const char *host, uint16_t port, uint32_t flow_info,
                    uint32_t scope_id, int family);
int io_address_unix(io_address *address, const char *path, size_t length);

typedef struct io_address_parts {
    int family; /* AF_INET, AF_INET6, AF_UNIX, another one (no parts), or 0: no address */
    char host[46];
    uint16_t port;
    uint32_t flow_info, scope_id;
    const char *path; /* points into the address, not terminated; begins with NUL if abstract */
    size_t path_length;
} io_address_parts;
void io_address_split(const io_address *address, io_address_parts *parts);
/* Writes "127.0.0.1:80", "[::1]:80" or a path, for error messages. Never resolves names. */
void io_address_text(const io_address *address, char *text, size_t size);

/* ---- operations (op.c) ----------------------------------------------------------------------- */

typedef enum io_kind {
    IO_POST,
    IO_TIMER,
    IO_POLL,
    IO_RECV,
    IO_RECEIVE, /* of a connection: the backend acquires the buffer when data has arrived */
    IO_SEND,
    IO_ACCEPT,
    IO_CONNECT,
    IO_RECV_FROM,
    IO_SEND_TO,
    IO_SEND_FILE,
    IO_READ,
    IO_WRITE,
    IO_SYNC,
    IO_KINDS
} io_kind;

typedef enum io_op_state {
    IO_OP_FREE,      /* on a free list */
    IO_OP_PREPARED,  /* owned by the caller, who fills it in */
    IO_OP_QUEUED,    /* owned by the handle queue, behind another operation */
    IO_OP_SUBMITTED, /* owned by the kernel: must not be touched until it is reported */
    IO_OP_COMPLETED, /* in the ready queue, or taken from it and not yet released */
} io_op_state;

enum {
    IO_OP_CANCEL_ASKED = 1u << 0,
    IO_OP_RESUBMITTED = 1u << 1, /* by the core, not by a user's call: see io_handle.identity */
    IO_OP_CONNECTING = 1u << 2,  /* connect was issued and now waits for writability */
    IO_OP_IN_POOL = 1u << 3,     /* handed to the file thread pool */
    IO_OP_YIELD = 1u << 4,       /* used up its share: submit() must not finish it immediately */
    IO_OP_LEAKED = 1u << 5,      /* the kernel still owned it when its port was closed */
    IO_OP_CANCEL_DEFERRED = 1u << 6, /* the kernel refused the cancel for now; it is retried */
};

/* How the owner of an operation handles it after it was taken from the ready queue. */
typedef struct io_owner_ops {
    /* Handles the completion. Returns false if the calling thread must leave its run loop. */
    bool (*take)(io_op *op);
    /* Disposes of an operation left over when its port was closed. If `leaked`, the kernel still
     * owns it: neither the operation nor its memory may be released. */
    void (*collect)(io_op *op, bool leaked);
} io_owner_ops;

/* The common head of all operations; the larger types below begin with it. */
struct io_op {
#ifdef _WIN32
    OVERLAPPED overlapped; /* must be first: a pointer to it is a pointer to the operation */
#endif
    io_link link; /* in one list: handle queue, ready queue or free list */
    io_lane *lane;
    io_handle *handle; /* NULL for posts and timers */
    const io_owner_ops *owner_ops;
    void *owner;                 /* opaque to the core */
    int64_t result;              /* bytes moved, or a portable error < 0 */
    uint32_t os_error;           /* the system's error code, for messages only */
    _Atomic uint32_t generation; /* incremented on each release, to detect late completions */
    _Atomic uint8_t state;       /* io_op_state; changed under the handle's (or lane's) lock */
    uint8_t kind;                /* io_kind */
    uint8_t flags;               /* IO_OP_..., under the handle's lock */
    uint8_t retries;             /* consecutive spurious results (uring) */
};

#define IO_INLINE_VECS 4
#define IO_VECS_MAX 1024 /* IOV_MAX; callers merge longer lists */

/* IO_RECV, IO_SEND, IO_READ, IO_WRITE, IO_SYNC, and the first part of datagrams. A receive or read
 * whose `vecs[0]` has a length but no base gets a pooled buffer: when data is available (epoll) or
 * at submission. */
typedef struct io_transfer {
    io_op op;
    io_vec *vecs; /* inline_vecs or vecs_allocated; advanced after a short send */
    uint32_t vec_count;
    uint32_t receive_flags; /* in and out parameter of WSARecv */
    io_vec *vecs_allocated; /* freed with the operation */
    void *pooled;           /* from io_buffer_acquire, released with the operation */
    uint64_t offset;        /* files */
    uint64_t length;        /* total bytes requested */
    uint64_t transferred;   /* bytes moved so far */
    io_link pool_link;      /* in the file pool's list of operations without a thread */
    int64_t (*pool_work)(io_op *op, uint32_t *os_error);
    io_vec inline_vecs[IO_INLINE_VECS];
} io_transfer;

typedef struct io_datagram { /* IO_RECV_FROM, IO_SEND_TO */
    io_transfer transfer;
    io_address address;
    void *data_owner; /* of a send: keeps the bytes alive; opaque to the core */
#ifndef _WIN32
    struct msghdr message;
#endif
} io_datagram;

/* A result in place of a byte count: data is available, fetch it with io_receive_now. */
#define IO_RECEIVE_READY INT64_MAX

/* IO_RECEIVE. A pending receive holds no memory. `buffer` is acquired when data has arrived, and is
 * NULL unless the result is a positive byte count. Release it with io_receive_release. */
typedef struct io_receive {
    io_op op;
    char *buffer;
    uint32_t capacity; /* maximum bytes to receive; at most IO_BUFFER_POOLED_MAX */
    uint32_t consumed; /* for the owner: bytes of the buffer that it has used */
} io_receive;

typedef struct io_accept {
    io_op op;
    io_native accepted; /* owned by the operation until the user takes it */
    io_address peer;
    uint32_t attempts; /* failed ones that were retried immediately (accepting.h) */
#ifdef _WIN32
    DWORD received;
    char addresses[2 * (sizeof(struct sockaddr_storage) + 16)];
#endif
} io_accept;

typedef struct io_connect {
    io_op op;
    io_address address;
} io_connect;

typedef struct io_send_file {
    io_op op;
    io_native file;
    bool held; /* `file` is our duplicate, closed when the operation ends */
    uint64_t offset;
    uint64_t remaining; /* UINT64_MAX: to the end of the file */
    uint64_t transferred;
} io_send_file;

enum {
    IO_READABLE = 1u << 0,
    IO_WRITABLE = 1u << 1,
    IO_UNUSUAL = 1u << 2, /* end, error or urgent data: keep receiving after a short receive */
};

typedef struct io_poll {
    io_op op;
    uint32_t events; /* requested */
    uint32_t ready;  /* reported */
#ifdef _WIN32
    uint64_t afd[16]; /* backends/windows/poll.c: request and reply of the socket driver */
#endif
} io_poll;

typedef struct io_timer {
    io_op op;
    uint64_t deadline_ns;
    uint64_t order; /* equal deadlines fire in the order they were set */
    size_t index;   /* in the heap */
} io_timer;

/* Returns a prepared operation, zeroed behind its head, or NULL if out of memory. */
io_op *io_op_new(io_lane *lane, io_kind kind, const io_owner_ops *owner_ops, void *owner);
/* Frees an operation that is prepared or was taken from the ready queue. */
void io_op_release(io_op *op);
/* Prepares an operation embedded in another object. It must not be released. */
void io_op_embed(io_op *op, io_lane *lane, io_kind kind, const io_owner_ops *owner_ops,
                 void *owner);
void io_receive_release(io_receive *receive);
/* Fetches the data announced by IO_RECEIVE_READY and sets the result: a byte count, or an error;
 * -IOE_AGAIN if there is no data after all. Takes the handle's lock. */
void io_receive_now(io_receive *receive);
/* Makes room for `count` vectors. Returns false if out of memory. */
bool io_transfer_reserve(io_transfer *transfer, uint32_t count);
/* Acquires the pooled buffer of a receive that has no memory. Returns false if out of memory. */
bool io_transfer_acquire(io_transfer *transfer);
/* Converts an operation to an integer that the kernel carries, and back. io_op_from_token returns
 * NULL if the operation was released in between. */
uint64_t io_op_token(const io_op *op);
io_op *io_op_from_token(uint64_t token);
const char *io_kind_name(io_kind kind);
void io_slabs_free(io_port *port);

/* ---- buffers (buffer.c) ---------------------------------------------------------------------- */

#define IO_BUFFER_POOLED_MAX ((size_t)65536)

/* Initialised with zeros. Arrays are indexed by size class, 512 bytes to 64 KiB. */
typedef struct io_buffer_pool {
    _Atomic(struct io_buffer *) last[8]; /* most recently released buffer, lock-free */
    io_lock lock;
    struct io_buffer *free[8]; /* the other free buffers */
    uint32_t free_count[8];
#ifdef IO_ASSERTIONS
    _Atomic int64_t out; /* acquired and not yet released */
#endif
} io_buffer_pool;

void io_buffer_pool_close(io_buffer_pool *pool);
void *io_buffer_acquire(io_buffer_pool *pool, size_t size); /* NULL if out of memory */
void io_buffer_release(io_buffer_pool *pool, void *buffer);

/* Guard mode (guard.c), enabled with IOCPCORE_GUARD=1: each allocation has its own pages, which
 * become inaccessible when it is freed. A late write faults instead of corrupting memory. */
bool io_guard_enabled(void);
void *io_guard_alloc(size_t size);
void io_guard_free(void *memory, size_t size);

/* ---- handles (handle.c) and their operation queues (handle_queue.c) -------------------------- */

typedef enum io_handle_type { IO_STREAM, IO_DATAGRAM, IO_FILE } io_handle_type;
enum { IO_IN, IO_OUT, IO_DIRECTIONS };

struct io_handle {
    io_lock lock;
    io_link link; /* in the lane's list of handles, open or free */
    io_lane *lane;
    io_native native;
    uint64_t identity[2]; /* device and inode of the open file. If `native` has been reused for
                             another file, we do not touch it. */
    uint32_t generation;
    uint32_t in_flight;              /* operations queued or submitted */
    uint8_t type;                    /* io_handle_type */
    bool held;                       /* still referenced: the slot must not be reused */
    _Atomic bool open;               /* registered with the backend; changed under the lock */
    bool closing;                    /* io_handle_close was called */
    bool native_gone;                /* closed by other code: `native` is no longer ours */
    bool busy[IO_DIRECTIONS];        /* a submitted operation holds back the queued ones */
    uint32_t waiting[IO_DIRECTIONS]; /* operations queued and not yet submitted */
    int family;
    bool owned;    /* only we can close it, so `native` means this file until we do */
    uint8_t ready; /* IO_READABLE, ...: reported and not yet consumed (epoll) */
    io_list queue[IO_DIRECTIONS]; /* operations in order */
    io_list others;               /* polls and file operations, which are unordered */
    union {                       /* private to the backend */
        intptr_t word[4];
        void *pointer[4];
    } backend;
};

/* Associates a socket or file with the lane, and makes a socket non-blocking. The caller holds the
 * handle until it calls io_handle_release, even after the handle was closed or forgotten. */
int io_handle_open(io_lane *lane, io_native native, io_handle **handle, uint32_t *os_error);
void io_handle_release(io_handle *handle);
/* Takes ownership of a connected stream that is already non-blocking. The handle is not held: after
 * io_handle_close it must not be used. */
int io_handle_adopt(io_lane *lane, io_native native, int family, io_handle **handle,
                    uint32_t *os_error);
/* Takes ownership of a non-blocking datagram socket, as io_handle_adopt does of a stream. */
int io_handle_adopt_datagram(io_lane *lane, io_native native, int family, io_handle **handle,
                             uint32_t *os_error);
/* Closes an idle handle without closing its native. -IOE_BUSY if operations are in flight. */
int io_handle_forget(io_handle *handle, bool native_gone);
/* Cancels all operations and closes the native when the last one has ended. */
void io_handle_close(io_handle *handle);
/* Closes the handle when other code has closed its native: cancels all operations but does not
 * touch the native, which may be another file by now. */
void io_handle_abandon(io_handle *handle);
/* Requests cancellation of all operations of the handle. */
void io_handle_cancel(io_handle *handle);
uint64_t io_handle_token(const io_handle *handle);

/* Submits a prepared operation. Never fails: an error becomes the operation's result. */
void io_op_submit(io_op *op, io_handle *handle);
/* Submits a prepared operation. Returns true if it ended immediately: the caller has it back, and
 * it does not enter the ready queue. */
bool io_op_submit_now(io_op *op, io_handle *handle);
/* Returns the bytes that an operation in flight has moved so far. */
uint64_t io_op_progress(io_op *op);
/* Requests cancellation; the operation still ends exactly once. Returns false if it had already
 * completed. */
bool io_op_cancel(io_op *op);

/* For backends. These append completed operations to `done`, for the lane's ready queue. */
void io_op_reported(io_op *op, int64_t result, uint32_t os_error, io_list *done);
void io_op_retry(io_op *op, io_list *done); /* after a spurious result: submits again */
/* Resubmits the pending operations of the reported directions. Ignores a stale token. */
void io_handle_ready(uint64_t token, uint32_t events, io_list *done);
/* Reports a completion from a thread that is not in wait(), such as one of the file pool. */
void io_op_completed_elsewhere(io_op *op, int64_t result, uint32_t os_error);

/* Visits every open handle, without holding a lock. */
void io_handles_each(io_lane *lane, void (*visit)(io_handle *handle, void *context), void *context);
/* Frees the memory of all handles. None may be open. */
void io_handles_free(io_lane *lane);

/* ---- timer heap (timer_heap.c), used under its owner's lock ---------------------------------- */

typedef struct io_timer_heap {
    io_timer **items;
    size_t count, capacity;
    uint64_t next_order;
} io_timer_heap;

bool io_timer_heap_push(io_timer_heap *heap, io_timer *timer); /* false if out of memory */
void io_timer_heap_remove(io_timer_heap *heap, io_timer *timer);
io_timer *io_timer_heap_first(const io_timer_heap *heap); /* NULL when empty */
/* Completes the timers due at `now_ns` with `result` and appends them to `done`. Returns their
 * number. */
uint32_t io_timer_heap_expire(io_timer_heap *heap, uint64_t now_ns, int64_t result, io_list *done);
void io_timer_heap_free(io_timer_heap *heap);

/* ---- lanes: ready queue and waiting threads (lane.c, worker.c) ------------------------------- */

/* How a thread waits. With `signals` (main thread) a signal ends the wait with -IOE_INTR: the
 * caller has blocked all signals, and `mask` applies during the wait. */
typedef struct io_wait {
    uint64_t deadline_ns;
    bool signals;
    const void *mask;    /* sigset_t: signals blocked during the wait. NULL: all */
    uint64_t recheck_ns; /* ends the wait with -IOE_INTR after this time; 0: no limit */
} io_wait;

typedef enum io_worker_state { IO_WORKER_CORE, IO_WORKER_CALLBACK } io_worker_state;

/* A thread inside get() or run(). Lives on that thread's stack. */
typedef struct io_worker {
    io_lane *lane;
    io_link link;        /* lane->workers */
    io_link parked_link; /* lane->parked */
    io_cond wake;
    bool runs;              /* true: a worker in run(); false: a getter */
    bool parked;            /* in lane->parked */
    bool slot;              /* occupies one of lane->concurrency slots */
    bool lost;              /* lost its slot to a spare while stuck in a callback */
    bool main;              /* waits on lane->main_wake, with signals */
    uint8_t state;          /* io_worker_state */
    uint32_t turn;          /* deliveries left before the next poll of the kernel */
    uint32_t last_batch;    /* shared lanes: completions returned by the last poll */
    uint32_t single_polls;  /* shared lanes: remaining polls that request only one */
    uint64_t sequence;      /* callbacks started so far */
    uint64_t last_sequence; /* value of `sequence` at the watcher's last check */
    uint64_t began_ns;      /* start of the current callback, if concurrency > 1 */
} io_worker;

struct io_lane {
    io_port *port;
    const io_backend *backend;
    io_mutex lock;
    io_list ready;
    size_t ready_count;
    size_t dispatched; /* operations taken by getters since the last poll of the kernel */
    io_timer_heap timers;
    io_list workers; /* threads in run() */
    io_list parked;  /* waiting threads, most recent first */
    uint32_t concurrency;
    uint32_t running;        /* occupied slots */
    uint64_t callback_ns;    /* moving average of callback times, if concurrency > 1 */
    io_worker *watcher;      /* the spare that checks for stuck callbacks */
    bool watcher_asleep;     /* the watcher waits without a tick */
    bool driven;             /* not shared: a thread waits in the kernel or is about to ... */
    bool waiting;            /* ... and only a wake reaches it */
    bool woken;              /* ... and the wake was sent */
    uint32_t kernel_waiters; /* shared lanes: threads in wait() ... */
    uint32_t kernel_workers; /* ... and those of them in run() */
    uint32_t worker_count;   /* threads in run() */
    io_cond left;            /* a thread left or must recheck its conditions (stop, close) */
    _Atomic int wait_error;  /* first of the recent transient wait errors, or 0 */
    _Atomic int broken;      /* the permanent error that ended all waiting, or 0 */
    uint64_t failed_ns;      /* time of the last failed wait */
    int main_wake;           /* wakes a parked main thread; -1 on Windows */
    io_mutex handles_lock;   /* guards the next three members */
    io_list handles;         /* open or held */
    io_list free_handles;
    struct io_handle_chunk *handle_chunks; /* grows only */
    void *state;                           /* private to the backend */
    struct {
        uint64_t waits, wakes, handovers, wait_failures;
    } stats; /* under lock */
};

int io_lane_open(io_lane *lane, io_port *port, const io_backend *backend, uint32_t concurrency);
/* Returns the error connections report when their port ends: the error that broke the lane, or
 * -IOE_CANCELED. */
static inline int io_lane_end(const io_lane *lane) {
    int broken = atomic_load_explicit(&lane->broken, memory_order_relaxed);
    return broken ? broken : -IOE_CANCELED;
}
void io_lane_close_wake(io_lane *lane); /* the descriptor behind main_wake */
void io_lane_free(io_lane *lane);
/* Takes up to `maximum` completed operations, waiting until the deadline for the first. Returns
 * their number (0: the deadline passed), -IOE_INTR, -IOE_CLOSED, or the error that broke the
 * lane. */
int io_lane_get(io_lane *lane, const io_wait *wait, io_op **ops, int maximum);
/* Returns taken operations to the ready queue; to its front, unless the lane is shared. */
void io_lane_give_back(io_lane *lane, io_op **ops, int count);
/* Makes completed operations ready and wakes a thread to take them. Takes lane->lock. */
void io_lane_push(io_lane *lane, io_list *done);
/* Appends to the ready queue without waking a thread. lane->lock must be held. */
void io_lane_append(io_lane *lane, io_list *done);
/* Wakes all waiting threads so that they notice stop or close. */
void io_lane_wake_all(io_lane *lane);
/* Appends the timers that are due to `done`. Returns the next deadline, or IO_NEVER. */
uint64_t io_lane_fire_timers(io_lane *lane, io_list *done);
uint64_t io_lane_now(const io_lane *lane);

/* Timers (timer.c). Starts a timer that fires `delay_ns` from now. */
void io_timer_submit(io_timer *timer, uint64_t delay_ns);
/* Cancels a pending timer and appends it to `done`. Returns false if it is no longer pending: it
 * comes out of the ready queue. */
bool io_timer_cancel(io_timer *timer, io_list *done);
/* Releases a pending timer without reporting it. Returns false if it is no longer pending: it comes
 * out of the ready queue. */
bool io_timer_withdraw(io_timer *timer);

/* The calls of a worker. The caller must not be between io_port_enter and io_port_leave: a worker
 * in a callback does not count as a user of the port, so that the callback may close it. */
int io_worker_enter(io_worker *worker, io_lane *lane);
/* Waits for an operation. Returns 1 when one is ready, 0 when stopped, -IOE_INTR, -IOE_CLOSED, or
 * the error that broke the lane. Ignores the deadline unless it is 0: then it polls once and
 * returns -IOE_INTR if nothing is ready. */
int io_worker_wait(io_worker *worker, const io_wait *wait);
/* Returns the next operation to deliver, or NULL if the worker must wait again. Each call marks the
 * end of the previous callback. */
io_op *io_worker_take(io_worker *worker);
void io_worker_leave(io_worker *worker);

/* ---- ports (port.c) -------------------------------------------------------------------------- */

typedef enum io_port_state {
    IO_PORT_OPEN,
    IO_PORT_CLOSING,
    IO_PORT_CLOSED,
    IO_PORT_LEAKED, /* closed, but the kernel still owns operations */
} io_port_state;

/* What lives on a port besides operations and ends with it, such as its connections. A port has at
 * most one. */
typedef struct io_resident {
    /* Called once, without locks, when the port has closed and its operations were collected.
     * `leaked`: the kernel still owns some of them. */
    void (*end)(struct io_resident *self, bool leaked);
    /* Frees the memory; called by io_port_destroy. */
    void (*free)(struct io_resident *self);
} io_resident;

struct io_port {
    const io_backend *backend;
    _Atomic(io_resident *) resident; /* NULL: none yet */
    io_lane lane;                    /* the one lane of a CompletionPort */
    _Atomic int state;               /* io_port_state */
    _Atomic bool stopping;
    _Atomic uint32_t users;    /* running calls into the core; close waits for them */
    _Atomic int64_t in_flight; /* operations submitted and not yet taken */
    _Atomic uint64_t submitted, completed, cancelled, failed;
    uint32_t fork_generation;
    io_lock slab_lock;
    struct io_slab *slabs[2]; /* small and large operations */
    io_op *free_ops[2];
    io_buffer_pool buffers;
    struct io_file_pool *file_pool; /* created by the first file operation that needs it */
#ifdef IO_ASSERTIONS
    _Atomic int64_t ops_out; /* operations from io_op_new that were not released */
#endif
};

/* On failure `os_error` receives the system's error code. */
int io_port_open(io_port **port, const io_backend *backend, uint32_t concurrency,
                 uint32_t *os_error);
/* These bracket every call into an open port. io_port_enter returns 0, -IOE_CLOSED, or -IOE_FORKED;
 * call io_port_leave only after 0. */
int io_port_enter(io_port *port);
void io_port_leave(io_port *port);
/* Returns true in a forked child (fork.c): the port belongs to the parent and must not be used. */
bool io_port_forked(const io_port *port);
/* Returns a number that differs in parent and forked child. */
uint32_t io_fork_generation(void);
void io_port_stop(io_port *port);
/* Closing has five steps. Step 1 refuses new calls and ends waits. It returns true to exactly one
 * caller, who must take the other steps in this order. */
bool io_port_begin_close(io_port *port);
/* Step 2 cancels all operations and waits for the kernel to return them, at most `timeout_ns`.
 * Returns the number of operations the kernel still owns, plus one if calls are still running. */
size_t io_port_drain(io_port *port, uint64_t timeout_ns);
/* Step 3 passes the operations that were not taken to `visit`. A `leaked` one belongs to the kernel
 * and must never be released. */
void io_port_take_remaining(io_port *port, void (*visit)(io_op *op, bool leaked, void *context),
                            void *context);
/* Step 4 ends what else lives on the port. */
void io_port_end_resident(io_port *port, bool leaked);
/* Step 5 closes the kernel objects, unless something leaked. */
void io_port_finish_close(io_port *port, size_t leaked);
/* Closes a socket (IO_FAMILY_PIPE: a pipe) that no handle owns, such as an accepted one that was
 * never taken. Ignores IO_NATIVE_NONE. The port may be closed. */
void io_port_close_native(io_port *port, io_native native, int family);
/* Makes `resident` the port's, unless the port has one already. Returns the one it has. Any
 * thread. */
io_resident *io_port_settle(io_port *port, io_resident *resident);
/* Frees a closed port and its resident. Does nothing in a forked child or if something leaked. */
void io_port_destroy(io_port *port);

typedef struct io_port_figures {
    uint64_t submitted, completed, cancelled, failed, in_flight;
    uint64_t waits, wakes, handovers, wait_failures, workers, handles;
} io_port_figures;
void io_port_stats(io_port *port, io_port_figures *figures);
/* Completes a prepared IO_POST immediately, or an operation whose result is already set and that
 * was not submitted. */
void io_post_submit(io_op *post);

const io_backend *io_backend_by_name(const char *name);
const io_backend *const *io_backends(void); /* best first, NULL at the end */

/* ---- locks and counters, with their assertions ----------------------------------------------- */

static inline bool io_innermost_is_mine(const io_port *port) {
    return io_lock_is_mine(&port->lane.handles_lock) || io_lock_is_mine(&port->slab_lock) ||
           io_lock_is_mine(&port->buffers.lock);
}

static inline void io_lane_lock(io_lane *lane) {
    io_assert(!io_innermost_is_mine(lane->port));
    io_mutex_lock(&lane->lock);
}

static inline void io_lane_unlock(io_lane *lane) {
    io_mutex_unlock(&lane->lock);
}

static inline void io_handle_lock(io_handle *handle) {
    io_assert(!io_lock_is_mine(&handle->lane->lock) && !io_innermost_is_mine(handle->lane->port));
    io_lock_acquire(&handle->lock);
}

static inline void io_handle_unlock(io_handle *handle) {
    io_lock_release(&handle->lock);
}

/* True if only the caller uses the operation: it is prepared, or was taken from the ready queue. */
static inline bool io_op_is_idle(const io_op *op) {
    return (op->state == IO_OP_PREPARED || op->state == IO_OP_COMPLETED) &&
           io_list_empty(&op->link);
}

/* An operation is in flight from submission until it is taken from the ready queue. */
static inline void io_port_op_submitted(io_port *port) {
    atomic_fetch_add_explicit(&port->in_flight, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&port->submitted, 1, memory_order_relaxed);
}

static inline void io_port_op_taken(io_port *port) {
    int64_t before = atomic_fetch_sub_explicit(&port->in_flight, 1, memory_order_relaxed);
    io_assert(before > 0);
    (void)before;
}

/* ---- file thread pool (file_pool.c) ---------------------------------------------------------- */

/* Runs `work` on a pool thread and reports its result. The handle's lock must be held. */
int io_file_pool_submit(io_op *op, int64_t (*work)(io_op *op, uint32_t *os_error));
/* Returns true if `work` had not started and never will: the caller completes the operation. The
 * handle's lock must be held. */
bool io_file_pool_cancel(io_op *op);
void io_file_pool_close(struct io_file_pool *pool);

#endif
