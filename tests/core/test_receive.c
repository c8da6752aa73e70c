/* test_receive.c: the building blocks of connections: receives without their own memory
 * (IO_RECEIVE), and owned handles. For every backend of the platform. */
#include "stream_pair.h"

#ifdef _WIN32
typedef SOCKET native_socket;
typedef int native_length;
#else
#include <sys/socket.h>
#include <unistd.h>
typedef int native_socket;
typedef size_t native_length;
#endif

static int shut_down(stream_pair *both, int side) {
    return both->world.backend->shutdown(both->handle[side]);
}

/* ---- data and its end ------------------------------------------------------------------------ */

static void receives(const char *backend) {
    stream_pair both;
    stream_pair_open(&both, backend, 0);
    for (int round = 0; round < 20; round++) {
        if (round % 2 == 0)
            stream_pair_start(&both, 0, 4096);
        CHECK(!both.came[0] || round % 2 == 1);
        stream_pair_send_now(&both, 1, stream_pair_pattern, 100);
        if (round % 2 == 1)
            stream_pair_start(&both, 0, 4096);
        CHECK_INT(stream_pair_received(&both, 0), 100);
        CHECK(memcmp(both.receive[0].buffer, stream_pair_pattern, 100) == 0);
        io_receive_release(&both.receive[0]);
    }
    stream_pair_start(&both, 0, 4096);
    CHECK_INT(shut_down(&both, 1), 0);
    CHECK_INT(stream_pair_received(&both, 0), 0);
    for (int i = 0; i < 3; i++)
        CHECK_INT(stream_pair_receive(&both, 0, 512), 0);
    stream_pair_close(&both);
}

/* More in the socket than a receive takes, and less, in a row; the end right behind the last byte,
 * or later. Nothing stays behind. */
static void nothing_stays_behind(const char *backend) {
    static const uint32_t capacities[] = {1, 100, 512, 4096, 5000, 65536};
    bool sim = strcmp(backend, "sim") == 0;
    for (uint64_t seed = 1; seed <= test_scaled(sim ? 60 : 20); seed++) {
        stream_pair both;
        stream_pair_open(&both, backend, seed);
        for (int round = 0; round < 8; round++) {
            uint32_t capacity = capacities[test_below(&both.random, COUNT_OF(capacities))];
            size_t most = capacity == 1 ? 50 : 20000, total = 0;
            if (test_below(&both.random, 2) == 0)
                stream_pair_start(&both, 0, capacity);
            for (uint64_t parts = 1 + test_below(&both.random, 5); parts > 0; parts--) {
                size_t length = 1 + test_below(&both.random, most);
                if (capacity <= 5000 && test_below(&both.random, 2) == 0)
                    length = capacity; /* filled to the last byte */
                if (total + length > 60000)
                    break;
                if (test_below(&both.random, 2) == 0)
                    stream_pair_send_now(&both, 1, stream_pair_pattern + total, length);
                else
                    stream_pair_send(&both, 1, stream_pair_pattern + total, length);
                total += length;
            }
            stream_pair_receive_all(&both, 0, 0, total, capacity);
        }
        stream_pair_send_now(&both, 1, stream_pair_pattern, 3000);
        CHECK_INT(shut_down(&both, 1), 0);
        stream_pair_receive_all(&both, 0, 0, 3000, seed % 2 == 0 ? 65536 : 1000);
        CHECK_INT(stream_pair_receive(&both, 0, 4096), 0);
        stream_pair_close(&both);
    }
}

/* Data and the end of the stream arrive in the same moment, and the receive was there before. */
static void end_with_data(const char *backend) {
    for (uint64_t round = 0; round < test_scaled(100); round++) {
        stream_pair both;
        stream_pair_open(&both, backend, round);
        if (round % 3 != 0)
            stream_pair_start(&both, 0, 65536);
        if (both.world.sim)
            stream_pair_send_now(&both, 1, stream_pair_pattern, 10);
        else
            stream_pair_send(&both, 1, stream_pair_pattern, 10);
        if (round % 2 == 0)
            CHECK_INT(shut_down(&both, 1), 0);
        else
            stream_pair_close_side(&both, 1);
        stream_pair_receive_all(&both, 0, 0, 10, 65536);
        CHECK_INT(stream_pair_receive(&both, 0, 65536), 0);
        stream_pair_close(&both);
    }
}

