/* test_readiness.c: sockets on the backends of Linux, which wait until something is ready: what a
 * peer can make the kernel say that is not so, and what is left when a handle, a thread or a port
 * ends. */
#include "duplex.h"

#ifndef _WIN32
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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

/* Side 0 has received once; nothing waits. */
static void receive_first(duplex *both) {
    duplex_start(both, 0, 4096);
    send_raw(both->native[1], duplex_pattern, 1);
    CHECK_INT(duplex_received(both, 0), 1);
    io_receive_release(&both->receive[0]);
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

static size_t pooled(const test_world *world) {
    size_t count = 0;
    for (size_t i = 0; i < COUNT_OF(world->port->buffers.free_count); i++)
        count += world->port->buffers.free_count[i];
    return count;
}

static int waiting_bytes(int fd, unsigned long request) {
    int count = 0;
    CHECK_INT(ioctl(fd, request, &count), 0);
    return count;
}

static int descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 4096; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
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
    static _Atomic uintptr_t libc;
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        arguments[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_recvfrom && denied())
        return -1;
    if (libc == 0)
        libc = (uintptr_t)dlsym(RTLD_NEXT, "syscall");
    return ((long (*)(long, ...))libc)(number, arguments[0], arguments[1], arguments[2],
                                       arguments[3], arguments[4], arguments[5]);
}

