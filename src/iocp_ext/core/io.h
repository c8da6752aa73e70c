/* io.h: every type and function of the core on one page. Read this file first.
 *
 * A *port* is a completion queue. An *operation* is one piece of overlapped work: it is submitted
 * once, owned by the kernel until its completion is reported, put into the ready queue, and taken
 * out of it exactly once by some thread. A *lane* is one kernel queue of the port with the threads
 * that wait on it. A *handle* is a socket or file associated with the port; its queues keep its
 * operations in order.
 *
 *      io_op_submit ──► handle queue ──► backend->submit ──► kernel
 *                                                              │
 *      io_lane_get ◄── ready queue ◄── io_op_reported ◄────────┘  (backend->wait)
 *      io_worker_take
 *
 * Nothing here knows Python: owners are opaque pointers, and no function here calls back.
 *
 * Functions that return int return 0 or a portable error < 0, unless their comment says otherwise.
 *
 * Locks, outermost first: handle->lock, lane->lock. The others (handles_lock, slab_lock, a pool's,
 * a backend's own) are innermost. None is held while a thread waits in the kernel. Assertion builds
 * check this (assert.h, lock_owner.c). */
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

/* The largest length of one transfer: what every kernel takes in one call. */
#define IO_LENGTH_MAX INT32_MAX
#define IO_CACHE_LINE 64

/* ---- sockets as such (backends/linux/socket.c, backends/windows/socket.c)
 * --------------------------- */

void io_native_close_file(io_native native);
#define IO_FAMILY_SOCKET AF_INET /* where only matters that it is a socket's */
/* Family, type and protocol of a socket; 0 or a portable error (NOTSOCK). */
int io_socket_describe(io_native native, int *family, int *type, int *protocol);

#ifdef _WIN32
/* ---- named pipes, on ports of the backend iocp (backends/windows/pipe.c)
 * --------------------------
 *
 * A pipe is a stream of this family: io_handle_adopt(lane, native, IO_FAMILY_PIPE, ...) takes what
 * was connected or accepted. It has no addresses, and cannot be shut down. A native that nobody
 * adopted is closed with io_native_close_file. Functions return 0 or a portable error < 0. */
#define IO_FAMILY_PIPE 0 /* AF_UNSPEC */

/* An owned handle for accepts, and only those. -IOE_ADDRINUSE: the name is taken. */
int io_pipe_listen(io_lane *lane, const wchar_t *name, io_handle **handle, uint32_t *os_error);
/* Opens the client's end, without waiting. -IOE_AGAIN: the server is busy; try again. */
int io_pipe_connect(const wchar_t *name, io_native *native, uint32_t *os_error);
/* Blocks until a busy server may have become free, or -IOE_TIMEDOUT. */
int io_pipe_wait(const wchar_t *name, uint32_t ms, uint32_t *os_error);
#endif

/* ---- addresses (address.c) ------------------------------------------------------------------ */

typedef struct io_address {
    io_socklen length; /* 0: no address */
    struct sockaddr_storage storage;
} io_address;

/* Numeric hosts only: else -IOE_INVAL. */
int io_address_inet(io_address *address, const char *host, uint16_t port, uint32_t flow_info,
                    uint32_t scope_id, int family);
int io_address_unix(io_address *address, const char *path, size_t length);

typedef struct io_address_parts {
    int family; /* AF_INET, AF_INET6, AF_UNIX, one without parts, or 0: no address */
    char host[46];
    uint16_t port;
    uint32_t flow_info, scope_id;
    const char *path; /* inside the address, not terminated; begins with NUL if it is abstract */
    size_t path_length;
} io_address_parts;
void io_address_split(const io_address *address, io_address_parts *parts);
/* Writes "127.0.0.1:80", "[::1]:80" or a path, for error messages. Numbers only. */
void io_address_text(const io_address *address, char *text, size_t size);