/* Buffers that are held while more arrives keep what is in them, and all come back. */
static void buffers_come_back(const char *backend) {
    enum { HELD = 40 };
    static io_receive held[HELD];
    stream_pair both;
    stream_pair_open(&both, backend, 0);
    for (int i = 0; i < HELD; i++) {
        stream_pair_send_now(&both, 1, stream_pair_pattern + i * 100, 100);
        CHECK_INT(stream_pair_receive(&both, 0, i % 2 == 0 ? 512 : 2048), 100);
        held[i] = both.receive[0];
    }
    bool pooled = !io_guard_enabled();
    for (int i = 0; i < HELD; i++) {
        CHECK(memcmp(held[i].buffer, stream_pair_pattern + i * 100, 100) == 0);
        io_receive_release(&held[i]);
        CHECK(held[i].buffer == NULL);
        io_receive_release(&held[i]); /* does nothing */
    }
    const io_buffer_pool *pool = &both.world.port->buffers;
    uint32_t count = 0;
    for (size_t i = 0; i < COUNT_OF(pool->free_count); i++)
        count += pool->free_count[i] + (pool->last[i] != NULL);
    CHECK(!pooled || (count >= HELD && count <= HELD + 4));
    stream_pair_close(&both);
}

static void send_raw(io_native native, const char *data, int flags) {
    native_length length = (native_length)strlen(data);
    CHECK_INT(send((native_socket)native, data, length, flags), length);
}

/* A receive ends before urgent data, full or not. */
static void urgent_data(const char *backend) {
    stream_pair both;
    stream_pair_open(&both, backend, 0);
    for (uint64_t round = 0; !both.world.sim && round < test_scaled(60); round++) {
        char got[16] = "";
        size_t length = 0;
        if (round % 2 == 0)
            stream_pair_start(&both, 0, 4096);
        send_raw(both.native[1], "abc", 0);
        if (round % 4 == 0) { /* the next one starts before the rest is sent */
            CHECK_INT(stream_pair_received(&both, 0), 3);
            io_receive_release(&both.receive[0]);
            memcpy(got, "abc", 3);
            length = 3;
            stream_pair_start(&both, 0, 4096);
        }
        send_raw(both.native[1], "!", MSG_OOB);
        send_raw(both.native[1], "def", 0);
        while (length < 6) {
            if (!both.started[0])
                stream_pair_start(&both, 0, 4096);
            int64_t result = stream_pair_received(&both, 0);
            CHECK(result > 0);
            for (int64_t i = 0; i < result; i++)
                if (both.receive[0].buffer[i] != '!')
                    got[length++ & 15] = both.receive[0].buffer[i];
            io_receive_release(&both.receive[0]);
        }
        CHECK(memcmp(got, "abcdef", 6) == 0);
    }
    stream_pair_close(&both);
}

#ifndef _WIN32
/* A message with a file of its own, at which a receive of a unix socket ends. */
static void send_with_file(io_native native, char *data, size_t length) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof(control));
    struct iovec vec = {data, length};
    struct msghdr message = {.msg_iov = &vec,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    int file = (int)native;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(file));
    memcpy(CMSG_DATA(&control.header), &file, sizeof(file));
    CHECK_INT(sendmsg((int)native, &message, 0), length);
}

static void unix_streams(const char *backend) {
    stream_pair both;
    int made[2];
    stream_pair_begin(&both, backend, 3);
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, made), 0);
    for (int i = 0; i < 2 && !both.world.sim; i++) {
        uint32_t os_error = 0;
        both.native[i] = made[i];
        CHECK_INT(io_handle_adopt(both.world.lane, made[i], AF_UNIX, &both.handle[i], &os_error),
                  0);
    }
    for (size_t round = 0; !both.world.sim && round < test_scaled(60); round++) {
        if (round % 2 == 0)
            stream_pair_start(&both, 0, 4096);
        for (size_t i = 0; i < 4; i++) {
            if (round % 3 == 0)
                stream_pair_send_now(&both, 1, stream_pair_pattern + i * 10, 10);
            else
                send_with_file(both.native[1], stream_pair_pattern + i * 10, 10);
        }
        stream_pair_receive_all(&both, 0, 0, 40, 4096);
    }
    if (both.world.sim) {
        close(made[0]);
        close(made[1]);
    } else {
        stream_pair_close_side(&both, 1);
        CHECK_INT(stream_pair_receive(&both, 0, 4096), 0);
    }
    stream_pair_close(&both);
}
#endif

