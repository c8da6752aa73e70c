/* test_transfer.c: what operations do together, for every backend of the platform: order and bytes
 * of streams, files, datagrams, timers, closing with everything in flight, numbers and slots that
 * are used again. */
#include "scene.h"

/* ---- order and bytes ------------------------------------------------------------------------- */

/* Many sends and receives at once on one connection: each direction completes in its order, and
 * the bytes arrive as they were sent. */
static void stream_in_order(const char *backend) {
    enum { OPERATIONS = 60 };
    for (uint64_t seed = 0; seed < test_scaled(20); seed++) {
        test_scene scene;
        test_random random = {seed};
        scene_open(&scene, backend, IO_RECV, seed);
        scene_set_up(&scene, AT_ONCE);
        static char received[OPERATIONS][5000];
        io_op *sends[OPERATIONS], *receives[OPERATIONS];
        int sent = 0, got = 0, submitted_receives = 0;
        size_t total = 0, arrived = 0;
        for (int i = 0; i < OPERATIONS; i++) {
            size_t length = 1 + test_below(&random, 5000);
            sends[i] = new_send(&scene.world, scene.bytes + total, length);
            sends[i]->owner = &scene.ended[0];
            total += length;
        }
        for (int i = 0; i < OPERATIONS; i++) {
            io_op_submit(sends[i], scene.handle[0]);
            if (test_below(&random, 4) == 0) {
                io_op *op = world_get(&scene.world, 0);
                if (op != NULL)
                    CHECK(op == sends[sent++]);
            }
        }
        while (arrived < total || sent < OPERATIONS) {
            while (arrived < total && submitted_receives - got < 8) {
                int slot = submitted_receives++ % OPERATIONS;
                receives[slot] = new_recv(&scene.world, received[slot], 5000);
                io_op_submit(receives[slot], scene.handle[1]);
            }
            io_op *op = world_get(&scene.world, 10000);
            CHECK(op != NULL);
            if (op->kind == IO_SEND) {
                CHECK(op == sends[sent++]);
                continue;
            }
            int slot = got++ % OPERATIONS;
            CHECK(op == receives[slot] && op->result > 0);
            CHECK(memcmp(received[slot], scene.bytes + arrived, (size_t)op->result) == 0);
            arrived += (size_t)op->result;
            io_op_release(op);
        }
        for (int i = 0; i < OPERATIONS; i++) {
            CHECK_INT(sends[i]->result, ((io_transfer *)sends[i])->length);
            io_op_release(sends[i]);
        }
        io_handle_cancel(scene.handle[1]);
        while (got < submitted_receives) {
            io_op *op = world_get(&scene.world, 10000);
            CHECK(op != NULL); /* what is cancelled may overtake */
            CHECK_INT(op->result, -IOE_CANCELED);
            got++;
            io_op_release(op);
        }
        scene_close(&scene);
    }
}

/* A receive that is cancelled has taken nothing: the next one gets it all. */
static void cancelled_receive_takes_nothing(const char *backend) {
    uint64_t rounds = test_scaled(strcmp(backend, "sim") == 0 ? 400 : 100);
    test_scene scene;
    scene_open(&scene, backend, IO_RECV, 7);
    scene_set_up(&scene, AT_ONCE);
    for (uint64_t round = 0; round < rounds; round++) {
        char byte = (char)round, taken = 0, next = 0;
        io_op *receive = new_recv(&scene.world, &taken, 1);
        scene.used = 0;
        scene_submit(&scene, receive, 0);
        io_op *send = new_send(&scene.world, &byte, 1);
        scene_submit(&scene, send, 1);
        const int *sent = send->owner; /* the operation may be released by then */
        io_op_cancel(receive);
        scene_finish(&scene, receive);
        if (*sent == 0)
            scene_end(&scene, send);
        if (receive->result == -IOE_CANCELED) {
            io_op *again = new_recv(&scene.world, &next, 1);
            scene_submit(&scene, again, 0);
            CHECK_INT(scene_end(&scene, again), 1);
            CHECK_INT(next, byte);
        } else {
            CHECK_INT(receive->result, 1);
            CHECK_INT(taken, byte);
        }
        io_op_release(receive);
    }
    scene_close(&scene);
}

