/* pipe.c: named pipes as streams, for connections and listeners.
 *
 * A pipe name stands for any number of instances, and each instance is one connection. A server
 * creates an instance. A client that opens the name gets an instance without a client, and their
 * two handles are the two ends. ConnectNamedPipe only waits until an instance has its client.
 *
 * A listener always keeps one instance more than those waiting in accepts. So it keeps the name,
 * and a client that arrives between two accepts finds an instance, as with a backlog of one. The
 * next client finds all instances busy, and tries again (io_pipe_wait). Creating the first instance
 * with FILE_FLAG_FIRST_PIPE_INSTANCE keeps our name and those of other programs apart.
 *
 * These pipes carry bytes, not messages. The reader sees the end of the stream as a "broken pipe",
 * after everything that was written. It sees an empty write as an empty read, which we ignore.
 * Neither direction can end by itself, and there is no reset. There is only closing, which lets the
 * peer read what is left.
 *
 * The default security descriptor lets the creator, administrators and the system write. Clients on
 * other machines are rejected. A client lets the server identify it, but not impersonate it. */
#include "core/accepting.h"
#include "backends/windows/iocp.h"

#include <stdlib.h>
#include <string.h>
#include <wchar.h>

enum { PIPE_BUFFER = 65536 };

#ifndef PIPE_REJECT_REMOTE_CLIENTS
#define PIPE_REJECT_REMOTE_CLIENTS 8
#endif

struct winpipe_listener {
    HANDLE next; /* the instance without an accept; it may already have a client */
    wchar_t name[];
};

static struct winpipe_listener *pipe_listener_of(const io_handle *handle) {
    return handle->backend.pointer[WINPIPE_LISTENER];
}

static uint32_t pipe_code_of(bool succeeded) {
    return succeeded ? 0 : GetLastError();
}

/* ---- listening ------------------------------------------------------------------------------- */

static HANDLE pipe_new_instance(const wchar_t *name, bool first, uint32_t *code) {
    DWORD access = PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED;
    if (first)
        access |= FILE_FLAG_FIRST_PIPE_INSTANCE;
    HANDLE pipe = CreateNamedPipeW(
        name, access, PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
        PIPE_UNLIMITED_INSTANCES, PIPE_BUFFER, PIPE_BUFFER, 0, NULL);
    *code = pipe_code_of(pipe != INVALID_HANDLE_VALUE);
    return *code ? NULL : pipe;
}

int io_pipe_listen(io_lane *lane, const wchar_t *name, io_handle **handle, uint32_t *os_error) {
    *os_error = 0;
    if (lane->backend != &io_backend_iocp)
        return -IOE_OPNOTSUPP;
    size_t size = (wcslen(name) + 1) * sizeof name[0];
    struct winpipe_listener *listener = malloc(sizeof *listener + size);
    if (listener == NULL)
        return -IOE_NOMEM;
    memcpy(listener->name, name, size);
    listener->next = pipe_new_instance(name, true, os_error);
    if (listener->next == NULL) {
        uint32_t code = *os_error;
        free(listener);
        bool taken = code == ERROR_ACCESS_DENIED || code == ERROR_PIPE_BUSY;
        return taken ? -IOE_ADDRINUSE : io_error_from_windows(code);
    }
    int error = io_handle_adopt(lane, IO_NATIVE_NONE, IO_FAMILY_PIPE, handle, os_error);
    if (error) {
        CloseHandle(listener->next);
        free(listener);
        return error;
    }
    io_mutex_lock(&(*handle)->lock);
    (*handle)->backend.pointer[WINPIPE_LISTENER] = listener;
    io_mutex_unlock(&(*handle)->lock);
    return 0;
}

static void pipe_drop_accepted(io_accept *accept) {
    CloseHandle((HANDLE)accept->accepted);
    accept->accepted = IO_NATIVE_NONE;
}

/* The instance is bound to this port, and may be associated with it again. */
static void pipe_hand_out(io_accept *accept) {
    accept->peer.length = 0;
    iocp_dissociated(accept->op.lane, accept->accepted);
}

