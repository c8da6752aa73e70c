/* test_waits.c: failing waits for completions. Temporary errors are retried; any other error ends
 * all waits of the port. The tests use real backends and make their wait fail. */
#include "world.h"

#include "core/lane.h"

#ifndef _WIN32
#include "backends/linux/epoll.h"

#include <unistd.h>
#endif

enum { FOR_EVER = 1 << 30 };

static _Atomic int waits_error; /* what the next waits answer, */
static _Atomic int waits_left;  /* so many of them */
static const io_backend *real;
static io_backend failing;

static int wait_or_fail(io_lane *lane, const io_wait *wait, uint64_t deadline_ns, int maximum,
                        io_list *done) {
    if (atomic_fetch_sub(&waits_left, 1) > 0)
        return atomic_load(&waits_error);
    atomic_fetch_add(&waits_left, 1);
    return real->wait(lane, wait, deadline_ns, maximum, done);
}

static void fail_waits(int error, int count) {
    atomic_store(&waits_error, error);
    atomic_store(&waits_left, count);
}

static void open_world(test_world *world, const char *backend) {
    world_open(world, backend, 1);
    fail_waits(0, 0);
    real = world->lane->backend;
    failing = *real;
    failing.wait = wait_or_fail;
    world->lane->backend = &failing;
}

static void close_world(test_world *world) {
    fail_waits(0, 0);
    world->lane->backend = real;
    world_close(world);
}

/* Of a shared lane the kernel's queue may hold posts that nobody could get any more. */
static void close_broken_world(test_world *world) {
    fail_waits(0, 0);
    world->lane->backend = real;
    if (lane_shared(world->lane))
        (void)world_close_busy(world);
    else
        world_close(world);
}

static bool skipped(test_world *world, bool pointless, const char *reason) {
    if (pointless) {
        close_world(world);
        test_skip(reason);
    }
    return pointless;
}

static int get(test_world *world, uint64_t timeout_ns, io_op **op) {
    uint64_t now_ns = io_lane_now(world->lane);
    io_wait wait = {.deadline_ns = timeout_ns == IO_NEVER ? IO_NEVER
                                   : timeout_ns == 0      ? 0
                                                          : now_ns + timeout_ns};
    if (io_port_enter(world->port) != 0)
        return -IOE_CLOSED;
    int count = io_lane_get(world->lane, &wait, op, 1);
    io_port_leave(world->port);
    return count;
}

static uint64_t failures(test_world *world) {
    io_port_figures figures;
    io_port_stats(world->port, &figures);
    return figures.wait_failures;
}

/* ---- what may pass --------------------------------------------------------------------------- */

static const int passing[] = {-IOE_NOMEM, -IOE_NOBUFS, -IOE_AGAIN,
                              -IOE_BUSY,  -IOE_MFILE,  -IOE_NFILE};
static const int lasting[] = {-IOE_BADF,      -IOE_INVAL,   -IOE_FAULT, -IOE_PERM,
                              -IOE_OPNOTSUPP, -IOE_NOTSOCK, -IOE_OTHER, -IOE_CLOSED};

/* Each answer comes after a pause and says only that nothing has come; then all is as before. */
static void passes(const char *backend) {
    test_world world;
    open_world(&world, backend);
    io_op *op;
    uint64_t seen = 0;
    for (size_t i = 0; i < COUNT_OF(passing); i++) {
        fail_waits(passing[i], 2);
        for (; atomic_load(&waits_left) > 0; seen++)
            CHECK_INT(get(&world, IO_NEVER, &op), -IOE_INTR);
        CHECK_INT(world.lane->wait_error, passing[0]); /* the log hears of no change */
        CHECK_INT(failures(&world), seen);
        post(&world, &world);
        CHECK_INT(get(&world, IO_NEVER, &op), 1);
        io_op_release(op);
    }
    CHECK_INT(world.lane->broken, 0);
    CHECK_INT(world.lane->wait_error, passing[0]); /* it was a moment ago */
    world.lane->failed_ns -= 2 * LANE_RECOVERY_NS;
    CHECK(world_get(&world, 1) == NULL);
    CHECK_INT(world.lane->wait_error, 0);
    close_world(&world);
}

/* A getter's time is up all the same, and what is ready is taken. */
static void deadline_holds(const char *backend) {
    test_world world;
    open_world(&world, backend);
    if (skipped(&world, world.sim, "virtual time stands still while waits fail"))
        return;
    io_op *op;
    fail_waits(-IOE_NOMEM, FOR_EVER);
    CHECK_INT(get(&world, 0, &op), 0);
    uint64_t end_ns = io_clock_ns() + 120 * IO_NS_PER_MS;
    int count;
    do
        count = get(&world, end_ns > io_clock_ns() ? end_ns - io_clock_ns() : 1, &op);
    while (count == -IOE_INTR);
    CHECK_INT(count, 0);
    CHECK(io_clock_ns() >= end_ns);
    CHECK(failures(&world) < 20); /* with a pause after each */
    close_world(&world);
}

