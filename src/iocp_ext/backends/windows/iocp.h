/* iocp.h: declarations shared by the files of the Windows backend.
 *
 *     iocp.c    the completion port: waiting, posting, timers, association
 *     signal.c  Ctrl-C during a wait of the main thread
 *     socket.c  sockets
 *     poll.c    readiness of sockets
 *     stream.c  sockets owned by a connection
 *     pipe.c    named pipes owned by a connection or a listener
 *     file.c    files, and pipes opened by others */
#ifndef IOCPCORE_BACKENDS_WINDOWS_IOCP_H
#define IOCPCORE_BACKENDS_WINDOWS_IOCP_H

#include "core/backend.h"

/* Completion keys, which say what a packet is. */
enum {
    IOCP_KEY_IO = 1, /* the kernel has ended an operation, which begins with the OVERLAPPED */
    IOCP_KEY_POSTED, /* from post(): the operation already has its result */
    IOCP_KEY_WAKE,
    IOCP_KEY_TIMER,
};

struct winpoll_group;

typedef struct iocp_lane {
    HANDLE port;
    PTP_TIMER timer, wake_timer, cancel_timer;
    _Atomic LONG wakes_deferred;   /* wakes for which the system had no memory */
    _Atomic bool cancels_deferred; /* some operation has IO_OP_CANCEL_DEFERRED; the timer is set */
    _Atomic bool closing;          /* timers must not be set again */
    io_mutex lock;                 /* protects the fields below; the innermost lock */
    uint64_t armed_ns;             /* when the timer fires; IO_NEVER: not set */
    io_native *bound;              /* natives we have left open, bound to this port for life */
    size_t bound_count, bound_capacity;
    struct winpoll_group *groups;
} iocp_lane;

/* Contents of io_handle.backend.word. */
enum { WINSOCK_TYPE, WINSOCK_PROTOCOL, WINSOCK_BASE, WINSOCK_LISTENS };
enum { WINFILE_OVERLAPPED, WINFILE_ACCESS };
/* For owned streams: */
enum {
    WINSTREAM_SKIPS, /* a call that ends at once queues no packet */
    WINSTREAM_ROOM,  /* buffer size of the next receive */
    /* WINSOCK_BASE lies between. */
    WINSTREAM_FLAGS = WINSOCK_BASE + 1,
    WINPIPE_LISTENER = WINSTREAM_FLAGS, /* for a listening pipe, which has no flags */
};

static inline iocp_lane *iocp_lane_of(const io_handle *handle) {
    return handle->lane->state;
}

static inline bool iocp_is_pipe(const io_handle *handle) {
    return handle->owned && handle->family == IO_FAMILY_PIPE;
}

/* Binds a socket or overlapped file to the lane's port. Returns 0 or a portable error < 0. */
int iocp_associate(io_lane *lane, io_native native, uint32_t *os_error);
/* The native stays open without us, and may be associated with this port again. */
void iocp_dissociated(io_lane *lane, io_native native);
/* The call that starts the operation was refused: nothing will be reported. Returns the portable
 * error. */
int iocp_refused(io_op *op, uint32_t code);
/* Interprets the call that starts an operation. Returns IO_PENDING if a packet follows, IO_DONE if
 * the operation has ended and none follows, or the error if the call was refused. Must be called
 * with the handle's lock held. */
int iocp_started(io_op *op, bool succeeded, uint32_t code);
/* Queues an empty packet for an operation that the kernel has returned without a result; its report
 * retries it. Returns IO_PENDING or a portable error < 0. */
int iocp_again(io_op *op);
/* Reports the result in a packet, if it needs no special handling. */
void iocp_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done);
/* Cancels the operation on `native`, and repeats a cancel that the system loses. A packet follows,
 * even if the handle has been closed meanwhile. Must be called with the handle's lock held. */
void iocp_cancel_io(io_op *op, HANDLE native);
bool iocp_under_wine(void);
uint32_t iocp_status_code(uint32_t status); /* the Win32 code of an NTSTATUS, for messages */

/* NTSTATUS values that need special handling. */
#define IOCP_STATUS_PENDING 0x00000103u
#define IOCP_STATUS_BUFFER_OVERFLOW 0x80000005u
#define IOCP_STATUS_END_OF_FILE 0xC0000011u
#define IOCP_STATUS_PIPE_BROKEN 0xC000014Bu
#define IOCP_STATUS_PIPE_DISCONNECTED 0xC00000B0u

/* ---- signal.c -------------------------------------------------------------------------------- */

void winsignal_attach(void);
void winsignal_detach(void);
/* Called around a wait of the main thread. `event` is set by whoever handles signals, or is NULL.
 * Returns how long to wait, at most `ms`; less if a signal could go unnoticed. */
DWORD winsignal_begin(HANDLE event, DWORD ms);
void winsignal_end(void);
/* Returns true once for the signals since the last call. */
bool winsignal_take(void);

/* ---- socket.c -------------------------------------------------------------------------------- */

/* Loads Winsock and its extension functions, once. Returns 0 or a portable error < 0. */
int winsock_start(uint32_t *os_error);
/* Returns -IOE_NOTSOCK for a file. */
int winsock_open(io_handle *handle, uint32_t *os_error);
void winsock_close(io_handle *handle, bool close_native);
int winsock_submit(io_op *op);
int winsock_cancel(io_op *op);
void winsock_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done);

/* ---- stream.c -------------------------------------------------------------------------------- */

int winstream_open(io_handle *handle, uint32_t *os_error);
int winstream_shutdown(io_handle *handle);
void winstream_prepare_close(io_handle *handle, bool reset);
void winstream_address(io_handle *handle, bool peer, io_address *address);
/* Acquires a buffer for the receive. Returns its size, or 0 if memory is short. */
uint32_t winstream_acquire(io_receive *receive);
/* Records that `bytes` have arrived, which sizes the next buffer. 0: releases this buffer. */
void winstream_received(io_receive *receive, uint32_t bytes);
int winstream_receive(io_receive *receive);
void winstream_report(io_receive *receive, uint32_t status, uint32_t bytes, io_list *done);

/* ---- pipe.c ---------------------------------------------------------------------------------- */

int winpipe_open(io_handle *handle, uint32_t *os_error);
void winpipe_close(io_handle *handle, bool close_native);
int winpipe_submit(io_op *op);
int winpipe_cancel(io_op *op);
void winpipe_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done);

/* ---- poll.c ---------------------------------------------------------------------------------- */

int winpoll_submit(io_op *op);
int winpoll_cancel(io_op *op);
void winpoll_report(io_op *op, uint32_t status, io_list *done);
void winpoll_lane_close(iocp_lane *state);

/* ---- file.c ---------------------------------------------------------------------------------- */

int winfile_open(io_handle *handle, uint32_t *os_error);
int winfile_check(io_native file);
int winfile_hold(io_send_file *op);
void winfile_close(io_handle *handle, bool close_native);
int winfile_submit(io_op *op);
int winfile_cancel(io_op *op);
void winfile_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done);

#endif