/* ---- operations (op.c) ---------------------------------------------------------------------- */

typedef enum io_kind {
    IO_POST,
    IO_TIMER,
    IO_POLL,
    IO_RECV,
    IO_RECEIVE, /* a connection's: into memory that the backend finds when there is need of it */
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
    IO_OP_PREPARED,  /* the caller fills it in */
    IO_OP_QUEUED,    /* behind another operation of its handle, whose queue owns it */
    IO_OP_SUBMITTED, /* the kernel's: nothing of it may be touched until it is reported */
    IO_OP_COMPLETED, /* in the ready queue, or taken from it and not yet released */
} io_op_state;

enum {
    IO_OP_CANCEL_ASKED = 1u << 0,
    IO_OP_RESUBMITTED = 1u << 1, /* not called for by the user just now: see io_handle.identity */
    IO_OP_CONNECTING = 1u << 2,  /* connect was issued; the rest is waiting for writability */
    IO_OP_IN_POOL = 1u << 3,     /* handed to the file thread pool */
    IO_OP_YIELD = 1u << 4,       /* has had its share: submit() makes it wait for its next turn */
    IO_OP_LEAKED = 1u << 5,      /* its port was closed, and the kernel kept it */
    IO_OP_CANCEL_DEFERRED = 1u << 6, /* the kernel did not take the cancel that was asked for */
};

/* What the owner of an operation does with it once it has been taken from the ready queue. */
typedef struct io_owner_ops {
    /* Handles the completion. Returns false if the calling thread must leave its run loop. */
    bool (*take)(io_op *op);
    /* Disposes of an operation that nobody will take, because its port has been closed. If it was
     * leaked the kernel still owns it: neither the operation nor its memory may be released. */
    void (*collect)(io_op *op, bool leaked);
} io_owner_ops;

/* The head that every operation has; the larger types below begin with it. */
struct io_op {
#ifdef _WIN32
    OVERLAPPED overlapped; /* first: the kernel's pointer and ours are the same address */
#endif
    io_link link; /* in one list: handle queue, ready queue, file pool or free list */
    io_lane *lane;
    io_handle *handle; /* NULL for posts and timers */
    const io_owner_ops *owner_ops;
    void *owner;                 /* whose operation this is; the core never looks */
    int64_t result;              /* bytes moved, or a portable error below 0 */
    uint32_t os_error;           /* the system's own code, for messages only */
    _Atomic uint32_t generation; /* +1 each time it is released: late completions are recognised */
    _Atomic uint8_t state;       /* io_op_state; changed under the handle's (or lane's) lock */
    uint8_t kind;                /* io_kind */
    uint8_t flags;               /* IO_OP_..., under the handle's lock */
    uint8_t retries;             /* results without meaning in a row (uring) */
};

#define IO_INLINE_VECS 4
#define IO_VECS_MAX 1024 /* IOV_MAX; callers join longer lists */

/* IO_RECV, IO_SEND, IO_READ, IO_WRITE, IO_SYNC, and the first part of datagrams. A receive or read
 * whose `vecs[0]` has a length and no base is given a pooled buffer when there is something to put
 * into it (epoll) or when it is submitted. */
typedef struct io_transfer {
    io_op op;
    io_vec *vecs; /* inline_vecs, or an array of our own; advanced after a short send */
    uint32_t vec_count;
    uint32_t receive_flags; /* WSARecv's flags are in and out */
    io_vec *vecs_allocated; /* freed with the operation */
    void *pooled;           /* from io_buffer_acquire, released with the operation */
    uint64_t offset;        /* files */
    uint64_t length;        /* bytes asked for in all */
    uint64_t transferred;   /* bytes moved so far */
    io_link pool_link;      /* waiting for a thread of the file pool, which is to do this: */
    int64_t (*pool_work)(io_op *op, uint32_t *os_error);
    io_vec inline_vecs[IO_INLINE_VECS];
} io_transfer;

