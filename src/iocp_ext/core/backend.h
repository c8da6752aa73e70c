/* backend.h: the seam. What a backend must do, and the rules it must keep.
 *
 *  1. submit() == IO_PENDING: the operation is reported exactly once through wait() (by
 *     io_op_reported, io_op_retry or io_handle_ready), whatever happens later: cancel, close,
 *     shutdown, the end of the thread that submitted it.
 *  2. submit() == IO_DONE or an error (< 0): it is never reported.
 *  3. From IO_PENDING until it is reported, the operation, its buffers and its addresses are the
 *     kernel's. cancel() only asks. Nothing of it is touched after the report.
 *  4. A result means the same everywhere: >= 0 is bytes moved (0 for accept, connect, poll, sync;
 *     what they yield is in the operation), < 0 a portable error. Receiving 0 is end of stream.
 *     Results without meaning (EINTR, EAGAIN, a cancellation nobody asked for) are retried, and
 *     reported only if there is no end of them. No call is repeated under a lock without a bound.
 *  5. wake() may be called from any thread and from a signal handler, and is never lost: a wait()
 *     that is under way or comes next returns.
 *  6. submit() and cancel() are called under the handle's lock, by any thread; wait() by one
 *     thread at a time unless the lane is shared; handle_close() only when nothing is in flight
 *     on the handle, and lane_close() only when nothing is in flight on the lane. */
#ifndef IOCPCORE_BACKEND_H
#define IOCPCORE_BACKEND_H

#include "core/io.h"

enum { IO_PENDING = 0, IO_DONE = 1 };

/* prepare_close() reads and discards at most this much; if more has arrived, the close is a reset
 * after all. */
enum { IO_DISCARDED_MAX = 1 << 20 };

enum {
    IO_LANE_SHARED = 1u << 0,   /* any number of threads wait in the kernel at once (IOCP) */
    IO_KERNEL_QUEUES = 1u << 1, /* the kernel keeps the order of several operations of a handle */
    IO_NEVER_DEFAULT = 1u << 2, /* only when asked for by name */
};

struct io_backend {
    const char *name;
    uint32_t flags;
    /* NULL: natives are the system's. Otherwise every lane numbers its own, a number means nothing
     * outside the lane, and this is what error messages call one. */
    const char *own_natives;

    /* Usable on this machine, now? 0, or a portable error and the reason in words. */
    int (*probe)(char *reason, size_t size);

    int (*lane_open)(io_lane *lane, uint32_t *os_error);
    void (*lane_close)(io_lane *lane);
    /* Waits until something is reported, a wake, or the deadline. Reports at most about `maximum`
     * completions into `done`. 0, -IOE_INTR (signals), or another error that ends the lane. */
    int (*wait)(io_lane *lane, const io_wait *wait, uint64_t deadline_ns, int maximum,
                io_list *done);
    void (*wake)(io_lane *lane);

    /* Fills in type, family and identity, and tells the kernel. 0 or a portable error. */
    int (*handle_open)(io_handle *handle, uint32_t *os_error);
    /* Tells the kernel to forget it, and closes it if `close_native`. */
    void (*handle_close)(io_handle *handle, bool close_native);

    /* Closes a socket (or IO_FAMILY_PIPE: a pipe) that no handle owns. May be called at any time,
     * also after lane_close() and in a forked child. */
    void (*close_native)(io_lane *lane, io_native native, int family);

    /* IO_PENDING, IO_DONE (op->result is set) or a portable error < 0 (op->os_error may be set). */
    int (*submit)(io_op *op);
    /* IO_PENDING: asked, the report follows. IO_DONE: it is ended here and now, and is never
     * reported; the caller completes it as cancelled. */
    int (*cancel)(io_op *op);

    /* Optional. Whether a file can be read at any offset: 0 or a portable error. */
    int (*check_file)(io_native file);
    /* Optional. Makes the file of a send_file the operation's own (`held`) before it may have to
     * wait for its turn: the user may close it meanwhile. 0 or a portable error. */
    int (*hold_file)(io_send_file *op);
    /* For streams that a connection owns. Ends our stream, so that the peer sees its end: 0 or a
     * portable error. */
    int (*shutdown)(io_handle *handle);
    /* The close that is about to come: is to be a reset; or it ends the stream, and is not to
     * become a reset for want of somebody who reads what has arrived. Where processes fork, the
     * peer is told here: the close tells it nothing while a child has the socket, too. */
    void (*prepare_close)(io_handle *handle, bool reset);
    /* Optional. Bytes that were sent and that the peer's system does not have yet, which closing
     * the stream now may lose; or only those that have not even left. */
    uint32_t (*unsent)(io_handle *handle, bool only_here);
    /* The address of its own end or of the other one; length 0 if there is none. */
    void (*address)(io_handle *handle, bool peer, io_address *answer);
    /* Optional. Sends what can be sent at once, without an operation: bytes, -IOE_AGAIN, or another
     * error. Only while no operation sends. `to`: of a datagram, else NULL. `last`: shutdown or the
     * close follows at once, so that the end may travel with the data. */
    int64_t (*send_now)(io_handle *handle, io_vec *vecs, uint32_t count, io_address *to, bool last,
                        uint32_t *os_error);
    /* Optional. For a backend that reports receives as IO_RECEIVE_READY, so that what has arrived
     * is fetched where and when it is handed on: IO_DONE, -IOE_AGAIN or another error. */
    int (*receive_now)(io_receive *receive);
    /* Optional. The lane's clock, when it is not the monotonic one. */
    uint64_t (*now)(const io_lane *lane);
    /* Shared lanes: queues a completed operation in the kernel's own queue. 0 or an error. */
    int (*post)(io_op *op);
    /* Shared lanes: some wait() is to call io_lane_fire_timers at this time. */
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
