/* test_interrupted.c: system calls interrupted by signals, a few times or every time. They are
 * retried with a handle's lock held, so the number of retries must be limited. */
#include "op_case.h"

#ifndef _WIN32
#include "real_syscall.h"

#include <dlfcn.h>
#include <errno.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FOR_EVER = 1 << 30, CALLS_MAX = 1000 };

static _Atomic int interruptions; /* so many calls are interrupted from now on */
static _Atomic int calls;         /* made meanwhile */

static bool interrupted(void) {
    if (atomic_load(&interruptions) == 0)
        return false;
    atomic_fetch_sub(&interruptions, 1);
    if (atomic_fetch_add(&calls, 1) > CALLS_MAX)
        FAIL("a call is repeated without end");
    errno = EINTR;
    return true;
}

static void *libc(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    CHECK(found != NULL);
    return found;
}

#define REAL(name, ...) ((name##_function)(uintptr_t)libc(#name))(__VA_ARGS__)

typedef ssize_t (*recvfrom_function)(int, void *, size_t, int, __SOCKADDR_ARG, socklen_t *);
typedef ssize_t (*recv_function)(int, void *, size_t, int);
typedef ssize_t (*sendmsg_function)(int, const struct msghdr *, int);
typedef ssize_t (*sendfile_function)(int, int, off_t *, size_t);
typedef ssize_t (*preadv_function)(int, const struct iovec *, int, off_t);
typedef ssize_t (*pwritev_function)(int, const struct iovec *, int, off_t);
typedef int (*fsync_function)(int);

/* Instead of libc's. */
ssize_t recvfrom(int fd, void *restrict buffer, size_t length, int flags, __SOCKADDR_ARG address,
                 socklen_t *restrict size) {
    return interrupted() ? -1 : REAL(recvfrom, fd, buffer, length, flags, address, size);
}

ssize_t recv(int fd, void *buffer, size_t length, int flags) {
    return interrupted() ? -1 : REAL(recv, fd, buffer, length, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    return interrupted() ? -1 : REAL(sendmsg, fd, message, flags);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t count) {
    return interrupted() ? -1 : REAL(sendfile, to, from, offset, count);
}

ssize_t preadv(int fd, const struct iovec *vecs, int count, off_t offset) {
    return interrupted() ? -1 : REAL(preadv, fd, vecs, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *vecs, int count, off_t offset) {
    return interrupted() ? -1 : REAL(pwritev, fd, vecs, count, offset);
}

int fsync(int fd) {
    return interrupted() ? -1 : REAL(fsync, fd);
}

long syscall(long number, ...) {
    long arguments[SYSCALL_ARGUMENTS];
    SYSCALL_TAKE(number, arguments);
    if ((number == SYS_recvfrom || number == SYS_sendto) && interrupted())
        return -1;
    return real_syscall(number, arguments);
}

static void interrupt(int count) {
    atomic_store(&calls, 0);
    atomic_store(&interruptions, count);
}

/* What the backend leaves to the kernel is not called here, and is not interrupted. */
static void one_kind(const char *backend, io_kind kind, int count) {
    op_case subject;
    op_case_open(&subject, backend, kind, 0);
    op_case_set_up(&subject, AT_ONCE);
    if (op_case_by_peer(kind))
        op_case_fulfil(&subject);
    test_sleep_ms(1);
    io_op *op = op_case_op(&subject, AT_ONCE);
    interrupt(count);
    op_case_submit(&subject, op, 0);
    int64_t result = op_case_finish(&subject, op);
    bool asked = atomic_load(&calls) > 0;
    interrupt(0);
    CHECK(asked || strcmp(backend, "epoll") != 0);
    if (count == FOR_EVER ? result != -IOE_INTR && asked : result < 0)
        FAIL("%s: %s that is interrupted %d times: %lld", backend, io_kind_name(kind), count,
             (long long)result);
    io_op_release(op);
    op_case_close(&subject);
}

static const io_kind kinds[] = {IO_RECV,      IO_SEND, IO_RECV_FROM, IO_SEND_TO,
                                IO_SEND_FILE, IO_READ, IO_WRITE,     IO_SYNC};

static void interrupted_calls(const char *backend) {
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        one_kind(backend, kinds[i], 3);
        one_kind(backend, kinds[i], FOR_EVER);
    }
}

/* The receive of a connection, and what it discards before it closes. */
static void interrupted_connection(const char *backend) {
    test_world world;
    io_native natives[2];
    static char byte = 'x';
    static io_receive receive;
    for (int count = 3; count <= FOR_EVER; count += FOR_EVER - 3) {
        world_open(&world, backend, 1);
        world_pair(&world, natives);
        io_handle *handle = world_adopt(&world, natives[0]);
        CHECK_INT(send((int)natives[1], &byte, 1, 0), 1);
        test_sleep_ms(1);
        io_op_embed(&receive.op, world.lane, IO_RECEIVE, NULL, NULL);
        receive.capacity = 4096;
        receive.buffer = NULL;
        interrupt(count);
        io_op_submit(&receive.op, handle);
        io_op *op = world_get(&world, 10000);
        CHECK(op == &receive.op);
        if (op->result == IO_RECEIVE_READY)
            io_receive_now(&receive);
        int64_t result = op->result;
        bool asked = atomic_load(&calls) > 0;
        world.backend->prepare_close(handle, false);
        interrupt(0);
        CHECK_INT(result, count == FOR_EVER && asked ? -IOE_INTR : 1);
        io_receive_release(&receive);
        io_handle_close(handle);
        world_native_close(&world, natives[1], false);
        world_close(&world);
    }
}

static void interrupted_calls_epoll(void) {
    interrupted_calls("epoll");
}

static void interrupted_calls_io_uring(void) {
    interrupted_calls("io_uring");
}

static void interrupted_connection_epoll(void) {
    interrupted_connection("epoll");
}

static void interrupted_connection_io_uring(void) {
    interrupted_connection("io_uring");
}

#else

static void interrupted_calls_iocp(void) {
    test_skip("no signal interrupts a call there");
}

#endif

int main(int argc, char **argv) {
    static const test_case tests[] = {
#ifndef _WIN32
        TEST(interrupted_calls_epoll),
        TEST(interrupted_calls_io_uring),
        TEST(interrupted_connection_epoll),
        TEST(interrupted_connection_io_uring),
#else
        TEST(interrupted_calls_iocp),
#endif
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