typedef struct io_datagram { /* IO_RECV_FROM, IO_SEND_TO */
    io_transfer transfer;
    io_address address;
    void *data_owner; /* of a send: keeps the bytes in place; the core never looks */
#ifndef _WIN32
    struct msghdr message;
#endif
} io_datagram;

/* Instead of a number of bytes: there is something, and io_receive_now gets it. */
#define IO_RECEIVE_READY INT64_MAX

/* IO_RECEIVE. No memory waits: `buffer` is found for what has arrived, and is NULL unless the
 * result is above 0. io_receive_release gives it back. */
typedef struct io_receive {
    io_op op;
    char *buffer;
    uint32_t capacity; /* at most so many bytes; at most IO_BUFFER_POOLED_MAX */
} io_receive;

typedef struct io_accept {
    io_op op;
    io_native accepted; /* ours until the user takes it */
    io_address peer;
    uint32_t attempts; /* that failed and were made again at once (accepting.h) */
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
    bool held; /* `file` is a duplicate of ours, closed when the operation ends */
    uint64_t offset;
    uint64_t remaining; /* UINT64_MAX: to the end of the file */
    uint64_t transferred;
} io_send_file;

enum {
    IO_READABLE = 1u << 0,
    IO_WRITABLE = 1u << 1,
    IO_UNUSUAL = 1u << 2, /* ended, broken, or with urgent data: a short receive is not the last */
};

typedef struct io_poll {
    io_op op;
    uint32_t events; /* asked for */
    uint32_t ready;  /* reported */
#ifdef _WIN32
    uint64_t afd[16]; /* backends/windows/poll.c: request and answer of the socket driver */
#endif
} io_poll;

typedef struct io_timer {
    io_op op;
    uint64_t deadline_ns;
    uint64_t order; /* equal deadlines fire in the order they were set */
    size_t index;   /* in the heap */
} io_timer;

/* A prepared operation of the kind, zeroed behind its head, or NULL without memory. */
io_op *io_op_new(io_lane *lane, io_kind kind, const io_owner_ops *owner_ops, void *owner);
/* Gives back an operation that is prepared or was taken from the ready queue. */
void io_op_release(io_op *op);
/* Prepares an operation that is part of something else, and never released. */
void io_op_embed(io_op *op, io_lane *lane, io_kind kind, const io_owner_ops *owner_ops,
                 void *owner);
void io_receive_release(io_receive *receive);
/* After IO_RECEIVE_READY: what there is, as its result; -IOE_AGAIN: nothing after all. */
void io_receive_now(io_receive *receive);
/* Makes room for `count` vectors; false without memory. */
bool io_transfer_reserve(io_transfer *transfer, uint32_t count);
/* Gives a receive its pooled buffer if it has none; false without memory. */
bool io_transfer_acquire(io_transfer *transfer);
/* An operation as one integer for the kernel to carry, and back; NULL if it was released since. */
uint64_t io_op_token(const io_op *op);
io_op *io_op_from_token(uint64_t token);
const char *io_kind_name(io_kind kind);
void io_slabs_free(io_port *port);

/* ---- buffers (buffer.c) --------------------------------------------------------------------- */

#define IO_BUFFER_POOLED_MAX ((size_t)65536)

/* All zero: empty. */
typedef struct io_buffer_pool {
    _Atomic(struct io_buffer *) last[8]; /* given back, one of each class: 512 bytes to 64 KiB */
    io_lock lock;
    struct io_buffer *free[8]; /* the others */
    uint32_t free_count[8];
#ifdef IO_ASSERTIONS
    _Atomic int64_t out; /* acquired and not released */
#endif
} io_buffer_pool;

void io_buffer_pool_close(io_buffer_pool *pool);
void *io_buffer_acquire(io_buffer_pool *pool, size_t size); /* NULL without memory */
void io_buffer_release(io_buffer_pool *pool, void *buffer);

