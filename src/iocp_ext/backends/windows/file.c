/* file.c: files and pipes on a completion port.
 *
 * Whether a file supports overlapped calls is fixed when it is opened, and files opened by others
 * usually do not. So we reopen a disk file for ourselves, with the access of the given handle. A
 * pipe cannot be reopened, nor can a file that its opener does not share. Then the given handle is
 * used, if it was opened for overlapped calls. Otherwise, and for flushing, which has no overlapped
 * call, the core's file threads make blocking calls.
 *
 * The system may answer an overlapped read from its cache, or extend a file, before the call
 * returns. A packet follows anyway. */
#include "backends/windows/iocp.h"

#include <stdlib.h>
#include <winternl.h>

enum { SHARE_ALL = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE };

static HANDLE file_overlapped_of(const io_handle *handle) {
    return (HANDLE)handle->backend.word[WINFILE_OVERLAPPED];
}

/* ---- handles --------------------------------------------------------------------------------- */

/* Returns the access the handle was opened with. Opening the file again checks the user's rights
 * anew, and would make a file writable that was opened for reading. */
static ACCESS_MASK file_granted_access(HANDLE file) {
    PUBLIC_OBJECT_BASIC_INFORMATION information;
    NTSTATUS status =
        NtQueryObject(file, ObjectBasicInformation, &information, sizeof information, NULL);
    return status < 0 ? 0 : information.GrantedAccess;
}

static HANDLE file_open_again(HANDLE file, ACCESS_MASK granted) {
    DWORD access = 0;
    if (granted & FILE_READ_DATA)
        access |= GENERIC_READ;
    if (granted & FILE_WRITE_DATA)
        access |= GENERIC_WRITE;
    else if (granted & FILE_APPEND_DATA) /* always appends, whatever the offset */
        return NULL;
    HANDLE again = ReOpenFile(file, access, SHARE_ALL, FILE_FLAG_OVERLAPPED);
    return again == INVALID_HANDLE_VALUE ? NULL : again;
}

void io_native_close_file(io_native native) {
    CloseHandle((HANDLE)native);
}

int winfile_check(io_native file) {
    BY_HANDLE_FILE_INFORMATION information;
    DWORD type = GetFileType((HANDLE)file);
    if (type == FILE_TYPE_UNKNOWN)
        return -IOE_BADF;
    if (type != FILE_TYPE_DISK)
        return -IOE_SPIPE;
    if (GetFileInformationByHandle((HANDLE)file, &information) &&
        information.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY)
        return -IOE_ISDIR;
    ACCESS_MASK granted = file_granted_access((HANDLE)file); /* 0: unknown */
    return granted != 0 && !(granted & FILE_READ_DATA) ? -IOE_BADF : 0;
}

int winfile_hold(io_send_file *op) {
    HANDLE self = GetCurrentProcess(), file;
    if (!DuplicateHandle(self, (HANDLE)op->file, self, &file, 0, FALSE, DUPLICATE_SAME_ACCESS)) {
        op->op.os_error = GetLastError();
        return io_error_from_windows(op->op.os_error);
    }
    op->file = (io_native)file;
    op->held = true;
    return 0;
}

int winfile_open(io_handle *handle, uint32_t *os_error) {
    HANDLE file = (HANDLE)handle->native;
    SetLastError(ERROR_SUCCESS);
    DWORD type = GetFileType(file);
    if (type == FILE_TYPE_UNKNOWN && GetLastError() != ERROR_SUCCESS) {
        *os_error = GetLastError();
        return io_error_from_windows(*os_error);
    }
    ACCESS_MASK granted = file_granted_access(file);
    handle->type = IO_FILE;
    handle->family = 0;
    handle->backend.word[WINFILE_ACCESS] = (intptr_t)granted;
    HANDLE overlapped = type == FILE_TYPE_DISK ? file_open_again(file, granted) : NULL;
    uint32_t ignored; /* if it cannot be associated, the file threads do the work */
    if (overlapped == NULL)
        overlapped = file;
    if (iocp_associate(handle->lane, (io_native)overlapped, &ignored) == 0)
        handle->backend.word[WINFILE_OVERLAPPED] = (intptr_t)overlapped;
    else if (overlapped != file)
        CloseHandle(overlapped);
    return 0;
}