/* ---- cancel and close ------------------------------------------------------------------------ */

static void cancelled(const char *backend) {
    stream_pair both;
    stream_pair_open(&both, backend, 5);
    stream_pair_cancel_receives(&both, test_scaled(both.world.sim ? 400 : 100));
    stream_pair_close(&both);
}

/* The handle goes when its receive has ended, and the peer sees it go. */
static void closed_under_a_receive(const char *backend) {
    for (uint64_t round = 0; round < test_scaled(30); round++) {
        stream_pair both;
        stream_pair_open(&both, backend, round);
        stream_pair_start(&both, 0, 4096);
        stream_pair_close_side(&both, 0);
        CHECK_INT(stream_pair_received(&both, 0), -IOE_CANCELED);
        int64_t result = stream_pair_receive(&both, 1, 512);
        CHECK(result == 0 || result == -IOE_CONNRESET);
        stream_pair_close(&both);
    }
}

static void never_released(io_op *op, bool leaked, void *context) {
    int *count = context;
    CHECK(!leaked && op->kind == IO_RECEIVE);
    CHECK_INT(op->result, -IOE_CANCELED);
    CHECK(((io_receive *)op)->buffer == NULL);
    ++*count;
}

/* The port closes with receives in flight, and then the handles. */
static void port_closed(const char *backend) {
    stream_pair both;
    int count = 0;
    stream_pair_open(&both, backend, 0);
    stream_pair_start(&both, 0, 4096);
    stream_pair_start(&both, 1, 65536);
    io_port *port = both.world.port;
    CHECK(io_port_begin_close(port));
    CHECK_INT(io_port_drain(port, 10 * IO_NS_PER_SECOND), 0);
    io_port_take_remaining(port, never_released, &count);
    CHECK_INT(count, 2);
    stream_pair_close_side(&both, 0);
    stream_pair_close_side(&both, 1);
    io_port_finish_close(port, 0);
    io_port_destroy(port);
}

/* A peer that is reset hears of it, with a receive under way and without. */
static void reset(const char *backend) {
    for (int round = 0; round < 4; round++) {
        stream_pair both;
        stream_pair_open(&both, backend, 0);
        if (round % 2 == 0)
            stream_pair_start(&both, 1, 4096);
        if (round / 2 == 1)
            stream_pair_send_now(&both, 1, stream_pair_pattern, 100); /* which nobody reads */
        both.world.backend->prepare_close(both.handle[0], true);
        stream_pair_close_side(&both, 0);
        if (round % 2 != 0)
            stream_pair_start(&both, 1, 4096);
        CHECK_INT(stream_pair_received(&both, 1), -IOE_CONNRESET);
        stream_pair_close(&both);
    }
}

/* What has arrived and nobody wants does not turn the end of our stream into a reset. */
static void closed_in_good_order(const char *backend) {
    stream_pair both;
    stream_pair_open(&both, backend, 0);
    stream_pair_send_now(&both, 1, stream_pair_pattern, 30000);
    stream_pair_send_now(&both, 0, stream_pair_pattern, 50);
    CHECK_INT(shut_down(&both, 0), 0);
    both.world.backend->prepare_close(both.handle[0], false);
    stream_pair_close_side(&both, 0);
    stream_pair_receive_all(&both, 1, 0, 50, 4096);
    CHECK_INT(stream_pair_receive(&both, 1, 4096), 0);
    stream_pair_close(&both);
}

/* ---- the rest of a connection's socket ------------------------------------------------------- */

/* Ours ends, the other goes on. */
static void half_closed(const char *backend) {
    stream_pair both;
    stream_pair_open(&both, backend, 0);
    stream_pair_start(&both, 0, 4096);
    stream_pair_send(&both, 0, stream_pair_pattern, 1000);
    stream_pair_receive_all(&both, 1, 0, 1000, 4096);
    CHECK_INT(shut_down(&both, 0), 0);
    CHECK_INT(stream_pair_receive(&both, 1, 4096), 0);
    stream_pair_send(&both, 1, stream_pair_pattern, 300);
    stream_pair_receive_all(&both, 0, 0, 300, 4096);
    io_op *op = new_send(&both.world, stream_pair_pattern, 10);
    io_op_submit(op, both.handle[0]);
    CHECK_INT(stream_pair_finish(&both, op), -IOE_PIPE);
    io_op_release(op);
    stream_pair_close(&both);
}

