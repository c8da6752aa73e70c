/* socket.c: non-blocking socket and file operations on Linux, for core/backend.h.
 *
 * epoll.c performs every operation with these functions, also for the io_uring backend, and waits
 * when they return EAGAIN.
 *
 * A receive gets its pooled buffer only for the attempt, so waiting for data costs no memory.
 *
 * The calls needed for every message of a connection go straight to the kernel. In a process with
 * threads, libc makes each such call a cancellation point, which costs about 25 ns. */
#include "backends/linux/socket.h"
#include "core/accepting.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SEND_FILE_PART = 1 << 20,
};

static int linux_socket_failed(uint32_t *os_error) {
    *os_error = (uint32_t)errno;
    return io_error_from_errno(errno);
}

/* Whether to repeat a call that a signal has interrupted. */
static bool linux_socket_interrupted(ssize_t result, int *count) {
    return result < 0 && errno == EINTR && ++*count < IO_INTERRUPTIONS_MAX;
}

/* ---- handles --------------------------------------------------------------------------------- */

int io_socket_describe(io_native native, int *family, int *type, int *protocol) {
    int fd = (int)native;
    socklen_t size = sizeof(int);
    bool known = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, family, &size) == 0;
    size = sizeof(int);
    known = known && getsockopt(fd, SOL_SOCKET, SO_TYPE, type, &size) == 0;
    size = sizeof(int);
    known = known && getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, protocol, &size) == 0;
    return known ? 0 : io_error_from_errno(errno);
}

void linux_close_native(io_lane *lane, io_native native, int family) {
    (void)lane;
    (void)family;
    (void)shutdown((int)native, SHUT_RDWR); /* a forked child may hold it too */
    linux_close(native);
}

void linux_close(io_native native) {
    /* Linux frees the descriptor whatever close returns, even EINTR. */
    (void)close((int)native);
}

void io_native_close_file(io_native native) {
    linux_close(native);
}

/* lseek alone also succeeds on an eventfd, for example. */
static bool linux_socket_seeks(int fd, mode_t mode) {
    return S_ISREG(mode) || S_ISBLK(mode) || S_ISDIR(mode) ||
           (S_ISCHR(mode) && lseek(fd, 0, SEEK_CUR) >= 0);
}

int linux_handle_open(io_handle *handle, uint32_t *os_error) {
    int fd = (int)handle->native;
    struct stat status;
    if (handle->owned) {
        handle->backend.word[LINUX_FILE] = -1;
        return 0;
    }
    if (fstat(fd, &status) < 0)
        goto error;
    handle->identity[0] = (uint64_t)status.st_dev;
    handle->identity[1] = (uint64_t)status.st_ino;
    handle->type = IO_FILE;
    handle->backend.word[LINUX_FILE] = -1;
    if (!S_ISSOCK(status.st_mode)) {
        handle->backend.word[LINUX_SEEKS] = linux_socket_seeks(fd, status.st_mode);
        handle->backend.word[LINUX_FILE] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (handle->backend.word[LINUX_FILE] < 0)
            goto error;
        return 0;
    }
    int type, protocol;
    int described = io_socket_describe(fd, &handle->family, &type, &protocol);
    if (described < 0) {
        *os_error = io_error_to_system(described);
        return described;
    }
    handle->type = type == SOCK_DGRAM || type == SOCK_RAW ? IO_DATAGRAM : IO_STREAM;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
        goto error;
    return 0;

error:
    return linux_socket_failed(os_error);
}

void linux_handle_close(io_handle *handle) {
    if (handle->backend.word[LINUX_FILE] >= 0)
        linux_close(handle->backend.word[LINUX_FILE]);
}

bool linux_same_file(const io_handle *handle) {
    struct stat status;
    if (handle->owned)
        return true;
    return fstat((int)handle->native, &status) == 0 &&
           handle->identity[0] == (uint64_t)status.st_dev &&
           handle->identity[1] == (uint64_t)status.st_ino;
}

bool linux_readable(const io_handle *handle) {
    struct pollfd asked = {.fd = (int)handle->native, .events = POLLIN | POLLRDHUP};
    return poll(&asked, 1, 0) == 1 && asked.revents & (POLLIN | POLLRDHUP);
}