/* A timer that is due is handed out although no wait succeeds. */
static void timers_go_on(const char *backend) {
    test_world world;
    open_world(&world, backend);
    if (skipped(&world, world.sim, "virtual time stands still while waits fail"))
        return;
    if (skipped(&world, lane_shared(world.lane), "timers come through the kernel's queue"))
        return;
    fail_waits(-IOE_NOMEM, FOR_EVER);
    io_op *timer = io_op_new(world.lane, IO_TIMER, NULL, NULL), *op = NULL;
    io_timer_submit((io_timer *)timer, 10 * IO_NS_PER_MS);
    int count;
    do
        count = get(&world, IO_NEVER, &op);
    while (count == -IOE_INTR);
    CHECK_INT(count, 1);
    CHECK(op == timer);
    io_op_release(op);
    close_world(&world);
}

/* ---- workers --------------------------------------------------------------------------------- */

typedef struct test_crew {
    test_world world;
    _Atomic int taken;
    int answers[3];
    _Atomic int next;
} test_crew;

static void work(void *argument) {
    test_crew *crew = argument;
    int *answer = &crew->answers[atomic_fetch_add(&crew->next, 1)];
    static const io_wait wait = {.deadline_ns = IO_NEVER};
    io_worker worker;
    CHECK_INT(io_worker_enter(&worker, crew->world.lane), 0);
    do {
        *answer = io_worker_wait(&worker, &wait);
        for (io_op *op; *answer > 0 && (op = io_worker_take(&worker)) != NULL;) {
            io_op_release(op);
            atomic_fetch_add(&crew->taken, 1);
        }
    } while (*answer > 0 || *answer == -IOE_INTR);
    io_worker_leave(&worker);
}

/* Three workers of one port: one waits in the kernel, the others are parked, or all wait there. */
static void crew_start(test_crew *crew, const char *backend, test_thread threads[3]) {
    memset(crew, 0, sizeof *crew);
    open_world(&crew->world, backend);
    for (int i = 0; i < 3; i++)
        test_thread_start(&threads[i], work, crew);
    post(&crew->world, crew);
    while (atomic_load(&crew->taken) == 0)
        test_sleep_ms(1);
}

static void crew_join(test_crew *crew, test_thread threads[3], int answer) {
    for (int i = 0; i < 3; i++)
        test_thread_join(&threads[i]);
    for (int i = 0; i < 3; i++)
        CHECK_INT(crew->answers[i], answer);
}

static void workers_go_on(const char *backend) {
    static test_crew crew;
    test_thread threads[3];
    crew_start(&crew, backend, threads);
    fail_waits(-IOE_NOMEM, 4);
    for (int i = 0; i < 20 || atomic_load(&waits_left) > 0; i++)
        post(&crew.world, &crew); /* each may end a wait */
    while (atomic_load(&crew.taken) < 21)
        test_sleep_ms(1);
    CHECK_INT(crew.world.lane->broken, 0);
    io_port_stop(crew.world.port);
    crew_join(&crew, threads, 0);
    io_op *op;
    while (get(&crew.world, 0, &op) == 1)
        io_op_release(op);
    close_world(&crew.world);
}

/* stop() and close() reach those who wait for the end of a pause. */
static void stopped_while_it_fails(const char *backend) {
    for (int close = 0; close < 2; close++) {
        static test_crew crew;
        test_thread threads[3];
        crew_start(&crew, backend, threads);
        fail_waits(-IOE_NOMEM, FOR_EVER);
        post(&crew.world, &crew);
        while (failures(&crew.world) == 0)
            test_sleep_ms(1);
        if (close)
            CHECK(io_port_begin_close(crew.world.port));
        else
            io_port_stop(crew.world.port);
        fail_waits(0, 0);
        crew_join(&crew, threads, close ? -IOE_CLOSED : 0);
        crew.world.lane->backend = real;
        if (close)
            (void)world_finish_close(&crew.world); /* the post may have come too late for them */
        else
            (void)world_close_busy(&crew.world);
    }
}

/* ---- what does not pass ---------------------------------------------------------------------- */

