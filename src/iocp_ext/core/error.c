/* error.c: conversion between system error codes and portable ones.
 *
 * The table in error.h pairs each portable error with one Windows code. Windows has many more: the
 * Win32, Winsock and NT layers each have their own code for the same event, and a completion packet
 * carries the NT one. The tables here map those to portable errors; the pairs in error.h take
 * precedence. Codes are plain numbers, so that all platforms compile and test the tables. */
#include "core/error.h"

#include <string.h>

#include <stddef.h>

typedef struct name {
    int number;
    uint32_t windows;
    const char *text;
} name;

typedef struct meaning {
    uint32_t code;
    int number;
} meaning;

static const name error_names[] = {
#define X(name, number, native, windows, text) {(number), (windows), (text)},
    IO_SYSTEM_ERRORS(X)
#undef X
#define X(name, number, windows, text) {(number), (windows), (text)},
        IO_CORE_ERRORS(X)
#undef X
};

static const meaning error_windows_codes[] = {
    {1, IOE_INVAL},      /* ERROR_INVALID_FUNCTION */
    {3, IOE_NOENT},      /* ERROR_PATH_NOT_FOUND */
    {14, IOE_NOMEM},     /* ERROR_OUTOFMEMORY */
    {15, IOE_NOENT},     /* ERROR_INVALID_DRIVE */
    {19, IOE_PERM},      /* ERROR_WRITE_PROTECT */
    {31, IOE_IO},        /* ERROR_GEN_FAILURE */
    {32, IOE_ACCES},     /* ERROR_SHARING_VIOLATION */
    {33, IOE_ACCES},     /* ERROR_LOCK_VIOLATION */
    {38, IOE_IO},        /* ERROR_HANDLE_EOF: unless the backend reports an end of file */
    {39, IOE_NOSPC},     /* ERROR_HANDLE_DISK_FULL */
    {50, IOE_OPNOTSUPP}, /* ERROR_NOT_SUPPORTED */
    {59, IOE_CONNRESET}, /* ERROR_UNEXP_NET_ERR */
    {64, IOE_CONNRESET}, /* ERROR_NETNAME_DELETED: the connection was reset during a transfer */
    {87, IOE_INVAL},     /* ERROR_INVALID_PARAMETER */
    {121, IOE_TIMEDOUT}, /* ERROR_SEM_TIMEOUT: TCP timed out */
    {122, IOE_INVAL},    /* ERROR_INSUFFICIENT_BUFFER */
    {123, IOE_NOENT},    /* ERROR_INVALID_NAME */
    {131, IOE_INVAL},    /* ERROR_NEGATIVE_SEEK */
    {161, IOE_NOENT},    /* ERROR_BAD_PATHNAME */
    {206, IOE_INVAL},    /* ERROR_FILENAME_EXCED_RANGE */
    {230, IOE_PIPE},     /* ERROR_BAD_PIPE */
    {231, IOE_BUSY},     /* ERROR_PIPE_BUSY */
    {232, IOE_PIPE},     /* ERROR_NO_DATA */
    {233, IOE_PIPE},     /* ERROR_PIPE_NOT_CONNECTED */
    {234, IOE_MSGSIZE},  /* ERROR_MORE_DATA */
    {258, IOE_TIMEDOUT}, /* WAIT_TIMEOUT */
    {676, IOE_CANCELED}, /* ERROR_HANDLES_CLOSED: Wine, if the handle is closed during a transfer */
    {735, IOE_CLOSED},   /* ERROR_ABANDONED_WAIT_0 */
    {996, IOE_AGAIN},    /* ERROR_IO_INCOMPLETE */
    {998, IOE_FAULT},    /* ERROR_NOACCESS */
    {1167, IOE_IO},      /* ERROR_DEVICE_NOT_CONNECTED */
    {1168, IOE_NOENT},   /* ERROR_NOT_FOUND */
    {1225, IOE_CONNREFUSED},     /* ERROR_CONNECTION_REFUSED */
    {1226, IOE_CONNRESET},       /* ERROR_GRACEFUL_DISCONNECT */
    {1227, IOE_ADDRINUSE},       /* ERROR_ADDRESS_ALREADY_ASSOCIATED */
    {1228, IOE_ADDRNOTAVAIL},    /* ERROR_ADDRESS_NOT_ASSOCIATED */
    {1229, IOE_NOTCONN},         /* ERROR_CONNECTION_INVALID */
    {1230, IOE_ISCONN},          /* ERROR_CONNECTION_ACTIVE */
    {1231, IOE_NETUNREACH},      /* ERROR_NETWORK_UNREACHABLE */
    {1232, IOE_HOSTUNREACH},     /* ERROR_HOST_UNREACHABLE */
    {1233, IOE_NETUNREACH},      /* ERROR_PROTOCOL_UNREACHABLE */
    {1234, IOE_CONNREFUSED},     /* ERROR_PORT_UNREACHABLE */
    {1235, IOE_CANCELED},        /* ERROR_REQUEST_ABORTED */
    {1236, IOE_CANCELED},        /* ERROR_CONNECTION_ABORTED: by our side, while closing */
    {1237, IOE_AGAIN},           /* ERROR_RETRY */
    {1314, IOE_PERM},            /* ERROR_PRIVILEGE_NOT_HELD */
    {1392, IOE_IO},              /* ERROR_FILE_CORRUPT */
    {1450, IOE_NOBUFS},          /* ERROR_NO_SYSTEM_RESOURCES */
    {1453, IOE_NOMEM},           /* ERROR_WORKING_SET_QUOTA */
    {1455, IOE_NOMEM},           /* ERROR_COMMITMENT_LIMIT */
    {1460, IOE_TIMEDOUT},        /* ERROR_TIMEOUT */
    {1816, IOE_NOMEM},           /* ERROR_NOT_ENOUGH_QUOTA */
    {10009, IOE_BADF},           /* WSAEBADF */
    {10036, IOE_ALREADY},        /* WSAEINPROGRESS */
    {10042, IOE_OPNOTSUPP},      /* WSAENOPROTOOPT */
    {10044, IOE_PROTONOSUPPORT}, /* WSAESOCKTNOSUPPORT */
    {10046, IOE_AFNOSUPPORT},    /* WSAEPFNOSUPPORT */
    {10064, IOE_HOSTUNREACH},    /* WSAEHOSTDOWN */
    {10067, IOE_AGAIN},          /* WSAEPROCLIM */
    {10091, IOE_NETDOWN},        /* WSASYSNOTREADY */
    {10092, IOE_NOSYS},          /* WSAVERNOTSUPPORTED */
    {10101, IOE_SHUTDOWN},       /* WSAEDISCON */
    {10103, IOE_CANCELED},       /* WSAECANCELLED */
    {10111, IOE_CANCELED},       /* WSA_E_CANCELLED */
};

