/* poll.c: readiness of sockets, as a completion.
 *
 * Winsock has no overlapped poll, but the driver beneath it (AFD) does: select() uses the same
 * request. A request goes to a handle of the driver itself. It names the sockets to watch, and ends
 * when one of them is ready. The driver handle is bound to our port, so that end is a packet like
 * any other. To cancel one request, the driver searches all requests of its handle; so they are
 * spread over several handles. The request is not documented, but unchanged since Windows Vista,
 * and other event libraries rely on it. */
#include "backends/windows/iocp.h"

#include <mswsock.h>
#include <stdlib.h>
#include <winternl.h>

#ifndef SIO_BASE_HANDLE
#define SIO_BASE_HANDLE _WSAIOR(IOC_WS2, 34)
#endif

#define IOCTL_AFD_POLL 0x00012024

enum { GROUP_REQUESTS = 256 };

enum {
    AFD_RECEIVE = 0x0001,
    AFD_SEND = 0x0004,
    AFD_DISCONNECT = 0x0008,
    AFD_ABORT = 0x0010,
    AFD_LOCAL_CLOSE = 0x0020,
    AFD_ACCEPT = 0x0080,
    AFD_CONNECT_FAIL = 0x0100,

    AFD_MEANS_READABLE = AFD_RECEIVE | AFD_DISCONNECT | AFD_ACCEPT,
    AFD_MEANS_WRITABLE = AFD_SEND,
    AFD_MEANS_BOTH = AFD_ABORT | AFD_CONNECT_FAIL, /* neither a read nor a write would block */
};

typedef struct afd_poll_info {
    LARGE_INTEGER timeout;
    ULONG handle_count;
    ULONG exclusive;
    struct {
        HANDLE handle;
        ULONG events;
        NTSTATUS status;
    } socket;
} afd_poll_info;

typedef struct winpoll_group {
    struct winpoll_group *next;
    HANDLE driver;
    uint32_t requests;
} winpoll_group;

/* Stored in io_poll.afd. */
typedef struct afd_request {
    afd_poll_info info; /* input and output of the request */
    winpoll_group *group;
} afd_request;

_Static_assert(sizeof(afd_request) <= sizeof(((io_poll *)0)->afd), "io_poll.afd is too small");

static afd_request *poll_request_of(io_op *op) {
    return (afd_request *)((io_poll *)op)->afd;
}

/* ---- groups ---------------------------------------------------------------------------------- */

static uint32_t poll_open_driver(iocp_lane *state, HANDLE *driver) {
    static WCHAR path[] = L"\\Device\\Afd\\iocpcore";
    UNICODE_STRING name = {sizeof path - sizeof path[0], sizeof path, path};
    OBJECT_ATTRIBUTES attributes = {0};
    IO_STATUS_BLOCK answer;
    attributes.Length = sizeof attributes;
    attributes.ObjectName = &name;
    NTSTATUS status = NtCreateFile(driver, SYNCHRONIZE, &attributes, &answer, NULL, 0,
                                   FILE_SHARE_READ | FILE_SHARE_WRITE, FILE_OPEN, 0, NULL, 0);
    if (status < 0)
        return iocp_status_code((uint32_t)status);
    if (CreateIoCompletionPort(*driver, state->port, IOCP_KEY_IO, 0) != NULL)
        return 0;
    uint32_t code = GetLastError();
    CloseHandle(*driver);
    return code;
}

/* Must be called with the state's lock held. */
static winpoll_group *poll_new_group(iocp_lane *state, uint32_t *code) {
    io_assert(io_lock_is_mine(&state->lock));
    winpoll_group *group = calloc(1, sizeof *group);
    *code = group == NULL ? ERROR_NOT_ENOUGH_MEMORY : poll_open_driver(state, &group->driver);
    if (*code) {
        free(group);
        return NULL;
    }
    group->next = state->groups;
    state->groups = group;
    return group;
}

static winpoll_group *poll_enter_group(iocp_lane *state, uint32_t *code) {
    io_mutex_lock(&state->lock);
    winpoll_group *group = state->groups;
    while (group != NULL && group->requests >= GROUP_REQUESTS)
        group = group->next;
    if (group == NULL)
        group = poll_new_group(state, code);
    if (group != NULL)
        group->requests++;
    io_mutex_unlock(&state->lock);
    return group;
}