int linux_shutdown(io_handle *handle) {
    return shutdown((int)handle->native, SHUT_WR) < 0 ? io_error_from_errno(errno) : 0;
}

/* Data sent on a unix socket is already in its peer's buffer. */
uint32_t linux_unsent(io_handle *handle, bool only_here) {
    int left = 0, fd = (int)handle->native;
    unsigned long which = only_here ? SIOCOUTQNSD : SIOCOUTQ;
    if (handle->family == AF_UNIX || ioctl(fd, which, &left) < 0 || left < 0)
        return 0;
    return (uint32_t)left;
}

/* Resets now instead of at the close: closing a socket that a forked child also holds sends
 * nothing. */
static void linux_socket_reset_now(io_handle *handle) {
    int fd = (int)handle->native;
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    if (handle->family == AF_UNIX) /* unix sockets have no reset */
        (void)shutdown(fd, SHUT_RDWR);
    else if (connect(fd, &nobody, sizeof nobody) < 0) /* not supported everywhere */
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

void linux_prepare_close(io_handle *handle, bool reset) {
    int fd = (int)handle->native;
    if (reset) {
        linux_socket_reset_now(handle);
        return;
    }
    (void)shutdown(fd, SHUT_WR);
    char discarded[4096];
    int interruptions = 0;
    for (size_t total = 0; total < IO_DISCARDED_MAX;) {
        ssize_t moved = recv(fd, discarded, sizeof discarded, MSG_DONTWAIT);
        bool behind_urgent = moved < 0 && errno == EAGAIN && linux_readable(handle);
        if (moved <= 0 && !behind_urgent && !linux_socket_interrupted(moved, &interruptions))
            return;
        total += moved > 0 ? (size_t)moved : sizeof discarded;
    }
}

void linux_address(io_handle *handle, bool peer, io_address *address) {
    int fd = (int)handle->native;
    address->length = sizeof address->storage;
    int failed = peer ? getpeername(fd, (struct sockaddr *)&address->storage, &address->length)
                      : getsockname(fd, (struct sockaddr *)&address->storage, &address->length);
    if (failed)
        address->length = 0;
}

/* ---- operations ------------------------------------------------------------------------------ */

static int linux_socket_finish(io_op *op, ssize_t moved) {
    if (moved < 0)
        return linux_socket_failed(&op->os_error);
    op->result = moved;
    return IO_DONE;
}

static void linux_socket_release_buffer(io_transfer *transfer) {
    if (transfer->pooled == NULL)
        return;
    io_buffer_release(&transfer->op.lane->port->buffers, transfer->pooled);
    transfer->pooled = NULL;
    io_vec_set(&transfer->vecs[0], NULL, io_vec_length(&transfer->vecs[0]));
}

static int linux_socket_receive(io_op *op, io_address *from) {
    io_transfer *transfer = (io_transfer *)op;
    if (!io_transfer_acquire(transfer))
        return -IOE_NOMEM;
    ssize_t moved;
    int interruptions = 0;
    do {
        socklen_t size = sizeof from->storage;
        moved = recvfrom((int)op->handle->native, io_vec_base(transfer->vecs),
                         io_vec_length(transfer->vecs), 0,
                         from ? (struct sockaddr *)&from->storage : NULL, from ? &size : NULL);
        if (from != NULL && moved >= 0)
            from->length = size;
    } while (linux_socket_interrupted(moved, &interruptions));
    int answer = linux_socket_finish(op, moved);
    if (answer == -IOE_AGAIN)
        linux_socket_release_buffer(transfer);
    return answer;
}

/* Receives into a pooled buffer, which is kept only if data has arrived. */
static int linux_socket_receive_some(io_op *op) {
    io_receive *receive = (io_receive *)op;
    io_buffer_pool *pool = &op->lane->port->buffers;
    char *buffer = io_buffer_acquire(pool, receive->capacity);
    if (buffer == NULL)
        return -IOE_NOMEM;
    ssize_t moved;
    int interruptions = 0;
    do
        moved = syscall(SYS_recvfrom, (long)op->handle->native, buffer, (size_t)receive->capacity,
                        0L, NULL, NULL);
    while (linux_socket_interrupted(moved, &interruptions));
    int answer = linux_socket_finish(op, moved);
    if (moved > 0)
        receive->buffer = buffer;
    else
        io_buffer_release(pool, buffer);
    return answer;
}

/* A single buffer uses a cheaper call. */
static ssize_t linux_socket_send_message(int fd, io_vec *vecs, uint32_t count, io_address *to,
                                         int flags) {
    ssize_t moved;
    int interruptions = 0;
    flags |= MSG_NOSIGNAL;
    if (count == 1 && to == NULL) {
        do
            moved = syscall(SYS_sendto, (long)fd, io_vec_base(vecs), io_vec_length(vecs),
                            (long)flags, NULL, 0L);
        while (linux_socket_interrupted(moved, &interruptions));
        return moved;
    }
    struct msghdr message = {
        .msg_name = to ? &to->storage : NULL,
        .msg_namelen = to ? to->length : 0,
        .msg_iov = vecs,
        .msg_iovlen = count,
    };
    do
        moved = sendmsg(fd, &message, flags);
    while (linux_socket_interrupted(moved, &interruptions));
    return moved;
}

static int linux_socket_send_vecs(io_op *op, io_address *to) {
    io_transfer *transfer = (io_transfer *)op;
    return linux_socket_finish(op,
                               linux_socket_send_message((int)op->handle->native, transfer->vecs,
                                                         transfer->vec_count, to, 0));
}

int64_t linux_send_now(io_handle *handle, io_vec *vecs, uint32_t count, io_address *to, bool last,
                       uint32_t *os_error) {
    ssize_t moved =
        linux_socket_send_message((int)handle->native, vecs, count, to, last ? MSG_MORE : 0);
    return moved >= 0 ? moved : linux_socket_failed(os_error);
}

int linux_check_file(io_native file) {
    int fd = (int)file;
    struct stat status;
    char nothing;
    if (fstat(fd, &status) < 0)
        return io_error_from_errno(errno);
    if (S_ISDIR(status.st_mode))
        return -IOE_ISDIR;
    if (!linux_socket_seeks(fd, status.st_mode))
        return -IOE_SPIPE;
    /* Fails if the file was not opened for reading, for example. */
    return pread(fd, &nothing, 0, 0) < 0 ? io_error_from_errno(errno) : 0;
}

int linux_hold_file(io_send_file *op) {
    int file = fcntl((int)op->file, F_DUPFD_CLOEXEC, 0);
    if (file < 0)
        return linux_socket_failed(&op->op.os_error);
    op->file = file;
    op->held = true;
    return 0;
}

/* sendfile has no MSG_NOSIGNAL, so the SIGPIPE of a broken pipe is consumed before delivery. */
static ssize_t linux_socket_send_part(io_send_file *file, size_t part) {
    sigset_t pipe_signal, pending, saved;
    const struct timespec no_time = {0, 0};
    off_t offset = (off_t)file->offset;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, &saved);
    sigpending(&pending);
    ssize_t moved = sendfile((int)file->op.handle->native, (int)file->file, &offset, part);
    int error = errno;
    int interruptions = 0;
    if (moved < 0 && error == EPIPE && !sigismember(&pending, SIGPIPE))
        while (
            linux_socket_interrupted(sigtimedwait(&pipe_signal, NULL, &no_time), &interruptions)) {
        }
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    errno = error;
    return moved;
}