static const meaning error_nt_statuses[] = {
    {0x80000005, IOE_MSGSIZE},      /* STATUS_BUFFER_OVERFLOW: a truncated datagram */
    {0x8000000A, IOE_CANCELED},     /* STATUS_HANDLES_CLOSED (Wine) */
    {0xC0000005, IOE_FAULT},        /* STATUS_ACCESS_VIOLATION */
    {0xC0000008, IOE_BADF},         /* STATUS_INVALID_HANDLE */
    {0xC000000D, IOE_INVAL},        /* STATUS_INVALID_PARAMETER */
    {0xC0000010, IOE_INVAL},        /* STATUS_INVALID_DEVICE_REQUEST */
    {0xC0000011, IOE_IO},           /* STATUS_END_OF_FILE: as ERROR_HANDLE_EOF */
    {0xC0000017, IOE_NOMEM},        /* STATUS_NO_MEMORY */
    {0xC0000022, IOE_PERM},         /* STATUS_ACCESS_DENIED */
    {0xC0000023, IOE_MSGSIZE},      /* STATUS_BUFFER_TOO_SMALL */
    {0xC0000024, IOE_NOTSOCK},      /* STATUS_OBJECT_TYPE_MISMATCH */
    {0xC0000034, IOE_NOENT},        /* STATUS_OBJECT_NAME_NOT_FOUND */
    {0xC0000043, IOE_ACCES},        /* STATUS_SHARING_VIOLATION */
    {0xC0000044, IOE_NOMEM},        /* STATUS_QUOTA_EXCEEDED */
    {0xC0000054, IOE_ACCES},        /* STATUS_FILE_LOCK_CONFLICT */
    {0xC000007F, IOE_NOSPC},        /* STATUS_DISK_FULL */
    {0xC000009A, IOE_NOBUFS},       /* STATUS_INSUFFICIENT_RESOURCES */
    {0xC000009D, IOE_IO},           /* STATUS_DEVICE_NOT_CONNECTED */
    {0xC00000A1, IOE_NOMEM},        /* STATUS_WORKING_SET_QUOTA */
    {0xC00000A2, IOE_PERM},         /* STATUS_MEDIA_WRITE_PROTECTED */
    {0xC00000AC, IOE_BUSY},         /* STATUS_PIPE_NOT_AVAILABLE */
    {0xC00000AE, IOE_BUSY},         /* STATUS_PIPE_BUSY */
    {0xC00000B0, IOE_PIPE},         /* STATUS_PIPE_DISCONNECTED */
    {0xC00000B1, IOE_PIPE},         /* STATUS_PIPE_CLOSING */
    {0xC00000B5, IOE_TIMEDOUT},     /* STATUS_IO_TIMEOUT */
    {0xC00000BB, IOE_OPNOTSUPP},    /* STATUS_NOT_SUPPORTED */
    {0xC00000C4, IOE_CONNRESET},    /* STATUS_UNEXPECTED_NETWORK_ERROR */
    {0xC00000C9, IOE_CONNRESET},    /* STATUS_NETWORK_NAME_DELETED */
    {0xC0000102, IOE_IO},           /* STATUS_FILE_CORRUPT_ERROR */
    {0xC0000120, IOE_CANCELED},     /* STATUS_CANCELLED */
    {0xC0000128, IOE_BADF},         /* STATUS_FILE_CLOSED */
    {0xC000013B, IOE_CONNABORTED},  /* STATUS_LOCAL_DISCONNECT */
    {0xC000013C, IOE_CONNRESET},    /* STATUS_REMOTE_DISCONNECT */
    {0xC000013D, IOE_NOBUFS},       /* STATUS_REMOTE_RESOURCES */
    {0xC000013E, IOE_CONNRESET},    /* STATUS_LINK_FAILED */
    {0xC000013F, IOE_TIMEDOUT},     /* STATUS_LINK_TIMEOUT */
    {0xC0000140, IOE_NOTCONN},      /* STATUS_INVALID_CONNECTION */
    {0xC0000141, IOE_ADDRNOTAVAIL}, /* STATUS_INVALID_ADDRESS */
    {0xC000014B, IOE_PIPE},         /* STATUS_PIPE_BROKEN */
    {0xC0000184, IOE_INVAL},        /* STATUS_INVALID_DEVICE_STATE */
    {0xC0000185, IOE_IO},           /* STATUS_IO_DEVICE_ERROR */
    {0xC0000205, IOE_NOMEM},        /* STATUS_INSUFF_SERVER_RESOURCES */
    {0xC0000206, IOE_MSGSIZE},      /* STATUS_INVALID_BUFFER_SIZE */
    {0xC0000207, IOE_ADDRNOTAVAIL}, /* STATUS_INVALID_ADDRESS_COMPONENT */
    {0xC0000209, IOE_NOBUFS},       /* STATUS_TOO_MANY_ADDRESSES */
    {0xC000020A, IOE_ADDRINUSE},    /* STATUS_ADDRESS_ALREADY_EXISTS */
    {0xC000020C, IOE_CONNRESET},    /* STATUS_CONNECTION_DISCONNECTED */
    {0xC000020D, IOE_CONNRESET},    /* STATUS_CONNECTION_RESET */
    {0xC0000236, IOE_CONNREFUSED},  /* STATUS_CONNECTION_REFUSED */
    {0xC0000237, IOE_CONNRESET},    /* STATUS_GRACEFUL_DISCONNECT */
    {0xC0000238, IOE_ADDRINUSE},    /* STATUS_ADDRESS_ALREADY_ASSOCIATED */
    {0xC0000239, IOE_ADDRNOTAVAIL}, /* STATUS_ADDRESS_NOT_ASSOCIATED */
    {0xC000023A, IOE_NOTCONN},      /* STATUS_CONNECTION_INVALID */
    {0xC000023B, IOE_ISCONN},       /* STATUS_CONNECTION_ACTIVE */
    {0xC000023C, IOE_NETUNREACH},   /* STATUS_NETWORK_UNREACHABLE */
    {0xC000023D, IOE_HOSTUNREACH},  /* STATUS_HOST_UNREACHABLE */
    {0xC000023E, IOE_NETUNREACH},   /* STATUS_PROTOCOL_UNREACHABLE */
    {0xC000023F, IOE_CONNREFUSED},  /* STATUS_PORT_UNREACHABLE */
    {0xC0000240, IOE_CANCELED},     /* STATUS_REQUEST_ABORTED */
    {0xC0000241, IOE_CANCELED},     /* STATUS_CONNECTION_ABORTED: as ERROR_CONNECTION_ABORTED */
    {0xC0000904, IOE_FBIG},         /* STATUS_FILE_TOO_LARGE */
};

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

