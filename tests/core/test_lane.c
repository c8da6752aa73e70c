/* test_lane.c: threads on a lane: waits and wakes, several getters, workers that block and the
 * spare ones that take over, stop and close. For every backend of the platform. */
#include "op_case.h"

#define THREADS 4

/* Each operation here has one of these as its owner. */
typedef struct test_item {
    _Atomic int taken;
    int thread;
    uint64_t number;
    uint64_t sleep_ms;     /* of its callback */
    _Atomic bool *blocked; /* its callback returns when this is false */
} test_item;

static void post_item(test_world *world, test_item *item) {
    io_op *op = io_op_new(world->lane, IO_POST, NULL, item);
    CHECK(op != NULL);
    CHECK_INT(io_port_enter(world->port), 0);
    io_post_submit(op);
    io_port_leave(world->port);
}

/* How many were taken, or a negative error. */
static int get_items(test_world *world, uint64_t deadline_ns, io_op **ops, int maximum) {
    io_wait wait = {.deadline_ns = deadline_ns};
    int error = io_port_enter(world->port);
    if (error)
        return error;
    int count = io_lane_get(world->lane, &wait, ops, maximum);
    io_port_leave(world->port);
    return count;
}

/* ---- getters --------------------------------------------------------------------------------- */

typedef struct test_traffic {
    test_world world;
    test_item *items; /* THREADS times `each` */
    uint64_t each;
    _Atomic int next_thread;
    _Atomic uint64_t taken;
    bool one_by_one; /* a poster waits until its post was taken */
} test_traffic;

static void post_many(void *argument) {
    test_traffic *traffic = argument;
    int thread = atomic_fetch_add(&traffic->next_thread, 1);
    for (uint64_t i = 0; i < traffic->each; i++) {
        test_item *item = &traffic->items[(uint64_t)thread * traffic->each + i];
        item->thread = thread;
        item->number = i;
        post_item(&traffic->world, item);
        while (traffic->one_by_one && atomic_load(&item->taken) == 0)
            test_sleep_ms(0);
    }
}

static void get_many(void *argument) {
    test_traffic *traffic = argument;
    io_op *ops[64];
    for (;;) {
        int count = get_items(&traffic->world, IO_NEVER, ops, 64);
        if (count < 0) {
            CHECK_INT(count, -IOE_CLOSED);
            return;
        }
        for (int i = 0; i < count; i++) {
            test_item *item = ops[i]->owner;
            io_op_release(ops[i]);
            CHECK_INT(atomic_fetch_add(&item->taken, 1), 0);
            atomic_fetch_add(&traffic->taken, 1);
        }
    }
}

static void run_traffic(const char *backend, uint64_t each, int getters, bool one_by_one) {
    static test_traffic traffic;
    test_thread posting[THREADS], getting[THREADS];
    memset(&traffic, 0, sizeof(traffic));
    world_open(&traffic.world, backend, 1);
    traffic.each = each;
    traffic.one_by_one = one_by_one;
    traffic.items = calloc(THREADS * (size_t)each, sizeof(test_item));
    CHECK(traffic.items != NULL);
    for (int i = 0; i < getters; i++)
        test_thread_start(&getting[i], get_many, &traffic);
    for (int i = 0; i < THREADS; i++)
        test_thread_start(&posting[i], post_many, &traffic);
    for (int i = 0; i < THREADS; i++)
        test_thread_join(&posting[i]);
    while (atomic_load(&traffic.taken) < THREADS * each)
        test_sleep_ms(1);
    CHECK(io_port_begin_close(traffic.world.port));
    for (int i = 0; i < getters; i++)
        test_thread_join(&getting[i]);
    CHECK_INT(world_finish_close(&traffic.world), 0);
    free(traffic.items);
}

static void posts_once(const char *backend) {
    run_traffic(backend, test_scaled(20000), THREADS, false);
}

/* Every post finds getters that are just going to wait. */
static void wake_not_lost(const char *backend) {
    run_traffic(backend, test_scaled(3000), 1, true);
    run_traffic(backend, test_scaled(3000), 2, true);
}