/* Guard mode (guard.c): memory on pages of its own, made inaccessible when it is freed, so that a
 * late write by the kernel ends the process instead of corrupting it. IOCPCORE_GUARD=1. */
bool io_guard_enabled(void);
void *io_guard_alloc(size_t size);
void io_guard_free(void *memory, size_t size);

/* ---- handles: their life (handle.c), and the order of their operations (handle_queue.c) ----- */

typedef enum io_handle_type { IO_STREAM, IO_DATAGRAM, IO_FILE } io_handle_type;
enum { IO_IN, IO_OUT, IO_DIRECTIONS };

struct io_handle {
    io_lock lock;
    io_link link; /* in the lane's list of handles, open or free */
    io_lane *lane;
    io_native native;
    uint64_t identity[2]; /* of the open file behind `native` (device, inode): a number that means
                             another file by now is left alone */
    uint32_t generation;
    uint32_t in_flight;              /* operations queued or submitted */
    uint8_t type;                    /* io_handle_type */
    bool held;                       /* somebody still names it: not to be used for another file */
    _Atomic bool open;               /* the backend knows it; changed under the lock */
    bool closing;                    /* io_handle_close was called */
    bool native_gone;                /* closed behind our back: its number is not ours any more */
    bool busy[IO_DIRECTIONS];        /* what is submitted holds back what waits */
    uint32_t waiting[IO_DIRECTIONS]; /* operations that are queued and not submitted */
    int family;
    bool owned;    /* nobody else can close it: its number means this file until we do */
    uint8_t ready; /* IO_READABLE, ...: reported, and not used up (epoll) */
    io_list queue[IO_DIRECTIONS]; /* operations in order */
    io_list others;               /* polls and file operations: no order among them */
    union {                       /* the backend's own */
        intptr_t word[4];
        void *pointer[4];
    } backend;
};

/* Associates a socket or file, and makes a socket non-blocking. 0 or a portable error. The caller
 * holds the handle until it calls io_handle_release, also after it was closed or forgotten. */
int io_handle_open(io_lane *lane, io_native native, io_handle **handle, uint32_t *os_error);
void io_handle_release(io_handle *handle);
/* The same for a connected stream of the family that is ours alone and non-blocking already. It is
 * held by nobody: closed with io_handle_close, it is gone. */
int io_handle_adopt(io_lane *lane, io_native native, int family, io_handle **handle,
                    uint32_t *os_error);
/* The same for a datagram socket. */
int io_handle_adopt_datagram(io_lane *lane, io_native native, int family, io_handle **handle,
                             uint32_t *os_error);
/* Forgets an idle handle, leaving the native one open: -IOE_BUSY with operations in flight. */
int io_handle_forget(io_handle *handle, bool native_gone);
/* Cancels what is in flight and closes the native handle when the last operation has ended. */
void io_handle_close(io_handle *handle);
/* The number means another file by now: ends what is in flight, touches the number no more. */
void io_handle_abandon(io_handle *handle);
/* Asks for the end of everything in flight on it. */
void io_handle_cancel(io_handle *handle);
uint64_t io_handle_token(const io_handle *handle);

/* Submits a prepared operation. Never fails: what goes wrong is the operation's result. */
void io_op_submit(io_op *op, io_handle *handle);
/* The same. True: it has ended at once, and does not come out of the ready queue. */
bool io_op_submit_now(io_op *op, io_handle *handle);
/* Bytes that an operation in flight has moved so far. */
uint64_t io_op_progress(io_op *op);
/* Asks for the end of an operation; it still ends exactly once. False: it had completed. */
bool io_op_cancel(io_op *op);

