/* test_readiness.c: readiness of sockets on the Linux backends, and false readiness that a peer can
 * make the kernel report. */
#include "stream_pair.h"

#ifndef _WIN32
#include "real_syscall.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    QUIET_MS = 30,
    LONG_QUIET_MS = 300,
    LOOKS_MAX = 100, /* into the kernel, where nothing happens: a busy loop has thousands */
    SO_TIMESTAMPING_NUMBER = 37,
    SEND_STAMPS = 1 << 1 | 1 << 4, /* made by software, and wanted */
};

static void send_raw(io_native native, const void *data, size_t length) {
    CHECK_INT(send((int)native, data, length, MSG_NOSIGNAL), length);
}

static void send_urgent(io_native native) {
    CHECK_INT(send((int)native, "!", 1, MSG_OOB | MSG_NOSIGNAL), 1);
}

static void end_stream(io_native native) {
    CHECK_INT(shutdown((int)native, SHUT_WR), 0);
}

static void settle(test_world *world) {
    CHECK(world_quiet(world, QUIET_MS));
}

static uint64_t looks(test_world *world) {
    io_port_figures figures;
    io_port_stats(world->port, &figures);
    return figures.waits;
}

/* Threads on which the kernel finishes what blocks. */
static int kernel_workers(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[300], name[8] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task->d_name);
        FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (file == NULL)
            continue;
        count += fgets(name, sizeof(name), file) != NULL && strncmp(name, "iou-wrk", 7) == 0;
        fclose(file);
    }
    closedir(tasks);
    return count;
}

/* Nothing completes, and whoever waits for it sleeps. */
static void sleeps(test_world *world) {
    settle(world);
    uint64_t before = looks(world);
    CHECK(world_quiet(world, LONG_QUIET_MS));
    CHECK(looks(world) - before < LOOKS_MAX);
    CHECK_INT(kernel_workers(), 0);
}

/* ---- a kernel that says there is nothing ----------------------------------------------------- */

static _Atomic int denials; /* so many receives find nothing, whatever there is */

static bool denied(void) {
    if (atomic_load(&denials) == 0)
        return false;
    atomic_fetch_sub(&denials, 1);
    errno = EAGAIN;
    return true;
}

static ssize_t receive_really(int fd, void *buffer, size_t length, int flags, void *from,
                              void *size) {
    static _Atomic uintptr_t libc;
    if (libc == 0)
        libc = (uintptr_t)dlsym(RTLD_NEXT, "recvfrom");
    return ((ssize_t(*)(int, void *, size_t, int, void *, void *))libc)(fd, buffer, length, flags,
                                                                        from, size);
}

/* Instead of libc's. */
ssize_t recvfrom(int fd, void *buffer, size_t length, int flags, __SOCKADDR_ARG from,
                 socklen_t *size) {
    return denied() ? -1 : receive_really(fd, buffer, length, flags, from.__sockaddr__, size);
}

/* The same. */
ssize_t recv(int fd, void *buffer, size_t length, int flags) {
    return denied() ? -1 : receive_really(fd, buffer, length, flags, NULL, NULL);
}

/* The same. */
long syscall(long number, ...) {
    long arguments[SYSCALL_ARGUMENTS];
    SYSCALL_TAKE(number, arguments);
    if (number == SYS_recvfrom && denied())
        return -1;
    return real_syscall(number, arguments);
}

/* As to a thread that is interrupted where urgent data begins. No further edge will come. */
static void denied_at_urgent_data(const char *backend, bool users) {
    for (int count = 0; count <= 3; count++) {
        char buffer[100];
        stream_pair both;
        stream_pair_begin(&both, backend, 7);
        world_pair(&both.world, both.native);
        if (users)
            both.handle[0] = world_handle(&both.world, both.native[0]);
        else
            both.handle[0] = world_adopt(&both.world, both.native[0]);
        send_urgent(both.native[1]);
        send_raw(both.native[1], stream_pair_pattern, 5);
        end_stream(both.native[1]);
        settle(&both.world); /* has been reported */
        atomic_store(&denials, count);
        for (int64_t length = 5; length >= 0; length -= 5) {
            if (users) {
                io_op *op = new_recv(&both.world, buffer, sizeof(buffer));
                CHECK_INT(world_do(&both.world, op, both.handle[0]), length);
            } else {
                CHECK_INT(stream_pair_receive(&both, 0, 4096), length);
                io_receive_release(&both.receive[0]);
            }
            CHECK_INT(atomic_load(&denials), 0);
        }
        if (users) {
            world_handle_close(both.handle[0]);
            both.handle[0] = NULL;
        }
        stream_pair_close(&both);
        close((int)both.native[1]);
    }
}