enum { SENDS = 8 };

static char unread[LARGE];

typedef struct test_senders {
    io_native natives[SENDS][2];
    io_handle *handles[SENDS];
    io_op *ops[SENDS];
    _Atomic int begun;
    _Atomic bool over;
} test_senders;

static void begin_sends(void *argument) {
    test_senders *senders = argument;
    for (int i = 0; i < SENDS; i++) {
        io_op_submit(senders->ops[i], senders->handles[i]);
        atomic_fetch_add(&senders->begun, 1);
    }
    while (!atomic_load(&senders->over))
        test_sleep_ms(1);
}

static void cancel_sends(test_senders *senders, bool whole_handles) {
    for (int i = 0; i < SENDS; i++) {
        while (atomic_load(&senders->begun) <= i)
            test_sleep_ms(0);
        if (whole_handles)
            io_handle_cancel(senders->handles[i]);
        else
            CHECK(io_op_cancel(senders->ops[i]));
    }
}

static void cancel_them(test_world *world, io_kind kind, io_native file, bool whole_handles) {
    test_senders senders = {0};
    test_thread thread;
    for (int i = 0; i < SENDS; i++) {
        world_pair(world, senders.natives[i]);
        senders.handles[i] = world_handle(world, senders.natives[i][0]);
        senders.ops[i] =
            kind == IO_SEND ? new_send(world, unread, LARGE) : new_send_file(world, file, 0, LARGE);
    }
    test_thread_start(&thread, begin_sends, &senders);
    cancel_sends(&senders, whole_handles);
    for (int i = 0; i < SENDS; i++) {
        io_op *op = world_get(world, 10000);
        if (op == NULL)
            FAIL("%s: %d of %d cancelled sends never ended", world->backend->name, SENDS - i,
                 SENDS);
        CHECK_INT(op->kind, kind);
        CHECK_INT(op->result, -IOE_CANCELED);
        io_op_release(op);
    }
    atomic_store(&senders.over, true);
    test_thread_join(&thread);
    for (int i = 0; i < SENDS; i++) {
        CHECK_INT(io_handle_forget(senders.handles[i], false), 0);
        io_handle_release(senders.handles[i]);
        world_native_close(world, senders.natives[i][0], false);
        world_native_close(world, senders.natives[i][1], false);
    }
}

/* A send whose peer never reads ends when it is cancelled, even at a moment when the system is
 * about to try it again. One thread begins all of them: a system that has a send tried again by
 * the thread that began it keeps this one busy. */
static void cancelled_sends_end(const char *backend) {
    uint64_t rounds = test_scaled(strcmp(backend, "iocp") == 0 ? 32 : 4);
    test_world world;
    world_open(&world, backend, 1);
    io_native file = world_file(&world, unread, LARGE);
    for (uint64_t round = 0; round < rounds + 1; round++) {
        cancel_them(&world, IO_SEND_FILE, file, round % 2 == 1);
        cancel_them(&world, IO_SEND, file, round % 2 == 1);
    }
    world_native_close(&world, file, true);
    world_close(&world);
}

/* A gathered send that goes in many parts, with vectors of length 0 among the others. */
static void gathered_send(const char *backend) {
    enum { PARTS = 300 };
    for (uint64_t seed = 1; seed <= test_scaled(5); seed++) {
        test_scene scene;
        test_random random = {seed};
        scene_open(&scene, backend, IO_SEND, seed);
        scene_set_up(&scene, AT_ONCE);
        io_op *op = new_send(&scene.world, NULL, 0);
        io_transfer *transfer = (io_transfer *)op;
        CHECK(io_transfer_reserve(transfer, PARTS));
        transfer->vec_count = PARTS;
        for (int i = 0; i < PARTS; i++) {
            size_t length = i % 7 == 3 ? 0 : test_below(&random, 9000);
            io_vec_set(&transfer->vecs[i], scene.bytes + transfer->length, length);
            transfer->length += length;
        }
        size_t total = transfer->length;
        scene_submit(&scene, op, 0);
        scene_read_all(&scene, op, total);
        if (*(int *)op->owner == 0)
            scene_finish(&scene, op);
        CHECK_INT(op->result, total);
        io_op_release(op);
        scene_close(&scene);
    }
}

