/* fuzz_server.c: random events on a server of the simulated backend, with thousands of seeds.
 *
 * Many clients come and go, limits are small, accepts fail, and listeners close. The server is shut
 * down, aborted or loses its port at any time, from outside and from inside the hooks.
 *
 * The model (server.c): every accepted client is a member, or was refused, lost or accepted too
 * late, or still waits. Limits hold. Events of members come once and in order. Everything ends, and
 * is released once. One thread simulates several: it takes several operations, and delivers them
 * later, in any order, even if the port has been closed meanwhile.
 *
 * A failure names its seed: FUZZ_SEED=<seed> fuzz_server --only <test> repeats it. */
#include "server.h"
#include "seeds.h"

enum { HANDS = 6, WALKS = 2 };

static struct {
    server server;
    test_random random;
    io_op *hands[HANDS]; /* taken, and not brought to their owners yet */
    io_walk walks[WALKS];
    bool walking[WALKS];
    bool ending;
    int depth; /* of what is done inside hooks */
} now;

static uint64_t chance(uint64_t below) {
    return test_below(&now.random, below);
}

static server *the_server(void) {
    return &now.server;
}

static server_group *some_group(void) {
    return &now.server.groups[chance(4) == 0];
}

/* ---- what may happen ------------------------------------------------------------------------- */

static void client_comes(void) {
    server *self = the_server();
    server_listener *listener = &self->listeners[chance((uint64_t)self->listener_count)];
    if (atomic_load(&self->client_count) < SERVER_CLIENTS / 2)
        (void)server_connect(self, listener);
}

static void client_goes(void) {
    int count = atomic_load(&now.server.client_count);
    if (count > 0)
        server_client_close(&now.server.clients[chance((uint64_t)count)]);
}

static server_member *some_member(void) {
    int count = atomic_load(&now.server.member_count);
    server_member *member = count == 0 ? NULL : now.server.members[chance((uint64_t)count)];
    return member == NULL || member->gone || member->io.entry.users == 0 ? NULL : member;
}

static void member_does_something(void) {
    static char block[4096];
    server_member *member = some_member();
    io_piece piece = {block, 1 + (size_t)chance(sizeof(block)), NULL};
    if (member == NULL)
        return;
    switch (chance(6)) {
    case 0:
        io_connection_close(&member->io.io, chance(2) == 0);
        break;
    case 1:
        (void)io_connection_abort(&member->io.io);
        break;
    case 2:
        if (member->started && member->io.io.notified == IO_NOTIFIED_STARTED)
            io_connection_establish(&member->io.io);
        break;
    default:
        (void)io_connection_send(&member->io.io, &piece, 1);
        break;
    }
}

static void member_comes(void) {
    if (atomic_load(&now.server.client_count) < SERVER_CLIENTS / 2)
        (void)server_adopt(the_server(), some_group());
}

static void walk(void) {
    uint64_t i = chance(WALKS);
    if (!now.walking[i]) {
        now.walking[i] = io_walk_first(&now.walks[i], &some_group()->io) != NULL;
    } else if (chance(8) != 0) {
        now.walking[i] = io_walk_next(&now.walks[i]) != NULL;
    } else {
        io_walk_stop(&now.walks[i]);
        now.walking[i] = false;
    }
}

static void accepting_fails(void) {
    static const int errors[] = {-IOE_MFILE, -IOE_CONNABORTED, -IOE_NOBUFS, -IOE_PERM};
    server *self = the_server();
    uint64_t i = chance((uint64_t)self->listener_count);
    (void)io_sim_fail_accepts(self->world.lane, self->listeners[i].native,
                              errors[chance(COUNT_OF(errors))], 1 + (uint32_t)chance(80),
                              1 + (uint32_t)chance(3));
}

static void something_ends(void) {
    switch (chance(4)) {
    case 0:
        server_close_listener(&now.server.listeners[chance((uint64_t)now.server.listener_count)]);
        break;
    case 1:
        io_group_shutdown(&some_group()->io);
        break;
    default:
        (void)io_group_abort(&some_group()->io);
        break;
    }
}

static void do_something(void) {
    switch (chance(14)) {
    case 0:
    case 1:
    case 2:
    case 3:
        client_comes();
        break;
    case 4:
        client_goes();
        break;
    case 5:
    case 6:
    case 7:
        member_does_something();
        break;
    case 8:
        member_comes();
        break;
    case 9:
    case 10:
        walk();
        break;
    case 11:
        accepting_fails();
        break;
    case 12:
        some_group()->makes_none = chance(4) == 0;
        break;
    default:
        if (chance(15) == 0)
            something_ends();
        break;
    }
}

