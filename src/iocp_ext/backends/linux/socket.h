/* socket.h: sockets and files on Linux, shared by epoll.c and uring.c. */
#ifndef IOCPCORE_BACKENDS_LINUX_SOCKET_H
#define IOCPCORE_BACKENDS_LINUX_SOCKET_H

#include "core/backend.h"

/* Contents of io_handle.backend.word. */
enum {
    LINUX_FILE,  /* our own duplicate of a file's descriptor, independent of the user's close */
    LINUX_SEEKS, /* the file has offsets */
};

/* Examines the descriptor, makes a socket non-blocking, and duplicates a file's descriptor. Returns
 * 0 or a portable error. */
int linux_handle_open(io_handle *handle, uint32_t *os_error);
void linux_handle_close(io_handle *handle); /* closes the duplicate */
int64_t linux_send_now(io_handle *handle, io_vec *vecs, uint32_t count, io_address *to, bool last,
                       uint32_t *os_error);
int linux_shutdown(io_handle *handle);
uint32_t linux_unsent(io_handle *handle, bool only_here);
void linux_prepare_close(io_handle *handle, bool reset);
void linux_address(io_handle *handle, bool peer, io_address *address);
/* Returns false if the descriptor was closed or is another file by now. */
bool linux_same_file(const io_handle *handle);
void linux_close(io_native native);
void linux_close_native(io_lane *lane, io_native native, int family);

/* Tries a socket operation or poll without blocking. Returns IO_DONE, -IOE_AGAIN or another
 * error. */
int linux_perform(io_op *op);
/* Whether there is input or the end of the stream. An error alone does not count. */
bool linux_readable(const io_handle *handle);
int linux_check_file(io_native file);
int linux_hold_file(io_send_file *op);
/* Performs a file operation on a pool thread. Blocks. */
int64_t linux_file_work(io_op *op, uint32_t *os_error);

#endif