/* For backends. `done` collects what completed, for the lane's ready queue. */
void io_op_reported(io_op *op, int64_t result, uint32_t os_error, io_list *done);
void io_op_retry(io_op *op, io_list *done); /* the result meant nothing: submit it again */
/* Readiness: the backend's submit is tried again on what waits in these directions. */
void io_handle_ready(uint64_t token, uint32_t events, io_list *done);
/* Completion from a thread that is not in wait(), such as the file pool's. */
void io_op_completed_elsewhere(io_op *op, int64_t result, uint32_t os_error);

/* Every open handle; the memory of all, when none is open any more. */
void io_handles_each(io_lane *lane, void (*visit)(io_handle *handle, void *context), void *context);
void io_handles_free(io_lane *lane);

/* ---- timers (timer_heap.c): a heap, under the lane's lock ------------------------------------ */

typedef struct io_timer_heap {
    io_timer **items;
    size_t count, capacity;
    uint64_t next_order;
} io_timer_heap;

bool io_timer_heap_push(io_timer_heap *heap, io_timer *timer); /* false without memory */
void io_timer_heap_remove(io_timer_heap *heap, io_timer *timer);
io_timer *io_timer_heap_first(const io_timer_heap *heap); /* NULL when empty */
/* Moves the timers due by then into `done`, as completed with this result; returns how many. */
uint32_t io_timer_heap_expire(io_timer_heap *heap, uint64_t now_ns, int64_t result, io_list *done);
void io_timer_heap_free(io_timer_heap *heap);

/* ---- lanes: the ready queue and the threads that wait for it (lane.c, worker.c) ------------- */

/* How a thread waits. `signals` (main thread): a signal that arrives ends the wait with
 * -IOE_INTR; the caller has blocked signals and `mask` is what to wait with. */
typedef struct io_wait {
    uint64_t deadline_ns;
    bool signals;
    const void *mask;    /* sigset_t: signals blocked during the wait. NULL: all */
    uint64_t recheck_ns; /* after so long the wait ends with -IOE_INTR anyhow; 0: it does not */
} io_wait;

typedef enum io_worker_state { IO_WORKER_CORE, IO_WORKER_CALLBACK } io_worker_state;

/* A thread inside get() or run(); lives on that thread's stack. */
typedef struct io_worker {
    io_lane *lane;
    io_link link;        /* lane->workers */
    io_link parked_link; /* lane->parked */
    io_cond wake;
    bool runs;              /* run(): counts against concurrency; false: a getter */
    bool parked;            /* in lane->parked */
    bool slot;              /* one of lane->concurrency is taken by it */
    bool lost;              /* was stuck in a callback: its slot has been given to a spare */
    bool main;              /* waits on lane->main_wake, with signals */
    uint8_t state;          /* io_worker_state */
    uint32_t turn;          /* deliveries left until the kernel is asked again */
    uint32_t last_batch;    /* shared lanes: completions that the last poll brought */
    uint32_t single_polls;  /* shared lanes: so many more polls ask for one only */
    uint64_t sequence;      /* callbacks so far */
    uint64_t last_sequence; /* ... when the watcher last checked */
    uint64_t began_ns;      /* the present callback, where concurrency is above 1 */
} io_worker;

struct io_lane {
    io_port *port;
    const io_backend *backend;
    io_mutex lock;
    io_list ready;
    size_t ready_count;
    size_t dispatched; /* taken by getters since the kernel was last asked */
    io_timer_heap timers;
    io_list workers; /* threads in run() */
    io_list parked;  /* waiting threads, last one first */
    uint32_t concurrency;
    uint32_t running;        /* slots taken */
    uint64_t callback_ns;    /* what a callback takes lately, where concurrency is above 1 */
    io_worker *watcher;      /* the spare that checks for stuck callbacks */
    bool watcher_asleep;     /* it waits without a tick */
    bool driven;             /* a thread waits in the kernel or is about to (not shared lanes) */
    bool waiting;            /* ... and a wake is needed to reach it */
    bool woken;              /* ... and has been sent */
    uint32_t kernel_waiters; /* shared lanes: threads in wait() ... */
    uint32_t kernel_workers; /* ... of which in run() */
    uint32_t worker_count;   /* threads in run() */
    io_cond left;            /* a thread left, or is to check its conditions: for stop and close */
    _Atomic int wait_error;  /* why waits began to fail; 0: they do not */
    _Atomic int broken;      /* why waiting is over for good; 0: it is not */
    uint64_t failed_ns;      /* when a wait failed last */
    int main_wake;           /* wakes a parked main thread; -1 on Windows */
    io_mutex handles_lock;   /* the two lists */
    io_list handles;         /* open, or held */
    io_list free_handles;
    struct io_handle_chunk *handle_chunks; /* only ever added to */
    void *state;                           /* the backend's own */
    struct {
        uint64_t waits, wakes, handovers, wait_failures;
    } stats; /* under lock */
};

