/* iocp.h: what the files of the Windows backend share.
 *
 *   iocp.c       the completion port itself: waiting, posting, timers, association
 *   backends/windows/signal.c  Ctrl-C during a wait of the main thread
 *   backends/windows/socket.c    sockets
 *   backends/windows/poll.c    readiness of sockets
 *   backends/windows/stream.c  what is different about sockets that a connection owns
 *   backends/windows/pipe.c    named pipes that a connection or a listener owns
 *   backends/windows/file.c    files, and pipes that somebody else opened */
#ifndef IOCPCORE_BACKENDS_WINDOWS_IOCP_H
#define IOCPCORE_BACKENDS_WINDOWS_IOCP_H

#include "core/backend.h"

/* What a packet is, by its completion key. */
enum {
    IOCP_KEY_IO = 1, /* the kernel finished an operation: the OVERLAPPED is its beginning */
    IOCP_KEY_POSTED, /* post(): the operation has its result already */
    IOCP_KEY_WAKE,
    IOCP_KEY_TIMER,
};

struct winpoll_group;

typedef struct iocp_lane {
    HANDLE port;
    PTP_TIMER timer, wake_timer, cancel_timer;
    _Atomic LONG wakes_deferred;   /* the system had no memory for them */
    _Atomic bool cancels_deferred; /* of operations with IO_OP_CANCEL_DEFERRED; the timer is set */
    _Atomic bool closing;          /* no timer is set again */
    io_mutex lock;                 /* of everything below; innermost */
    uint64_t armed_ns;             /* when the timer fires; IO_NEVER: it is not set */
    io_native *bound;              /* forgotten but open, and bound to this port for life */
    size_t bound_count, bound_capacity;
    struct winpoll_group *groups;
} iocp_lane;

/* What io_handle.backend.word holds. */
enum { WINSOCK_TYPE, WINSOCK_PROTOCOL, WINSOCK_BASE, WINSOCK_LISTENS };
enum { WINFILE_OVERLAPPED, WINFILE_ACCESS };
enum {                  /* of streams that are owned */
       WINSTREAM_SKIPS, /* no packet follows what ends at once */
       WINSTREAM_ROOM,  /* how much the next receive is given */
       /* WINSOCK_BASE */
       WINSTREAM_FLAGS = WINSOCK_BASE + 1,
       WINPIPE_LISTENER = WINSTREAM_FLAGS, /* of a pipe that listens; such a one has no flags */
};

static inline iocp_lane *iocp_lane_of(const io_handle *handle) {
    return handle->lane->state;
}

static inline bool iocp_is_pipe(const io_handle *handle) {
    return handle->owned && handle->family == IO_FAMILY_PIPE;
}

/* Binds a socket or overlapped file to the lane's port. 0 or a portable error < 0. */
int iocp_associate(io_lane *lane, io_native native, uint32_t *os_error);
/* It stays open without us: it may be associated with this port again. */
void iocp_dissociated(io_lane *lane, io_native native);
/* The call that started the operation was refused: nothing will be reported. */
int iocp_refused(io_op *op, uint32_t code);
/* The same, or IO_PENDING when the call succeeded: a packet follows in either of its ways; or
 * IO_DONE, when it has ended and none follows. */
int iocp_started(io_op *op, bool succeeded, uint32_t code);
/* Queues a packet of no bytes for the operation, which the kernel has given back without a result:
 * its report tries it again. IO_PENDING, or a portable error < 0. */
int iocp_again(io_op *op);
/* Reports what a packet says, when it means nothing special. */
void iocp_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done);
/* Cancels the operation on `native`, and again later if the system loses the cancel. A packet
 * follows, even if the handle has been closed meanwhile. */
void iocp_cancel_io(io_op *op, HANDLE native);
bool iocp_under_wine(void);
uint32_t iocp_status_code(uint32_t status); /* the Win32 code of an NTSTATUS, for messages */

/* NTSTATUS values that are no errors to us. */
#define IOCP_STATUS_PENDING 0x00000103u
#define IOCP_STATUS_BUFFER_OVERFLOW 0x80000005u
#define IOCP_STATUS_END_OF_FILE 0xC0000011u
#define IOCP_STATUS_PIPE_BROKEN 0xC000014Bu
#define IOCP_STATUS_PIPE_DISCONNECTED 0xC00000B0u

/* ---- backends/windows/signal.c
 * ----------------------------------------------------------------------------- */

void winsignal_attach(void);
void winsignal_detach(void);
/* Around a wait of the main thread. `event` is set by whoever handles signals, or NULL. Returns
 * the time to wait, at most `ms`; less when a signal may have come that cannot be heard. */
DWORD winsignal_begin(HANDLE event, DWORD ms);
void winsignal_end(void);
/* True once for the signals that arrived since the last time. */
bool winsignal_take(void);

/* ---- backends/windows/socket.c
 * ------------------------------------------------------------------------------- */

/* Loads Winsock and its extension functions, once. 0 or a portable error < 0. */
int winsock_start(uint32_t *os_error);
/* -IOE_NOTSOCK: it is a file. */
int winsock_open(io_handle *handle, uint32_t *os_error);
void winsock_close(io_handle *handle, bool close_native);
int winsock_submit(io_op *op);
int winsock_cancel(io_op *op);
void winsock_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done);

/* ---- backends/windows/stream.c
 * ----------------------------------------------------------------------------- */

int winstream_open(io_handle *handle, uint32_t *os_error);
int winstream_shutdown(io_handle *handle);
void winstream_prepare_close(io_handle *handle, bool reset);
void winstream_address(io_handle *handle, bool peer, io_address *address);
/* Finds the receive a buffer: how large it is, or 0 without memory. */
uint32_t winstream_acquire(io_receive *receive);
/* So much has come, and decides on the next buffer; 0: this one is given back. */
void winstream_received(io_receive *receive, uint32_t bytes);
int winstream_receive(io_receive *receive);
void winstream_report(io_receive *receive, uint32_t status, uint32_t bytes, io_list *done);

/* ---- backends/windows/pipe.c
 * ------------------------------------------------------------------------------- */

int winpipe_open(io_handle *handle, uint32_t *os_error);
void winpipe_close(io_handle *handle, bool close_native);
int winpipe_submit(io_op *op);
int winpipe_cancel(io_op *op);
void winpipe_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done);

/* ---- backends/windows/poll.c
 * ------------------------------------------------------------------------------- */

int winpoll_submit(io_op *op);
int winpoll_cancel(io_op *op);
void winpoll_report(io_op *op, uint32_t status, io_list *done);
void winpoll_lane_close(iocp_lane *state);

/* ---- backends/windows/file.c
 * ------------------------------------------------------------------------------- */

int winfile_open(io_handle *handle, uint32_t *os_error);
int winfile_check(io_native file);
int winfile_hold(io_send_file *op);
void winfile_close(io_handle *handle, bool close_native);
int winfile_submit(io_op *op);
int winfile_cancel(io_op *op);
void winfile_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done);

#endif
