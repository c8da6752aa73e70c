/* test_group.c: connection groups (net/group.h, net/hosts.h): the clock, graceful ends, walks over
 * the members, counts by address, and the end of the port. */
#include "server.h"

#include "op_case.h"

#ifndef _WIN32
#include <fcntl.h>
#endif

static server now;

static server_group *group(void) {
    return &now.groups[0];
}

static size_t count(void) {
    return io_group_count(&group()->io);
}

/* So many members that have started. */
static void open_with(const char *backend, int members) {
    server_open(&now, backend, 1);
    for (int i = 0; i < members; i++)
        (void)server_adopt(&now, group());
    for (int i = 0; i < members; i++)
        SERVER_UNTIL(&now, now.members[i]->started);
}

static void send_to_member(server_client *client) {
    static const char byte = 'x';
    io_op *op = new_send(&now.world, &byte, 1);
    op->owner_ops = NULL;
    io_op_submit(op, client->handle);
    io_op *got;
    while ((got = world_get(&now.world, 10000)) != op) {
        CHECK(got != NULL);
        server_take(got);
    }
    io_op_release(op);
}

/* ---- the clock ------------------------------------------------------------------------------- */

static void check_idle(server_member *member, io_reason reason) {
    (void)member;
    CHECK_INT(reason, IO_REASON_IDLE);
}

/* Who is idle goes; who receives something stays. */
static void idle_members_end(const char *backend) {
    open_with(backend, 3);
    group()->on_time_out = check_idle;
    io_group_set_timeouts(&group()->io, 400 * IO_NS_PER_MS, IO_NEVER);
    CHECK_INT(group()->io.tick_ns, 50 * IO_NS_PER_MS);
    CHECK(!group()->io.ticks);
    server_member *one = server_adopt(&now, group()); /* starts the clock */
    SERVER_UNTIL(&now, one->started);
    CHECK(group()->io.ticks);
    CHECK_INT(atomic_load(&group()->holds), 1);
    while (count() > 1) {
        send_to_member(&now.clients[3]);
        while (server_step(&now, 20))
            continue;
    }
    CHECK(!one->gone);
    server_check(&now);
    SERVER_UNTIL(&now, count() == 0);
    SERVER_UNTIL(&now, !group()->io.ticks); /* nobody is left, and the clock stops */
    CHECK_INT(atomic_load(&group()->empty), 1);
    server_close(&now);
}

static int told_too_late;

static void check_handshake(server_member *member, io_reason reason) {
    told_too_late++;
    CHECK_INT(reason, IO_REASON_HANDSHAKE);
    CHECK(!io_connection_is_known(&member->io.io));
}

static void handshakes_end(const char *backend) {
    told_too_late = 0;
    server_open(&now, backend, 1);
    group()->shakes_hands = true;
    group()->on_time_out = check_handshake;
    io_group_set_timeouts(&group()->io, IO_NEVER, 200 * IO_NS_PER_MS);
    server_member *slow = server_adopt(&now, group()), *known = server_adopt(&now, group());
    SERVER_UNTIL(&now, slow->started && known->started);
    io_connection_establish(&known->io.io);
    SERVER_UNTIL(&now, count() == 1);
    CHECK_INT(atomic_load(&group()->gone_unknown), 1);
    CHECK(told_too_late >= 1 && !known->gone);
    for (int ticks = 0; ticks < 20; ticks++) /* its time is not limited any more */
        (void)server_step(&now, 50);
    CHECK(!known->gone);
    server_check(&now);
    server_close(&now);
}

static void ticks_are_of_some_length(void) {
    static const struct {
        uint64_t idle_ns, handshake_ns, tick_ns;
        uint32_t idle_ticks, handshake_ticks;
    } cases[] = {
        {IO_NEVER, IO_NEVER, IO_NS_PER_SECOND, 0, 0},
        {8 * IO_NS_PER_SECOND, IO_NEVER, IO_NS_PER_SECOND, 9, 0},
        {IO_NEVER, 4 * IO_NS_PER_SECOND, IO_NS_PER_SECOND / 2, 0, 9},
        {800 * IO_NS_PER_SECOND, 400 * IO_NS_PER_SECOND, IO_NS_PER_SECOND, 801, 401},
        {1, IO_NEVER, 10 * IO_NS_PER_MS, 1, 0},
        {0, 0, 10 * IO_NS_PER_MS, 1, 1},
        {UINT64_MAX - 1, IO_NEVER, IO_NS_PER_SECOND, UINT32_MAX, 0},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        io_group set;
        memset(&set, 0, sizeof(set));
        io_group_set_timeouts(&set, cases[i].idle_ns, cases[i].handshake_ns);
        CHECK_INT(set.tick_ns, cases[i].tick_ns);
        CHECK_INT(set.idle_ticks, cases[i].idle_ticks);
        CHECK_INT(set.handshake_ticks, cases[i].handshake_ticks);
    }
}