/* As to a thread that is interrupted where urgent data begins. No further edge will come. */
static void denied_at_urgent_data(const char *backend, bool users) {
    for (int count = 0; count <= 3; count++) {
        char buffer[100];
        duplex both;
        duplex_begin(&both, backend, 7);
        world_pair(&both.world, both.native);
        if (users)
            both.handle[0] = world_handle(&both.world, both.native[0]);
        else
            both.handle[0] = world_adopt(&both.world, both.native[0]);
        send_urgent(both.native[1]);
        send_raw(both.native[1], duplex_pattern, 5);
        end_stream(both.native[1]);
        settle(&both.world); /* has been reported */
        atomic_store(&denials, count);
        for (int64_t length = 5; length >= 0; length -= 5) {
            if (users) {
                io_op *op = new_recv(&both.world, buffer, sizeof(buffer));
                CHECK_INT(world_do(&both.world, op, both.handle[0]), length);
            } else {
                CHECK_INT(duplex_receive(&both, 0, 4096), length);
                io_receive_release(&both.receive[0]);
            }
            CHECK_INT(atomic_load(&denials), 0);
        }
        if (users) {
            world_handle_close(both.handle[0]);
            both.handle[0] = NULL;
        }
        duplex_close(&both);
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
        duplex both;
        duplex_begin(&both, backend, 7);
        world_pair(&both.world, both.native);
        both.handle[0] = world_adopt(&both.world, both.native[0]);
        send_urgent(both.native[1]);
        send_raw(both.native[1], duplex_pattern, 5);
        settle(&both.world);
        atomic_store(&denials, count);
        both.world.backend->prepare_close(both.handle[0], false);
        CHECK_INT(atomic_load(&denials), 0);
        duplex_close_side(&both, 0);
        CHECK_INT(recv((int)both.native[1], &byte, 1, 0), 0);
        close((int)both.native[1]);
        duplex_close(&both);
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
static void hear(duplex *both, const speaker *other, bool users) {
    char buffer[4096];
    int64_t result;
    size_t ordinary = 0;
    do {
        if (users) {
            io_op *op = new_recv(&both->world, buffer, sizeof(buffer));
            result = world_do(&both->world, op, both->handle[0]);
            ordinary += ordinary_bytes(buffer, result);
        } else {
            result = duplex_receive(both, 0, 4096);
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
        duplex both;
        int on = 1;
        speaker other = {.urgent = counts[round % 4], .seed = round % 3 == 2 ? round : 0};
        duplex_begin(&both, backend, round);
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
        duplex_close(&both);
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
        for (ssize_t moved;
             (moved = send((int)native, duplex_pattern, sizeof(duplex_pattern), MSG_NOSIGNAL)) > 0;
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
        return new_send(world, duplex_pattern, 1000);
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
        io_native file = world_file(&world, duplex_pattern, 1000);
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
    for (ssize_t moved; (moved = send((int)natives[0], duplex_pattern, sizeof(duplex_pattern),
                                      MSG_NOSIGNAL | MSG_DONTWAIT)) > 0;)
        total += (size_t)moved;
    io_op *op = new_send(&world, duplex_pattern, sizeof(duplex_pattern));
    io_op *poll = new_poll(&world, IO_READABLE);
    io_op_submit(op, handle);
    io_op_submit(poll, handle);
    settle(&world);
    end_stream(other);
    CHECK_INT(world_finish(&world, poll), 0); /* the end can be read, */
    CHECK_INT(((io_poll *)poll)->ready, IO_READABLE);
    io_op_release(poll);
    sleeps(&world); /* but there is no room */
    size_t sent = total + sizeof(duplex_pattern);
    while (op->state != IO_OP_COMPLETED) {
        static char buffer[1 << 16];
        ssize_t moved = recv((int)other, buffer, sizeof(buffer), MSG_DONTWAIT);
        sent -= moved > 0 ? (size_t)moved : 0;
        io_op *got = world_get(&world, 1);
        CHECK(got == NULL || got == op);
    }
    CHECK_INT(op->result, sizeof(duplex_pattern));
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
    op = new_send(&world, duplex_pattern, 1000);
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
    duplex both;
    duplex_begin(&both, backend, 7);
    world_pair(&both.world, both.native);
    both.handle[0] = world_adopt(&both.world, both.native[0]);
    send_raw(both.native[1], duplex_pattern, 100);
    CHECK_INT(setsockopt((int)both.native[1], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
    close((int)both.native[1]);
    int64_t result = duplex_receive(&both, 0, 4096);
    if (result == 100) { /* not every kernel hands on what a reset has overtaken */
        io_receive_release(&both.receive[0]);
        result = duplex_receive(&both, 0, 4096);
    }
    CHECK_INT(result, -IOE_CONNRESET);
    duplex_close(&both);
}

/* ---- memory, and what is left -----------------------------------------------------------------
 */

/* A receive that waits has no memory. */
static void no_memory_waits(const char *backend) {
    enum { WAITING = 50 };
    static io_receive receives[WAITING];
    io_handle *handles[2 * WAITING];
    test_world world;
    world_open(&world, backend, 1);
    for (int i = 0; i < WAITING; i++) {
        io_native natives[2];
        world_pair(&world, natives);
        handles[2 * i] = world_adopt(&world, natives[0]);
        handles[2 * i + 1] = world_adopt(&world, natives[1]);
        io_op_embed(&receives[i].op, world.lane, IO_RECEIVE, IO_SINK_CONNECTION, NULL);
        receives[i].buffer = NULL;
        receives[i].capacity = 65536;
        io_op_submit(&receives[i].op, handles[2 * i]);
    }
    settle(&world);
    for (int i = 0; i < WAITING; i++)
        CHECK(receives[i].buffer == NULL);
    for (int i = 0; i < 2 * WAITING; i++)
        io_handle_close(handles[i]);
    for (int i = 0; i < WAITING; i++) {
        io_op *op = world_get(&world, 10000);
        CHECK(op != NULL);
        CHECK_INT(op->result, -IOE_CANCELED);
    }
    CHECK_INT(pooled(&world), 0); /* none has ever been used */
    world_close(&world);
}

/* While nobody receives, nothing is taken from the socket, whoever sends how. */
static void paused(const char *backend, size_t piece) {
    duplex both;
    size_t sent = 1;
    duplex_open(&both, backend, 1);
    receive_first(&both);
    while (sent + piece < sizeof(duplex_pattern)) {
        ssize_t moved = send((int)both.native[1], duplex_pattern + sent, piece, MSG_NOSIGNAL);
        if (moved < 0)
            break;
        sent += (size_t)moved;
        if (piece < 100 && sent > 100000)
            break;
    }
    settle(&both.world);
    int left =
        waiting_bytes((int)both.native[0], SIOCINQ) + waiting_bytes((int)both.native[1], SIOCOUTQ);
    CHECK(sent > 100000);
    CHECK((size_t)left >= sent - 1);
    duplex_receive_all(&both, 0, 1, sent - 1, 10000);
    duplex_close(&both);
}

static void paused_large(const char *backend) {
    paused(backend, 60000);
}

static void paused_small(const char *backend) {
    paused(backend, 37);
}

/* Every connection has its message, though all come at once. */
static void all_at_once(const char *backend) {
    enum { CONNECTIONS = 1100 };
    static io_receive receives[CONNECTIONS];
    static int pairs[CONNECTIONS][2];
    io_handle **handles = calloc(CONNECTIONS, sizeof(io_handle *));
    struct rlimit limit;
    test_world world;
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < 2 * CONNECTIONS + 100 || handles == NULL)
        test_skip("too few descriptors");
    world_open(&world, backend, 1);
    for (int i = 0; i < CONNECTIONS; i++) {
        CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pairs[i]), 0);
        uint32_t os_error;
        CHECK_INT(io_handle_adopt(world.lane, pairs[i][0], AF_UNIX, &handles[i], &os_error), 0);
    }
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < CONNECTIONS; i++) {
            io_op_embed(&receives[i].op, world.lane, IO_RECEIVE, IO_SINK_CONNECTION, NULL);
            receives[i].buffer = NULL;
            receives[i].capacity = 4096;
            io_op_submit(&receives[i].op, handles[i]);
        }
        for (int i = 0; i < CONNECTIONS; i++)
            send_raw(pairs[i][1], &i, sizeof(i));
        for (int come = 0; come < CONNECTIONS;) {
            io_receive *receive = (io_receive *)world_get(&world, 10000);
            CHECK(receive != NULL);
            int i = (int)(receive - receives), got;
            if (!duplex_fetched(receive, handles[i]))
                continue;
            CHECK_INT(receive->op.result, sizeof(got));
            memcpy(&got, receive->buffer, sizeof(got));
            CHECK_INT(got, i);
            io_receive_release(receive);
            come++;
        }
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        io_handle_close(handles[i]);
        close(pairs[i][1]);
    }
    free(handles);
    world_close(&world);
}

typedef struct talker {
    test_thread thread;
    io_native native;
    _Atomic bool stop;
} talker;

static void talk(void *argument) {
    talker *self = argument;
    while (!atomic_load(&self->stop))
        if (send((int)self->native, duplex_pattern, 50, MSG_NOSIGNAL) < 0 && errno != EAGAIN)
            break;
}

/* One connection ends while its peer talks, the next one gets its number, its place and its own
 * data only. */
static void numbers_used_again(const char *backend) {
    test_world world;
    world_open(&world, backend, 1);
    int before = descriptors();
    for (uint64_t round = 0; round < test_scaled(300); round++) {
        static const char own[] = "its own";
        duplex both = {.world = world};
        talker other = {.stop = false};
        world_pair(&world, both.native);
        other.native = both.native[1];
        both.handle[0] = world_adopt(&world, both.native[0]);
        receive_first(&both);
        CHECK_INT(fcntl((int)both.native[1], F_SETFL, O_NONBLOCK), 0);
        test_thread_start(&other.thread, talk, &other);
        duplex_close_side(&both, 0);
        for (int i = 0; i < 3; i++) {
            io_native natives[2];
            world_pair(&world, natives);
            both.handle[0] = world_adopt(&world, natives[0]);
            duplex_start(&both, 0, 4096);
            send_raw(natives[1], own, sizeof(own));
            CHECK_INT(duplex_received(&both, 0), sizeof(own));
            CHECK(memcmp(both.receive[0].buffer, own, sizeof(own)) == 0);
            io_receive_release(&both.receive[0]);
            duplex_close_side(&both, 0);
            close((int)natives[1]);
        }
        atomic_store(&other.stop, true);
        test_thread_join(&other.thread);
        close((int)other.native);
    }
    CHECK_INT(descriptors(), before);
    world_close(&world);
}

typedef struct canceller {
    test_thread thread;
    duplex *both;
    io_mutex lock;
    _Atomic bool stop;
} canceller;

static void cancel_often(void *argument) {
    canceller *self = argument;
    while (!atomic_load(&self->stop)) {
        io_mutex_lock(&self->lock);
        io_op_cancel(&self->both->receive[0].op);
        io_mutex_unlock(&self->lock);
    }
}

/* Cancelled again and again from another thread while data comes: none is lost or doubled. */
static void cancel_races(const char *backend) {
    duplex both;
    canceller other = {.both = &both, .stop = false};
    size_t sent = 1, taken = 1, most = test_scaled(200000);
    duplex_open(&both, backend, 7);
    receive_first(&both);
    CHECK_INT(io_mutex_init(&other.lock), 0);
    test_thread_start(&other.thread, cancel_often, &other);
    while (taken < most) {
        for (int i = 0; i < 3; i++) {
            size_t length = 1 + test_below(&both.random, 100);
            send_raw(both.native[1], duplex_pattern + sent, length);
            sent += length;
        }
        while (taken < sent) {
            io_receive *receive = &both.receive[0];
            io_mutex_lock(&other.lock);
            receive->op.flags = 0; /* of the last one */
            io_op_submit(&receive->op, both.handle[0]);
            io_mutex_unlock(&other.lock);
            CHECK(world_get(&both.world, 10000) == &receive->op);
            if (receive->op.result == IO_RECEIVE_READY)
                io_receive_now(receive);
            int64_t result = receive->op.result;
            if (result == -IOE_CANCELED || result == -IOE_AGAIN)
                continue;
            CHECK(result > 0 && taken + (size_t)result <= sent);
            CHECK(memcmp(receive->buffer, duplex_pattern + taken, (size_t)result) == 0);
            io_receive_release(receive);
            taken += (size_t)result;
        }
        CHECK_INT(taken, sent);
    }
    atomic_store(&other.stop, true);
    test_thread_join(&other.thread);
    io_mutex_destroy(&other.lock);
    duplex_close(&both);
}

static void start_one(void *argument) {
    duplex_start(argument, 0, 4096);
}

/* What the kernel was asked for by a thread that has ended goes on. */
static void thread_ended(const char *backend) {
    for (uint64_t round = 0; round < test_scaled(20); round++) {
        duplex both;
        test_thread thread;
        duplex_open(&both, backend, round);
        test_thread_start(&thread, start_one, &both);
        test_thread_join(&thread);
        if (round % 3 == 0)
            settle(&both.world);
        for (int i = 0; i < 3; i++) {
            duplex_send_now(&both, 1, duplex_pattern, 100);
            duplex_receive_all(&both, 0, 0, 100, 4096);
        }
        duplex_close(&both);
    }
}

/* A child has copies of the descriptors and of nothing else; the parent goes on. */
static void forked(const char *backend) {
    duplex both;
    int gate[2];
    duplex_open(&both, backend, 0);
    receive_first(&both);
    CHECK_INT(pipe(gate), 0);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(gate[1]);
        _exit(read(gate[0], &byte, 1) == 0 ? 0 : 1);
    }
    CHECK(child > 0);
    close(gate[0]);
    for (int i = 0; i < 100; i++) {
        duplex_send_now(&both, 1, duplex_pattern + i, 1000);
        duplex_receive_all(&both, 0, (size_t)i, 1000, 4096);
    }
    receive_first(&both);
    uint64_t began_ns = io_clock_ns();
    duplex_close(&both);
    CHECK(io_clock_ns() - began_ns < IO_NS_PER_SECOND);
    close(gate[1]);
    int status = -1;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(status, 0);
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
    READY(X, reset_with_data) \
    READY(X, no_memory_waits) \
    READY(X, paused_large) \
    READY(X, paused_small) \
    READY(X, all_at_once) \
    READY(X, numbers_used_again) \
    READY(X, cancel_races) \
    READY(X, thread_ended) \
    READY(X, forked)
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