static void posts_in_order(const char *backend) {
    static test_traffic traffic;
    uint64_t next[THREADS] = {0};
    test_thread posting[THREADS];
    memset(&traffic, 0, sizeof(traffic));
    world_open(&traffic.world, backend, 1);
    traffic.each = test_scaled(5000);
    traffic.items = calloc(THREADS * (size_t)traffic.each, sizeof(test_item));
    CHECK(traffic.items != NULL);
    for (int i = 0; i < THREADS; i++)
        test_thread_start(&posting[i], post_many, &traffic);
    for (uint64_t left = THREADS * traffic.each; left > 0;) {
        io_op *ops[64];
        int count = get_items(&traffic.world, IO_NEVER, ops, 64);
        CHECK(count > 0);
        left -= (uint64_t)count;
        for (int i = 0; i < count; i++) {
            test_item *item = ops[i]->owner;
            CHECK_INT(item->number, next[item->thread]++);
            io_op_release(ops[i]);
        }
    }
    for (int i = 0; i < THREADS; i++)
        test_thread_join(&posting[i]);
    world_close(&traffic.world);
    free(traffic.items);
}

typedef struct test_waiter {
    test_world *world;
    uint64_t deadline_ns;
    int count;
    io_op *op;
} test_waiter;

static void wait_once(void *argument) {
    test_waiter *waiter = argument;
    waiter->count = get_items(waiter->world, waiter->deadline_ns, &waiter->op, 1);
}

/* A timer that is set while threads already wait ends the wait at its time. */
static void timer_ends_wait(const char *backend) {
    for (uint64_t round = 0; round < test_scaled(20); round++) {
        test_world world;
        world_open(&world, backend, 1);
        test_waiter waiters[2] = {{.world = &world, .deadline_ns = IO_NEVER},
                                  {.world = &world, .deadline_ns = IO_NEVER}};
        test_thread threads[2];
        for (int i = 0; i < 2; i++)
            test_thread_start(&threads[i], wait_once, &waiters[i]);
        test_sleep_ms((unsigned)round % 3);
        for (uint64_t i = 0; i < 2; i++) {
            io_timer *timer = (io_timer *)io_op_new(world.lane, IO_TIMER, NULL, NULL);
            io_timer_submit(timer, (2 - i) * IO_NS_PER_MS);
        }
        for (int i = 0; i < 2; i++) {
            test_thread_join(&threads[i]);
            CHECK_INT(waiters[i].count, 1);
            CHECK_INT(waiters[i].op->kind, IO_TIMER);
            io_op_release(waiters[i].op);
        }
        world_close(&world);
    }
}

/* Deadlines hold for the thread that is in the kernel and for those that are parked behind it. */
static void deadlines(const char *backend) {
    test_world world;
    test_waiter waiters[3];
    test_thread threads[3];
    world_open(&world, backend, 1);
    uint64_t begin_ns = io_lane_now(world.lane);
    for (int i = 0; i < 3; i++) {
        waiters[i] = (test_waiter){.world = &world, .deadline_ns = begin_ns + 20 * IO_NS_PER_MS};
        test_thread_start(&threads[i], wait_once, &waiters[i]);
    }
    for (int i = 0; i < 3; i++) {
        test_thread_join(&threads[i]);
        CHECK_INT(waiters[i].count, 0);
    }
    CHECK(io_lane_now(world.lane) >= begin_ns + 20 * IO_NS_PER_MS);
    CHECK(world_quiet(&world, 0));
    world_close(&world);
}

/* Threads that submit, cancel and get operations of sockets, all at once. */
typedef struct test_hammer {
    test_world world;
    io_handle *handles[THREADS][2];
    _Atomic int next_thread;
    _Atomic int64_t left;
} test_hammer;

static void hammer_get(test_hammer *hammer, uint64_t deadline_ns) {
    io_op *ops[8];
    int count = get_items(&hammer->world, deadline_ns, ops, 8);
    CHECK(count >= 0);
    for (int i = 0; i < count; i++) {
        CHECK(ops[i]->result >= 0 || ops[i]->result == -IOE_CANCELED);
        _Atomic int *ended = ops[i]->owner;
        io_op_release(ops[i]);
        CHECK_INT(atomic_fetch_add(ended, 1), 0);
        atomic_fetch_sub(&hammer->left, 1);
    }
}

/* Simulated time passes only for those who wait for it. */
static uint64_t hammer_deadline(test_hammer *hammer) {
    return hammer->world.sim ? io_lane_now(hammer->world.lane) + IO_NS_PER_MS : 0;
}

