/* test_assertions.c: a violated invariant ends the process, with a message that names it.
 *
 * Each rule is violated in its own process: this program, started again with the rule's name. */
#include "world.h"

#include "core/lane.h"

static test_world world;

static io_op *submitted_receive(io_handle **handle) {
    io_native natives[2];
    world_pair(&world, natives);
    *handle = world_handle(&world, natives[0]);
    io_op *op = new_recv(&world, NULL, 100);
    io_op_submit(op, *handle);
    return op;
}

/* Posted and taken: as completed as an operation can be. */
static io_op *completed_post(void) {
    post(&world, NULL);
    io_op *op = world_get(&world, 1000);
    CHECK(op != NULL);
    return op;
}

/* ---- operations ------------------------------------------------------------------------------ */

static void submitted_twice(void) {
    io_handle *handle;
    io_op *op = submitted_receive(&handle);
    io_op_submit(op, handle);
}

static void submitted_while_ready(void) {
    io_op *op = io_op_new(world.lane, IO_POST, NULL, NULL);
    io_post_submit(op);
    io_post_submit(op);
}

static void released_in_flight(void) {
    io_handle *handle;
    io_op_release(submitted_receive(&handle));
}

static void released_twice(void) {
    io_op *op = io_op_new(world.lane, IO_POST, NULL, NULL);
    io_op_release(op);
    io_op_release(op);
}

static void reported_twice(void) {
    io_handle *handle;
    io_op *op = submitted_receive(&handle);
    io_list done;
    io_list_init(&done);
    CHECK(io_op_cancel(op) && world_get(&world, 1000) == op);
    io_op_reported(op, 1, 0, &done);
}

static void named_when_free(void) {
    io_op *op = io_op_new(world.lane, IO_POST, NULL, NULL);
    io_op_release(op);
    (void)io_op_token(op);
}

static void never_released(void) {
    (void)io_op_new(world.lane, IO_POST, NULL, NULL);
    world_close(&world);
}

static void given_back_unready(void) {
    io_op *op = io_op_new(world.lane, IO_POST, NULL, NULL);
    io_lane_give_back(world.lane, &op, 1);
}

/* ---- timers, buffers, handles, ports --------------------------------------------------------- */

static void timer_not_in_heap(void) {
    io_timer *timer = (io_timer *)io_op_new(world.lane, IO_TIMER, NULL, NULL);
    io_timer_heap_remove(&world.lane->timers, timer);
}

static void buffer_returned_twice(void) {
    void *buffer = io_buffer_acquire(&world.port->buffers, 512);
    io_buffer_release(&world.port->buffers, buffer);
    io_buffer_release(&world.port->buffers, buffer);
}

static void buffer_never_returned(void) {
    (void)io_buffer_acquire(&world.port->buffers, 512);
    world_close(&world);
}

static void handle_released_twice(void) {
    io_handle *handle;
    (void)submitted_receive(&handle);
    io_handle_release(handle);
    io_handle_release(handle);
}

static void port_left_twice(void) {
    CHECK_INT(io_port_enter(world.port), 0);
    io_port_leave(world.port);
    io_port_leave(world.port);
}

static void parked_twice(void) {
    io_worker worker = {.lane = world.lane};
    io_lane_lock(world.lane);
    lane_park(&worker);
    lane_park(&worker);
}

/* ---- locks ----------------------------------------------------------------------------------- */

static void appended_without_lock(void) {
    io_list done;
    io_list_init(&done);
    io_lane_append(world.lane, &done);
}

static void lock_taken_twice(void) {
    io_lane_lock(world.lane);
    io_lane_lock(world.lane);
}

static void lock_left_by_another(void) {
    io_lane_unlock(world.lane);
}

static void small_lock_left_by_another(void) {
    io_handle *handle;
    (void)submitted_receive(&handle);
    io_handle_unlock(handle);
}

static void handle_inside_lane(void) {
    io_handle *handle;
    (void)submitted_receive(&handle);
    io_lane_lock(world.lane);
    io_handle_lock(handle);
}

static void lane_inside_innermost(void) {
    io_lock_acquire(&world.port->slab_lock);
    io_lane_lock(world.lane);
}

static void waiting_with_a_lock(void) {
    io_handle *handle;
    (void)submitted_receive(&handle);
    io_handle_lock(handle);
    (void)world_get(&world, 1000);
}

/* Nothing wrong: the control of this experiment. */
static void nothing(void) {
    io_handle *handle;
    io_op *op = submitted_receive(&handle);
    CHECK(io_op_cancel(op) && world_get(&world, 1000) == op);
    io_op_release(op);
    io_op_release(completed_post());
    io_handle_lock(handle);
    io_lane_lock(world.lane);
    io_lane_unlock(world.lane);
    io_handle_unlock(handle);
    world_handle_close(handle);
}

