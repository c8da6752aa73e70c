/* backend.h: the interface between core and backends, and the rules a backend must keep.
 *
 *  1. If submit() returns IO_PENDING, the operation is reported exactly once through wait() (by
 *     io_op_reported, io_op_retry or io_handle_ready), whatever happens in between: cancel, close,
 *     shutdown, or the end of the submitting thread.
 *  2. If submit() returns IO_DONE or an error (< 0), the operation is never reported.
 *  3. From IO_PENDING until the report, the operation, its buffers and its addresses belong to the
 *     kernel. cancel() is only a request. The backend touches nothing of it after the report.
 *  4. Results have the same meaning on all backends: >= 0 is bytes moved (0 for accept, connect,
 *     poll and sync, which store their outcome in the operation), < 0 is a portable error. A
 *     receive of 0 bytes is end of stream. Spurious results (EINTR, EAGAIN, an unrequested
 *     cancellation) are retried, and reported only if they persist. Retries under a lock are
 *     bounded.
 *  5. wake() may be called from any thread and from a signal handler. It is never lost: the current
 *     wait(), or else the next one, returns.
 *  6. submit() and cancel() are called under the handle's lock, by any thread. wait() is called by
 *     one thread at a time, unless the lane is shared. handle_close() is called only when nothing
 *     is in flight on the handle, and lane_close() only when nothing is in flight on the lane.
 *
 * Functions that return int return 0 or a portable error < 0, unless their comment says
 * otherwise. */
#ifndef IOCPCORE_BACKEND_H
#define IOCPCORE_BACKEND_H

#include "core/io.h"

enum { IO_PENDING = 0, IO_DONE = 1 };

/* prepare_close() reads and discards at most this many bytes. If more have arrived, the close
 * becomes a reset. */
enum { IO_DISCARDED_MAX = 1 << 20 };

enum {
    IO_LANE_SHARED = 1u << 0,   /* any number of threads wait in the kernel at once (IOCP) */
    IO_KERNEL_QUEUES = 1u << 1, /* the kernel keeps a handle's operations in order */
    IO_NEVER_DEFAULT = 1u << 2, /* selected by name only */
};

struct io_backend {
    const char *name;
    uint32_t flags;
    /* NULL if natives are the system's. Otherwise each lane has its own numbering, valid only in
     * that lane, and this is the word for a native in error messages. */
    const char *own_natives;

    /* Checks if the backend is usable on this machine now. On error `reason` says why not. */
    int (*probe)(char *reason, size_t size);

    int (*lane_open)(io_lane *lane, uint32_t *os_error);
    void (*lane_close)(io_lane *lane);
    /* Waits for completions, a wake, or the deadline. Appends about `maximum` completions at most
     * to `done`. Returns 0, -IOE_INTR after a signal, or another error, which ends the lane
     * unless it is transient (lane.c). */
    int (*wait)(io_lane *lane, const io_wait *wait, uint64_t deadline_ns, int maximum,
                io_list *done);
    void (*wake)(io_lane *lane);

    /* Sets type, family and identity, and registers the native with the kernel. */
    int (*handle_open)(io_handle *handle, uint32_t *os_error);
    /* Unregisters the native from the kernel, and closes it if `close_native`. */
    void (*handle_close)(io_handle *handle, bool close_native);

    /* Closes a socket (IO_FAMILY_PIPE: a pipe) that no handle owns. May be called at any time, even
     * after lane_close() and in a forked child. */
    void (*close_native)(io_lane *lane, io_native native, int family);

    /* Returns IO_PENDING, IO_DONE (op->result is set), or an error (op->os_error may be set). */
    int (*submit)(io_op *op);
    /* Returns IO_PENDING if the report is still to come. Returns IO_DONE if the operation has ended
     * and will not be reported: the caller completes it as cancelled. */
    int (*cancel)(io_op *op);

    /* Optional. Checks if a file can be read at any offset. */
    int (*check_file)(io_native file);
    /* Optional. Duplicates the file of a send_file (`held`) before the operation is queued, because
     * the user may close the file in the meantime. */
    int (*hold_file)(io_send_file *op);
    /* For streams owned by a connection. Shuts down the send side, so that the peer sees the end of
     * the stream. */
    int (*shutdown)(io_handle *handle);
    /* Called before the close. With `reset` the close becomes a reset. Otherwise it ends the stream
     * normally, and received data that nobody reads must not turn it into a reset. Where processes
     * fork, this call notifies the peer: the close itself does not while a child has the socket
     * open. */
    void (*prepare_close)(io_handle *handle, bool reset);
    /* Optional. Returns the bytes sent that a close now may lose: those the peer's system has not
     * acknowledged, or with `only_here` those that have not left this machine. */
    uint32_t (*unsent)(io_handle *handle, bool only_here);
    /* Reads the local or the peer's address; length 0 if there is none. */
    void (*address)(io_handle *handle, bool peer, io_address *answer);
    /* Optional. Sends without an operation as much as possible without waiting. Returns the bytes
     * sent, -IOE_AGAIN, or another error. No send operation may be in flight. `to` is the target of
     * a datagram, otherwise NULL. `last`: shutdown or close follows immediately, so the end of the
     * stream may travel with the data. */
    int64_t (*send_now)(io_handle *handle, io_vec *vecs, uint32_t count, io_address *to, bool last,
                        uint32_t *os_error);
    /* Optional, for backends that report IO_RECEIVE_READY, so that data is read by the thread that
     * delivers it, just before delivery. Returns IO_DONE, -IOE_AGAIN, or another error. */
    int (*receive_now)(io_receive *receive);
    /* Optional. Reads the lane's clock, if it is not the monotonic clock. */
    uint64_t (*now)(const io_lane *lane);
    /* Shared lanes: adds a completed operation to the kernel's queue. */
    int (*post)(io_op *op);
    /* Shared lanes: makes some wait() call io_lane_fire_timers at the deadline. */
    void (*set_timer)(io_lane *lane, uint64_t deadline_ns);
};

#if defined(_WIN32)
extern const io_backend io_backend_iocp;
#elif defined(__linux__)
extern const io_backend io_backend_uring;
extern const io_backend io_backend_epoll;
#else
#error "no backend for this system: see docs/architecture.md, Adding a backend"
#endif
extern const io_backend io_backend_sim;

#endif
