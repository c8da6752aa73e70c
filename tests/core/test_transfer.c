/* test_transfer.c: operations in combination, for every backend of the platform: order and content
 * of streams, files, datagrams, timers, closing with everything in flight, and reuse of descriptor
 * numbers and slots. */
#include "op_case.h"

/* ---- order and bytes ------------------------------------------------------------------------- */

/* Many sends and receives at once on one connection: each direction completes in its order, and
 * the bytes arrive as they were sent. */
static void stream_in_order(const char *backend) {
    enum { OPERATIONS = 60 };
    for (uint64_t seed = 0; seed < test_scaled(20); seed++) {
        op_case subject;
        test_random random = {seed};
        op_case_open(&subject, backend, IO_RECV, seed);
        op_case_set_up(&subject, AT_ONCE);
        static char received[OPERATIONS][5000];
        io_op *sends[OPERATIONS], *receives[OPERATIONS];
        int sent = 0, got = 0, submitted_receives = 0;
        size_t total = 0, arrived = 0;
        for (int i = 0; i < OPERATIONS; i++) {
            size_t length = 1 + test_below(&random, 5000);
            sends[i] = new_send(&subject.world, subject.bytes + total, length);
            sends[i]->owner = &subject.ended[0];
            total += length;
        }
        for (int i = 0; i < OPERATIONS; i++) {
            io_op_submit(sends[i], subject.handle[0]);
            if (test_below(&random, 4) == 0) {
                io_op *op = world_get(&subject.world, 0);
                if (op != NULL)
                    CHECK(op == sends[sent++]);
            }
        }
        while (arrived < total || sent < OPERATIONS) {
            while (arrived < total && submitted_receives - got < 8) {
                int slot = submitted_receives++ % OPERATIONS;
                receives[slot] = new_recv(&subject.world, received[slot], 5000);
                io_op_submit(receives[slot], subject.handle[1]);
            }
            io_op *op = world_get(&subject.world, 10000);
            CHECK(op != NULL);
            if (op->kind == IO_SEND) {
                CHECK(op == sends[sent++]);
                continue;
            }
            int slot = got++ % OPERATIONS;
            CHECK(op == receives[slot] && op->result > 0);
            CHECK(memcmp(received[slot], subject.bytes + arrived, (size_t)op->result) == 0);
            arrived += (size_t)op->result;
            io_op_release(op);
        }
        for (int i = 0; i < OPERATIONS; i++) {
            CHECK_INT(sends[i]->result, ((io_transfer *)sends[i])->length);
            io_op_release(sends[i]);
        }
        io_handle_cancel(subject.handle[1]);
        while (got < submitted_receives) {
            io_op *op = world_get(&subject.world, 10000);
            CHECK(op != NULL); /* what is cancelled may overtake */
            CHECK_INT(op->result, -IOE_CANCELED);
            got++;
            io_op_release(op);
        }
        op_case_close(&subject);
    }
}