int io_lane_open(io_lane *lane, io_port *port, const io_backend *backend, uint32_t concurrency);
/* What connections report when their port ends: -IOE_CANCELED, or why it could not go on. */
static inline int io_lane_end(const io_lane *lane) {
    int broken = atomic_load_explicit(&lane->broken, memory_order_relaxed);
    return broken ? broken : -IOE_CANCELED;
}
void io_lane_close_wake(io_lane *lane); /* the descriptor behind main_wake */
void io_lane_free(io_lane *lane);
/* Takes up to `maximum` completed operations, waiting until the deadline for the first.
 * Returns how many (0: the deadline passed), -IOE_INTR, or -IOE_CLOSED. */
int io_lane_get(io_lane *lane, const io_wait *wait, io_op **ops, int maximum);
/* Puts back what was taken, as the next to be taken. */
void io_lane_give_back(io_lane *lane, io_op **ops, int count);
/* Puts completed operations into the ready queue and wakes who should take them. */
void io_lane_push(io_lane *lane, io_list *done);
/* The same for one who holds the lock and wakes nobody. */
void io_lane_append(io_lane *lane, io_list *done);
/* Ends waits so that stop and close are noticed. */
void io_lane_wake_all(io_lane *lane);
/* Reports timers that are due; the earliest deadline left. */
uint64_t io_lane_fire_timers(io_lane *lane, io_list *done);
uint64_t io_lane_now(const io_lane *lane);

/* Timers (timer.c). Starts one that ends `delay_ns` from now. */
void io_timer_submit(io_timer *timer, uint64_t delay_ns);
/* Ends it as cancelled, in `done`. False: too late, it comes out of the ready queue. */
bool io_timer_cancel(io_timer *timer, io_list *done);
/* Takes it back, and releases it. False: too late, it comes out of the ready queue. */
bool io_timer_withdraw(io_timer *timer);

/* A worker's life. Not between io_port_enter and io_port_leave: a worker in a callback is no user
 * of the port, so that the callback may close it. 0 or a portable error. */
int io_worker_enter(io_worker *worker, io_lane *lane);
/* Waits until there is something to take: 1; 0: stopped; -IOE_INTR; -IOE_CLOSED. Until the deadline
 * only if that is 0: a poll without waiting, -IOE_INTR if there is nothing. */
int io_worker_wait(io_worker *worker, const io_wait *wait);
/* The next operation to deliver, or NULL: wait again. Each call ends the callback before it. */
io_op *io_worker_take(io_worker *worker);
void io_worker_leave(io_worker *worker);

/* ---- ports (port.c) -------------------------------------------------------------------------- */

typedef enum io_port_state {
    IO_PORT_OPEN,
    IO_PORT_CLOSING,
    IO_PORT_CLOSED,
    IO_PORT_LEAKED, /* closed, but the kernel did not give everything back */
} io_port_state;

/* What lives on a port besides operations, such as its connections, and ends with it. A port has at
 * most one. */