/* End of stream is a result of 0, again and again; a send after it fails. */
static void end_of_stream(const char *backend) {
    test_scene scene;
    scene_open(&scene, backend, IO_RECV, 0);
    scene_set_up(&scene, AT_ONCE);
    scene_submit(&scene, new_send(&scene.world, scene.bytes, 5), 1);
    scene_take_rest(&scene);
    CHECK_INT(io_handle_forget(scene.handle[1], false), 0);
    io_handle_release(scene.handle[1]);
    world_native_close(&scene.world, scene.native[1], false);
    scene.handle[1] = NULL;
    for (int i = 0; i < 3; i++) {
        io_op *op = new_recv(&scene.world, NULL, 100); /* a pooled buffer */
        scene_submit(&scene, op, 0);
        CHECK_INT(scene_finish(&scene, op), i == 0 ? 5 : 0);
        const char *arrived = io_vec_base(&((io_transfer *)op)->vecs[0]);
        if (i == 0)
            CHECK(memcmp(arrived, scene.bytes, 5) == 0);
        io_op_release(op);
    }
    int64_t result = 0;
    for (int i = 0; i < 20 && result >= 0; i++) {
        io_op *op = new_send(&scene.world, scene.bytes, 5);
        scene_submit(&scene, op, 0);
        result = scene_end(&scene, op);
        test_sleep_ms(1);
    }
    CHECK(result == -IOE_PIPE || result == -IOE_CONNRESET || result == -IOE_CONNABORTED);
    scene_close(&scene);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void files(const char *backend) {
    enum { AT_A_TIME = 16, PART = 1000 };
    test_scene scene;
    scene_open(&scene, backend, IO_WRITE, 3);
    io_native native = world_file(&scene.world, "", 0);
    scene_add(&scene, 0, native, true);
    static char back[AT_A_TIME][PART];
    for (int i = AT_A_TIME - 1; i >= 0; i--)
        scene_submit(
            &scene,
            new_file_op(&scene.world, IO_WRITE, scene.bytes + i * PART, PART, (uint64_t)i * PART),
            0);
    scene_take_rest(&scene);
    scene_submit(&scene, new_file_op(&scene.world, IO_SYNC, NULL, 0, 0), 0);
    scene_take_rest(&scene);
    for (int i = 0; i < AT_A_TIME; i++)
        scene_submit(&scene, new_file_op(&scene.world, IO_READ, back[i], PART, (uint64_t)i * PART),
                     0);
    io_op *end = new_file_op(&scene.world, IO_READ, scene.received, 5, AT_A_TIME * PART);
    scene_submit(&scene, end, 0);
    CHECK_INT(scene_end(&scene, end), 0);
    scene_take_rest(&scene);
    CHECK(memcmp(back, scene.bytes, AT_A_TIME * PART) == 0);
    end = new_file_op(&scene.world, IO_READ, scene.received, 5, AT_A_TIME * PART - 3);
    scene_submit(&scene, end, 0);
    CHECK_INT(scene_end(&scene, end), 3);
    scene_close(&scene);
}

static void send_file_parts(const char *backend) {
    for (uint64_t seed = 0; seed < 2; seed++) {
        test_scene scene;
        scene_open(&scene, backend, IO_SEND_FILE, seed);
        scene_set_up(&scene, HAS_TO_WAIT);
        static const size_t counts[] = {1, 4096, 300000, 0};
        for (size_t i = 0; i < COUNT_OF(counts); i++) {
            uint64_t count = counts[i] == 0 ? UINT64_MAX : counts[i];
            uint64_t offset = counts[i] == 0 ? LARGE - 70000 : 0;
            size_t total = counts[i] == 0 ? 70000 : counts[i];
            io_op *op = new_send_file(&scene.world, scene.native[2], offset, count);
            char *bytes = scene.bytes;
            scene_submit(&scene, op, 0);
            scene.bytes += offset;
            scene_read_all(&scene, op, total);
            scene.bytes = bytes;
            if (*(int *)op->owner == 0)
                scene_finish(&scene, op);
            CHECK_INT(op->result, total);
            io_op_release(op);
        }
        scene_close(&scene);
    }
}

/* ---- datagrams ------------------------------------------------------------------------------- */

static void datagrams(const char *backend) {
    test_scene scene;
    scene_open(&scene, backend, IO_RECV_FROM, 0);
    scene_set_up(&scene, AT_ONCE);
    for (int i = 0; i < 3; i++) { /* what does not fit is cut off */
        scene_submit(&scene, new_send_to(&scene.world, scene.bytes + i, 20, &scene.address), 1);
        io_op *op = new_recv_from(&scene.world, scene.received, i == 1 ? 7 : 64);
        scene_submit(&scene, op, 0);
        CHECK_INT(scene_finish(&scene, op), i == 1 ? 7 : 20);
        CHECK(memcmp(scene.received, scene.bytes + i, (size_t)op->result) == 0);
        char text[100];
        io_address_text(&((io_datagram *)op)->address, text, sizeof(text));
        CHECK(strncmp(text, "127.0.0.1:", 10) == 0);
        io_op_release(op);
        scene_take_rest(&scene);
    }
    scene_submit(&scene, new_send_to(&scene.world, scene.bytes, 0, &scene.address), 1);
    io_op *empty = new_recv_from(&scene.world, scene.received, 64);
    scene_submit(&scene, empty, 0);
    CHECK_INT(scene_end(&scene, empty), 0);
    scene_close(&scene);
}

/* ---- closing --------------------------------------------------------------------------------- */

/* Receives, sends, accepts, polls, timers and posts, in flight when the port is closed. */
static void close_busy(const char *backend) {
    static char read_back[3][500];
    uint64_t seeds = test_scaled(strcmp(backend, "sim") == 0 ? 50 : 5);
    for (uint64_t seed = 0; seed < seeds; seed++) {
        test_scene scene;
        scene_open(&scene, backend, IO_RECV, seed);
        test_world *world = &scene.world;
        scene_set_up(&scene, HAS_TO_WAIT);
        scene_add(&scene, 2, world_listener(world, &scene.address), false);
        io_native socket = world_socket(world), file = world_file(world, scene.bytes, 1000);
        io_handle *connecting = world_handle(world, socket), *read = world_handle(world, file);
        int count = 0;
        for (int i = 0; i < 3; i++, count += 6) {
            scene_submit(&scene, new_recv(world, scene.received, 5), 0);
            scene_submit(&scene, new_send(world, scene.bytes, LARGE), 0);
            scene_submit(&scene, new_recv(world, NULL, 5000), 1);
            scene_submit(&scene, new_accept(world), 2);
            scene_submit(&scene, new_poll(world, IO_READABLE | IO_WRITABLE), 0);
            io_op_submit(new_file_op(world, IO_READ, read_back[i], 500, 0), read);
        }
        io_op_submit(new_connect(world, &scene.address), connecting);
        io_timer *timer = (io_timer *)io_op_new(world->lane, IO_TIMER, NULL, NULL);
        io_timer_submit(timer, 3600 * IO_NS_PER_SECOND);
        post(world, NULL);
        count += 3;
        if ((seed & 1) != 0) { /* with some of them under way */
            io_op *op = world_get(world, 1);
            if (op != NULL) {
                count--;
                io_op_release(op);
            }
        }
        /* Accepted natives stay open here: the port does not know whose they are. */
        CHECK_INT(world_close_busy(world), count);
        if (!scene.world.sim) {
            for (int i = 0; i < 3; i++)
                world_native_close(world, scene.native[i], false);
            world_native_close(world, socket, false);
            world_native_close(world, file, true);
        }
    }
}

/* close_when_idle: cancels, and closes the native when the last operation has ended. */
static void handle_close_busy(const char *backend) {
    for (uint64_t seed = 0; seed < test_scaled(10); seed++) {
        test_scene scene;
        scene_open(&scene, backend, IO_RECV, seed);
        scene_set_up(&scene, HAS_TO_WAIT);
        io_op *first = scene_op(&scene, HAS_TO_WAIT), *second = scene_op(&scene, HAS_TO_WAIT);
        scene_submit(&scene, first, 0);
        scene_submit(&scene, second, 0);
        io_op *poll = new_poll(&scene.world, IO_READABLE);
        scene_submit(&scene, poll, 0);
        CHECK_INT(io_handle_forget(scene.handle[0], false), -IOE_BUSY);
        io_handle_close(scene.handle[0]);
        io_op *late = new_recv(&scene.world, scene.received, 5);
        scene_submit(&scene, late, 0);
        scene_take_rest(&scene);
        scene_check_ended(&scene);
        io_handle_release(scene.handle[0]);
        scene.handle[0] = NULL;
        io_op *peer = new_recv(&scene.world, scene.received, 5);
        scene_submit(&scene, peer, 1);
        int64_t result = scene_end(&scene, peer);
        CHECK(result == 0 || result == -IOE_CONNRESET);
        scene_close(&scene);
    }
}

/* A native is closed behind the port's back and its number is used again: what was queued for the
 * old one leaves the new one alone. */
static void number_used_again(const char *backend) {
    test_scene scene;
    scene_open(&scene, backend, IO_RECV, 0);
    if ((scene.world.backend->flags & IO_KERNEL_QUEUES) != 0) {
        scene_close(&scene);
        test_skip("the kernel has all receives already");
    }
    scene_set_up(&scene, HAS_TO_WAIT);
    io_op *first = scene_op(&scene, HAS_TO_WAIT), *second = scene_op(&scene, HAS_TO_WAIT);
    scene_submit(&scene, first, 0);
    scene_submit(&scene, second, 0);
    CHECK(world_quiet(&scene.world, 1));
    io_native natives[2];
    world_native_close(&scene.world, scene.native[0], false);
    world_pair(&scene.world, natives);
    CHECK(natives[0] == scene.native[0] || natives[1] == scene.native[0]);
    int other = natives[0] == scene.native[0] ? 1 : 0;
    io_handle *peer = world_handle(&scene.world, natives[other]);
    io_handle *old = scene.handle[0];
    scene.handle[0] = peer;
    scene_submit(&scene, new_send(&scene.world, scene.bytes, 5), 0);
    scene.handle[0] = old;
    io_op_cancel(first);
    CHECK_INT(scene_end(&scene, first), -IOE_CANCELED);
    CHECK(scene_end(&scene, second) < 0);
    scene_take_rest(&scene);
    if (old->open)
        CHECK_INT(io_handle_forget(old, true), 0);
    io_handle_release(old);
    CHECK_INT(io_handle_forget(peer, false), 0);
    io_handle_release(peer);
    io_handle *fresh = world_handle(&scene.world, natives[1 - other]);
    scene.handle[0] = fresh;
    io_op *receive = scene_op(&scene, HAS_TO_WAIT);
    scene_submit(&scene, receive, 0);
    CHECK_INT(scene_end(&scene, receive), 5);
    world_native_close(&scene.world, natives[other], false);
    scene_close(&scene);
}

/* Handles come and go; their slots are used again. */
static void handles_reused(const char *backend) {
    test_scene scene;
    scene_open(&scene, backend, IO_RECV, 0);
    for (uint64_t round = 0; round < test_scaled(300); round++) {
        io_native natives[2];
        char byte = 0;
        world_pair(&scene.world, natives);
        io_handle *one = world_handle(&scene.world, natives[0]);
        io_handle *other = world_handle(&scene.world, natives[1]);
        scene.handle[0] = one;
        scene.handle[1] = other;
        scene.used = 0;
        scene_submit(&scene, new_send(&scene.world, "x", 1), 0);
        io_op *receive = new_recv(&scene.world, &byte, 1);
        scene_submit(&scene, receive, 1);
        CHECK_INT(scene_end(&scene, receive), 1);
        CHECK_INT(byte, 'x');
        scene_submit(&scene, new_recv(&scene.world, &byte, 1),
                     1); /* one is in flight at the close */
        world_handle_close(one);
        world_handle_close(other);
        scene_take_rest(&scene);
    }
    size_t slots = 0;
    for (io_link *link = scene.world.lane->handles.next; link != &scene.world.lane->handles;
         link = link->next)
        slots++;
    CHECK_INT(slots, 0);
    scene.handle[0] = scene.handle[1] = NULL;
    scene_close(&scene);
}

/* ---- many ------------------------------------------------------------------------------------ */

static void many_in_flight(const char *backend) {
    enum { PAIRS = 50, EACH = 100 };
    test_scene scene;
    scene_open(&scene, backend, IO_RECV, 0);
    static io_handle *handles[PAIRS][2];
    static char bytes[PAIRS][EACH];
    for (int i = 0; i < PAIRS; i++) {
        io_native natives[2];
        world_pair(&scene.world, natives);
        handles[i][0] = world_handle(&scene.world, natives[0]);
        handles[i][1] = world_handle(&scene.world, natives[1]);
        for (int k = 0; k < EACH; k++)
            io_op_submit(new_recv(&scene.world, &bytes[i][k], 1), handles[i][0]);
    }
    CHECK_INT(atomic_load(&scene.world.port->in_flight), PAIRS * EACH);
    for (int i = 0; i < PAIRS; i++)
        io_op_submit(new_send(&scene.world, scene.bytes, EACH), handles[i][1]);
    for (int i = 0; i < PAIRS * (EACH + 1); i++) {
        io_op *op = world_get(&scene.world, 10000);
        CHECK(op != NULL && op->result >= 1);
        io_op_release(op);
    }
    for (int i = 0; i < PAIRS; i++) {
        CHECK(memcmp(bytes[i], scene.bytes, EACH) == 0);
        world_handle_close(handles[i][0]);
        world_handle_close(handles[i][1]);
    }
    scene_close(&scene);
}

static void timers(const char *backend) {
    enum { TIMERS = 40 };
    test_scene scene;
    io_timer *set[TIMERS];
    uint64_t deadlines[TIMERS];
    scene_open(&scene, backend, IO_RECV, 0);
    uint64_t begin_ns = io_lane_now(scene.world.lane);
    for (int i = 0; i < TIMERS; i++) {
        set[i] = (io_timer *)io_op_new(scene.world.lane, IO_TIMER, NULL, &scene.ended[i]);
        io_timer_submit(set[i], (uint64_t)(TIMERS - i) * IO_NS_PER_MS);
        deadlines[i] = set[i]->deadline_ns; /* nobody else takes it */
    }
    for (int i = 0; i < TIMERS; i += 4) {
        CHECK(io_op_cancel(&set[i]->op));
        CHECK(!io_op_cancel(&set[i]->op));
    }
    for (int i = 1; i < TIMERS; i += 4)
        CHECK(io_timer_withdraw(set[i])); /* and never comes */
    int ended = 0;
    uint64_t due_ns = 0;
    while (ended < TIMERS - TIMERS / 4) {
        io_op *op = world_get(&scene.world, 10000);
        CHECK(op != NULL);
        CHECK_INT(++*(int *)op->owner, 1);
        ended++;
        int i = (int)((int *)op->owner - scene.ended);
        if (i % 4 == 0) {
            CHECK_INT(op->result, -IOE_CANCELED);
        } else {
            CHECK_INT(op->result, 0);
            CHECK(io_lane_now(scene.world.lane) - begin_ns >=
                  (uint64_t)(TIMERS - i) * IO_NS_PER_MS);
            CHECK(deadlines[i] >= due_ns);
            due_ns = deadlines[i];
        }
        CHECK(!io_op_cancel(op));
        CHECK(!io_timer_withdraw((io_timer *)op));
        io_op_release(op);
    }
    for (int i = 1; i < TIMERS; i += 4)
        CHECK_INT(scene.ended[i], 0);
    scene_close(&scene);
}

#define ALL(X)                                   \
    BACKENDS(X, stream_in_order)                 \
    BACKENDS(X, cancelled_receive_takes_nothing) \
    BACKENDS(X, cancelled_sends_end)             \
    BACKENDS(X, gathered_send)                   \
    BACKENDS(X, end_of_stream)                   \
    BACKENDS(X, files)                           \
    BACKENDS(X, send_file_parts)                 \
    BACKENDS(X, datagrams)                       \
    BACKENDS(X, close_busy)                      \
    BACKENDS(X, handle_close_busy)               \
    BACKENDS(X, number_used_again)               \
    BACKENDS(X, handles_reused)                  \
    BACKENDS(X, many_in_flight)                  \
    BACKENDS(X, timers)

ALL(DEFINE)

int main(int argc, char **argv) {
    static const test_case tests[] = {ALL(ENTRY)};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