/* A receive that is cancelled has taken nothing: the next one gets it all. */
static void cancelled_receive_takes_nothing(const char *backend) {
    uint64_t rounds = test_scaled(strcmp(backend, "sim") == 0 ? 400 : 100);
    op_case subject;
    op_case_open(&subject, backend, IO_RECV, 7);
    op_case_set_up(&subject, AT_ONCE);
    for (uint64_t round = 0; round < rounds; round++) {
        char byte = (char)round, taken = 0, next = 0;
        io_op *receive = new_recv(&subject.world, &taken, 1);
        subject.used = 0;
        op_case_submit(&subject, receive, 0);
        io_op *send = new_send(&subject.world, &byte, 1);
        op_case_submit(&subject, send, 1);
        const int *sent = send->owner; /* the operation may be released by then */
        io_op_cancel(receive);
        op_case_finish(&subject, receive);
        if (*sent == 0)
            op_case_end(&subject, send);
        if (receive->result == -IOE_CANCELED) {
            io_op *again = new_recv(&subject.world, &next, 1);
            op_case_submit(&subject, again, 0);
            CHECK_INT(op_case_end(&subject, again), 1);
            CHECK_INT(next, byte);
        } else {
            CHECK_INT(receive->result, 1);
            CHECK_INT(taken, byte);
        }
        io_op_release(receive);
    }
    op_case_close(&subject);
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
        op_case subject;
        test_random random = {seed};
        op_case_open(&subject, backend, IO_SEND, seed);
        op_case_set_up(&subject, AT_ONCE);
        io_op *op = new_send(&subject.world, NULL, 0);
        io_transfer *transfer = (io_transfer *)op;
        CHECK(io_transfer_reserve(transfer, PARTS));
        transfer->vec_count = PARTS;
        for (int i = 0; i < PARTS; i++) {
            size_t length = i % 7 == 3 ? 0 : test_below(&random, 9000);
            io_vec_set(&transfer->vecs[i], subject.bytes + transfer->length, length);
            transfer->length += length;
        }
        size_t total = transfer->length;
        op_case_submit(&subject, op, 0);
        op_case_read_all(&subject, op, total);
        if (*(int *)op->owner == 0)
            op_case_finish(&subject, op);
        CHECK_INT(op->result, total);
        io_op_release(op);
        op_case_close(&subject);
    }
}