static int pipe_start_accept(io_accept *accept) {
    io_op *op = &accept->op;
    struct winpipe_listener *listener = pipe_listener_of(op->handle);
    uint32_t code;
    if (listener == NULL)
        return iocp_refused(op, ERROR_INVALID_FUNCTION);
    HANDLE pipe = listener->next;
    HANDLE next = pipe_new_instance(listener->name, false, &code);
    if (next == NULL)
        return iocp_refused(op, code);
    int error = iocp_associate(op->lane, (io_native)pipe, &op->os_error);
    if (error) {
        CloseHandle(next);
        return error;
    }
    listener->next = next;
    accept->accepted = (io_native)pipe;
    bool succeeded = ConnectNamedPipe(pipe, &op->overlapped);
    code = pipe_code_of(succeeded);
    /* The client was already there, and may be gone again; what it wrote can still be read. */
    if (code == ERROR_PIPE_CONNECTED || code == ERROR_NO_DATA) {
        pipe_hand_out(accept);
        op->result = 0;
        return IO_DONE;
    }
    int answer = iocp_started(op, succeeded, code);
    if (answer < 0)
        pipe_drop_accepted(accept);
    return answer;
}

static void pipe_report_accept(io_accept *accept, uint32_t status, io_list *done) {
    int error = io_error_from_ntstatus(status);
    if (error) {
        io_lock_acquire(&accept->op.handle->lock); /* a cancel may be using it */
        pipe_drop_accepted(accept);
        io_lock_release(&accept->op.handle->lock);
    } else {
        pipe_hand_out(accept);
    }
    if (error && io_accept_again(accept, error))
        io_op_retry(&accept->op, done);
    else
        io_op_reported(&accept->op, error, error ? iocp_status_code(status) : 0, done);
}

/* ---- connecting ------------------------------------------------------------------------------ */

/* CreateFile also opens other things, and opening alone would change many of them. */
static bool pipe_is_name(const wchar_t *name) {
    if (name[0] != L'\\' || name[1] != L'\\')
        return false;
    const wchar_t *server_end = wcschr(name + 2, L'\\');
    return server_end != NULL && server_end != name + 2 &&
           _wcsnicmp(server_end, L"\\pipe\\", 6) == 0 && server_end[6] != 0;
}

int io_pipe_connect(const wchar_t *name, io_native *native, uint32_t *os_error) {
    *os_error = ERROR_INVALID_NAME;
    if (!pipe_is_name(name))
        return -IOE_INVAL;
    HANDLE pipe =
        CreateFileW(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING,
                    FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION, NULL);
    *os_error = pipe_code_of(pipe != INVALID_HANDLE_VALUE);
    if (*os_error)
        return *os_error == ERROR_PIPE_BUSY ? -IOE_AGAIN : io_error_from_windows(*os_error);
    *native = (io_native)pipe;
    return 0;
}

int io_pipe_wait(const wchar_t *name, uint32_t ms, uint32_t *os_error) {
    /* 0 would mean the server's default time. */
    *os_error = pipe_code_of(WaitNamedPipeW(name, ms ? ms : 1));
    return io_error_from_windows(*os_error);
}

/* ---- handles --------------------------------------------------------------------------------- */

int winpipe_open(io_handle *handle, uint32_t *os_error) {
    return handle->native == IO_NATIVE_NONE ? 0 : winstream_open(handle, os_error);
}

void winpipe_close(io_handle *handle, bool close_native) {
    struct winpipe_listener *listener = pipe_listener_of(handle);
    if (listener != NULL) {
        CloseHandle(listener->next);
        free(listener);
    } else if (close_native) {
        CloseHandle((HANDLE)handle->native);
    } else if (!handle->native_gone && handle->native != IO_NATIVE_NONE) {
        iocp_dissociated(handle->lane, handle->native);
    }
}

/* ---- receiving ------------------------------------------------------------------------------- */

/* What was in a disconnected pipe is lost. */
static int pipe_receive_error(int error, bool disconnected) {
    return disconnected ? -IOE_CONNRESET : error;
}

static int pipe_start_receive(io_receive *receive) {
    io_op *op = &receive->op;
    uint32_t room = winstream_acquire(receive);
    if (room == 0)
        return -IOE_NOMEM;
    bool succeeded =
        ReadFile((HANDLE)op->handle->native, receive->buffer, room, NULL, &op->overlapped);
    uint32_t code = pipe_code_of(succeeded);
    int answer = iocp_started(op, succeeded, code);
    if (answer == IO_PENDING)
        return answer;
    winstream_received(receive, answer == IO_DONE ? (uint32_t)op->result : 0);
    if (code == ERROR_BROKEN_PIPE) {
        op->result = 0;
        return IO_DONE;
    }
    if (answer == IO_DONE && op->result == 0) /* an empty write */
        return iocp_again(op);
    return answer < 0 ? pipe_receive_error(answer, code == ERROR_PIPE_NOT_CONNECTED) : answer;
}