/* A tick that finds nobody ends the clock, and the next member starts it again. */
static void the_clock_starts_again(const char *backend) {
    server_open(&now, backend, 1);
    io_group_set_timeouts(&group()->io, 80 * IO_NS_PER_MS, IO_NEVER);
    for (int round = 1; round <= 3; round++) {
        (void)server_adopt(&now, group());
        SERVER_UNTIL(&now, count() == 0 && !group()->io.ticks);
        CHECK_INT(atomic_load(&group()->empty), round);
        server_check(&now);
    }
    server_close(&now);
}

/* ---- orderly ends ---------------------------------------------------------------------------- */

static void shuts_down(const char *backend) {
    open_with(backend, 3);
    group()->shakes_hands = true;
    server_member *unknown = server_adopt(&now, group());
    SERVER_UNTIL(&now, unknown->started);
    io_group_shutdown(&group()->io);
    CHECK_INT(atomic_load(&group()->closes), 3);
    CHECK_INT(atomic_load(&group()->gives_up), 1); /* who does not exist for its user */
    SERVER_UNTIL(&now, count() == 0);
    CHECK_INT(atomic_load(&group()->gone_unknown), 1);
    CHECK_INT(atomic_load(&group()->gone_known), 3);
    CHECK_INT(group()->io.figures.aborted, 0);
    SERVER_UNTIL(&now, server_ended_clients(&now) == 4);
    (void)server_adopt(&now, group()); /* who comes late goes at once */
    SERVER_UNTIL(&now, count() == 0 && atomic_load(&group()->gone_unknown) == 2);
    server_check(&now);
    server_close(&now);
}

static void fill(server_member *member) {
    static char block[1 << 16];
    io_piece piece = {block, sizeof(block), NULL};
    for (int i = 0; i < 15; i++)
        CHECK_INT(io_connection_send(&member->io.io, &piece, 1), 1);
}

static void aborts_and_counts_who_loses(void) {
    open_with("sim", 4);
    fill(now.members[1]);
    fill(now.members[3]);
    CHECK_INT(io_group_abort(&group()->io), 2);
    CHECK_INT(io_group_abort(&group()->io), 0);
    CHECK_INT(group()->io.figures.aborted, 2);
    SERVER_UNTIL(&now, count() == 0);
    server_check(&now);
    server_close(&now);
}

static void figures_add_up(const char *backend) {
    io_group_figures figures;
    open_with(backend, 2);
    send_to_member(&now.clients[0]);
    send_to_member(&now.clients[0]);
    send_to_member(&now.clients[1]);
    do {
        (void)server_step(&now, 20);
        io_group_get_figures(&group()->io, &figures);
    } while (figures.bytes_received < 3);
    CHECK_INT(figures.bytes_received, 3);
    CHECK_INT(figures.established, 2);
    (void)io_connection_abort(&now.members[0]->io.io);
    SERVER_UNTIL(&now, count() == 1);
    io_group_get_figures(&group()->io, &figures);
    CHECK_INT(figures.bytes_received, 3); /* those of members that are gone, too */
    CHECK_INT(figures.established, 1);
    CHECK_INT(figures.closed, 1);
    server_close(&now);
}

/* ---- walks ----------------------------------------------------------------------------------- */

enum { WALKED = 9 };

/* A member that a walk has come to is kept, whatever becomes of it. */
static void members_go_under_a_walk(void) {
    open_with("sim", WALKED);
    io_walk walk;
    int seen = 0;
    for (io_member *member = io_walk_first(&walk, &group()->io); member != NULL;
         member = io_walk_next(&walk)) {
        int freed = atomic_load(&now.freed);
        (void)io_connection_abort(&member->io);
        SERVER_UNTIL(&now, atomic_load(&group()->gone_known) == seen + 1);
        CHECK_INT(atomic_load(&now.freed), freed);
        CHECK(!atomic_load(&IO_CONTAINER(member, server_member, io)->released));
        seen++;
    }
    CHECK_INT(seen, WALKED);
    CHECK_INT(atomic_load(&now.freed), WALKED);
    CHECK_INT(atomic_load(&group()->empty), 1);
    server_check(&now);
    server_close(&now);
}