void winfile_close(io_handle *handle, bool close_native) {
    HANDLE overlapped = file_overlapped_of(handle);
    if (overlapped != NULL && overlapped != (HANDLE)handle->native)
        CloseHandle(overlapped);
    else if (overlapped != NULL && !close_native && !handle->native_gone)
        iocp_dissociated(handle->lane, handle->native);
    /* On failure, other code has already closed it, which is fine. */
    if (close_native)
        CloseHandle((HANDLE)handle->native);
}

/* ---- blocking calls, on the file threads ----------------------------------------------------- */

/* Transfers one vector at its offset and waits for the result. */
static int64_t file_transfer_now(io_op *op, uint32_t *os_error, const io_vec *vec) {
    HANDLE file = (HANDLE)op->handle->native;
    uint64_t offset = ((const io_transfer *)op)->offset;
    OVERLAPPED overlapped = {0};
    overlapped.Offset = (DWORD)(offset & 0xFFFFFFFF);
    overlapped.OffsetHigh = (DWORD)(offset >> 32);
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    DWORD bytes = 0;
    bool succeeded = event != NULL;
    if (succeeded) {
        /* The low bit prevents a packet if this is an overlapped file on another port. */
        overlapped.hEvent = (HANDLE)((ULONG_PTR)event | 1);
        DWORD length = (DWORD)io_vec_length(vec);
        succeeded = op->kind == IO_READ
                        ? ReadFile(file, io_vec_base(vec), length, &bytes, &overlapped)
                        : WriteFile(file, io_vec_base(vec), length, &bytes, &overlapped);
        if (!succeeded && GetLastError() == ERROR_IO_PENDING)
            succeeded = GetOverlappedResult(file, &overlapped, &bytes, TRUE);
    }
    uint32_t code = succeeded ? 0 : GetLastError();
    if (event != NULL)
        CloseHandle(event);
    if (op->kind == IO_READ && (code == ERROR_HANDLE_EOF || code == ERROR_BROKEN_PIPE))
        return 0;
    if (op->kind == IO_READ && code == ERROR_MORE_DATA)
        return bytes;
    *os_error = code;
    return code ? io_error_from_windows(code) : (int64_t)bytes;
}

/* Returns the first vector that is not empty; an empty one would look like the end of the
 * operation. NULL: all are empty. */
static const io_vec *file_first_vec(const io_transfer *transfer) {
    for (uint32_t i = 0; i < transfer->vec_count; i++)
        if (io_vec_length(&transfer->vecs[i]) > 0)
            return &transfer->vecs[i];
    return NULL;
}

static int64_t file_transfer_work(io_op *op, uint32_t *os_error) {
    return file_transfer_now(op, os_error, file_first_vec((const io_transfer *)op));
}

static int64_t file_sync_work(io_op *op, uint32_t *os_error) {
    HANDLE overlapped = file_overlapped_of(op->handle);
    if (FlushFileBuffers(overlapped ? overlapped : (HANDLE)op->handle->native))
        return 0;
    *os_error = GetLastError();
    /* Not opened for writing, so we have nothing to flush. */
    return *os_error == ERROR_ACCESS_DENIED ? 0 : io_error_from_windows(*os_error);
}

/* ---- operations ------------------------------------------------------------------------------ */

/* Returns whether a packet follows a refused request. Under Wine, a request to a disk file that the
 * file system refuses also queues a packet, without a status. Windows never does this. */
static bool file_packet_follows(const io_handle *handle, uint32_t code) {
    bool disk = GetFileType(file_overlapped_of(handle)) == FILE_TYPE_DISK;
    bool refused_before =
        code == ERROR_INVALID_HANDLE || code == ERROR_ACCESS_DENIED || code == ERROR_NOACCESS;
    return disk && !refused_before && iocp_under_wine();
}

