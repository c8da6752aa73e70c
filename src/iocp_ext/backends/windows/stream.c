/* stream.c: streams that a connection owns.
 *
 * Nobody else uses such a handle, so a call that ends at once need not queue a packet: its caller
 * already knows the result. This is only sound for sockets that are kernel handles
 * (XP1_IFS_HANDLES). A layered provider queues its packets itself.
 *
 * A pending receive needs memory. Waiting with an empty buffer and then receiving without blocking
 * would cost two more calls per message. So a quiet connection holds a small buffer, sized for a
 * message like the recent ones. A receive that fills its buffer gets a larger one next time. */
#include "backends/windows/iocp.h"

enum {
    QUIET_ROOM = 4096,
    GROWTH = 4,
};

/* ---- handles --------------------------------------------------------------------------------- */

/* Providers are installed per address family, so one socket answers for all. */
static bool stream_kernels_own(const io_handle *handle) {
    enum { UNKNOWN, YES, NO };
    static _Atomic uint8_t answers[2];
    _Atomic uint8_t *answer = handle->family == AF_INET    ? &answers[0]
                              : handle->family == AF_INET6 ? &answers[1]
                                                           : NULL;
    if (answer != NULL && atomic_load(answer) != UNKNOWN)
        return atomic_load(answer) == YES;
    WSAPROTOCOL_INFOW info;
    int size = sizeof info;
    if (getsockopt((SOCKET)handle->native, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &size) !=
        0)
        return false;
    bool own = (info.dwServiceFlags1 & XP1_IFS_HANDLES) != 0;
    if (answer != NULL)
        atomic_store(answer, own ? YES : NO);
    return own;
}

int winstream_open(io_handle *handle, uint32_t *os_error) {
    int error = iocp_associate(handle->lane, handle->native, os_error);
    if (error)
        return error;
    handle->backend.word[WINSTREAM_ROOM] = QUIET_ROOM;
    /* If the system refuses this, packets arrive as with any other handle. */
    handle->backend.word[WINSTREAM_SKIPS] =
        (iocp_is_pipe(handle) || stream_kernels_own(handle)) &&
        SetFileCompletionNotificationModes((HANDLE)handle->native,
                                           FILE_SKIP_COMPLETION_PORT_ON_SUCCESS |
                                               FILE_SKIP_SET_EVENT_ON_HANDLE);
    return 0;
}

int winstream_shutdown(io_handle *handle) {
    if (shutdown((SOCKET)handle->native, SD_SEND) == 0)
        return 0;
    return io_error_from_windows((uint32_t)WSAGetLastError());
}

void winstream_prepare_close(io_handle *handle, bool reset) {
    SOCKET socket = (SOCKET)handle->native;
    if (reset) {
        struct linger none = {1, 0};
        /* Fails on unix sockets, which have no reset. */
        (void)setsockopt(socket, SOL_SOCKET, SO_LINGER, (const char *)&none, sizeof none);
        return;
    }
    char discarded[4096];
    for (int total = 0, moved; total < IO_DISCARDED_MAX; total += moved) {
        moved = recv(socket, discarded, sizeof discarded, 0);
        if (moved <= 0)
            return;
    }
}

void winstream_address(io_handle *handle, bool peer, io_address *address) {
    SOCKET socket = (SOCKET)handle->native;
    struct sockaddr *storage = (struct sockaddr *)&address->storage;
    address->length = sizeof address->storage;
    int failed = peer ? getpeername(socket, storage, &address->length)
                      : getsockname(socket, storage, &address->length);
    if (failed)
        address->length = 0;
}

/* ---- receiving ------------------------------------------------------------------------------- */

static uint32_t stream_room_of(const io_receive *receive) {
    uint32_t room = (uint32_t)receive->op.handle->backend.word[WINSTREAM_ROOM];
    return room < receive->capacity ? room : receive->capacity;
}

uint32_t winstream_acquire(io_receive *receive) {
    uint32_t room = stream_room_of(receive);
    receive->buffer = io_buffer_acquire(&receive->op.lane->port->buffers, room);
    return receive->buffer == NULL ? 0 : room;
}

/* Sizes are powers of two, like the pool's. A message that arrived in two parts should arrive in
 * one next time, and an equal one should not fill its buffer again. */
static uint32_t stream_next_room(uint32_t room, uint32_t bytes, bool filled) {
    if (filled)
        return room < IO_BUFFER_POOLED_MAX / GROWTH ? room * GROWTH : IO_BUFFER_POOLED_MAX;
    uint32_t least = QUIET_ROOM;
    while (least <= bytes)
        least *= 2;
    return least > room / 2 ? least : room / 2;
}

/* No lock: a connection has one receive at a time, and this is it. */
void winstream_received(io_receive *receive, uint32_t bytes) {
    intptr_t *room = &receive->op.handle->backend.word[WINSTREAM_ROOM];
    if (bytes == 0)
        io_receive_release(receive);
    else
        *room =
            (intptr_t)stream_next_room((uint32_t)*room, bytes, bytes == stream_room_of(receive));
}

int winstream_receive(io_receive *receive) {
    io_op *op = &receive->op;
    WSABUF vec = {winstream_acquire(receive), receive->buffer};
    if (vec.len == 0)
        return -IOE_NOMEM;
    /* Some systems write the flags when the receive ends. */
    DWORD *flags = (DWORD *)&op->handle->backend.word[WINSTREAM_FLAGS];
    *flags = 0;
    int failed = WSARecv((SOCKET)op->handle->native, &vec, 1, NULL, flags, &op->overlapped, NULL);
    uint32_t code = failed ? (uint32_t)WSAGetLastError() : 0;
    int answer = iocp_started(op, !failed, code == WSAECONNABORTED ? WSAECONNRESET : code);
    if (answer == IO_PENDING)
        return answer;
    winstream_received(receive, answer == IO_DONE ? (uint32_t)op->result : 0);
    if (code == WSAESHUTDOWN || code == WSAEDISCON) { /* we shut it down ourselves: end of stream */
        op->result = 0;
        return IO_DONE;
    }
    return answer;
}

void winstream_report(io_receive *receive, uint32_t status, uint32_t bytes, io_list *done) {
    int error = io_error_from_ntstatus(status);
    winstream_received(receive, error ? 0 : bytes);
    if (error == -IOE_CONNABORTED)
        io_op_reported(&receive->op, -IOE_CONNRESET, iocp_status_code(status), done);
    else
        iocp_report(&receive->op, status, bytes, done);
}