static void hammer_thread(void *argument) {
    enum { ROUND = 8 };
    test_hammer *hammer = argument;
    int thread = atomic_fetch_add(&hammer->next_thread, 1);
    test_random random = {(uint64_t)thread};
    char bytes[ROUND][10];
    _Atomic int ended[ROUND];
    for (uint64_t round = 0; round < test_scaled(400); round++) {
        for (int i = 0; i < ROUND; i++) {
            atomic_store(&ended[i], 0);
            io_op *op;
            io_handle *handle = hammer->handles[test_below(&random, THREADS)][i % 2];
            if (i % 4 < 2)
                op = new_recv(&hammer->world, bytes[i], 10);
            else if (i % 4 == 2)
                op = new_send(&hammer->world, "0123456789", 10);
            else
                op = new_poll(&hammer->world, IO_READABLE);
            op->owner = (void *)&ended[i];
            atomic_fetch_add(&hammer->left, 1);
            CHECK_INT(io_port_enter(hammer->world.port), 0);
            io_op_submit(op, handle);
            io_port_leave(hammer->world.port);
        }
        for (int i = 0; i < ROUND; i++) {
            while (atomic_load(&ended[i]) == 0) {
                /* Operations may be released by whoever gets them, so only whole handles can be
                 * asked to end here. */
                CHECK_INT(io_port_enter(hammer->world.port), 0);
                io_handle_cancel(hammer->handles[test_below(&random, THREADS)][i % 2]);
                io_port_leave(hammer->world.port);
                hammer_get(hammer, hammer_deadline(hammer));
            }
        }
    }
}

static void threads_hammer(const char *backend) {
    static test_hammer hammer;
    test_thread threads[THREADS];
    io_native natives[2];
    memset(&hammer, 0, sizeof(hammer));
    world_open(&hammer.world, backend, 1);
    if (hammer.world.sim)
        io_sim_configure(hammer.world.lane, 1,
                         (uint32_t)IO_SIM_FAULTS & ~(uint32_t)(IO_SIM_REFUSE | IO_SIM_ERRORS));
    for (int i = 0; i < THREADS; i++) {
        world_pair(&hammer.world, natives);
        hammer.handles[i][0] = world_handle(&hammer.world, natives[0]);
        hammer.handles[i][1] = world_handle(&hammer.world, natives[1]);
    }
    for (int i = 0; i < THREADS; i++)
        test_thread_start(&threads[i], hammer_thread, &hammer);
    for (int i = 0; i < THREADS; i++)
        test_thread_join(&threads[i]);
    while (atomic_load(&hammer.left) > 0)
        hammer_get(&hammer, hammer_deadline(&hammer));
    for (int i = 0; i < THREADS; i++) {
        world_handle_close(hammer.handles[i][0]);
        world_handle_close(hammer.handles[i][1]);
    }
    world_close(&hammer.world);
}

/* Submits a receive and looks into the kernel, then ends: what it began goes on. */
static void begin_and_end(void *argument) {
    op_case *subject = argument;
    op_case_submit(subject, op_case_op(subject, HAS_TO_WAIT), 0);
    CHECK(world_quiet(&subject->world, 1));
}

static void submitter_ends(const char *backend) {
    static const io_kind kinds[] = {IO_RECV, IO_ACCEPT, IO_RECV_FROM, IO_POLL};
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        op_case subject;
        test_thread thread;
        op_case_open(&subject, backend, kinds[i], 0);
        op_case_set_up(&subject, HAS_TO_WAIT);
        test_thread_start(&thread, begin_and_end, &subject);
        test_thread_join(&thread);
        test_sleep_ms(5);
        CHECK(world_quiet(&subject.world, 5)); /* not the end of the operation */
        test_waiter waiting = {.world = &subject.world, .deadline_ns = IO_NEVER};
        test_thread_start(&thread, wait_once, &waiting);
        test_sleep_ms(5);
        post(&subject.world, &subject.used); /* that thread is woken all the same */
        test_thread_join(&thread);
        CHECK_INT(waiting.count, 1);
        CHECK(waiting.op->owner == &subject.used);
        io_op_release(waiting.op);
        CHECK_INT(subject.ended[0], 0);
        op_case_fulfil(&subject);
        io_op *op = NULL;
        while (subject.ended[0] == 0) {
            op = world_get(&subject.world, 10000);
            CHECK(op != NULL && op->result >= 0);
            CHECK_INT(++*(int *)op->owner, 1);
            if (op->kind == IO_ACCEPT)
                world_native_close(&subject.world, ((io_accept *)op)->accepted, false);
            io_op_release(op);
        }
        op_case_close(&subject);
    }
}

typedef struct opener {
    test_world world;
    const char *backend;
} test_opener;