static int file_start_transfer(io_op *op, const io_vec *vec) {
    HANDLE file = file_overlapped_of(op->handle);
    uint64_t offset = ((const io_transfer *)op)->offset;
    DWORD length = (DWORD)io_vec_length(vec);
    bool reads = op->kind == IO_READ;
    op->overlapped.Offset = (DWORD)(offset & 0xFFFFFFFF);
    op->overlapped.OffsetHigh = (DWORD)(offset >> 32);
    bool succeeded = reads ? ReadFile(file, io_vec_base(vec), length, NULL, &op->overlapped)
                           : WriteFile(file, io_vec_base(vec), length, NULL, &op->overlapped);
    uint32_t code = succeeded ? 0 : GetLastError();
    if (reads && (code == ERROR_HANDLE_EOF || code == ERROR_BROKEN_PIPE)) {
        op->result = 0;
        return IO_DONE;
    }
    int answer = iocp_started(op, succeeded, code);
    return answer < 0 && file_packet_follows(op->handle, code) ? IO_PENDING : answer;
}

static int file_transfer(io_op *op) {
    io_transfer *part = (io_transfer *)op;
    ACCESS_MASK granted = (ACCESS_MASK)op->handle->backend.word[WINFILE_ACCESS];
    bool reads = op->kind == IO_READ;
    ACCESS_MASK needed = reads ? FILE_READ_DATA : FILE_WRITE_DATA | FILE_APPEND_DATA;
    if (granted != 0 && (granted & needed) == 0) {
        op->os_error = ERROR_ACCESS_DENIED;
        return -IOE_BADF; /* as read(2) and write(2) do */
    }
    if (reads && !io_transfer_acquire(part))
        return -IOE_NOMEM;
    const io_vec *vec = file_first_vec(part);
    if (vec == NULL) {
        op->result = 0;
        return IO_DONE;
    }
    if (part->offset > INT64_MAX - (uint64_t)io_vec_length(vec)) {
        op->result = 0; /* beyond the end of any file; -1 would mean the end of this file */
        return reads ? IO_DONE : iocp_refused(op, ERROR_FILE_TOO_LARGE);
    }
    if (file_overlapped_of(op->handle) == NULL)
        return io_file_pool_submit(op, file_transfer_work);
    return file_start_transfer(op, vec);
}

int winfile_submit(io_op *op) {
    if (op->handle->type != IO_FILE)
        return op->kind == IO_SYNC ? -IOE_INVAL : -IOE_SPIPE;
    return op->kind == IO_SYNC ? io_file_pool_submit(op, file_sync_work) : file_transfer(op);
}

int winfile_cancel(io_op *op) {
    HANDLE overlapped = file_overlapped_of(op->handle);
    if (op->kind == IO_SYNC || overlapped == NULL)
        return io_file_pool_cancel(op) ? IO_DONE : IO_PENDING;
    iocp_cancel_io(op, overlapped);
    return IO_PENDING;
}

void winfile_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done) {
    if (status == IOCP_STATUS_PENDING) {
        /* Refused, see file_packet_follows. The submitter sets os_error with the lock held. */
        io_lock_acquire(&op->handle->lock);
        uint32_t code = op->os_error;
        io_lock_release(&op->handle->lock);
        io_op_reported(op, io_error_from_windows(code), code, done);
        return;
    }
    bool ended = status == IOCP_STATUS_END_OF_FILE || status == IOCP_STATUS_PIPE_BROKEN;
    if (op->kind == IO_READ && ended)
        io_op_reported(op, 0, 0, done);
    else if (op->kind == IO_READ && status == IOCP_STATUS_BUFFER_OVERFLOW)
        io_op_reported(op, bytes, 0, done); /* part of a pipe's message */
    else
        iocp_report(op, status, bytes, done);
}
