/* error.h: one set of error numbers on every platform.
 *
 * Portable codes are Linux's errno numbers, so that results compare equal everywhere. The table
 * gives each its name, the text of strerror, and the Windows code that stands for it. */
#ifndef IOCPCORE_ERROR_H
#define IOCPCORE_ERROR_H

#include <stdint.h>

/* X(name, Linux errno, Windows code, text) */
#define IO_ERRORS(X)                                                         \
    X(PERM, 1, 5, "Operation not permitted")                                 \
    X(NOENT, 2, 2, "No such file or directory")                              \
    X(INTR, 4, 10004, "Interrupted system call")                             \
    X(IO, 5, 1117, "Input/output error")                                     \
    X(BADF, 9, 6, "Bad file descriptor")                                     \
    X(AGAIN, 11, 10035, "Resource temporarily unavailable")                  \
    X(NOMEM, 12, 8, "Cannot allocate memory")                                \
    X(ACCES, 13, 10013, "Permission denied")                                 \
    X(FAULT, 14, 10014, "Bad address")                                       \
    X(BUSY, 16, 170, "Device or resource busy")                              \
    X(EXIST, 17, 183, "File exists")                                         \
    X(ISDIR, 21, 0, "Is a directory")                                        \
    X(INVAL, 22, 10022, "Invalid argument")                                  \
    X(NFILE, 23, 4, "Too many open files in system")                         \
    X(MFILE, 24, 10024, "Too many open files")                               \
    X(FBIG, 27, 223, "File too large")                                       \
    X(NOSPC, 28, 112, "No space left on device")                             \
    X(SPIPE, 29, 132, "Illegal seek")                                        \
    X(PIPE, 32, 109, "Broken pipe")                                          \
    X(NOSYS, 38, 120, "Function not implemented")                            \
    X(NOTSOCK, 88, 10038, "Socket operation on non-socket")                  \
    X(DESTADDRREQ, 89, 10039, "Destination address required")                \
    X(MSGSIZE, 90, 10040, "Message too long")                                \
    X(PROTOTYPE, 91, 10041, "Protocol wrong type for socket")                \
    X(PROTONOSUPPORT, 93, 10043, "Protocol not supported")                   \
    X(OPNOTSUPP, 95, 10045, "Operation not supported")                       \
    X(AFNOSUPPORT, 97, 10047, "Address family not supported by protocol")    \
    X(ADDRINUSE, 98, 10048, "Address already in use")                        \
    X(ADDRNOTAVAIL, 99, 10049, "Cannot assign requested address")            \
    X(NETDOWN, 100, 10050, "Network is down")                                \
    X(NETUNREACH, 101, 10051, "Network is unreachable")                      \
    X(NETRESET, 102, 10052, "Network dropped connection on reset")           \
    X(CONNABORTED, 103, 10053, "Software caused connection abort")           \
    X(CONNRESET, 104, 10054, "Connection reset by peer")                     \
    X(NOBUFS, 105, 10055, "No buffer space available")                       \
    X(ISCONN, 106, 10056, "Transport endpoint is already connected")         \
    X(NOTCONN, 107, 10057, "Transport endpoint is not connected")            \
    X(SHUTDOWN, 108, 10058, "Cannot send after transport endpoint shutdown") \
    X(TIMEDOUT, 110, 10060, "Connection timed out")                          \
    X(CONNREFUSED, 111, 10061, "Connection refused")                         \
    X(HOSTUNREACH, 113, 10065, "No route to host")                           \
    X(ALREADY, 114, 10037, "Operation already in progress")                  \
    X(CANCELED, 125, 995, "Operation canceled")                              \
    /* Not the kernel's: what the core itself answers. */                    \
    X(CLOSED, 4001, 0, "The port is closed")                                 \
    X(FORKED, 4002, 0, "The port belongs to the parent process")             \
    X(OTHER, 4003, 0, "Unknown error")

enum {
#define X(name, number, windows, text) IOE_##name = (number),
    IO_ERRORS(X)
#undef X
};

const char *io_error_text(int portable); /* "Unknown error" when nobody knows it */
/* The Windows code that stands for a portable one; 0 when there is none. */
uint32_t io_error_to_windows(int portable);
/* A Win32 or Winsock code (GetLastError, WSAGetLastError) as a portable one. */
int io_error_from_windows(uint32_t code);
/* The NTSTATUS of a completion packet as a portable code; STATUS_SUCCESS is 0. */
int io_error_from_ntstatus(uint32_t status);

#endif