static void open_and_end(void *argument) {
    test_opener *opener = argument;
    world_open(&opener->world, opener->backend, 1);
    CHECK(world_quiet(&opener->world, 1));
}

/* The thread that opened the port, and waited first, is gone; wakes go on. */
static void opener_ends(const char *backend) {
    test_opener opener = {.backend = backend};
    test_thread thread;
    test_waiter waiting = {.world = &opener.world, .deadline_ns = IO_NEVER};
    world_open(&opener.world, backend, 1); /* skips here, not in the thread */
    world_close(&opener.world);
    test_thread_start(&thread, open_and_end, &opener);
    test_thread_join(&thread);
    for (int i = 0; i < 3; i++) {
        test_thread_start(&thread, wait_once, &waiting);
        test_sleep_ms(5);
        post(&opener.world, NULL);
        test_thread_join(&thread);
        CHECK_INT(waiting.count, 1);
        io_op_release(waiting.op);
    }
    world_close(&opener.world);
}

/* ---- workers --------------------------------------------------------------------------------- */

typedef struct test_crew {
    test_world world;
    test_thread threads[THREADS];
    int count;
    _Atomic int ready;
    _Atomic uint64_t delivered;
    int answer[THREADS];
} test_crew;

typedef struct worker_argument {
    test_crew *crew;
    int index;
} worker_argument;

static worker_argument worker_arguments[THREADS];

static void work(void *argument) {
    worker_argument *self = argument;
    test_crew *crew = self->crew;
    io_worker worker;
    io_wait wait = {.deadline_ns = IO_NEVER};
    CHECK_INT(io_worker_enter(&worker, crew->world.lane), 0);
    atomic_fetch_add(&crew->ready, 1);
    int answer;
    while ((answer = io_worker_wait(&worker, &wait)) == 1) {
        io_op *op;
        while ((op = io_worker_take(&worker)) != NULL) {
            test_item *item = op->owner;
            io_op_release(op);
            CHECK_INT(atomic_fetch_add(&item->taken, 1), 0);
            if (item->sleep_ms > 0)
                test_sleep_ms((unsigned)item->sleep_ms);
            while (item->blocked != NULL && atomic_load(item->blocked))
                test_sleep_ms(1);
            atomic_fetch_add(&crew->delivered, 1);
        }
    }
    io_worker_leave(&worker);
    crew->answer[self->index] = answer;
}

static void crew_start(test_crew *crew, const char *backend, uint32_t concurrency, int count) {
    memset(crew, 0, sizeof(*crew));
    world_open(&crew->world, backend, concurrency);
    crew->count = count;
    for (int i = 0; i < count; i++) {
        worker_arguments[i] = (worker_argument){crew, i};
        test_thread_start(&crew->threads[i], work, &worker_arguments[i]);
    }
    while (atomic_load(&crew->ready) < count)
        test_sleep_ms(1);
    test_sleep_ms(2);
}

static void crew_join(test_crew *crew, int answer) {
    for (int i = 0; i < crew->count; i++) {
        test_thread_join(&crew->threads[i]);
        CHECK_INT(crew->answer[i], answer);
    }
    CHECK_INT(crew->world.lane->running, 0);
    CHECK_INT(crew->world.lane->worker_count, 0);
}

static void crew_await(test_crew *crew, uint64_t delivered) {
    while (atomic_load(&crew->delivered) < delivered)
        test_sleep_ms(1);
    CHECK_INT(atomic_load(&crew->delivered), delivered);
}

static void crew_finish(test_crew *crew, uint64_t delivered) {
    crew_await(crew, delivered);
    io_port_stop(crew->world.port);
    crew_join(crew, 0);
    world_close(&crew->world);
}

/* While callbacks block, all those behind them, of the same batch too, are delivered. */
static void handover(const char *backend) {
    enum { ITEMS = 60 };
    for (uint32_t concurrency = 1; concurrency <= 2; concurrency++) {
        static test_crew crew;
        static test_item items[ITEMS];
        _Atomic bool blocked = true;
        memset(items, 0, sizeof(items));
        crew_start(&crew, backend, concurrency, (int)concurrency + 1);
        for (uint32_t i = 0; i < concurrency; i++)
            items[i].blocked = &blocked;
        for (int i = 0; i < ITEMS; i++)
            post_item(&crew.world, &items[i]);
        crew_await(&crew, ITEMS - concurrency);
        atomic_store(&blocked, false);
        crew_finish(&crew, ITEMS);
    }
}

