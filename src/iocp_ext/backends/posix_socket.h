/* posix_socket.h: sockets and files on POSIX systems, shared by epoll.c and uring.c. */
#ifndef IOCPCORE_POSIX_SOCKET_H
#define IOCPCORE_POSIX_SOCKET_H

#include "core/backend.h"

/* What io_handle.backend.word holds. */
enum { POSIX_SEEKABLE };

/* Finds out what the descriptor is, and makes a socket non-blocking. 0 or a portable error. */
int posix_handle_open(io_handle *handle, uint32_t *os_error);
/* False: the descriptor has been closed, or is another file by now. */
bool posix_same_file(const io_handle *handle);
void posix_close(io_native native);

/* Tries a socket operation or poll without blocking: IO_DONE, -IOE_AGAIN, or another error. */
int posix_perform(io_op *op);
/* Whether a failed accept concerns that one client only and the next may be tried at once. */
bool posix_accept_goes_on(int error);
/* The work of a file operation on a pool thread, blocking. */
int64_t posix_file_work(io_op *op, uint32_t *os_error);

#endif