/* It is everybody's end, and stays that although the system would answer again. */
static void broken_for_all(const char *backend) {
    for (size_t i = 0; i < COUNT_OF(lasting); i++) {
        static test_crew crew;
        test_thread threads[3];
        io_op *op;
        int expected = lasting[i] == -IOE_CLOSED ? -IOE_BADF : lasting[i];
        crew_start(&crew, backend, threads);
        fail_waits(lasting[i], lane_shared(crew.world.lane) ? 3 : 1);
        for (int j = 0; j < 3; j++)
            post(&crew.world, &crew);
        crew_join(&crew, threads, expected);
        CHECK_INT(crew.world.lane->broken, expected);
        fail_waits(0, 0);
        int count;
        while ((count = get(&crew.world, 0, &op)) == 1) /* what was ready is not lost */
            io_op_release(op);
        CHECK_INT(count, expected);
        CHECK_INT(get(&crew.world, IO_NEVER, &op), expected);
        close_broken_world(&crew.world);
    }
}

typedef struct test_getter {
    test_world *world;
    int answer;
    _Atomic bool ended;
} test_getter;

static void get_one(void *argument) {
    test_getter *getter = argument;
    io_op *op;
    while ((getter->answer = get(getter->world, IO_NEVER, &op)) == 1)
        io_op_release(op);
    atomic_store(&getter->ended, true);
}

/* The same for threads that get, one in the kernel and two parked behind it. */
static void broken_for_getters(const char *backend) {
    test_world world;
    test_getter getters[3];
    test_thread threads[3];
    open_world(&world, backend);
    for (int i = 0; i < 3; i++) {
        getters[i] = (test_getter){.world = &world};
        test_thread_start(&threads[i], get_one, &getters[i]);
    }
    fail_waits(-IOE_BADF, lane_shared(world.lane) ? 3 : 1);
    for (int i = 0; i < 6; i++)
        post(&world, &world);
    for (int i = 0; i < 3; i++) {
        for (; !atomic_load(&getters[i].ended); test_sleep_ms(1))
            real->wake(
                world.lane); /* the posts may be taken by those behind who is in the kernel */
        test_thread_join(&threads[i]);
        CHECK_INT(getters[i].answer, -IOE_BADF);
    }
    io_op *op;
    while (get(&world, 0, &op) == 1)
        io_op_release(op);
    close_broken_world(&world);
}

/* close() waits for what the kernel has as long as it may, and no longer. */
static void closed_while_it_fails(const char *backend) {
    test_world world;
    open_world(&world, backend);
    io_native natives[2];
    char byte;
    world_pair(&world, natives);
    io_handle *handle = world_handle(&world, natives[0]);
    io_op *op = new_recv(&world, &byte, 1);
    io_op_submit(op, handle);
    fail_waits(-IOE_NOMEM, 3);
    CHECK(io_port_begin_close(world.port));
    CHECK_INT(io_port_drain(world.port, 10 * IO_NS_PER_SECOND), 0);
    world.lane->backend = real;
    CHECK_INT(world_finish_close(&world), 1);
    for (int i = 0; i < 2 && !world.sim; i++) /* those of the simulation went with it */
        world_native_close(&world, natives[i], false);
}

#ifndef _WIN32

/* Posts arrive although other code has closed what wakes who waits for them. */
static void wake_closed(const char *backend) {
    test_world world;
    test_getter getter = {.world = &world};
    test_thread thread;
    open_world(&world, backend);
    test_thread_start(&thread, get_one, &getter);
    for (int i = 0; i < 5; i++) {
        bool waits = false;
        while (!waits) {
            io_mutex_lock(&world.lane->lock);
            waits = world.lane->waiting;
            io_mutex_unlock(&world.lane->lock);
        }
        CHECK_INT(close(((epoll_lane *)world.lane->state)->wake), 0);
        post(&world, &world);
        while (atomic_load(&world.port->in_flight) > 0)
            test_sleep_ms(1);
    }
    CHECK(io_port_begin_close(world.port));
    test_thread_join(&thread);
    CHECK_INT(getter.answer, -IOE_CLOSED);
    world.lane->backend = real;
    CHECK_INT(world_finish_close(&world), 0);
}

static void wake_closed_epoll(void) {
    wake_closed("epoll");
}

static void wake_closed_io_uring(void) {
    wake_closed("io_uring");
}

#endif

/* clang-format off */
#define ALL(X) \
    BACKENDS(X, passes) \
    BACKENDS(X, deadline_holds) \
    BACKENDS(X, timers_go_on) \
    BACKENDS(X, workers_go_on) \
    BACKENDS(X, stopped_while_it_fails) \
    BACKENDS(X, broken_for_all) \
    BACKENDS(X, broken_for_getters) \
    BACKENDS(X, closed_while_it_fails)
/* clang-format on */

ALL(DEFINE)

int main(int argc, char **argv) {
    static const test_case tests[] = {
#ifndef _WIN32
        TEST(wake_closed_epoll), TEST(wake_closed_io_uring),
#endif
        ALL(ENTRY)};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