/* Those that come meanwhile are not part of it: no walk is without end. */
static void members_come_under_a_walk(void) {
    open_with("sim", WALKED);
    io_walk walk;
    int seen = 0;
    for (io_member *member = io_walk_first(&walk, &group()->io); member != NULL;
         member = io_walk_next(&walk)) {
        (void)server_adopt(&now, group());
        seen++;
    }
    CHECK_INT(seen, WALKED);
    CHECK_INT(count(), 2 * WALKED);
    server_close(&now);
}

/* Any number of walks at once, which begin, stop and end in any order. */
static void walks_cross(void) {
    enum { WALKS = 5 };
    for (uint64_t seed = 0; seed < test_scaled(300); seed++) {
        test_random random = {seed};
        io_walk walks[WALKS];
        io_member *at[WALKS] = {NULL};
        int seen[WALKS] = {0};
        test_about("seed %llu", (unsigned long long)seed);
        open_with("sim", WALKED);
        for (int step = 0; step < 200; step++) {
            uint64_t i = test_below(&random, WALKS);
            if (test_below(&random, 20) == 0 && server_first_member(&now) != NULL)
                (void)io_connection_abort(&server_first_member(&now)->io.io);
            (void)server_step(&now, 0);
            if (at[i] == NULL) {
                seen[i] = 0;
                at[i] = io_walk_first(&walks[i], &group()->io);
            } else if (test_below(&random, 10) == 0) {
                io_walk_stop(&walks[i]);
                at[i] = NULL;
            } else {
                at[i] = io_walk_next(&walks[i]);
            }
            seen[i] += at[i] != NULL;
            CHECK(seen[i] <= WALKED);
        }
        for (int i = 0; i < WALKS; i++)
            if (at[i] != NULL)
                io_walk_stop(&walks[i]);
        server_check(&now);
        server_close(&now);
    }
    test_about("%s", "");
}

/* ---- addresses ------------------------------------------------------------------------------- */

typedef struct model {
    io_address address;
    io_host *host[3];
    int count;
} model;

static void make_address(io_address *address, int number, test_random *random) {
    char text[64];
    if (number % 3 == 0)
        snprintf(text, sizeof(text), "10.0.%d.%d", number / 256, number % 256);
    else if (number % 3 == 1)
        snprintf(text, sizeof(text), "2001:db8::%x:%x", (unsigned)test_below(random, 4), number);
    else
        snprintf(text, sizeof(text), "2001:db8:%x::1", number);
    CHECK_INT(io_address_inet(address, text, (uint16_t)test_below(random, 65536), 0, 0,
                              number % 3 == 0 ? AF_INET : AF_INET6),
              0);
}

/* Against a model: who is full is refused, who has left may come again, nothing is left over. */
static void hosts_count(void) {
    enum { ADDRESSES = 60, MOST = 3 };
    static model models[ADDRESSES];
    for (uint64_t seed = 0; seed < test_scaled(200); seed++) {
        test_random random = {seed};
        io_hosts hosts = {NULL};
        test_about("seed %llu", (unsigned long long)seed);
        memset(models, 0, sizeof(models));
        for (int i = 0; i < ADDRESSES; i++)
            make_address(&models[i].address, i, &random);
        for (int step = 0; step < 2000; step++) {
            model *one = &models[test_below(&random, ADDRESSES)];
            io_host *host = NULL;
            if (test_below(&random, 2) == 0 && one->count > 0) {
                io_hosts_remove(&hosts, one->host[--one->count]);
                continue;
            }
            int answer = io_hosts_add(&hosts, &one->address, MOST, &host);
            CHECK_INT(answer, one->count < MOST);
            CHECK((host != NULL) == (answer == 1));
            if (answer == 1)
                one->host[one->count++] = host;
        }
        for (int i = 0; i < ADDRESSES; i++)
            while (models[i].count > 0)
                io_hosts_remove(&hosts, models[i].host[--models[i].count]);
        CHECK(hosts.root == NULL);
    }
    test_about("%s", "");
}

/* The port does not count, other families and unknown peers are not counted, and an IPv4 address
 * is not the IPv6 address that ends with the same bytes. */