static void receive_denied(const char *backend) {
    denied_at_urgent_data(backend, true);
}

static void connection_denied(const char *backend) {
    denied_at_urgent_data(backend, false);
}

/* What nobody reads any more is thrown away before the close, so that it is the end of the stream
 * for the peer and no reset. */
static void close_denied(const char *backend) {
    for (int count = 0; count <= 3; count++) {
        char byte;
        stream_pair both;
        stream_pair_begin(&both, backend, 7);
        world_pair(&both.world, both.native);
        both.handle[0] = world_adopt(&both.world, both.native[0]);
        send_urgent(both.native[1]);
        send_raw(both.native[1], stream_pair_pattern, 5);
        settle(&both.world);
        atomic_store(&denials, count);
        both.world.backend->prepare_close(both.handle[0], false);
        CHECK_INT(atomic_load(&denials), 0);
        stream_pair_close_side(&both, 0);
        CHECK_INT(recv((int)both.native[1], &byte, 1, 0), 0);
        close((int)both.native[1]);
        stream_pair_close(&both);
    }
}

/* ---- urgent data while it is received -------------------------------------------------------- */

typedef struct speaker {
    test_thread thread;
    io_native native;
    uint64_t seed; /* 0: in turn; else in random places */
    int urgent;
    size_t ordinary; /* bytes */
} speaker;

static void speak(void *argument) {
    speaker *self = argument;
    char text[300];
    memset(text, 'x', sizeof(text));
    test_random random = {.state = self->seed};
    for (int i = 0; i < self->urgent; i++) {
        size_t length = self->seed == 0 ? 1 : test_below(&random, sizeof(text));
        send_raw(self->native, text, length);
        self->ordinary += length;
        for (uint64_t more = self->seed == 0 ? 0 : test_below(&random, 2); more <= 1; more++)
            send_urgent(self->native);
    }
    send_raw(self->native, "x", 1);
    self->ordinary++;
    end_stream(self->native);
}

static size_t ordinary_bytes(const char *data, int64_t length) {
    size_t count = 0;
    for (int64_t i = 0; i < length; i++)
        count += data[i] != '!';
    return count;
}

/* Everything, and then the end. */
static void hear(stream_pair *both, const speaker *other, bool users) {
    char buffer[4096];
    int64_t result;
    size_t ordinary = 0;
    do {
        if (users) {
            io_op *op = new_recv(&both->world, buffer, sizeof(buffer));
            result = world_do(&both->world, op, both->handle[0]);
            ordinary += ordinary_bytes(buffer, result);
        } else {
            result = stream_pair_receive(both, 0, 4096);
            ordinary += ordinary_bytes(both->receive[0].buffer, result);
            io_receive_release(&both->receive[0]);
        }
    } while (result > 0);
    CHECK_INT(result, 0);
    test_thread_join((test_thread *)(uintptr_t)&other->thread);
    CHECK_INT(ordinary, other->ordinary);
}

