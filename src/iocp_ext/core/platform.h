/* platform.h: types whose names differ between operating systems.
 *
 * Gather lists and overlapped structures have the kernel's layout inside an operation, because the
 * kernel reads and writes them while it owns the operation. Event APIs belong to backends/. */
#ifndef IOCPCORE_PLATFORM_H
#define IOCPCORE_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
typedef WSABUF io_vec;
typedef int io_socklen;
#else
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>
typedef struct iovec io_vec;
typedef socklen_t io_socklen;
#endif

/* The kernel's identifier of a socket or file: a descriptor, a SOCKET or a HANDLE. */
typedef intptr_t io_native;
#define IO_NATIVE_NONE ((io_native)-1)

static inline void io_vec_set(io_vec *vec, void *base, size_t length) {
#ifdef _WIN32
    vec->buf = (CHAR *)base;
    vec->len = (ULONG)length;
#else
    vec->iov_base = base;
    vec->iov_len = length;
#endif
}

static inline char *io_vec_base(const io_vec *vec) {
#ifdef _WIN32
    return vec->buf;
#else
    return (char *)vec->iov_base;
#endif
}

static inline size_t io_vec_length(const io_vec *vec) {
#ifdef _WIN32
    return vec->len;
#else
    return vec->iov_len;
#endif
}

#endif