/* End of stream is a result of 0, again and again; a send after it fails. */
static void end_of_stream(const char *backend) {
    op_case subject;
    op_case_open(&subject, backend, IO_RECV, 0);
    op_case_set_up(&subject, AT_ONCE);
    op_case_submit(&subject, new_send(&subject.world, subject.bytes, 5), 1);
    op_case_take_rest(&subject);
    CHECK_INT(io_handle_forget(subject.handle[1], false), 0);
    io_handle_release(subject.handle[1]);
    world_native_close(&subject.world, subject.native[1], false);
    subject.handle[1] = NULL;
    for (int i = 0; i < 3; i++) {
        io_op *op = new_recv(&subject.world, NULL, 100); /* a pooled buffer */
        op_case_submit(&subject, op, 0);
        CHECK_INT(op_case_finish(&subject, op), i == 0 ? 5 : 0);
        const char *arrived = io_vec_base(&((io_transfer *)op)->vecs[0]);
        if (i == 0)
            CHECK(memcmp(arrived, subject.bytes, 5) == 0);
        io_op_release(op);
    }
    int64_t result = 0;
    for (int i = 0; i < 20 && result >= 0; i++) {
        io_op *op = new_send(&subject.world, subject.bytes, 5);
        op_case_submit(&subject, op, 0);
        result = op_case_end(&subject, op);
        test_sleep_ms(1);
    }
    CHECK(result == -IOE_PIPE || result == -IOE_CONNRESET || result == -IOE_CONNABORTED);
    op_case_close(&subject);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void files(const char *backend) {
    enum { AT_A_TIME = 16, PART = 1000 };
    op_case subject;
    op_case_open(&subject, backend, IO_WRITE, 3);
    io_native native = world_file(&subject.world, "", 0);
    op_case_add(&subject, 0, native, true);
    static char back[AT_A_TIME][PART];
    for (int i = AT_A_TIME - 1; i >= 0; i--)
        op_case_submit(&subject,
                       new_file_op(&subject.world, IO_WRITE, subject.bytes + i * PART, PART,
                                   (uint64_t)i * PART),
                       0);
    op_case_take_rest(&subject);
    op_case_submit(&subject, new_file_op(&subject.world, IO_SYNC, NULL, 0, 0), 0);
    op_case_take_rest(&subject);
    for (int i = 0; i < AT_A_TIME; i++)
        op_case_submit(&subject,
                       new_file_op(&subject.world, IO_READ, back[i], PART, (uint64_t)i * PART), 0);
    io_op *end = new_file_op(&subject.world, IO_READ, subject.received, 5, AT_A_TIME * PART);
    op_case_submit(&subject, end, 0);
    CHECK_INT(op_case_end(&subject, end), 0);
    op_case_take_rest(&subject);
    CHECK(memcmp(back, subject.bytes, AT_A_TIME * PART) == 0);
    end = new_file_op(&subject.world, IO_READ, subject.received, 5, AT_A_TIME * PART - 3);
    op_case_submit(&subject, end, 0);
    CHECK_INT(op_case_end(&subject, end), 3);
    op_case_close(&subject);
}

static void send_file_parts(const char *backend) {
    for (uint64_t seed = 0; seed < 2; seed++) {
        op_case subject;
        op_case_open(&subject, backend, IO_SEND_FILE, seed);
        op_case_set_up(&subject, HAS_TO_WAIT);
        static const size_t counts[] = {1, 4096, 300000, 0};
        for (size_t i = 0; i < COUNT_OF(counts); i++) {
            uint64_t count = counts[i] == 0 ? UINT64_MAX : counts[i];
            uint64_t offset = counts[i] == 0 ? LARGE - 70000 : 0;
            size_t total = counts[i] == 0 ? 70000 : counts[i];
            io_op *op = new_send_file(&subject.world, subject.native[2], offset, count);
            char *bytes = subject.bytes;
            op_case_submit(&subject, op, 0);
            subject.bytes += offset;
            op_case_read_all(&subject, op, total);
            subject.bytes = bytes;
            if (*(int *)op->owner == 0)
                op_case_finish(&subject, op);
            CHECK_INT(op->result, total);
            io_op_release(op);
        }
        op_case_close(&subject);
    }
}

/* ---- datagrams ------------------------------------------------------------------------------- */

static void datagrams(const char *backend) {
    op_case subject;
    op_case_open(&subject, backend, IO_RECV_FROM, 0);
    op_case_set_up(&subject, AT_ONCE);
    for (int i = 0; i < 3; i++) { /* what does not fit is cut off */
        op_case_submit(&subject,
                       new_send_to(&subject.world, subject.bytes + i, 20, &subject.address), 1);
        io_op *op = new_recv_from(&subject.world, subject.received, i == 1 ? 7 : 64);
        op_case_submit(&subject, op, 0);
        CHECK_INT(op_case_finish(&subject, op), i == 1 ? 7 : 20);
        CHECK(memcmp(subject.received, subject.bytes + i, (size_t)op->result) == 0);
        char text[100];
        io_address_text(&((io_datagram *)op)->address, text, sizeof(text));
        CHECK(strncmp(text, "127.0.0.1:", 10) == 0);
        io_op_release(op);
        op_case_take_rest(&subject);
    }
    op_case_submit(&subject, new_send_to(&subject.world, subject.bytes, 0, &subject.address), 1);
    io_op *empty = new_recv_from(&subject.world, subject.received, 64);
    op_case_submit(&subject, empty, 0);
    CHECK_INT(op_case_end(&subject, empty), 0);
    op_case_close(&subject);
}

/* ---- closing --------------------------------------------------------------------------------- */

/* Receives, sends, accepts, polls, timers and posts, in flight when the port is closed. */
static void close_busy(const char *backend) {
    static char read_back[3][500];
    uint64_t seeds = test_scaled(strcmp(backend, "sim") == 0 ? 50 : 5);
    for (uint64_t seed = 0; seed < seeds; seed++) {
        op_case subject;
        op_case_open(&subject, backend, IO_RECV, seed);
        test_world *world = &subject.world;
        op_case_set_up(&subject, HAS_TO_WAIT);
        op_case_add(&subject, 2, world_listener(world, &subject.address), false);
        io_native socket = world_socket(world), file = world_file(world, subject.bytes, 1000);
        io_handle *connecting = world_handle(world, socket), *read = world_handle(world, file);
        int count = 0;
        for (int i = 0; i < 3; i++, count += 6) {
            op_case_submit(&subject, new_recv(world, subject.received, 5), 0);
            op_case_submit(&subject, new_send(world, subject.bytes, LARGE), 0);
            op_case_submit(&subject, new_recv(world, NULL, 5000), 1);
            op_case_submit(&subject, new_accept(world), 2);
            op_case_submit(&subject, new_poll(world, IO_READABLE | IO_WRITABLE), 0);
            io_op_submit(new_file_op(world, IO_READ, read_back[i], 500, 0), read);
        }
        io_op_submit(new_connect(world, &subject.address), connecting);
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
        if (!subject.world.sim) {
            for (int i = 0; i < 3; i++)
                world_native_close(world, subject.native[i], false);
            world_native_close(world, socket, false);
            world_native_close(world, file, true);
        }
    }
}

/* close_when_idle: cancels, and closes the native when the last operation has ended. */
static void handle_close_busy(const char *backend) {
    for (uint64_t seed = 0; seed < test_scaled(10); seed++) {
        op_case subject;
        op_case_open(&subject, backend, IO_RECV, seed);
        op_case_set_up(&subject, HAS_TO_WAIT);
        io_op *first = op_case_op(&subject, HAS_TO_WAIT),
              *second = op_case_op(&subject, HAS_TO_WAIT);
        op_case_submit(&subject, first, 0);
        op_case_submit(&subject, second, 0);
        io_op *poll = new_poll(&subject.world, IO_READABLE);
        op_case_submit(&subject, poll, 0);
        CHECK_INT(io_handle_forget(subject.handle[0], false), -IOE_BUSY);
        io_handle_close(subject.handle[0]);
        io_op *late = new_recv(&subject.world, subject.received, 5);
        op_case_submit(&subject, late, 0);
        op_case_take_rest(&subject);
        op_case_check_ended(&subject);
        io_handle_release(subject.handle[0]);
        subject.handle[0] = NULL;
        io_op *peer = new_recv(&subject.world, subject.received, 5);
        op_case_submit(&subject, peer, 1);
        int64_t result = op_case_end(&subject, peer);
        CHECK(result == 0 || result == -IOE_CONNRESET);
        op_case_close(&subject);
    }
}

/* A native is closed behind the port's back and its number is used again: what was queued for the
 * old one leaves the new one alone. */
static void number_used_again(const char *backend) {
    op_case subject;
    op_case_open(&subject, backend, IO_RECV, 0);
    if ((subject.world.backend->flags & IO_KERNEL_QUEUES) != 0) {
        op_case_close(&subject);
        test_skip("the kernel has all receives already");
    }
    op_case_set_up(&subject, HAS_TO_WAIT);
    io_op *first = op_case_op(&subject, HAS_TO_WAIT), *second = op_case_op(&subject, HAS_TO_WAIT);
    op_case_submit(&subject, first, 0);
    op_case_submit(&subject, second, 0);
    CHECK(world_quiet(&subject.world, 1));
    io_native natives[2];
    world_native_close(&subject.world, subject.native[0], false);
    world_pair(&subject.world, natives);
    CHECK(natives[0] == subject.native[0] || natives[1] == subject.native[0]);
    int other = natives[0] == subject.native[0] ? 1 : 0;
    io_handle *peer = world_handle(&subject.world, natives[other]);
    io_handle *old = subject.handle[0];
    subject.handle[0] = peer;
    op_case_submit(&subject, new_send(&subject.world, subject.bytes, 5), 0);
    subject.handle[0] = old;
    io_op_cancel(first);
    CHECK_INT(op_case_end(&subject, first), -IOE_CANCELED);
    CHECK(op_case_end(&subject, second) < 0);
    op_case_take_rest(&subject);
    if (old->open)
        CHECK_INT(io_handle_forget(old, true), 0);
    io_handle_release(old);
    CHECK_INT(io_handle_forget(peer, false), 0);
    io_handle_release(peer);
    io_handle *fresh = world_handle(&subject.world, natives[1 - other]);
    subject.handle[0] = fresh;
    io_op *receive = op_case_op(&subject, HAS_TO_WAIT);
    op_case_submit(&subject, receive, 0);
    CHECK_INT(op_case_end(&subject, receive), 5);
    world_native_close(&subject.world, natives[other], false);
    op_case_close(&subject);
}

/* Handles come and go; their slots are used again. */
static void handles_reused(const char *backend) {
    op_case subject;
    op_case_open(&subject, backend, IO_RECV, 0);
    for (uint64_t round = 0; round < test_scaled(300); round++) {
        io_native natives[2];
        char byte = 0;
        world_pair(&subject.world, natives);
        io_handle *one = world_handle(&subject.world, natives[0]);
        io_handle *other = world_handle(&subject.world, natives[1]);
        subject.handle[0] = one;
        subject.handle[1] = other;
        subject.used = 0;
        op_case_submit(&subject, new_send(&subject.world, "x", 1), 0);
        io_op *receive = new_recv(&subject.world, &byte, 1);
        op_case_submit(&subject, receive, 1);
        CHECK_INT(op_case_end(&subject, receive), 1);
        CHECK_INT(byte, 'x');
        op_case_submit(&subject, new_recv(&subject.world, &byte, 1),
                       1); /* one is in flight at the close */
        world_handle_close(one);
        world_handle_close(other);
        op_case_take_rest(&subject);
    }
    size_t slots = 0;
    for (io_link *link = subject.world.lane->handles.next; link != &subject.world.lane->handles;
         link = link->next)
        slots++;
    CHECK_INT(slots, 0);
    subject.handle[0] = subject.handle[1] = NULL;
    op_case_close(&subject);
}

/* ---- many ------------------------------------------------------------------------------------ */

static void many_in_flight(const char *backend) {
    enum { PAIRS = 50, EACH = 100 };
    op_case subject;
    op_case_open(&subject, backend, IO_RECV, 0);
    static io_handle *handles[PAIRS][2];
    static char bytes[PAIRS][EACH];
    for (int i = 0; i < PAIRS; i++) {
        io_native natives[2];
        world_pair(&subject.world, natives);
        handles[i][0] = world_handle(&subject.world, natives[0]);
        handles[i][1] = world_handle(&subject.world, natives[1]);
        for (int k = 0; k < EACH; k++)
            io_op_submit(new_recv(&subject.world, &bytes[i][k], 1), handles[i][0]);
    }
    CHECK_INT(atomic_load(&subject.world.port->in_flight), PAIRS * EACH);
    for (int i = 0; i < PAIRS; i++)
        io_op_submit(new_send(&subject.world, subject.bytes, EACH), handles[i][1]);
    for (int i = 0; i < PAIRS * (EACH + 1); i++) {
        io_op *op = world_get(&subject.world, 10000);
        CHECK(op != NULL && op->result >= 1);
        io_op_release(op);
    }
    for (int i = 0; i < PAIRS; i++) {
        CHECK(memcmp(bytes[i], subject.bytes, EACH) == 0);
        world_handle_close(handles[i][0]);
        world_handle_close(handles[i][1]);
    }
    op_case_close(&subject);
}

static void timers(const char *backend) {
    enum { TIMERS = 40 };
    op_case subject;
    io_timer *set[TIMERS];
    uint64_t deadlines[TIMERS];
    op_case_open(&subject, backend, IO_RECV, 0);
    uint64_t begin_ns = io_lane_now(subject.world.lane);
    for (int i = 0; i < TIMERS; i++) {
        set[i] = (io_timer *)io_op_new(subject.world.lane, IO_TIMER, NULL, &subject.ended[i]);
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
        io_op *op = world_get(&subject.world, 10000);
        CHECK(op != NULL);
        CHECK_INT(++*(int *)op->owner, 1);
        ended++;
        int i = (int)((int *)op->owner - subject.ended);
        if (i % 4 == 0) {
            CHECK_INT(op->result, -IOE_CANCELED);
        } else {
            CHECK_INT(op->result, 0);
            CHECK(io_lane_now(subject.world.lane) - begin_ns >=
                  (uint64_t)(TIMERS - i) * IO_NS_PER_MS);
            CHECK(deadlines[i] >= due_ns);
            due_ns = deadlines[i];
        }
        CHECK(!io_op_cancel(op));
        CHECK(!io_timer_withdraw((io_timer *)op));
        io_op_release(op);
    }
    for (int i = 1; i < TIMERS; i += 4)
        CHECK_INT(subject.ended[i], 0);
    op_case_close(&subject);
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
