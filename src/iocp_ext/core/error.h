/* error.h: one set of error numbers for all platforms.
 *
 * A portable error is always negative: -IOE_CONNRESET. IOE_CONNRESET has Linux's number on every
 * platform, so that results compare equal everywhere.
 *
 * The table lists for each error its name, Linux's number, the errno of the target platform, the
 * corresponding Windows code, and the text of strerror. */
#ifndef IOCPCORE_ERROR_H
#define IOCPCORE_ERROR_H

#include <errno.h>
#include <stdint.h>

/* X(name, Linux errno, native errno, Windows code, text). The native errno is unused on Windows,
 * whose C library does not define all of them. */
#define IO_SYSTEM_ERRORS(X)                                                             \
    X(PERM, 1, EPERM, 5, "Operation not permitted")                                     \
    X(NOENT, 2, ENOENT, 2, "No such file or directory")                                 \
    X(INTR, 4, EINTR, 10004, "Interrupted system call")                                 \
    X(IO, 5, EIO, 1117, "Input/output error")                                           \
    X(BADF, 9, EBADF, 6, "Bad file descriptor")                                         \
    X(AGAIN, 11, EAGAIN, 10035, "Resource temporarily unavailable")                     \
    X(NOMEM, 12, ENOMEM, 8, "Cannot allocate memory")                                   \
    X(ACCES, 13, EACCES, 10013, "Permission denied")                                    \
    X(FAULT, 14, EFAULT, 10014, "Bad address")                                          \
    X(BUSY, 16, EBUSY, 170, "Device or resource busy")                                  \
    X(EXIST, 17, EEXIST, 183, "File exists")                                            \
    X(ISDIR, 21, EISDIR, 0, "Is a directory")                                           \
    X(INVAL, 22, EINVAL, 10022, "Invalid argument")                                     \
    X(NFILE, 23, ENFILE, 4, "Too many open files in system")                            \
    X(MFILE, 24, EMFILE, 10024, "Too many open files")                                  \
    X(FBIG, 27, EFBIG, 223, "File too large")                                           \
    X(NOSPC, 28, ENOSPC, 112, "No space left on device")                                \
    X(SPIPE, 29, ESPIPE, 132, "Illegal seek")                                           \
    X(PIPE, 32, EPIPE, 109, "Broken pipe")                                              \
    X(NOSYS, 38, ENOSYS, 120, "Function not implemented")                               \
    X(NOTSOCK, 88, ENOTSOCK, 10038, "Socket operation on non-socket")                   \
    X(DESTADDRREQ, 89, EDESTADDRREQ, 10039, "Destination address required")             \
    X(MSGSIZE, 90, EMSGSIZE, 10040, "Message too long")                                 \
    X(PROTOTYPE, 91, EPROTOTYPE, 10041, "Protocol wrong type for socket")               \
    X(PROTONOSUPPORT, 93, EPROTONOSUPPORT, 10043, "Protocol not supported")             \
    X(OPNOTSUPP, 95, EOPNOTSUPP, 10045, "Operation not supported")                      \
    X(AFNOSUPPORT, 97, EAFNOSUPPORT, 10047, "Address family not supported by protocol") \
    X(ADDRINUSE, 98, EADDRINUSE, 10048, "Address already in use")                       \
    X(ADDRNOTAVAIL, 99, EADDRNOTAVAIL, 10049, "Cannot assign requested address")        \
    X(NETDOWN, 100, ENETDOWN, 10050, "Network is down")                                 \
    X(NETUNREACH, 101, ENETUNREACH, 10051, "Network is unreachable")                    \
    X(NETRESET, 102, ENETRESET, 10052, "Network dropped connection on reset")           \
    X(CONNABORTED, 103, ECONNABORTED, 10053, "Software caused connection abort")        \
    X(CONNRESET, 104, ECONNRESET, 10054, "Connection reset by peer")                    \
    X(NOBUFS, 105, ENOBUFS, 10055, "No buffer space available")                         \
    X(ISCONN, 106, EISCONN, 10056, "Transport endpoint is already connected")           \
    X(NOTCONN, 107, ENOTCONN, 10057, "Transport endpoint is not connected")             \
    X(SHUTDOWN, 108, ESHUTDOWN, 10058, "Cannot send after transport endpoint shutdown") \
    X(TIMEDOUT, 110, ETIMEDOUT, 10060, "Connection timed out")                          \
    X(CONNREFUSED, 111, ECONNREFUSED, 10061, "Connection refused")                      \
    X(HOSTUNREACH, 113, EHOSTUNREACH, 10065, "No route to host")                        \
    X(ALREADY, 114, EALREADY, 10037, "Operation already in progress")                   \
    X(CANCELED, 125, ECANCELED, 995, "Operation canceled")

/* X(name, number, Windows code, text). Errors of the core itself. */
#define IO_CORE_ERRORS(X)                                        \
    X(CLOSED, 4001, 0, "The port is closed")                     \
    X(FORKED, 4002, 0, "The port belongs to the parent process") \
    X(OTHER, 4003, 0, "Unknown error")

enum {
#define X(name, number, native, windows, text) IOE_##name = (number),
    IO_SYSTEM_ERRORS(X)
#undef X
};

enum {
#define X(name, number, windows, text) IOE_##name = (number),
    IO_CORE_ERRORS(X)
#undef X
};

const char *io_error_text(int error); /* "Unknown error" if there is no text */

#ifndef _WIN32
/* Converts an errno to a portable error. Numbers missing in the table are kept on Linux, where both
 * are the same, and become -IOE_OTHER elsewhere. */
static inline int io_error_from_errno(int number) {
#ifdef __linux__
    return -number;
#else
    switch (number) {
#define X(name, linux_number, native, windows, text) \
    case native:                                     \
        return -IOE_##name;
        IO_SYSTEM_ERRORS(X)
#undef X
    case 0:
        return 0;
    default:
        return -IOE_OTHER;
    }
#endif
}
#endif

/* Converts a portable error to the errno that users see. An error without an errno keeps its
 * number. So do all errors on Windows, where Python uses the Windows code. */
static inline int io_error_to_errno(int error) {
#if defined(__linux__) || defined(_WIN32)
    return -error;
#else
    switch (error) {
#define X(name, linux_number, native, windows, text) \
    case -IOE_##name:                                \
        return native;
        IO_SYSTEM_ERRORS(X)
#undef X
    default:
        return -error;
    }
#endif
}

#ifdef __linux__
#define X(name, number, native, windows, text) \
    _Static_assert((number) == (native), "the same number as Linux's E" #name);
IO_SYSTEM_ERRORS(X)
#undef X
#endif

/* Converts a portable error to a Windows code; 0 if there is none. */
uint32_t io_error_to_windows(int error);
/* Converts a Win32 or Winsock code (GetLastError, WSAGetLastError) to a portable error. */
int io_error_from_windows(uint32_t code);
enum { IO_NT_WARNING = 2 }; /* lower severities: success and information; higher: error */
static inline uint32_t io_nt_severity(uint32_t status) {
    return status >> 30;
}
/* Converts the NTSTATUS of a completion packet to a portable error; 0 for success codes. */
int io_error_from_ntstatus(uint32_t status);

/* Converts a portable error to the system's error code, as stored in os_error; 0 to 0. */
static inline uint32_t io_error_to_system(int error) {
#ifdef _WIN32
    return io_error_to_windows(error);
#else
    return (uint32_t)io_error_to_errno(error);
#endif
}

#endif