static int error_look_up(const meaning *table, size_t count, uint32_t code) {
    for (size_t i = 0; i < count; i++)
        if (table[i].code == code)
            return -table[i].number;
    return -IOE_OTHER;
}

static const name *error_find(int error) {
    for (size_t i = 0; i < COUNT(error_names); i++)
        if (error_names[i].number == -error)
            return &error_names[i];
    return NULL;
}

/* On Linux, errors missing in the table are the system's, and glibc has their texts. */
static const char *error_system_text(int error) {
#if defined(__linux__) && defined(__GLIBC__)
    const char *text = strerrordesc_np(io_error_to_errno(error));
    return text ? text : "Unknown error";
#else
    (void)error;
    return "Unknown error";
#endif
}

const char *io_error_text(int error) {
    const name *found = error_find(error);
    return found ? found->text : error_system_text(error);
}

uint32_t io_error_to_windows(int error) {
    const name *found = error_find(error);
    return found ? found->windows : 0;
}

int io_error_from_windows(uint32_t code) {
    if (code == 0)
        return 0;
    for (size_t i = 0; i < COUNT(error_names); i++)
        if (error_names[i].windows == code)
            return -error_names[i].number;
    return error_look_up(error_windows_codes, COUNT(error_windows_codes), code);
}

int io_error_from_ntstatus(uint32_t status) {
    if (io_nt_severity(status) < IO_NT_WARNING)
        return 0;
    /* NTSTATUS_FROM_WIN32: a wrapped Win32 code. */
    if (status >> 16 == 0xC007)
        return io_error_from_windows(status & 0xFFFF);
    return error_look_up(error_nt_statuses, COUNT(error_nt_statuses), status);
}