static void poll_leave_group(iocp_lane *state, winpoll_group *group) {
    io_mutex_lock(&state->lock);
    io_assert(group->requests > 0);
    group->requests--;
    io_mutex_unlock(&state->lock);
}

void winpoll_lane_close(iocp_lane *state) {
    while (state->groups != NULL) {
        winpoll_group *group = state->groups;
        state->groups = group->next;
        io_assert(group->requests == 0);
        CloseHandle(group->driver);
        free(group);
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

/* The driver knows only its own sockets, not those of a layered provider above it. */
static uint32_t poll_find_base(io_handle *handle) {
    SOCKET base;
    DWORD bytes;
    if (handle->backend.word[WINSOCK_BASE] != 0)
        return 0;
    if (WSAIoctl((SOCKET)handle->native, SIO_BASE_HANDLE, NULL, 0, &base, sizeof base, &bytes, NULL,
                 NULL) != 0)
        return (uint32_t)WSAGetLastError();
    handle->backend.word[WINSOCK_BASE] = (intptr_t)base;
    return 0;
}

static ULONG poll_question(uint32_t events) {
    ULONG asked = AFD_ABORT | AFD_CONNECT_FAIL | AFD_LOCAL_CLOSE;
    if (events & IO_READABLE)
        asked |= AFD_MEANS_READABLE;
    if (events & IO_WRITABLE)
        asked |= AFD_MEANS_WRITABLE;
    return asked;
}

int winpoll_submit(io_op *op) {
    io_poll *poll = (io_poll *)op;
    afd_request *request = poll_request_of(op);
    iocp_lane *state = iocp_lane_of(op->handle);
    if (op->handle->type == IO_FILE)
        return iocp_refused(op, WSAENOTSOCK);
    uint32_t code = poll_find_base(op->handle);
    if (code)
        return iocp_refused(op, code);
    winpoll_group *group = poll_enter_group(state, &code);
    if (group == NULL)
        return iocp_refused(op, code);
    *request = (afd_request){0};
    request->group = group;
    request->info.timeout.QuadPart = INT64_MAX;
    request->info.handle_count = 1;
    request->info.socket.handle = (HANDLE)op->handle->backend.word[WINSOCK_BASE];
    request->info.socket.events = poll_question(poll->events);
    op->overlapped.Internal = IOCP_STATUS_PENDING;
    /* An OVERLAPPED begins with an IO_STATUS_BLOCK, and the packet carries the context. */
    NTSTATUS status = NtDeviceIoControlFile(
        group->driver, NULL, NULL, &op->overlapped, (IO_STATUS_BLOCK *)&op->overlapped,
        IOCTL_AFD_POLL, &request->info, sizeof request->info, &request->info, sizeof request->info);
    if (status >= 0)
        return IO_PENDING;
    poll_leave_group(state, group);
    return iocp_refused(op, iocp_status_code((uint32_t)status));
}

int winpoll_cancel(io_op *op) {
    iocp_cancel_io(op, poll_request_of(op)->group->driver);
    return IO_PENDING;
}

void winpoll_report(io_op *op, uint32_t status, io_list *done) {
    io_poll *poll = (io_poll *)op;
    const afd_request *request = poll_request_of(op);
    poll_leave_group(iocp_lane_of(op->handle), request->group);
    if (io_error_from_ntstatus(status)) {
        iocp_report(op, status, 0, done);
        return;
    }
    ULONG events = request->info.handle_count ? request->info.socket.events : 0;
    uint32_t ready = 0;
    if (events & (AFD_MEANS_READABLE | AFD_MEANS_BOTH))
        ready |= IO_READABLE;
    if (events & (AFD_MEANS_WRITABLE | AFD_MEANS_BOTH))
        ready |= IO_WRITABLE;
    poll->ready = ready & poll->events;
    if (events & AFD_LOCAL_CLOSE)
        io_op_reported(op, -IOE_CANCELED, ERROR_OPERATION_ABORTED, done);
    else if (poll->ready == 0)
        io_op_retry(op, done);
    else
        io_op_reported(op, 0, 0, done);
}