typedef struct rule {
    const char *name;
    void (*break_it)(void);
    const char *says; /* NULL: nothing */
} rule;

#define RULE(name, says) \
    { #name, name, says }

static const rule rules[] = {
    RULE(nothing, NULL),
    RULE(submitted_twice, "io_op_is_idle(op)"),
    RULE(submitted_while_ready, "io_op_is_idle(post)"),
    RULE(released_in_flight, "io_op_is_idle(op)"),
    RULE(released_twice, "io_op_is_idle(op)"),
    RULE(reported_twice, "op->state == IO_OP_SUBMITTED"),
    RULE(named_when_free, "op->state != IO_OP_FREE"),
    RULE(never_released, "port->ops_out == 0"),
    RULE(given_back_unready, "ops[i]->state == IO_OP_COMPLETED"),
    RULE(timer_not_in_heap, "heap->items[index] == timer"),
    RULE(buffer_returned_twice, "buffer->owner == OWNER_USER"),
    RULE(buffer_never_returned, "pool->out == 0"),
    RULE(handle_released_twice, "handle->held"),
    RULE(port_left_twice, "before > 0"),
    RULE(parked_twice, "!thread->parked"),
    RULE(appended_without_lock, "io_lock_is_mine(&lane->lock)"),
    RULE(lock_taken_twice, "!io_lock_is_mine(mutex)"),
    RULE(lock_left_by_another, "== io_thread_self()"),
    RULE(small_lock_left_by_another, "== io_thread_self()"),
    RULE(handle_inside_lane, "!io_lock_is_mine(&handle->lane->lock)"),
    RULE(lane_inside_innermost, "!io_innermost_is_mine(lane->port)"),
    RULE(waiting_with_a_lock, "io_no_lock_is_mine()"),
};

/* What the child says goes to a file beside the program, as both know its name. */
static char said_path[1000];

static int child(const char *name) {
    if (freopen(said_path, "w", stderr) == NULL)
        return 0; /* which the parent takes for a rule that nobody kept */
    world_open(&world, "sim", 1);
    for (size_t i = 0; i < COUNT_OF(rules); i++)
        if (strcmp(rules[i].name, name) == 0)
            rules[i].break_it();
    return 0;
}

static void check_rule(const rule *one) {
    char said[1000];
    test_about("%s", one->name);
    (void)remove(said_path);
    bool died = test_child_dies(one->name);
    FILE *file = fopen(said_path, "r");
    CHECK(file != NULL);
    said[fread(said, 1, sizeof(said) - 1, file)] = '\0';
    fclose(file);
    (void)remove(said_path);
    CHECK(died == (one->says != NULL));
    if (one->says == NULL || io_guard_enabled()) /* where what is released cannot even be read */
        return;
    if (strstr(said, "iocpcore: assertion failed: ") == NULL || strstr(said, one->says) == NULL)
        FAIL("it says \"%s\"", said);
}

static void broken_rules_are_noticed(void) {
    for (size_t i = 0; i < COUNT_OF(rules); i++)
        check_rule(&rules[i]);
    test_about("%s", "");
}

/* Each thread knows its own locks only. */
static void take_and_leave(void *argument) {
    io_mutex *mutex = argument;
    CHECK(!io_lock_is_mine(mutex) && io_no_lock_is_mine());
    io_mutex_lock(mutex);
    CHECK(io_lock_is_mine(mutex) && !io_no_lock_is_mine());
    io_mutex_unlock(mutex);
}

static void locks_know_their_owner(void) {
    io_mutex first, second;
    io_cond never;
    test_thread thread;
    io_lock small;
    memset(&small, 0, sizeof(small));
    CHECK(io_mutex_init(&first) == 0 && io_mutex_init(&second) == 0 && io_cond_init(&never) == 0);
    io_mutex_lock(&first);
    CHECK(io_lock_is_mine(&first) && !io_lock_is_mine(&second) && !io_lock_is_mine(&small));
    io_lock_acquire(&small);
    test_thread_start(&thread, take_and_leave, &second);
    test_thread_join(&thread);
    CHECK(io_lock_is_mine(&first) && io_lock_is_mine(&small));
    io_lock_release(&small);
    CHECK(!io_lock_is_mine(&small) && !io_no_lock_is_mine());
    io_cond_wait(&never, &first, io_clock_ns() + IO_NS_PER_MS);
    CHECK(io_lock_is_mine(&first));
    io_mutex_unlock(&first);
    CHECK(!io_lock_is_mine(&first) && io_no_lock_is_mine());
    io_cond_destroy(&never);
    io_mutex_destroy(&second);
    io_mutex_destroy(&first);
}

int main(int argc, char **argv) {
    static const test_case tests[] = {
        TEST(broken_rules_are_noticed),
        TEST(locks_know_their_owner),
    };
    snprintf(said_path, sizeof(said_path), "%s.said", argv[0]);
    if (argc == 2)
        return child(argv[1]);
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
