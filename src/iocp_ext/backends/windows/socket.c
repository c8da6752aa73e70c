/* socket.c: sockets on a completion port.
 *
 * Winsock's overlapped calls copy gather lists when they start, but write flags and addresses
 * through pointers when they end; so those are inside the operation. AcceptEx connects a socket
 * that we open for it, and ConnectEx needs a bound one. Such a socket does not know its connection
 * until SO_UPDATE_ACCEPT_CONTEXT or SO_UPDATE_CONNECT_CONTEXT is set; until then getpeername,
 * shutdown and send_file fail. */
#include "core/accepting.h"
#include "backends/windows/iocp.h"

#include <mswsock.h>
#include <stdlib.h>

/* From mstcpip.h, which would pull in more headers than this is worth. */
#ifndef SIO_UDP_CONNRESET
#define SIO_UDP_CONNRESET _WSAIOW(IOC_VENDOR, 12)
#endif

enum { DATAGRAM_MAX = 65536, ADDRESS_ROOM = sizeof(struct sockaddr_storage) + 16 };

/* The most that TransmitFile takes in one call. */
#define TRANSMIT_MAX ((uint64_t)INT32_MAX - 1)

static LPFN_ACCEPTEX windows_socket_accept_ex;
static LPFN_CONNECTEX windows_socket_connect_ex;
static LPFN_TRANSMITFILE windows_socket_transmit_file;
static LPFN_GETACCEPTEXSOCKADDRS windows_socket_get_accept_ex_addresses;

static SOCKET windows_socket_of(const io_op *op) {
    return (SOCKET)op->handle->native;
}

static uint32_t windows_socket_code_of(bool succeeded) {
    return succeeded ? 0 : (uint32_t)WSAGetLastError();
}

/* ---- starting Winsock ------------------------------------------------------------------------ */

static bool windows_socket_load(SOCKET socket, GUID id, void *function, size_t size) {
    DWORD bytes;
    return WSAIoctl(socket, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id, function,
                    (DWORD)size, &bytes, NULL, NULL) == 0;
}