/* Blocked again and again, also the spare itself, and all at once: nothing is lost or doubled. */
static void handover_storm(const char *backend) {
    enum { ITEMS = 400 };
    for (uint64_t seed = 0; seed < 2; seed++) {
        static test_crew crew;
        static test_item items[ITEMS];
        test_random random = {seed};
        memset(items, 0, sizeof(items));
        crew_start(&crew, backend, 1 + (uint32_t)seed, THREADS);
        for (int i = 0; i < ITEMS; i++) {
            items[i].sleep_ms = test_below(&random, 10) == 0 ? test_below(&random, 12) : 0;
            post_item(&crew.world, &items[i]);
            if (test_below(&random, 50) == 0)
                test_sleep_ms((unsigned)test_below(&random, 8));
        }
        crew_finish(&crew, ITEMS);
    }
}

/* The watcher has gone to sleep; a callback that blocks then is still noticed. */
static void handover_after_idle(const char *backend) {
    static test_crew crew;
    static test_item items[3];
    _Atomic bool blocked = true;
    memset(items, 0, sizeof(items));
    crew_start(&crew, backend, 1, 2);
    test_sleep_ms(120);
    items[0].blocked = &blocked;
    post_item(&crew.world, &items[0]);
    test_sleep_ms(30);
    post_item(&crew.world, &items[1]);
    crew_await(&crew, 1);
    atomic_store(&blocked, false);
    post_item(&crew.world, &items[2]);
    crew_finish(&crew, 3);
}

static void workers_without_blocking(const char *backend) {
    uint64_t count = test_scaled(50000);
    static test_crew crew;
    test_item *items = calloc((size_t)count, sizeof(test_item));
    CHECK(items != NULL);
    crew_start(&crew, backend, 1, THREADS);
    for (uint64_t i = 0; i < count; i++)
        post_item(&crew.world, &items[i]);
    crew_finish(&crew, count);
    free(items);
}

/* stop() ends present and later workers; getters go on. */
static void stop_is_sticky(const char *backend) {
    static test_crew crew;
    static test_item one;
    memset(&one, 0, sizeof(one));
    crew_start(&crew, backend, 1, 3);
    io_port_stop(crew.world.port);
    crew_join(&crew, 0);
    atomic_store(&crew.ready, 0);
    for (int i = 0; i < crew.count; i++)
        test_thread_start(&crew.threads[i], work, &worker_arguments[i]);
    crew_join(&crew, 0);
    post_item(&crew.world, &one);
    io_op *op = world_get(&crew.world, 1000);
    CHECK(op != NULL && op->owner == &one);
    io_op_release(op);
    world_close(&crew.world);
}

/* close() while workers wait, and while one is in a callback. */
static void close_under_workers(const char *backend) {
    for (int round = 0; round < 4; round++) {
        static test_crew crew;
        static test_item items[2];
        memset(items, 0, sizeof(items));
        crew_start(&crew, backend, 1, 3);
        if (round >= 2) {
            items[0].sleep_ms = 50;
            post_item(&crew.world, &items[0]);
            while (atomic_load(&items[0].taken) == 0)
                test_sleep_ms(1);
        }
        io_port *port = crew.world.port;
        CHECK(io_port_begin_close(port));
        CHECK(!io_port_begin_close(port));
        CHECK(io_port_enter(port) != 0);
        CHECK_INT(io_port_drain(port, 10 * IO_NS_PER_SECOND), 0);
        crew_join(&crew, -IOE_CLOSED);
        io_port_finish_close(port, 0);
        io_port_destroy(port);
    }
}

/* It would format this differently each time. */
/* clang-format off */
#define ALL(X) \
    BACKENDS(X, posts_once) \
    BACKENDS(X, wake_not_lost) \
    BACKENDS(X, posts_in_order) \
    BACKENDS(X, timer_ends_wait) \
    BACKENDS(X, deadlines) \
    BACKENDS(X, threads_hammer) \
    BACKENDS(X, submitter_ends) \
    BACKENDS(X, opener_ends) \
    BACKENDS(X, handover) \
    BACKENDS(X, handover_storm) \
    BACKENDS(X, handover_after_idle) \
    BACKENDS(X, workers_without_blocking) \
    BACKENDS(X, stop_is_sticky) \
    BACKENDS(X, close_under_workers)
/* clang-format on */

ALL(DEFINE)

int main(int argc, char **argv) {
    static const test_case tests[] = {ALL(ENTRY)};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
