/* test_left_over.c: sockets on the Linux backends: the resources they hold while they wait, and
 * what is left when a handle, a thread or a process ends. */
#include "stream_pair.h"

#ifndef _WIN32
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { QUIET_MS = 30 };

static void send_raw(io_native native, const void *data, size_t length) {
    CHECK_INT(send((int)native, data, length, MSG_NOSIGNAL), length);
}

/* Side 0 has received once; nothing waits. */
static void receive_first(stream_pair *both) {
    stream_pair_start(both, 0, 4096);
    send_raw(both->native[1], stream_pair_pattern, 1);
    CHECK_INT(stream_pair_received(both, 0), 1);
    io_receive_release(&both->receive[0]);
}

static void settle(test_world *world) {
    CHECK(world_quiet(world, QUIET_MS));
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
        io_op_embed(&receives[i].op, world.lane, IO_RECEIVE, NULL, NULL);
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
    stream_pair both;
    size_t sent = 1;
    stream_pair_open(&both, backend, 1);
    receive_first(&both);
    while (sent + piece < sizeof(stream_pair_pattern)) {
        ssize_t moved = send((int)both.native[1], stream_pair_pattern + sent, piece, MSG_NOSIGNAL);
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
    stream_pair_receive_all(&both, 0, 1, sent - 1, 10000);
    stream_pair_close(&both);
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
            io_op_embed(&receives[i].op, world.lane, IO_RECEIVE, NULL, NULL);
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
            if (!stream_pair_fetched(receive, handles[i]))
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

static void connection_pair(void *argument) {
    talker *self = argument;
    while (!atomic_load(&self->stop))
        if (send((int)self->native, stream_pair_pattern, 50, MSG_NOSIGNAL) < 0 && errno != EAGAIN)
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
        stream_pair both = {.world = world};
        talker other = {.stop = false};
        world_pair(&world, both.native);
        other.native = both.native[1];
        both.handle[0] = world_adopt(&world, both.native[0]);
        receive_first(&both);
        CHECK_INT(fcntl((int)both.native[1], F_SETFL, O_NONBLOCK), 0);
        test_thread_start(&other.thread, connection_pair, &other);
        stream_pair_close_side(&both, 0);
        for (int i = 0; i < 3; i++) {
            io_native natives[2];
            world_pair(&world, natives);
            both.handle[0] = world_adopt(&world, natives[0]);
            stream_pair_start(&both, 0, 4096);
            send_raw(natives[1], own, sizeof(own));
            CHECK_INT(stream_pair_received(&both, 0), sizeof(own));
            CHECK(memcmp(both.receive[0].buffer, own, sizeof(own)) == 0);
            io_receive_release(&both.receive[0]);
            stream_pair_close_side(&both, 0);
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
    stream_pair *both;
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
    stream_pair both;
    canceller other = {.both = &both, .stop = false};
    size_t sent = 1, taken = 1, most = test_scaled(200000);
    stream_pair_open(&both, backend, 7);
    receive_first(&both);
    CHECK_INT(io_mutex_init(&other.lock), 0);
    test_thread_start(&other.thread, cancel_often, &other);
    while (taken < most) {
        for (int i = 0; i < 3; i++) {
            size_t length = 1 + test_below(&both.random, 100);
            send_raw(both.native[1], stream_pair_pattern + sent, length);
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
            CHECK(memcmp(receive->buffer, stream_pair_pattern + taken, (size_t)result) == 0);
            io_receive_release(receive);
            taken += (size_t)result;
        }
        CHECK_INT(taken, sent);
    }
    atomic_store(&other.stop, true);
    test_thread_join(&other.thread);
    io_mutex_destroy(&other.lock);
    stream_pair_close(&both);
}

static void start_one(void *argument) {
    stream_pair_start(argument, 0, 4096);
}

/* What the kernel was asked for by a thread that has ended goes on. */
static void thread_ended(const char *backend) {
    for (uint64_t round = 0; round < test_scaled(20); round++) {
        stream_pair both;
        test_thread thread;
        stream_pair_open(&both, backend, round);
        test_thread_start(&thread, start_one, &both);
        test_thread_join(&thread);
        if (round % 3 == 0)
            settle(&both.world);
        for (int i = 0; i < 3; i++) {
            stream_pair_send_now(&both, 1, stream_pair_pattern, 100);
            stream_pair_receive_all(&both, 0, 0, 100, 4096);
        }
        stream_pair_close(&both);
    }
}

/* A child has copies of the descriptors and of nothing else; the parent goes on. */
static void forked(const char *backend) {
    stream_pair both;
    int gate[2];
    stream_pair_open(&both, backend, 0);
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
        stream_pair_send_now(&both, 1, stream_pair_pattern + i, 1000);
        stream_pair_receive_all(&both, 0, (size_t)i, 1000, 4096);
    }
    receive_first(&both);
    uint64_t began_ns = io_clock_ns();
    stream_pair_close(&both);
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