/* Beyond the largest file size of the file system, Linux fails instead of reporting the end of the
 * file. */
static bool linux_socket_is_behind_end(const io_send_file *file) {
    struct stat status;
    int error = errno;
    bool refused = error == EINVAL || error == EOVERFLOW || error == EFBIG;
    bool behind = refused && fstat((int)file->file, &status) == 0 && S_ISREG(status.st_mode) &&
                  file->offset >= (uint64_t)status.st_size;
    errno = error;
    return behind;
}

static int linux_socket_send_file(io_op *op) {
    io_send_file *file = (io_send_file *)op;
    uint64_t part = file->remaining < SEND_FILE_PART ? file->remaining : SEND_FILE_PART;
    ssize_t moved;
    int interruptions = 0;
    do
        moved = linux_socket_send_part(file, (size_t)part);
    while (linux_socket_interrupted(moved, &interruptions));
    if (moved < 0 && linux_socket_is_behind_end(file))
        moved = 0;
    return linux_socket_finish(op, moved);
}

static int linux_socket_accept_one(io_op *op) {
    io_accept *accept = (io_accept *)op;
    int fd;
    do {
        accept->peer.length = sizeof accept->peer.storage;
        fd = accept4((int)op->handle->native, (struct sockaddr *)&accept->peer.storage,
                     &accept->peer.length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && io_accept_again(accept, io_error_from_errno(errno)));
    if (fd < 0)
        return linux_socket_failed(&op->os_error);
    accept->accepted = fd;
    op->result = 0;
    return IO_DONE;
}

static uint32_t linux_socket_ready_now(int fd, uint32_t events) {
    struct pollfd asked = {.fd = fd};
    asked.events = (short)((events & IO_READABLE ? POLLIN | POLLRDHUP : 0) |
                           (events & IO_WRITABLE ? POLLOUT : 0));
    if (poll(&asked, 1, 0) <= 0)
        return 0;
    if (asked.revents & (POLLERR | POLLHUP | POLLNVAL))
        return events;
    return (asked.revents & (POLLIN | POLLRDHUP) ? (uint32_t)IO_READABLE : 0) |
           (asked.revents & POLLOUT ? (uint32_t)IO_WRITABLE : 0);
}

/* On Linux a second connect returns the outcome of the first, and completes the socket's state. */
static int linux_socket_connect(io_op *op) {
    io_connect *connection = (io_connect *)op;
    bool again = (op->flags & IO_OP_CONNECTING) != 0;
    op->result = 0;
    if (connect((int)op->handle->native, (struct sockaddr *)&connection->address.storage,
                connection->address.length) == 0 ||
        (again && errno == EISCONN))
        return IO_DONE;
    if (errno == EAGAIN) /* the backlog of a unix listener is full */
        return -IOE_NOBUFS;
    op->flags |= IO_OP_CONNECTING;
    bool under_way = errno == EINPROGRESS || errno == EALREADY || errno == EINTR;
    return under_way ? -IOE_AGAIN : linux_socket_failed(&op->os_error);
}

static int linux_socket_poll_once(io_op *op) {
    io_poll *poll = (io_poll *)op;
    poll->ready = linux_socket_ready_now((int)op->handle->native, poll->events);
    op->result = 0;
    return poll->ready ? IO_DONE : -IOE_AGAIN;
}

int linux_perform(io_op *op) {
    switch ((io_kind)op->kind) {
    case IO_RECV:
        return linux_socket_receive(op, NULL);
    case IO_RECEIVE:
        return linux_socket_receive_some(op);
    case IO_RECV_FROM:
        return linux_socket_receive(op, &((io_datagram *)op)->address);
    case IO_SEND:
        return linux_socket_send_vecs(op, NULL);
    case IO_SEND_TO:
        return linux_socket_send_vecs(op, &((io_datagram *)op)->address);
    case IO_SEND_FILE:
        return linux_socket_send_file(op);
    case IO_ACCEPT:
        return linux_socket_accept_one(op);
    case IO_CONNECT:
        return linux_socket_connect(op);
    case IO_POLL:
        return linux_socket_poll_once(op);
    default:
        return -IOE_INVAL;
    }
}

/* ---- files ----------------------------------------------------------------------------------- */

int64_t linux_file_work(io_op *op, uint32_t *os_error) {
    io_transfer *transfer = (io_transfer *)op;
    int fd = (int)op->handle->backend.word[LINUX_FILE];
    off_t offset = (off_t)transfer->offset;
    ssize_t moved;
    int interruptions = 0;
    if (!op->handle->backend.word[LINUX_SEEKS] && op->kind != IO_SYNC)
        return -IOE_SPIPE;
    if (op->kind == IO_READ && !io_transfer_acquire(transfer))
        return -IOE_NOMEM;
    do {
        if (op->kind == IO_READ)
            moved = preadv(fd, transfer->vecs, (int)transfer->vec_count, offset);
        else if (op->kind == IO_WRITE)
            moved = pwritev(fd, transfer->vecs, (int)transfer->vec_count, offset);
        else
            moved = fsync(fd);
    } while (linux_socket_interrupted(moved, &interruptions));
    if (moved >= 0)
        return moved;
    int error = linux_socket_failed(os_error);
    return error == -IOE_AGAIN ? -IOE_NOBUFS : error;
}