static bool same_address(const io_address *one, const io_address *other) {
    char texts[2][100];
    io_address_text(one, texts[0], sizeof(texts[0]));
    io_address_text(other, texts[1], sizeof(texts[1]));
    return one->length > 0 && strcmp(texts[0], texts[1]) == 0;
}

static void addresses(const char *backend) {
    stream_pair both;
    io_address own[2], peer[2];
    stream_pair_open(&both, backend, 0);
    for (int i = 0; i < 2; i++) {
        both.world.backend->address(both.handle[i], false, &own[i]);
        both.world.backend->address(both.handle[i], true, &peer[i]);
        CHECK_INT(own[i].storage.ss_family, AF_INET);
    }
    CHECK(same_address(&own[0], &peer[1]) && same_address(&own[1], &peer[0]));
    CHECK(!same_address(&own[0], &own[1]));
    stream_pair_close(&both);
}

/* A connection that was accepted is adopted as it is. */
static void accepted(const char *backend) {
    stream_pair both;
    io_address address, peer;
    stream_pair_begin(&both, backend, 0);
    test_world *world = &both.world;
    io_native listener = world_listener(world, &address);
    io_handle *listening = world_handle(world, listener);
    io_handle *client = world_handle(world, world_socket(world));
    io_op *accept = new_accept(world), *connect = new_connect(world, &address);
    io_op_submit(accept, listening);
    io_op_submit(connect, client);
    for (int i = 0; i < 2; i++) {
        io_op *op = world_get(world, 10000);
        CHECK(op == accept || op == connect);
        CHECK_INT(op->result, 0);
    }
    both.native[0] = ((io_accept *)accept)->accepted;
    uint32_t os_error = 0;
    CHECK_INT(io_handle_adopt(world->lane, both.native[0], AF_INET, &both.handle[0], &os_error), 0);
    world->backend->address(both.handle[0], true, &peer);
    CHECK(same_address(&peer, &((io_accept *)accept)->peer));
    io_op_release(accept);
    io_op_release(connect);
    stream_pair_start(&both, 0, 4096);
    io_op_submit(new_send(world, stream_pair_pattern, 100), client);
    stream_pair_receive_all(&both, 0, 0, 100, 4096);
    CHECK_INT(world->backend->shutdown(both.handle[0]), 0);
    world_handle_close(client);
    CHECK_INT(stream_pair_receive(&both, 0, 4096), 0);
    world_handle_close(listening);
    stream_pair_close(&both);
}

/* A socket that was connected by way of a handle like any other is adopted afterwards. */
static void connected(const char *backend) {
    stream_pair both;
    io_address address;
    uint32_t os_error = 0;
    stream_pair_begin(&both, backend, 0);
    test_world *world = &both.world;
    io_handle *listening = world_handle(world, world_listener(world, &address));
    both.native[0] = world_socket(world);
    io_handle *connecting = world_handle(world, both.native[0]);
    CHECK_INT(world_do(world, new_connect(world, &address), connecting), 0);
    CHECK_INT(io_handle_forget(connecting, false), 0);
    io_handle_release(connecting);
    CHECK_INT(io_handle_adopt(world->lane, both.native[0], AF_INET, &both.handle[0], &os_error), 0);
    io_op *accept = new_accept(world);
    io_op_submit(accept, listening);
    CHECK_INT(world_finish(world, accept), 0);
    both.handle[1] = world_adopt(world, ((io_accept *)accept)->accepted);
    io_op_release(accept);
    for (int i = 0; i < 2; i++) {
        stream_pair_send_now(&both, i, stream_pair_pattern, 1000);
        stream_pair_receive_all(&both, 1 - i, 0, 1000, 4096);
    }
    world_handle_close(listening);
    stream_pair_close(&both);
}

/* ---- threads --------------------------------------------------------------------------------- */

enum { LINKS = 6, THREADS = 3 };

typedef struct crowd crowd;
typedef struct crowd_end {
    io_receive receive;
    io_handle *handle;
    crowd *all;
    uint64_t left; /* receives until it closes; only whoever has the receive looks */
    bool closed;
} crowd_end;
struct crowd {
    test_world world;
    crowd_end ends[2 * LINKS];
    _Atomic int open;
};