static void pipe_report_receive(io_receive *receive, uint32_t status, uint32_t bytes,
                                io_list *done) {
    io_op *op = &receive->op;
    int error = io_error_from_ntstatus(status);
    winstream_received(receive, error ? 0 : bytes);
    if (status == IOCP_STATUS_PIPE_BROKEN)
        io_op_reported(op, 0, 0, done);
    else if (error)
        io_op_reported(op, pipe_receive_error(error, status == IOCP_STATUS_PIPE_DISCONNECTED),
                       iocp_status_code(status), done);
    else if (bytes == 0)
        io_op_retry(op, done);
    else
        io_op_reported(op, bytes, 0, done);
}

/* ---- sending --------------------------------------------------------------------------------- */

/* Pipes have no gather lists, so short vectors are copied together and go in one call. Returns the
 * length, or -IOE_NOMEM. The data is in *buffer, or in *first if that is NULL. */
static int64_t pipe_joined(io_transfer *transfer, const io_vec **first, char **buffer) {
    size_t total = 0, length = 0;
    *first = NULL;
    *buffer = NULL;
    for (uint32_t i = 0; i < transfer->vec_count; i++) {
        total += io_vec_length(&transfer->vecs[i]);
        if (*first == NULL && total > 0)
            *first = &transfer->vecs[i];
    }
    if (*first == NULL || total == io_vec_length(*first) ||
        io_vec_length(*first) >= IO_BUFFER_POOLED_MAX)
        return *first == NULL ? 0 : (int64_t)io_vec_length(*first);
    size_t room = total < IO_BUFFER_POOLED_MAX ? total : IO_BUFFER_POOLED_MAX;
    *buffer = io_buffer_acquire(&transfer->op.lane->port->buffers, room);
    if (*buffer == NULL)
        return -IOE_NOMEM;
    for (const io_vec *vec = *first; length < room; vec++) {
        size_t part = io_vec_length(vec) < room - length ? io_vec_length(vec) : room - length;
        if (part > 0)
            memcpy(*buffer + length, io_vec_base(vec), part);
        length += part;
    }
    return (int64_t)length;
}

static void pipe_give_buffer_back(io_transfer *transfer) {
    if (transfer->pooled != NULL)
        io_buffer_release(&transfer->op.lane->port->buffers, transfer->pooled);
    transfer->pooled = NULL;
}

static int pipe_start_send(io_transfer *transfer) {
    io_op *op = &transfer->op;
    const io_vec *first;
    char *buffer;
    int64_t length = pipe_joined(transfer, &first, &buffer);
    transfer->pooled = buffer;
    if (length < 0)
        return (int)length;
    if (length == 0) { /* an empty send writes nothing */
        op->result = 0;
        return IO_DONE;
    }
    bool succeeded = WriteFile((HANDLE)op->handle->native, buffer ? buffer : io_vec_base(first),
                               (DWORD)length, NULL, &op->overlapped);
    int answer = iocp_started(op, succeeded, pipe_code_of(succeeded));
    if (answer != IO_PENDING)
        pipe_give_buffer_back(transfer);
    return answer;
}

/* ---- the backend's parts --------------------------------------------------------------------- */

int winpipe_submit(io_op *op) {
    bool listens = pipe_listener_of(op->handle) != NULL;
    if (op->kind == IO_ACCEPT)
        return pipe_start_accept((io_accept *)op);
    if (op->kind == IO_RECEIVE && !listens)
        return pipe_start_receive((io_receive *)op);
    if (op->kind == IO_SEND && !listens)
        return pipe_start_send((io_transfer *)op);
    return iocp_refused(op, ERROR_NOT_SUPPORTED);
}

int winpipe_cancel(io_op *op) {
    io_native native = op->kind == IO_ACCEPT ? ((io_accept *)op)->accepted : op->handle->native;
    iocp_cancel_io(op, (HANDLE)native);
    return IO_PENDING;
}

void winpipe_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done) {
    switch (op->kind) {
    case IO_ACCEPT:
        pipe_report_accept((io_accept *)op, status, done);
        break;
    case IO_RECEIVE:
        pipe_report_receive((io_receive *)op, status, bytes, done);
        break;
    default:
        pipe_give_buffer_back((io_transfer *)op);
        iocp_report(op, status, bytes, done);
    }
}