static void urgent(const char *backend, bool users) {
    static const int counts[] = {5, 20, 40, 200};
    for (uint64_t round = 0; round < test_scaled(300); round++) {
        stream_pair both;
        int on = 1;
        speaker other = {.urgent = counts[round % 4], .seed = round % 3 == 2 ? round : 0};
        stream_pair_begin(&both, backend, round);
        world_pair(&both.world, both.native);
        CHECK_INT(setsockopt((int)both.native[1], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
        if (round % 5 == 4)
            CHECK_INT(setsockopt((int)both.native[0], SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on)),
                      0);
        both.handle[0] = users ? world_handle(&both.world, both.native[0])
                               : world_adopt(&both.world, both.native[0]);
        other.native = both.native[1];
        test_about("round %llu", (unsigned long long)round);
        test_thread_start(&other.thread, speak, &other);
        hear(&both, &other, users);
        test_about("%s", "");
        if (users) {
            world_handle_close(both.handle[0]);
            both.handle[0] = NULL;
        }
        stream_pair_close(&both);
        close((int)other.native);
    }
}

static void urgent_receives(const char *backend) {
    urgent(backend, true);
}

static void urgent_connections(const char *backend) {
    urgent(backend, false);
}

/* ---- conditions that stay -------------------------------------------------------------------- */

/* Nothing more goes into the socket, and its peer has ended its own stream. Returns what it took.
 */
static size_t fill(test_world *world, io_native native, io_native peer) {
    size_t total = 0;
    int flags = fcntl((int)native, F_GETFL);
    CHECK_INT(fcntl((int)native, F_SETFL, flags | O_NONBLOCK), 0);
    end_stream(peer);
    for (bool full = false;
         !full;) { /* what is on its way makes room once more, and so do probes */
        full = true;
        for (ssize_t moved; (moved = send((int)native, stream_pair_pattern,
                                          sizeof(stream_pair_pattern), MSG_NOSIGNAL)) > 0;
             full = false)
            total += (size_t)moved;
        CHECK(world_quiet(world, LONG_QUIET_MS));
    }
    return total;
}

static void drain(test_world *world, io_native native, size_t total) {
    static char buffer[1 << 16];
    while (total > 0) {
        ssize_t moved = recv((int)native, buffer, sizeof(buffer), MSG_DONTWAIT);
        CHECK(moved > 0 || (moved < 0 && errno == EAGAIN));
        total -= moved > 0 ? (size_t)moved : 0;
        if (moved < 0)
            (void)world_get(world, 0);
    }
}

static io_op *waits_for_room(test_world *world, io_kind kind, io_native file) {
    switch (kind) {
    case IO_SEND:
        return new_send(world, stream_pair_pattern, 1000);
    case IO_SEND_FILE:
        return new_send_file(world, file, 0, 1000);
    default:
        return new_poll(world, IO_WRITABLE);
    }
}

/* What waits for room where the peer has ended its stream waits until it reads. */
static void room_half_closed(const char *backend) {
    static const io_kind kinds[] = {IO_SEND, IO_SEND_FILE, IO_POLL};
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        test_world world;
        io_native natives[2];
        world_open(&world, backend, 1);
        io_native file = world_file(&world, stream_pair_pattern, 1000);
        world_pair(&world, natives);
        io_handle *handle = world_handle(&world, natives[0]);
        size_t total = fill(&world, natives[0], natives[1]);
        io_op *op = waits_for_room(&world, kinds[i], file);
        io_op_submit(op, handle);
        sleeps(&world);
        drain(&world, natives[1], total);
        CHECK_INT(world_finish(&world, op), kinds[i] == IO_POLL ? 0 : 1000);
        if (kinds[i] == IO_POLL)
            CHECK_INT(((io_poll *)op)->ready, IO_WRITABLE);
        io_op_release(op);
        drain(&world, natives[1], kinds[i] == IO_POLL ? 0 : 1000);
        world_handle_close(handle);
        close((int)natives[1]);
        close((int)file);
        world_close(&world);
    }
}

/* The same, and the peer ends its stream only when something waits already. */
static void half_closed_later(const char *backend) {
    test_world world;
    io_native natives[2], other;
    world_open(&world, backend, 1);
    world_pair(&world, natives);
    io_handle *handle = world_handle(&world, natives[0]);
    other = dup((int)natives[1]);
    size_t total = 0;
    for (ssize_t moved;
         (moved = send((int)natives[0], stream_pair_pattern, sizeof(stream_pair_pattern),
                       MSG_NOSIGNAL | MSG_DONTWAIT)) > 0;)
        total += (size_t)moved;
    io_op *op = new_send(&world, stream_pair_pattern, sizeof(stream_pair_pattern));
    io_op *poll = new_poll(&world, IO_READABLE);
    io_op_submit(op, handle);
    io_op_submit(poll, handle);
    settle(&world);
    end_stream(other);
    CHECK_INT(world_finish(&world, poll), 0); /* the end can be read, */
    CHECK_INT(((io_poll *)poll)->ready, IO_READABLE);
    io_op_release(poll);
    sleeps(&world); /* but there is no room */
    size_t sent = total + sizeof(stream_pair_pattern);
    while (op->state != IO_OP_COMPLETED) {
        static char buffer[1 << 16];
        ssize_t moved = recv((int)other, buffer, sizeof(buffer), MSG_DONTWAIT);
        sent -= moved > 0 ? (size_t)moved : 0;
        io_op *got = world_get(&world, 1);
        CHECK(got == NULL || got == op);
    }
    CHECK_INT(op->result, sizeof(stream_pair_pattern));
    io_op_release(op);
    drain(&world, other, sent);
    world_handle_close(handle);
    close((int)other);
    close((int)natives[1]);
    world_close(&world);
}

