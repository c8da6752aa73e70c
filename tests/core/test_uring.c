/* test_uring.c: the receives of connections on io_uring: what is held while nobody wants it, and
 * what the kernel still has when a handle, a thread or a port ends. */
#include "duplex.h"

#ifndef _WIN32
#include "backends/uring_receive.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/sockios.h>

enum {
    HELD_MAX = 65536, /* bytes that a paused connection may have taken from its socket */
    QUIET_MS = 30,
};

static uring_intake *intake_of(const test_world *world) {
    return &((uring_lane *)world->lane->state)->intake;
}

static void needs_multishot(const test_world *world) {
    if (intake_of(world)->way == URING_MULTISHOT)
        return;
    CHECK_INT(world_close_busy((test_world *)(uintptr_t)world), 0);
    test_skip("a kernel without a limit for multishot receives");
}

static void open_multishot(duplex *both) {
    duplex_begin(both, "io_uring", 7);
    needs_multishot(&both->world);
    world_pair(&both->world, both->native);
    for (int i = 0; i < 2; i++)
        both->handle[i] = world_adopt(&both->world, both->native[i]);
}

static void send_raw(io_native native, const void *data, size_t length) {
    CHECK_INT(send((int)native, data, length, MSG_NOSIGNAL), length);
}

/* Side 0 has received once and is armed, if it ever is; nothing waits. */
static void make_armed(duplex *both) {
    duplex_start(both, 0, 4096);
    send_raw(both->native[1], duplex_pattern, 1);
    CHECK_INT(duplex_received(both, 0), 1);
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

/* ---- a kernel without memory ----------------------------------------------------------------- */

static _Atomic int refusals; /* so many submissions are refused from now on */

/* Instead of libc's. */
long syscall(long number, ...) {
    static _Atomic uintptr_t libc;
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        arguments[i] = va_arg(list, long);
    va_end(list);
    if (number == URING_SYS_ENTER && arguments[1] == 1 && atomic_load(&refusals) > 0) {
        atomic_fetch_sub(&refusals, 1);
        errno = ENOMEM;
        return -1;
    }
    if (libc == 0)
        libc = (uintptr_t)dlsym(RTLD_NEXT, "syscall");
    return ((long (*)(long, ...))libc)(number, arguments[0], arguments[1], arguments[2],
                                       arguments[3], arguments[4], arguments[5]);
}

static void refuse(int count) {
    atomic_store(&refusals, count);
}

static void check_refused(void) {
    CHECK_INT(atomic_load(&refusals), 0);
}

static void open_as_before(duplex *both) {
    uring_intake_as_before(true);
    duplex_open(both, "io_uring", 1);
    uring_intake_as_before(false);
}

/* What the kernel did not take is asked for again, though nothing else happens. */
static void cancel_refused(void) {
    duplex both;
    open_as_before(&both);
    for (int count = 1; count <= 3; count++) {
        duplex_start(&both, 0, 4096);
        settle(&both.world);
        refuse(count);
        CHECK(io_op_cancel(&both.receive[0].op));
        CHECK_INT(duplex_received(&both, 0), -IOE_CANCELED);
        check_refused();
    }
    duplex_close(&both);
}

static void receive_one(void *argument) {
    CHECK_INT(duplex_received(argument, 0), -IOE_CANCELED);
}

/* The same by another thread than the one that waits already. */
static void cancel_refused_elsewhere(void) {
    test_needs_threads("io_uring");
    for (int round = 0; round < 5; round++) {
        duplex both;
        test_thread thread;
        bool waits = false;
        open_as_before(&both);
        duplex_start(&both, 0, 4096);
        test_thread_start(&thread, receive_one, &both);
        while (!waits) {
            io_mutex_lock(&both.world.lane->lock);
            waits = both.world.lane->waiting;
            io_mutex_unlock(&both.world.lane->lock);
        }
        refuse(2);
        CHECK(io_op_cancel(&both.receive[0].op));
        test_thread_join(&thread);
        check_refused();
        duplex_close(&both);
    }
}

static void close_refused(void) {
    duplex both;
    open_as_before(&both);
    duplex_start(&both, 0, 4096);
    settle(&both.world);
    int fd = (int)both.native[0];
    refuse(2);
    duplex_close_side(&both, 0);
    CHECK_INT(duplex_received(&both, 0), -IOE_CANCELED);
    CHECK_INT(fcntl(fd, F_GETFD), -1);
    check_refused();
    duplex_close(&both);
}

static void port_close_refused(void) {
    duplex both;
    open_as_before(&both);
    io_op_submit(new_recv(&both.world, NULL, 100), both.handle[0]);
    settle(&both.world);
    refuse(3);
    CHECK_INT(world_close_busy(&both.world), 1); /* was under way */
    check_refused();
    for (int i = 0; i < 2; i++)
        close((int)both.native[i]);
}

/* The thread that armed the watch over wakes has ended; the next one comes to arm it later. */
static void wake_refused(void) {
    duplex both;
    open_as_before(&both);
    uring_lane *state = both.world.lane->state;
    for (int round = 0; round < 3; round++) {
        duplex_start(&both, 0, 4096);
        state->wake_armed = false;
        refuse(2);
        while (!state->wake_armed)
            CHECK(world_quiet(&both.world, 1));
        check_refused();
        duplex_send(&both, 1, duplex_pattern, 10);
        duplex_receive_all(&both, 0, 0, 10, 4096);
    }
    duplex_close(&both);
}

/* Both are there when the receive begins: it hears of the data only, and looks for itself. */
static void reset_with_data(void) {
    for (int count = 0; count < 3; count++) {
        struct linger reset = {.l_onoff = 1};
        duplex both;
        duplex_begin(&both, "io_uring", 7);
        needs_multishot(&both.world);
        world_pair(&both.world, both.native);
        both.handle[0] = world_adopt(&both.world, both.native[0]);
        send_raw(both.native[1], duplex_pattern, 100);
        CHECK_INT(setsockopt((int)both.native[1], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
        close((int)both.native[1]);
        duplex_start(&both, 0, 4096);
        refuse(count);
        CHECK_INT(duplex_received(&both, 0), 100);
        io_receive_release(&both.receive[0]);
        duplex_start(&both, 0, 4096);
        CHECK_INT(duplex_received(&both, 0), -IOE_CONNRESET);
        check_refused();
        duplex_close(&both);
    }
}

/* ---- what is held ---------------------------------------------------------------------------- */

/* A receive that waits has no memory. */
static void no_memory_waits(void) {
    enum { WAITING = 50 };
    static io_receive receives[WAITING];
    io_handle *handles[2 * WAITING];
    test_world world;
    world_open(&world, "io_uring", 1);
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

/* While nobody receives, so much is taken from the socket and no more, whoever sends how. */
static void paused(size_t piece, bool older) {
    duplex both;
    size_t sent = 1;
    uring_intake_as_before(older);
    duplex_open(&both, "io_uring", 1);
    uring_intake_as_before(false);
    make_armed(&both);
    while (sent + piece < sizeof(duplex_pattern)) {
        ssize_t moved = send((int)both.native[1], duplex_pattern + sent, piece, MSG_NOSIGNAL);
        if (moved < 0)
            break;
        sent += (size_t)moved;
        if (sent % 7 == 0)
            CHECK(world_get(&both.world, 0) == NULL);
        if (piece < 100 && sent > 3 * HELD_MAX)
            break;
    }
    settle(&both.world);
    settle(&both.world);
    int left =
        waiting_bytes((int)both.native[0], SIOCINQ) + waiting_bytes((int)both.native[1], SIOCOUTQ);
    CHECK(sent > 2 * HELD_MAX);
    CHECK((size_t)left >= sent - 1 - HELD_MAX);
    duplex_receive_all(&both, 0, 1, sent - 1, 10000);
    duplex_close(&both);
}

static void paused_large(void) {
    paused(60000, false);
}

static void paused_small(void) {
    paused(37, false);
}

static void paused_as_before(void) {
    paused(60000, true);
}

/* Exactly that many bytes, with receives of at most so many. */
static void receive_part(duplex *both, size_t from, size_t length, uint32_t capacity) {
    for (size_t end = from + length; from < end;) {
        uint32_t most = end - from < capacity ? (uint32_t)(end - from) : capacity;
        int64_t result = duplex_receive(both, 0, most);
        CHECK(result > 0);
        CHECK(memcmp(both->receive[0].buffer, duplex_pattern + from, (size_t)result) == 0);
        io_receive_release(&both->receive[0]);
        from += (size_t)result;
    }
}

/* What is held comes in order, to receives of any size, and then its end. */
static void held_in_order(void) {
    static const uint32_t capacities[] = {1, 10, 511, 4096, 5000, 65536};
    for (uint64_t seed = 1; seed <= test_scaled(30); seed++) {
        duplex both;
        uring_intake_as_before(seed % 5 == 0);
        duplex_open(&both, "io_uring", seed);
        uring_intake_as_before(false);
        make_armed(&both);
        size_t sent = 1, taken = 1;
        for (int round = 0; round < 12; round++) {
            for (uint64_t pieces = test_below(&both.random, 4); pieces > 0; pieces--) {
                size_t length = 1 + test_below(&both.random, pieces == 2 ? 20000 : 300);
                send_raw(both.native[1], duplex_pattern + sent, length);
                sent += length;
                if (test_below(&both.random, 2) == 0)
                    settle(&both.world);
            }
            size_t part = test_below(&both.random, sent - taken + 1);
            uint32_t capacity = capacities[test_below(&both.random, COUNT_OF(capacities))];
            if (capacity < 500 && part > 100)
                part = 100;
            receive_part(&both, taken, part, capacity);
            taken += part;
        }
        CHECK_INT(shutdown((int)both.native[1], SHUT_WR), 0);
        settle(&both.world);
        duplex_receive_all(&both, 0, taken, sent - taken, 3000);
        for (int i = 0; i < 3; i++)
            CHECK_INT(duplex_receive(&both, 0, 3000), 0);
        duplex_close(&both);
    }
}

/* An error, too, comes after what was held. */
static void error_after_data(void) {
    duplex both;
    open_multishot(&both);
    make_armed(&both);
    for (int i = 0; i < 5; i++) {
        send_raw(both.native[1], duplex_pattern + 1 + 100 * i, 100);
        settle(&both.world);
    }
    both.world.backend->prepare_close(both.handle[1], true);
    duplex_close_side(&both, 1);
    settle(&both.world);
    duplex_receive_all(&both, 0, 1, 500, 300);
    CHECK_INT(duplex_receive(&both, 0, 300), -IOE_CONNRESET);
    duplex_close(&both);
}

/* One submission serves many messages, more than there are buffers. */
static void stays_armed(void) {
    duplex both;
    open_multishot(&both);
    make_armed(&both);
    for (int i = 0; i < 3000; i++) {
        CHECK_INT(intake_of(&both.world)->armed, 1);
        send_raw(both.native[1], duplex_pattern, 20);
        CHECK_INT(duplex_receive(&both, 0, 4096), 20);
        io_receive_release(&both.receive[0]);
    }
    duplex_close(&both);
}

/* ---- buffers are few ------------------------------------------------------------------------- */

/* Every connection has its message, though all come at once and there are fewer buffers. */
static void more_than_buffers(void) {
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
    world_open(&world, "io_uring", 1);
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

/* ---- ends ------------------------------------------------------------------------------------ */

/* The socket is open until the kernel has let go of it; then the peer sees its end. */
static void closed_while_armed(void) {
    for (uint64_t round = 0; round < test_scaled(200); round++) {
        duplex both;
        open_multishot(&both);
        make_armed(&both);
        int fd = (int)both.native[0], peer = (int)both.native[1];
        if (round % 4 == 1)
            send_raw(peer, duplex_pattern, 1 + round * 50);
        if (round % 4 == 2)
            settle(&both.world);
        duplex_close_side(&both, 0);
        CHECK(fcntl(fd, F_GETFD) >= 0);
        if (round % 4 == 3)
            (void)send(peer, duplex_pattern, 100, MSG_NOSIGNAL);
        if (round % 8 < 4) {
            settle(&both.world);
            CHECK_INT(intake_of(&both.world)->armed, 0);
            CHECK_INT(fcntl(fd, F_GETFD), -1);
            int64_t result = duplex_receive(&both, 1, 100);
            CHECK(result == 0 || result == -IOE_CONNRESET);
        }
        duplex_close(&both);
        CHECK_INT(fcntl(fd, F_GETFD), -1);
    }
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
static void numbers_used_again(void) {
    test_world world;
    test_needs_threads("io_uring");
    world_open(&world, "io_uring", 1);
    int before = descriptors();
    for (uint64_t round = 0; round < test_scaled(300); round++) {
        static const char own[] = "its own";
        duplex both = {.world = world};
        talker other = {.stop = false};
        world_pair(&world, both.native);
        other.native = both.native[1];
        both.handle[0] = world_adopt(&world, both.native[0]);
        make_armed(&both);
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
        while (intake_of(&world)->armed > 0)
            CHECK(world_quiet(&world, 1));
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
static void cancel_races(void) {
    duplex both;
    canceller other = {.both = &both, .stop = false};
    size_t sent = 1, taken = 1, most = test_scaled(200000);
    test_needs_threads("io_uring");
    open_multishot(&both);
    make_armed(&both);
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

/* The port goes with data held and more on its way. What was handed out may still be read. */
static void port_closed(void) {
    int before = descriptors();
    for (uint64_t round = 0; round < test_scaled(40); round++) {
        duplex both;
        duplex_open(&both, "io_uring", round);
        make_armed(&both);
        send_raw(both.native[1], duplex_pattern, 300);
        CHECK_INT(duplex_receive(&both, 0, 65536), 300);
        for (int i = 0; i < 3; i++) {
            send_raw(both.native[1], duplex_pattern, 1000);
            if (round % 2 == 0)
                settle(&both.world);
        }
        io_port *port = both.world.port;
        int peer = dup((int)both.native[1]);
        if (round % 4 == 0)
            duplex_start(&both, 1, 512);
        CHECK(io_port_begin_close(port));
        CHECK_INT(io_port_drain(port, 10 * IO_NS_PER_SECOND), 0);
        both.world.lane->ready_count = 0;
        io_list_init(&both.world.lane->ready);
        if (round % 3 != 0) {
            duplex_close_side(&both, 0);
            duplex_close_side(&both, 1);
        }
        uint64_t began_ns = io_clock_ns();
        io_port_finish_close(port, 0);
        CHECK(io_clock_ns() - began_ns < IO_NS_PER_SECOND);
        if (round % 3 == 0) { /* it was left to its owner */
            close((int)both.native[0]);
            close((int)both.native[1]);
        }
        CHECK(memcmp(both.receive[0].buffer, duplex_pattern, 300) == 0);
        io_receive_release(&both.receive[0]);
        io_port_destroy(port);
        CHECK(send(peer, "x", 1, MSG_NOSIGNAL) <= 1); /* the end, or a reset */
        close(peer);
    }
    CHECK_INT(descriptors(), before);
}

/* ---- threads and processes ------------------------------------------------------------------- */

static void start_one(void *argument) {
    duplex_start(argument, 0, 4096);
}

/* What the kernel was asked for by a thread that has ended goes on. */
static void thread_ended(void) {
    for (uint64_t round = 0; round < test_scaled(20); round++) {
        duplex both;
        test_thread thread;
        test_needs_threads("io_uring");
        uring_intake_as_before(round % 2 == 1);
        duplex_open(&both, "io_uring", round);
        uring_intake_as_before(false);
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
static void forked(void) {
    duplex both;
    int gate[2];
    duplex_open(&both, "io_uring", 0);
    make_armed(&both);
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
    make_armed(&both);
    uint64_t began_ns = io_clock_ns();
    duplex_close(&both);
    CHECK(io_clock_ns() - began_ns < IO_NS_PER_SECOND);
    close(gate[1]);
    int status = -1;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(status, 0);
}

int main(int argc, char **argv) {
    static const test_case tests[] = {
        TEST(no_memory_waits),    TEST(paused_large),
        TEST(paused_small),       TEST(paused_as_before),
        TEST(held_in_order),      TEST(error_after_data),
        TEST(stays_armed),        TEST(more_than_buffers),
        TEST(closed_while_armed), TEST(numbers_used_again),
        TEST(cancel_races),       TEST(port_closed),
        TEST(thread_ended),       TEST(forked),
        TEST(cancel_refused),     TEST(cancel_refused_elsewhere),
        TEST(close_refused),      TEST(port_close_refused),
        TEST(wake_refused),       TEST(reset_with_data),
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
#else
int main(int argc, char **argv) {
    return test_main(argc, argv, NULL, 0);
}
#endif