static void hosts_differ(void) {
    io_hosts hosts = {NULL};
    io_host *one, *same, *six, *none;
    io_address address, nobody = {0};
    CHECK_INT(io_address_inet(&address, "1.2.3.4", 80, 0, 0, AF_INET), 0);
    CHECK_INT(io_hosts_add(&hosts, &address, 2, &one), 1);
    CHECK_INT(io_address_inet(&address, "1.2.3.4", 81, 0, 0, AF_INET), 0);
    CHECK_INT(io_hosts_add(&hosts, &address, 2, &same), 1);
    CHECK(one != NULL && one == same);
    CHECK_INT(io_hosts_add(&hosts, &address, 2, &none), 0);
    CHECK_INT(io_address_inet(&address, "::1.2.3.4", 80, 0, 0, AF_INET6), 0);
    CHECK_INT(io_hosts_add(&hosts, &address, 2, &six), 1);
    CHECK(six != NULL && six != one);
    CHECK_INT(io_hosts_add(&hosts, &nobody, 0, &none), 1);
    CHECK(none == NULL);
#ifndef _WIN32
    io_address local;
    CHECK_INT(io_address_unix(&local, "/tmp/x", 6), 0);
    CHECK_INT(io_hosts_add(&hosts, &local, 0, &none), 1);
    CHECK(none == NULL);
#endif
    io_hosts_remove(&hosts, NULL);
    io_hosts_remove(&hosts, one);
    io_hosts_remove(&hosts, six);
    io_hosts_remove(&hosts, same);
    CHECK(hosts.root == NULL);
}

/* A peer with a network of its own: addresses that differ in the middle only. */
static void hosts_are_many(void) {
    enum { MANY = 20000 };
    static io_host *host[MANY];
    io_host *none;
    io_hosts hosts = {NULL};
    io_address address;
    char text[64];
    for (int i = 0; i < MANY; i++) {
        snprintf(text, sizeof(text), "2001:db8:0:0:%x:%x:0:0", i / 256, i % 256);
        CHECK_INT(io_address_inet(&address, text, 1, 0, 0, AF_INET6), 0);
        CHECK_INT(io_hosts_add(&hosts, &address, 1, &host[i]), 1);
        CHECK_INT(io_hosts_add(&hosts, &address, 1, &none), 0);
    }
    for (int i = 0; i < MANY; i++) {
        CHECK(hosts.root != NULL);
        io_hosts_remove(&hosts, host[i]);
    }
    CHECK(hosts.root == NULL);
}

/* ---- the end of the port --------------------------------------------------------------------- */

/* Members of two groups, in every phase, and clocks. */
static void ends_with_the_port(const char *backend) {
    for (int steps = 0; steps < 10; steps++) {
        server_open(&now, backend, 1);
        io_group_set_timeouts(&now.groups[0].io, IO_NS_PER_SECOND, IO_NEVER);
        io_group_set_timeouts(&now.groups[1].io, IO_NEVER, IO_NS_PER_SECOND);
        now.groups[1].shakes_hands = true;
        for (int i = 0; i < 8; i++)
            (void)server_adopt(&now, &now.groups[i % 2]);
        for (int i = 0; i < steps && server_step(&now, now.world.sim ? 0 : 5); i++)
            continue;
        if (steps % 3 == 1)
            io_group_shutdown(&now.groups[0].io);
        CHECK_INT(server_close_port(&now, 10 * IO_NS_PER_SECOND, NULL), 0);
    }
}

/* What the kernel has kept is never released; everybody is told all the same. */
static void ends_with_a_port_that_leaks(void) {
    open_with("sim", 3);
    io_sim_configure(now.world.lane, 1, IO_SIM_STUCK);
    static io_port *volatile kept; /* for ever, as it is the kernel's */
    server_member *stuck = server_adopt(&now, group());
    SERVER_UNTIL(&now, stuck->started);
    CHECK(server_close_port(&now, 0, NULL) > 0);
    CHECK_INT(count(), 0);
    CHECK_INT(atomic_load(&group()->empty), 1);
    CHECK_INT(atomic_load(&now.freed), 0);
    for (int i = 0; i < 4; i++) {
        CHECK(now.members[i]->gone && !atomic_load(&now.members[i]->released));
        free(now.members[i]);
    }
    kept = now.world.port;
    io_port_destroy(kept);
}