/* Inside hooks. */
static void do_something_inside(void) {
    if (now.ending || now.depth > 0 || chance(3) != 0)
        return;
    now.depth++;
    do_something();
    now.depth--;
}

static void on_make(server_group *group) {
    bool makes_none = group->makes_none;
    do_something_inside();
    group->makes_none = makes_none; /* what this client's fate is, is decided */
}

static void on_run(server_member *member, io_connection_event event) {
    (void)event;
    (void)member;
    do_something_inside();
}

static void on_told(server_group *group) {
    (void)group;
    do_something_inside();
}

static void on_time_out(server_member *member, io_reason reason) {
    CHECK(reason == IO_REASON_IDLE || reason == IO_REASON_HANDSHAKE);
    (void)member;
    do_something_inside();
}

/* ---- threads, in their way ------------------------------------------------------------------- */

static void bring(io_op **hand) {
    io_op *op = *hand;
    *hand = NULL;
    if (op != NULL)
        server_take(op);
}

static void take_into(io_op **hand, unsigned ms) {
    bring(hand);
    *hand = world_get(&now.server.world, ms);
}

static void bring_all(void) {
    for (uint64_t i = chance(HANDS), end = i + HANDS; i < end; i++)
        bring(&now.hands[i % HANDS]);
}

static void stop_walks(void) {
    for (int i = 0; i < WALKS; i++)
        if (now.walking[i])
            io_walk_stop(&now.walks[i]);
    memset(now.walking, 0, sizeof(now.walking));
}

/* After the end of the port: what other threads had in their hands, and how far they had walked. */
static void bring_what_is_left(void) {
    bring_all();
    stop_walks();
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void begin(uint64_t seed, uint32_t faults) {
    server *self = the_server();
    memset(&now.hands, 0, sizeof(now.hands));
    now.random.state = seed;
    now.ending = false;
    test_about("FUZZ_SEED=%llu", (unsigned long long)seed);
    server_open(self, "sim", 1);
    io_sim_configure(self->world.lane, seed, faults);
    for (int i = 0; i < SERVER_GROUPS; i++) {
        server_group *group = &self->groups[i];
        group->on_make = on_make;
        group->on_run = on_run;
        group->on_told = on_told;
        group->on_time_out = on_time_out;
        group->shakes_hands = chance(4) == 0;
        group->io.max_connections = (size_t)chance(2) * (size_t)(1 + chance(6));
        group->io.max_per_address = (size_t)chance(2) * (size_t)(1 + chance(6));
        if (chance(2) == 0)
            io_group_set_timeouts(&group->io, (1 + chance(200)) * IO_NS_PER_MS,
                                  (1 + chance(200)) * IO_NS_PER_MS);
    }
    for (uint64_t i = 1 + chance(SERVER_LISTENERS); i > 0; i--)
        (void)server_listen(self);
}

static void steps(uint64_t count) {
    for (uint64_t step = 0; step < count; step++) {
        if (chance(3) == 0)
            do_something();
        else
            take_into(&now.hands[chance(HANDS)], (unsigned)chance(30));
        if (chance(30) == 0)
            server_check(the_server());
    }
}

static void end_all(void) {
    now.ending = true;
    stop_walks();
    bring_all();
    if (chance(2) == 0)
        io_group_shutdown(&some_group()->io);
    for (int i = 0; i < SERVER_GROUPS; i++)
        now.server.groups[i].makes_none = false;
    server_close(the_server());
}

static void end_with_the_port(void) {
    now.ending = true;
    if (chance(2) == 0)
        stop_walks();
    bool at_once = chance(2) == 0;
    if (at_once)
        bring_all();
    CHECK_INT(server_close_port(the_server(), 10 * IO_NS_PER_SECOND, bring_what_is_left), 0);
}

static void run_seed(uint64_t seed, uint32_t faults) {
    begin(seed, faults);
    steps(20 + chance(400));
    if (chance(2) == 0)
        end_all();
    else
        end_with_the_port();
}

SEEDS_TESTS(run_seed, 1500, 3000, 3000)

int main(int argc, char **argv) {
    static const test_case tests[] = {SEEDS_ENTRIES};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