static uint32_t windows_socket_load_functions(void) {
    SOCKET socket = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0,
                               WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (socket == INVALID_SOCKET) /* a machine with IPv6 only */
        socket = WSASocketW(AF_INET6, SOCK_STREAM, IPPROTO_TCP, NULL, 0,
                            WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (socket == INVALID_SOCKET)
        return (uint32_t)WSAGetLastError();
    GUID accept = WSAID_ACCEPTEX, connect = WSAID_CONNECTEX, transmit = WSAID_TRANSMITFILE,
         addresses = WSAID_GETACCEPTEXSOCKADDRS;
    uint32_t code = windows_socket_code_of(
        windows_socket_load(socket, accept, &windows_socket_accept_ex,
                            sizeof windows_socket_accept_ex) &&
        windows_socket_load(socket, connect, &windows_socket_connect_ex,
                            sizeof windows_socket_connect_ex) &&
        windows_socket_load(socket, transmit, &windows_socket_transmit_file,
                            sizeof windows_socket_transmit_file) &&
        windows_socket_load(socket, addresses, &windows_socket_get_accept_ex_addresses,
                            sizeof windows_socket_get_accept_ex_addresses));
    closesocket(socket);
    return code;
}

/* WSACleanup is never called: the process uses Winsock until it exits. */
static BOOL CALLBACK windows_socket_start_once(PINIT_ONCE once, void *parameter, void **context) {
    WSADATA data;
    uint32_t *code = parameter;
    (void)once;
    (void)context;
    *code = (uint32_t)WSAStartup(MAKEWORD(2, 2), &data);
    if (*code == 0)
        *code = windows_socket_load_functions();
    return *code == 0;
}

int winsock_start(uint32_t *os_error) {
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    uint32_t code = 0;
    if (InitOnceExecuteOnce(&once, windows_socket_start_once, &code, NULL))
        return 0;
    *os_error = code;
    return io_error_from_windows(code);
}

/* ---- handles --------------------------------------------------------------------------------- */

static uint32_t windows_socket_set_non_blocking(SOCKET socket, bool on) {
    u_long value = on;
    return windows_socket_code_of(ioctlsocket(socket, (long)FIONBIO, &value) == 0);
}

/* By default, Windows fails the next receive of a datagram socket when an earlier datagram could
 * not be delivered, whoever it was for. A provider that lacks the option does not do this. */
static uint32_t windows_socket_ignore_unreachable(SOCKET socket) {
    BOOL report = FALSE;
    DWORD bytes;
    uint32_t code =
        windows_socket_code_of(WSAIoctl(socket, SIO_UDP_CONNRESET, &report, sizeof report, NULL, 0,
                                        &bytes, NULL, NULL) == 0);
    return code == WSAEOPNOTSUPP || code == WSAEINVAL ? 0 : code;
}

static uint32_t windows_socket_describe(SOCKET socket, int *family, int *type, int *protocol) {
    WSAPROTOCOL_INFOW info;
    int size = sizeof info;
    if (getsockopt(socket, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &size) != 0)
        return (uint32_t)WSAGetLastError();
    *family = info.iAddressFamily;
    *type = info.iSocketType;
    *protocol = info.iProtocol;
    return 0;
}

int io_socket_describe(io_native native, int *family, int *type, int *protocol) {
    return io_error_from_windows(windows_socket_describe((SOCKET)native, family, type, protocol));
}

int winsock_open(io_handle *handle, uint32_t *os_error) {
    SOCKET socket = (SOCKET)handle->native;
    int type, protocol;
    uint32_t code = windows_socket_describe(socket, &handle->family, &type, &protocol);
    if (code == 0) {
        handle->backend.word[WINSOCK_TYPE] = type;
        handle->backend.word[WINSOCK_PROTOCOL] = protocol;
        bool stream = type == SOCK_STREAM;
        handle->type = stream ? IO_STREAM : IO_DATAGRAM;
        code = windows_socket_set_non_blocking(socket, true);
        if (code == 0 && !stream)
            code = windows_socket_ignore_unreachable(socket);
    }
    if (code == 0)
        return iocp_associate(handle->lane, handle->native, os_error);
    *os_error = code;
    return io_error_from_windows(code);
}

void winsock_close(io_handle *handle, bool close_native) {
    /* On failure, other code has already closed the socket, which is fine. */
    if (close_native)
        closesocket((SOCKET)handle->native);
    else if (!handle->native_gone)
        iocp_dissociated(handle->lane, handle->native);
}

/* ---- receiving and sending ------------------------------------------------------------------- */

static uint64_t windows_socket_room_of(const io_transfer *transfer) {
    uint64_t room = 0;
    for (uint32_t i = 0; i < transfer->vec_count; i++)
        room += io_vec_length(&transfer->vecs[i]);
    return room;
}

/* Takes the part of a datagram that does not fit, and is never read. Otherwise Windows would
 * truncate the datagram with an error, and does not document whether the sender's address is then
 * valid. */
static char windows_socket_overflow[DATAGRAM_MAX];

static int windows_socket_receive(io_transfer *transfer) {
    io_op *op = &transfer->op;
    if (!io_transfer_acquire(transfer))
        return -IOE_NOMEM;
    WSABUF with_overflow[IO_INLINE_VECS + 1];
    WSABUF *vecs = transfer->vecs;
    DWORD count = transfer->vec_count;
    uint64_t room = windows_socket_room_of(transfer);
    if (op->handle->type == IO_DATAGRAM && room < DATAGRAM_MAX && count <= IO_INLINE_VECS) {
        for (DWORD i = 0; i < count; i++)
            with_overflow[i] = vecs[i];
        io_vec_set(&with_overflow[count++], windows_socket_overflow, (size_t)(DATAGRAM_MAX - room));
        vecs = with_overflow;
    }
    /* Written when the receive ends. */
    DWORD *flags = (DWORD *)&transfer->receive_flags;
    int failed;
    if (op->kind == IO_RECV_FROM) {
        io_address *from = &((io_datagram *)transfer)->address;
        from->length = sizeof from->storage;
        from->storage.ss_family = AF_UNSPEC;
        failed =
            WSARecvFrom(windows_socket_of(op), vecs, count, NULL, flags,
                        (struct sockaddr *)&from->storage, &from->length, &op->overlapped, NULL);
    } else {
        failed = WSARecv(windows_socket_of(op), vecs, count, NULL, flags, &op->overlapped, NULL);
    }
    uint32_t code = windows_socket_code_of(!failed);
    if (code == WSAESHUTDOWN || code == WSAEDISCON) { /* we shut it down ourselves: end of stream */
        op->result = 0;
        return IO_DONE;
    }
    return iocp_started(op, !failed, code == WSAECONNABORTED ? WSAECONNRESET : code);
}

/* Maps the error of a send on a socket that is not connected, or no longer, to the one POSIX
 * uses. */
static int windows_socket_send_error(const io_op *op, int error) {
    if (error == -IOE_SHUTDOWN || (error == -IOE_NOTCONN && op->handle->type == IO_STREAM))
        return -IOE_PIPE;
    if (error == -IOE_NOTCONN && op->kind == IO_SEND)
        return -IOE_DESTADDRREQ;
    return error == -IOE_CONNABORTED ? -IOE_CONNRESET : error;
}

static int windows_socket_start_send(io_transfer *transfer) {
    io_op *op = &transfer->op;
    WSABUF nothing = {0, NULL};
    WSABUF *vecs = transfer->vec_count ? transfer->vecs : &nothing;
    DWORD count = transfer->vec_count ? transfer->vec_count : 1;
    int failed;
    if (op->kind == IO_SEND_TO) {
        const io_address *to = &((io_datagram *)transfer)->address;
        failed =
            WSASendTo(windows_socket_of(op), vecs, count, NULL, 0,
                      (const struct sockaddr *)&to->storage, to->length, &op->overlapped, NULL);
    } else {
        failed = WSASend(windows_socket_of(op), vecs, count, NULL, 0, &op->overlapped, NULL);
    }
    uint32_t code = windows_socket_code_of(!failed);
    int answer = iocp_started(op, !failed, code);
    return answer < 0 ? windows_socket_send_error(op, answer) : answer;
}

/* Starts one part: TransmitFile takes less than 2 GiB, and a length of 0 would mean the whole
 * file. */
static int windows_socket_start_send_file(io_send_file *file) {
    io_op *op = &file->op;
    LARGE_INTEGER size;
    if (GetFileType((HANDLE)file->file) != FILE_TYPE_DISK ||
        !GetFileSizeEx((HANDLE)file->file, &size)) {
        op->os_error = GetLastError();
        return op->os_error == ERROR_INVALID_HANDLE ? -IOE_BADF : -IOE_INVAL;
    }
    uint64_t end = (uint64_t)size.QuadPart;
    uint64_t left = file->offset < end ? end - file->offset : 0;
    if (file->remaining > left)
        file->remaining = left;
    if (file->remaining == 0) {
        op->result = 0;
        return IO_DONE;
    }
    DWORD part = (DWORD)(file->remaining < TRANSMIT_MAX ? file->remaining : TRANSMIT_MAX);
    op->overlapped.Offset = (DWORD)(file->offset & 0xFFFFFFFF);
    op->overlapped.OffsetHigh = (DWORD)(file->offset >> 32);
    bool succeeded = windows_socket_transmit_file(windows_socket_of(op), (HANDLE)file->file, part,
                                                  0, &op->overlapped, NULL, 0);
    uint32_t code = windows_socket_code_of(succeeded);
    int answer = iocp_started(op, succeeded, code);
    return answer < 0 ? windows_socket_send_error(op, answer) : answer;
}

/* ---- accepting ------------------------------------------------------------------------------- */

static void windows_socket_drop_accepted(io_accept *accept) {
    if (accept->accepted != IO_NATIVE_NONE)
        closesocket((SOCKET)accept->accepted);
    accept->accepted = IO_NATIVE_NONE;
}

/* Maps other errors that mean the client has gone. Only a client can time out here. */
static int windows_socket_accept_error(int error) {
    bool lost = error == -IOE_CONNREFUSED || error == -IOE_NOTCONN || error == -IOE_TIMEDOUT;
    return lost ? -IOE_CONNABORTED : error;
}

/* AcceptEx on a socket that does not listen fails on Windows, but never completes under Wine. */
static uint32_t windows_socket_check_listens(io_handle *handle) {
    BOOL listens = FALSE;
    int size = sizeof listens;
    if (handle->backend.word[WINSOCK_LISTENS])
        return 0;
    if (handle->type != IO_STREAM)
        return WSAEOPNOTSUPP;
    if (getsockopt((SOCKET)handle->native, SOL_SOCKET, SO_ACCEPTCONN, (char *)&listens, &size) != 0)
        return (uint32_t)WSAGetLastError();
    if (!listens)
        return WSAEINVAL;
    handle->backend.word[WINSOCK_LISTENS] = true;
    return 0;
}

static int windows_socket_start_accept(io_accept *accept) {
    io_op *op = &accept->op;
    io_handle *handle = op->handle;
    uint32_t code = windows_socket_check_listens(handle);
    if (code)
        return iocp_refused(op, code);
    SOCKET socket = WSASocketW(handle->family, (int)handle->backend.word[WINSOCK_TYPE],
                               (int)handle->backend.word[WINSOCK_PROTOCOL], NULL, 0,
                               WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (socket == INVALID_SOCKET)
        return iocp_refused(op, (uint32_t)WSAGetLastError());
    accept->accepted = (io_native)socket;
    do { /* a client that left the backlog fails the accept at once: retry */
        bool succeeded = windows_socket_accept_ex(windows_socket_of(op), socket, accept->addresses,
                                                  0, ADDRESS_ROOM, ADDRESS_ROOM, &accept->received,
                                                  &op->overlapped);
        code = windows_socket_code_of(succeeded);
    } while (code == WSAECONNRESET && io_accept_again(accept, -IOE_CONNRESET));
    int answer = iocp_started(op, code == 0, code);
    if (answer < 0)
        windows_socket_drop_accepted(accept);
    return answer;
}

static void windows_socket_read_peer(io_accept *accept) {
    struct sockaddr *local = NULL, *remote = NULL;
    int local_length = 0, remote_length = 0;
    io_address *peer = &accept->peer;
    windows_socket_get_accept_ex_addresses(accept->addresses, 0, ADDRESS_ROOM, ADDRESS_ROOM, &local,
                                           &local_length, &remote, &remote_length);
    if (remote != NULL && remote_length > 0 && (size_t)remote_length <= sizeof peer->storage) {
        memcpy(&peer->storage, remote, (size_t)remote_length);
        peer->length = remote_length;
        return;
    }
    peer->length = sizeof peer->storage;
    if (getpeername((SOCKET)accept->accepted, (struct sockaddr *)&peer->storage, &peer->length) !=
        0)
        peer->length = 0;
}

static uint32_t windows_socket_finish_accept(io_accept *accept) {
    SOCKET listener = windows_socket_of(&accept->op), socket = (SOCKET)accept->accepted;
    if (setsockopt(socket, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (const char *)&listener,
                   sizeof listener) != 0)
        return (uint32_t)WSAGetLastError();
    windows_socket_read_peer(accept);
    return windows_socket_set_non_blocking(socket, true);
}

static void windows_socket_report_accept(io_accept *accept, uint32_t status, io_list *done) {
    io_op *op = &accept->op;
    int error = io_error_from_ntstatus(status);
    uint32_t code = 0;
    if (error) {
        code = iocp_status_code(status);
    } else {
        code = windows_socket_finish_accept(accept);
        error = io_error_from_windows(code);
    }
    error = windows_socket_accept_error(error);
    if (error)
        windows_socket_drop_accepted(accept);
    if (error && io_accept_again(accept, error))
        io_op_retry(op, done);
    else
        io_op_reported(op, error, code, done);
}

/* ---- connecting ------------------------------------------------------------------------------ */

/* ConnectEx needs a bound socket. WSAEINVAL means that it is already bound. */
static uint32_t windows_socket_bind_to_any(SOCKET socket, const io_address *target) {
    struct sockaddr_storage any = {0};
    any.ss_family = target->storage.ss_family;
    int size = any.ss_family == AF_INET ? (int)sizeof(struct sockaddr_in)
                                        : (int)sizeof(struct sockaddr_in6);
    uint32_t code = windows_socket_code_of(bind(socket, (struct sockaddr *)&any, size) == 0);
    return code == WSAEINVAL ? 0 : code;
}

/* Connects without ConnectEx. A datagram socket only records the address. ConnectEx does not
 * support unix sockets; their connect does not wait for the network, but would not complete at once
 * on a non-blocking socket. */
static int windows_socket_connect_plainly(io_connect *connection) {
    io_op *op = &connection->op;
    const io_address *address = &connection->address;
    bool stream = op->handle->type == IO_STREAM;
    uint32_t code = stream ? windows_socket_set_non_blocking(windows_socket_of(op), false) : 0;
    if (code == 0) {
        code = windows_socket_code_of(connect(windows_socket_of(op),
                                              (const struct sockaddr *)&address->storage,
                                              address->length) == 0);
        if (stream) {
            uint32_t again = windows_socket_set_non_blocking(windows_socket_of(op), true);
            code = code ? code : again;
        }
    }
    op->result = 0;
    return code ? iocp_refused(op, code) : IO_DONE;
}

static int windows_socket_start_connect(io_connect *connection) {
    io_op *op = &connection->op;
    int family = op->handle->family;
    if (connection->address.storage.ss_family != family)
        return iocp_refused(op, WSAEAFNOSUPPORT);
    if (op->handle->type != IO_STREAM || (family != AF_INET && family != AF_INET6))
        return windows_socket_connect_plainly(connection);
    uint32_t code = windows_socket_bind_to_any(windows_socket_of(op), &connection->address);
    if (code)
        return iocp_refused(op, code);
    bool succeeded = windows_socket_connect_ex(
        windows_socket_of(op), (const struct sockaddr *)&connection->address.storage,
        connection->address.length, NULL, 0, NULL, &op->overlapped);
    code = windows_socket_code_of(succeeded);
    return iocp_started(op, succeeded, code);
}

static void windows_socket_report_connect(io_op *op, uint32_t status, io_list *done) {
    if (io_error_from_ntstatus(status)) {
        iocp_report(op, status, 0, done);
        return;
    }
    uint32_t code = windows_socket_code_of(
        setsockopt(windows_socket_of(op), SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0) == 0);
    if (code == WSAENOTCONN) /* the peer has already reset it */
        code = WSAECONNRESET;
    io_op_reported(op, io_error_from_windows(code), code, done);
}

/* ---- the backend's parts --------------------------------------------------------------------- */

static void windows_socket_report_receive(io_transfer *transfer, uint32_t status, uint32_t bytes,
                                          io_list *done) {
    uint64_t room = windows_socket_room_of(transfer);
    if (transfer->op.kind == IO_RECV_FROM) {
        io_address *from = &((io_datagram *)transfer)->address;
        if (from->storage.ss_family == AF_UNSPEC) /* a stream has no senders */
            from->length = 0;
    }
    if (status == IOCP_STATUS_BUFFER_OVERFLOW) /* a truncated datagram */
        status = 0;
    int error = io_error_from_ntstatus(status);
    if (error == -IOE_CONNABORTED)
        io_op_reported(&transfer->op, -IOE_CONNRESET, iocp_status_code(status), done);
    else
        iocp_report(&transfer->op, status, bytes > room ? (uint32_t)room : bytes, done);
}

static void windows_socket_report_send(io_op *op, uint32_t status, uint32_t bytes, io_list *done) {
    if (op->kind == IO_SEND_FILE && status == IOCP_STATUS_END_OF_FILE) {
        io_op_reported(op, 0, 0, done); /* the file has become shorter */
        return;
    }
    int error = io_error_from_ntstatus(status);
    if (error)
        io_op_reported(op, windows_socket_send_error(op, error), iocp_status_code(status), done);
    else
        io_op_reported(op, bytes, 0, done);
}

void winsock_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done) {
    switch (op->kind) {
    case IO_ACCEPT:
        windows_socket_report_accept((io_accept *)op, status, done);
        break;
    case IO_CONNECT:
        windows_socket_report_connect(op, status, done);
        break;
    case IO_RECV:
    case IO_RECV_FROM:
        windows_socket_report_receive((io_transfer *)op, status, bytes, done);
        break;
    default:
        windows_socket_report_send(op, status, bytes, done);
    }
}

int winsock_submit(io_op *op) {
    if (op->handle->type == IO_FILE)
        return iocp_refused(op, WSAENOTSOCK);
    switch (op->kind) {
    case IO_RECV:
    case IO_RECV_FROM:
        return windows_socket_receive((io_transfer *)op);
    case IO_SEND:
    case IO_SEND_TO:
        return windows_socket_start_send((io_transfer *)op);
    case IO_SEND_FILE:
        return windows_socket_start_send_file((io_send_file *)op);
    case IO_ACCEPT:
        return windows_socket_start_accept((io_accept *)op);
    case IO_CONNECT:
        return windows_socket_start_connect((io_connect *)op);
    default:
        return -IOE_OPNOTSUPP;
    }
}

int winsock_cancel(io_op *op) {
    iocp_cancel_io(op, (HANDLE)op->handle->native);
    return IO_PENDING;
}
