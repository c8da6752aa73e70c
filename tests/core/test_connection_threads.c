/* test_connection_threads.c: many connections, run by several threads while others send, pause,
 * close and abort them, or close their port.
 *
 * connection_pair.c fails the test if two threads run one connection at once, if GONE comes twice
 * or while an operation is still in flight, or if bytes are lost or reordered. */
#include "connection_pair.h"

enum { TAKERS = 4, PUSHERS = 2, PAIRS = 12, BATCH = 4, FORGOTTEN_MS = 2000 };

typedef enum way { GETTERS, WORKERS, PORT_CLOSED } way;

static connection_pair crowd;
static _Atomic bool stop;
static _Atomic uint64_t seeds;

static pair_end *any_end(test_random *random) {
    return &crowd.ends[test_below(random, (uint64_t)crowd.count)];
}

static void push(pair_end *end, test_random *random) {
    io_address address;
    switch (test_below(random, 12)) {
    case 0:
        pair_pause(end, true);
        break;
    case 1:
        pair_pause(end, false);
        break;
    case 2:
        (void)pair_post_job(end);
        break;
    case 3:
        io_connection_ask_for_room(&end->io);
        break;
    case 4:
        if (!crowd.world.sim) /* which hides what an operation has moved so far */
            (void)io_connection_tick(&end->io);
        (void)pair_queued(end);
        io_connection_address(&end->io, true, &address);
        break;
    case 5:
        if (test_below(random, 20) == 0)
            pair_end_somehow(end, random);
        break;
    default:
        (void)pair_send(end, 1 + (size_t)test_below(random, test_below(random, 4) ? 500 : 20000),
                        (pair_how)test_below(random, 3));
        break;
    }
}

/* Of its own connection or another. */
static void on_event(pair_end *end, io_connection_event event) {
    test_random random = {atomic_fetch_add(&seeds, 1)};
    if (event == IO_CONNECTION_GONE || test_below(&random, 2) == 0)
        return;
    push(test_below(&random, 4) == 0 ? any_end(&random) : end, &random);
}

static void pusher(void *argument) {
    test_random random = {atomic_fetch_add(&seeds, 1) << 20};
    (void)argument;
    for (uint64_t i = test_scaled(3000) + 200; i > 0; i--)
        push(any_end(&random), &random);
}

static void getter(void *argument) {
    io_lane *lane = crowd.world.lane;
    (void)argument;
    while (!atomic_load(&stop) && io_port_enter(crowd.world.port) == 0) {
        io_op *ops[BATCH];
        io_wait wait = {.deadline_ns = io_lane_now(lane) + 20 * IO_NS_PER_MS};
        int count = io_lane_get(lane, &wait, ops, BATCH);
        io_port_leave(crowd.world.port);
        CHECK(count >= 0 || count == -IOE_CLOSED);
        for (int i = 0; i < count; i++)
            pair_take(ops[i]);
    }
}

static void worker(void *argument) {
    io_worker self;
    io_wait wait = {.deadline_ns = IO_NEVER};
    (void)argument;
    CHECK_INT(io_worker_enter(&self, crowd.world.lane), 0);
    while (io_worker_wait(&self, &wait) == 1)
        for (io_op *op; (op = io_worker_take(&self)) != NULL;)
            pair_take(op);
    io_worker_leave(&self);
}

/* A send whose peer is gone ends, but not always under Wine, which may stop looking at the socket
 * (tests/windows/README.md). True only where that is all that is left to wait for. */
static bool wine_forgot(pair_end *end) {
#ifdef _WIN32
    io_connection *self = &end->io;
    HMODULE library = GetModuleHandleW(L"ntdll.dll");
    if (crowd.world.sim || !GetProcAddress(library, "wine_get_version") ||
        !atomic_load(&end->peer->gone))
        return false;
    io_lock_acquire(&self->lock);
    bool waits = self->phase == IO_CONNECTION_CLOSING &&
                 self->receive_side == IO_RECEIVE_SIDE_DRAINED && self->send != NULL;
    io_lock_release(&self->lock);
    return waits;
#else
    (void)end;
    return false;
#endif
}

static void wait_until_gone(pair_end *end, int number) {
    for (int ms = 1; !atomic_load(&end->gone); ms++) {
        if (ms > 30000)
            FAIL("connection %d is never gone", number);
        if (ms % FORGOTTEN_MS == 0 && wine_forgot(end))
            (void)io_connection_abort(&end->io);
        test_sleep_ms(1);
    }
}

/* The takers go on until all is over. */
static void end_all(void) {
    for (int i = 0; i < crowd.count; i++) {
        pair_pause(&crowd.ends[i], false);
        io_connection_close(&crowd.ends[i].io, true);
    }
    for (int i = 0; i < crowd.count; i++)
        wait_until_gone(&crowd.ends[i], i);
}

static void open_crowd(const char *backend, uint64_t seed) {
    test_about("seed %llu", (unsigned long long)seed);
    pair_begin_threads(&crowd, backend, seed, TAKERS);
    crowd.limits.reads_on = seed % 3 == 0;
    crowd.limits.max_write_buffer = UINT64_MAX;
    atomic_store(&stop, false);
    atomic_store(&seeds, seed << 32);
    for (int i = 0; i < PAIRS; i++) {
        pair_end *end = pair_add(&crowd);
        end->on_event = end->peer->on_event = on_event;
        end->most = seed % 2 ? 1000 : 0;
        end->keeps = seed % 4 == 3;
    }
}

static void round_of(const char *backend, way how, uint64_t seed) {
    test_thread takers[TAKERS], pushers[PUSHERS];
    open_crowd(backend, seed);
    for (int i = 0; i < TAKERS; i++)
        test_thread_start(&takers[i], how == WORKERS ? worker : getter, NULL);
    for (int i = 0; i < PUSHERS; i++)
        test_thread_start(&pushers[i], pusher, NULL);
    if (how == PORT_CLOSED) {
        test_sleep_ms((unsigned)(seed % 7) * 2);
        CHECK_INT(pair_close_port(&crowd, 20 * IO_NS_PER_SECOND), 0);
    }
    for (int i = 0; i < PUSHERS; i++)
        test_thread_join(&pushers[i]);
    if (how != PORT_CLOSED)
        end_all();
    atomic_store(&stop, true);
    io_port_stop(crowd.world.port);
    for (int i = 0; i < TAKERS; i++)
        test_thread_join(&takers[i]);
    if (how == PORT_CLOSED) {
        pair_check_all_gone(&crowd);
        io_port_destroy(crowd.world.port);
    } else {
        pair_close(&crowd);
    }
}

static void rounds(const char *backend, way how) {
    for (uint64_t seed = 0; seed < test_scaled(20) + 1; seed++)
        round_of(backend, how, seed);
}

static void getters(const char *backend) {
    rounds(backend, GETTERS);
}

static void workers(const char *backend) {
    rounds(backend, WORKERS);
}

static void port_closed(const char *backend) {
    rounds(backend, PORT_CLOSED);
}

// clang-format off
BACKENDS(DEFINE, getters)
BACKENDS(DEFINE, workers)
BACKENDS(DEFINE, port_closed)

int main(int argc, char **argv) {
    static const test_case tests[] = {
        BACKENDS(ENTRY, getters)
        BACKENDS(ENTRY, workers)
        BACKENDS(ENTRY, port_closed)
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
// clang-format on