/* Time stamps of what was sent lie in the socket's queue of errors, and nobody takes them. */
static void error_queue(const char *backend) {
    char buffer[10];
    test_world world;
    io_native natives[2];
    int stamps = SEND_STAMPS;
    world_open(&world, backend, 1);
    world_pair(&world, natives);
    CHECK_INT(
        setsockopt((int)natives[0], SOL_SOCKET, SO_TIMESTAMPING_NUMBER, &stamps, sizeof(stamps)),
        0);
    io_handle *handle = world_handle(&world, natives[0]);
    CHECK_INT(world_do(&world, new_send(&world, "x", 1), handle), 1);
    settle(&world);
    io_op *op = new_recv(&world, buffer, sizeof(buffer));
    io_op_submit(op, handle);
    sleeps(&world);
    send_raw(natives[1], "abc", 3);
    CHECK_INT(world_finish(&world, op), 3);
    io_op_release(op);
    size_t total = fill(&world, natives[0], natives[1]);
    op = new_send(&world, stream_pair_pattern, 1000);
    io_op_submit(op, handle);
    sleeps(&world);
    drain(&world, natives[1], total + 1);
    CHECK_INT(world_finish(&world, op), 1000);
    io_op_release(op);
    world_handle_close(handle);
    close((int)natives[1]);
    world_close(&world);
}

/* A byte that is urgent, and nothing else, is nothing to be received. */
static void urgent_byte_only(const char *backend) {
    char buffer[10];
    for (int polls = 0; polls < 2; polls++) {
        test_world world;
        io_native natives[2];
        world_open(&world, backend, 1);
        world_pair(&world, natives);
        io_handle *handle = world_handle(&world, natives[0]);
        io_op *op =
            polls ? new_poll(&world, IO_READABLE) : new_recv(&world, buffer, sizeof(buffer));
        io_op_submit(op, handle);
        for (int i = 0; i < 3; i++) {
            send_urgent(natives[1]);
            sleeps(&world);
        }
        send_raw(natives[1], "abc", 3);
        CHECK_INT(world_finish(&world, op), polls ? 0 : 3);
        io_op_release(op);
        world_handle_close(handle);
        close((int)natives[1]);
        world_close(&world);
    }
}

/* A reset that was there before the receive, behind data. */
static void reset_with_data(const char *backend) {
    struct linger reset = {.l_onoff = 1};
    stream_pair both;
    stream_pair_begin(&both, backend, 7);
    world_pair(&both.world, both.native);
    both.handle[0] = world_adopt(&both.world, both.native[0]);
    send_raw(both.native[1], stream_pair_pattern, 100);
    CHECK_INT(setsockopt((int)both.native[1], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
    close((int)both.native[1]);
    int64_t result = stream_pair_receive(&both, 0, 4096);
    if (result == 100) { /* not every kernel hands on what a reset has overtaken */
        io_receive_release(&both.receive[0]);
        result = stream_pair_receive(&both, 0, 4096);
    }
    CHECK_INT(result, -IOE_CONNRESET);
    stream_pair_close(&both);
}

#define READY(X, test) X(test, epoll) X(test, io_uring)
/* It would format this differently each time. */
/* clang-format off */
#define ALL(X) \
    READY(X, receive_denied) \
    READY(X, connection_denied) \
    READY(X, close_denied) \
    READY(X, urgent_receives) \
    READY(X, urgent_connections) \
    READY(X, room_half_closed) \
    READY(X, half_closed_later) \
    READY(X, error_queue) \
    READY(X, urgent_byte_only) \
    READY(X, reset_with_data)
/* clang-format on */

ALL(DEFINE)

int main(int argc, char **argv) {
    static const test_case tests[] = {ALL(ENTRY)};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
#else
int main(int argc, char **argv) {
    return test_main(argc, argv, NULL, 0);
}
#endif