static void crowd_send(crowd_end *end, size_t length) {
    io_op *op = new_send(&end->all->world, stream_pair_pattern, length);
    if (io_op_submit_now(op, end->handle))
        io_op_release(op);
}

/* Until one that has not ended at once; what comes is sent back in one piece. */
static void crowd_receive(crowd_end *end) {
    for (;;) {
        io_receive *receive = &end->receive;
        io_op_embed(&receive->op, end->all->world.lane, IO_RECEIVE, NULL, end);
        receive->buffer = NULL;
        receive->capacity = end->left % 3 == 0 ? 65536 : 700;
        if (!io_op_submit_now(&receive->op, end->handle) ||
            !stream_pair_fetched(receive, end->handle))
            return;
        if (receive->op.result <= 0)
            break;
        size_t length = (size_t)receive->op.result;
        io_receive_release(receive);
        if (end->left-- == 0)
            break;
        crowd_send(end, length);
    }
    end->closed = true;
    io_handle_close(end->handle);
    atomic_fetch_sub(&end->all->open, 1);
}

static void crowd_member(void *argument) {
    crowd *all = argument;
    while (atomic_load(&all->open) > 0 || atomic_load(&all->world.port->in_flight) > 0) {
        io_op *op = world_get(&all->world, 5);
        if (op == NULL)
            continue;
        crowd_end *end = op->owner;
        if (op->kind == IO_SEND) {
            io_op_release(op);
            continue;
        }
        if (!stream_pair_fetched(&end->receive, end->handle))
            continue;
        int64_t result = end->receive.op.result;
        CHECK((end->receive.buffer != NULL) == (result > 0));
        io_receive_release(&end->receive);
        if (result > 0 && end->left-- > 0) {
            crowd_send(end, (size_t)result);
            crowd_receive(end);
        } else {
            end->closed = true;
            io_handle_close(end->handle);
            atomic_fetch_sub(&all->open, 1);
        }
    }
}

/* Many connections connection_pair, and any thread gets any completion. */
static void many_threads(const char *backend) {
    static crowd all;
    test_thread threads[THREADS];
    io_port_figures figures;
    memset(&all, 0, sizeof(all));
    world_open(&all.world, backend, THREADS);
    all.open = 2 * LINKS;
    for (int i = 0; i < LINKS; i++) {
        io_native natives[2];
        world_pair(&all.world, natives);
        for (int j = 0; j < 2; j++) {
            crowd_end *end = &all.ends[2 * i + j];
            end->handle = world_adopt(&all.world, natives[j]);
            end->all = &all;
            end->left = test_scaled(2000) + (uint64_t)j; /* the second one hears of the end */
        }
    }
    for (int i = 0; i < THREADS; i++)
        test_thread_start(&threads[i], crowd_member, &all);
    for (int i = 0; i < 2 * LINKS; i++) {
        crowd_send(&all.ends[i], (size_t)(i / 2 % 3 == 0 ? 2000 : 50));
        crowd_receive(&all.ends[i]);
    }
    for (int i = 0; i < THREADS; i++)
        test_thread_join(&threads[i]);
    for (int i = 0; i < 2 * LINKS; i++)
        CHECK(all.ends[i].closed);
    io_port_stats(all.world.port, &figures);
    CHECK_INT(figures.handles, 0);
    world_close(&all.world);
}

#define COMMON(X)                       \
    BACKENDS(X, receives)               \
    BACKENDS(X, nothing_stays_behind)   \
    BACKENDS(X, end_with_data)          \
    BACKENDS(X, buffers_come_back)      \
    BACKENDS(X, urgent_data)            \
    BACKENDS(X, cancelled)              \
    BACKENDS(X, closed_under_a_receive) \
    BACKENDS(X, port_closed)            \
    BACKENDS(X, reset)                  \
    BACKENDS(X, closed_in_good_order)   \
    BACKENDS(X, half_closed)            \
    BACKENDS(X, addresses)              \
    BACKENDS(X, accepted)               \
    BACKENDS(X, connected)              \
    BACKENDS(X, many_threads)
#ifdef _WIN32
#define ALL(X) COMMON(X)
#else
#define ALL(X) COMMON(X) BACKENDS(X, unix_streams)
#endif

ALL(DEFINE)

int main(int argc, char **argv) {
    static const test_case tests[] = {ALL(ENTRY)};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