typedef struct io_resident {
    /* The port has closed, and all of its operations were collected. `leaked`: the kernel still
     * owns some of them. Called once, without locks. */
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
    _Atomic uint32_t users;    /* calls into the core under way; close waits for them */
    _Atomic int64_t in_flight; /* submitted and not taken yet */
    _Atomic uint64_t submitted, completed, cancelled, failed;
    uint32_t fork_generation;
    io_lock slab_lock;
    struct io_slab *slabs[2]; /* small and large operations */
    io_op *free_ops[2];
    io_buffer_pool buffers;
    struct io_file_pool *file_pool; /* started when a file operation needs it */
#ifdef IO_ASSERTIONS
    _Atomic int64_t ops_out; /* operations that io_op_new gave and io_op_release did not get back */
#endif
};

/* 0 or a portable error; `os_error` keeps the system's. */
int io_port_open(io_port **port, const io_backend *backend, uint32_t concurrency,
                 uint32_t *os_error);
/* Every call into an open port is between these two. 0, -IOE_CLOSED, or -IOE_FORKED. */
int io_port_enter(io_port *port);
void io_port_leave(io_port *port);
/* fork.c. It is the parent process's: nothing may be touched. */
bool io_port_forked(const io_port *port);
/* How often the process has forked, as far as ports need to know. */
uint32_t io_fork_generation(void);
void io_port_stop(io_port *port);
/* Closing, step by step, by the one caller for whom this returns true: refuse new calls and end
 * waits;
 */
bool io_port_begin_close(io_port *port);
/* cancel everything and wait until the kernel has given it back, for at most this long (returns
 * how many operations it still owns then); */
size_t io_port_drain(io_port *port, uint64_t timeout_ns);
/* hand out what nobody has taken (`leaked`: the kernel still owns it, it must never be released);
 */
void io_port_take_remaining(io_port *port, void (*visit)(io_op *op, bool leaked, void *context),
                            void *context);
/* tell the resident; */
void io_port_end_resident(io_port *port, bool leaked);
/* and give the kernel objects back, unless something leaked. */
void io_port_finish_close(io_port *port, size_t leaked);
/* Closes a socket (or IO_FAMILY_PIPE: a pipe) that no handle owns, such as one that was accepted
 * and never taken. Ignores IO_NATIVE_NONE. The port may be closed. */
void io_port_close_native(io_port *port, io_native native, int family);
/* Makes `resident` the port's, unless it has one already. Returns the one it has. Any thread. */
io_resident *io_port_settle(io_port *port, io_resident *resident);
/* Frees the memory of a closed port and its resident. In a forked child, and when something leaked,
 * it stays. */
void io_port_destroy(io_port *port);

typedef struct io_port_figures {
    uint64_t submitted, completed, cancelled, failed, in_flight;
    uint64_t waits, wakes, handovers, wait_failures, workers, handles;
} io_port_figures;
void io_port_stats(io_port *port, io_port_figures *figures);
/* Completes a prepared IO_POST at once; or what has its result without having been submitted. */
void io_post_submit(io_op *post);

const io_backend *io_backend_by_name(const char *name);
const io_backend *const *io_backends(void); /* best first, NULL at the end */

/* ---- locks and counts, with what is asserted of them ------------------------------------------
 */

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

/* Prepared, or taken from the ready queue: nobody has it but the caller. */
static inline bool io_op_is_idle(const io_op *op) {
    return (op->state == IO_OP_PREPARED || op->state == IO_OP_COMPLETED) &&
           io_list_empty(&op->link);
}

/* An operation is in flight from its submission until it is taken from the ready queue. */
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

/* Runs `work` for the operation on a pool thread and reports its result. 0 or a portable error. */
int io_file_pool_submit(io_op *op, int64_t (*work)(io_op *op, uint32_t *os_error));
/* True: it had not started and never will; the caller completes it. Under the handle's lock. */
bool io_file_pool_cancel(io_op *op);
void io_file_pool_close(struct io_file_pool *pool);

#endif