/* The socket is closed all the same. */
static void refuses_members_of_a_closed_port(const char *backend) {
    io_native natives[2];
    uint32_t os_error = 0;
    io_member member;
    server_open(&now, backend, 1);
    world_pair(&now.world, natives);
    CHECK(io_port_begin_close(now.world.port));
    memset(&member, 0, sizeof(member));
    CHECK_INT(io_group_adopt(&group()->io, &member, natives[0], AF_INET, &os_error), -IOE_CLOSED);
    CHECK_INT(count(), 0);
    CHECK(io_list_empty(&now.registry->groups));
#ifndef _WIN32
    CHECK(now.world.sim || fcntl((int)natives[0], F_GETFD) < 0);
#endif
    world_native_close(&now.world, natives[1], false);
    CHECK_INT(world_finish_close(&now.world), 0);
}

/* A number that is no socket's. */
static void refuses_what_cannot_be_opened(void) {
    uint32_t os_error = 0;
    io_member member;
    server_open(&now, "sim", 1);
    io_native native = world_socket(&now.world);
    world_native_close(&now.world, native, false);
    memset(&member, 0, sizeof(member));
    CHECK_INT(io_group_adopt(&group()->io, &member, native, AF_INET, &os_error), -IOE_BADF);
    CHECK_INT(count(), 0);
    server_check(&now);
    server_close(&now);
}

/* ---- threads --------------------------------------------------------------------------------- */

static _Atomic bool stop;

static void work(void *argument) {
    (void)argument;
    while (!atomic_load(&stop))
        (void)server_step(&now, 5);
}

static void walk(void *argument) {
    (void)argument;
    while (!atomic_load(&stop)) {
        io_walk one;
        io_group_figures figures;
        for (io_member *member = io_walk_first(&one, &group()->io); member != NULL;
             member = io_walk_next(&one))
            (void)io_connection_is_known(&member->io);
        io_group_get_figures(&group()->io, &figures);
        CHECK(figures.established + figures.establishing <= SERVER_MEMBERS);
    }
}

/* Members come and go, ticks and walks go by. */
static void by_several_threads(const char *backend) {
    enum { WORKERS = 2, WALKERS = 2, ROUNDS = 60 };
    test_thread threads[WORKERS + WALKERS];
    server_open(&now, backend, WORKERS);
    io_group_set_timeouts(&group()->io, 15 * IO_NS_PER_MS, IO_NEVER);
    atomic_store(&stop, false);
    for (int i = 0; i < WORKERS + WALKERS; i++)
        test_thread_start(&threads[i], i < WORKERS ? work : walk, NULL);
    for (int round = 0; round < ROUNDS; round++) {
        (void)server_adopt(&now, group());
        if (round % 16 == 15)
            (void)io_group_abort(&group()->io);
    }
    while (count() > 0)
        test_sleep_ms(1);
    atomic_store(&stop, true);
    for (int i = 0; i < WORKERS + WALKERS; i++)
        test_thread_join(&threads[i]);
    server_close(&now);
}

BACKENDS(DEFINE, idle_members_end)
BACKENDS(DEFINE, handshakes_end)
BACKENDS(DEFINE, the_clock_starts_again)
BACKENDS(DEFINE, shuts_down)
BACKENDS(DEFINE, figures_add_up)
BACKENDS(DEFINE, ends_with_the_port)
BACKENDS(DEFINE, refuses_members_of_a_closed_port)
BACKENDS(DEFINE, by_several_threads)

int main(int argc, char **argv) {
    static const test_case tests[] = {
        // clang-format off
        BACKENDS(ENTRY, idle_members_end)
        BACKENDS(ENTRY, handshakes_end)
        TEST(ticks_are_of_some_length),
        BACKENDS(ENTRY, the_clock_starts_again)
        BACKENDS(ENTRY, shuts_down)
        TEST(aborts_and_counts_who_loses),
        BACKENDS(ENTRY, figures_add_up)
        TEST(members_go_under_a_walk),
        TEST(members_come_under_a_walk),
        TEST(walks_cross),
        TEST(hosts_count),
        TEST(hosts_differ),
        TEST(hosts_are_many),
        BACKENDS(ENTRY, ends_with_the_port)
        TEST(ends_with_a_port_that_leaks),
        BACKENDS(ENTRY, refuses_members_of_a_closed_port)
        TEST(refuses_what_cannot_be_opened),
        BACKENDS(ENTRY, by_several_threads)
        // clang-format on
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
