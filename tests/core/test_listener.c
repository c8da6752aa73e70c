/* test_listener.c: listeners (net/listener.h): clients that are accepted, refused, lost, or wait;
 * pauses; and closing in every state. */
#include "server.h"

#include "op_case.h"

#ifndef _WIN32
#include <fcntl.h>
#endif

static server now;

static server_group *group(void) {
    return &now.groups[0];
}

static void connect_many(const server_listener *listener, int count) {
    for (int i = 0; i < count; i++)
        (void)server_connect(&now, listener);
}

static size_t count(void) {
    return io_group_count(&group()->io);
}

/* ---- accepting ------------------------------------------------------------------------------- */

/* The first callback may block: others are accepted meanwhile. */
static void accept_is_armed(server_member *member, io_connection_event event) {
    if (event == IO_CONNECTION_STARTED)
        CHECK(member->group->server->listeners[0].io.op != NULL);
}

static void accepts(const char *backend) {
    server_open(&now, backend, 1);
    server_listener *listener = server_listen(&now);
    group()->on_run = accept_is_armed;
    connect_many(listener, 30);
    SERVER_UNTIL(&now, count() == 30);
    server_settle(&now);
    server_check(&now);
    CHECK_INT(group()->io.figures.accepted, 30);
    CHECK_INT(server_ended_clients(&now), 0);
    server_close(&now);
}

/* An accept that has completed and that nobody has handled. Handles everything else. */
static io_op *next_accept(void) {
    for (;;) {
        io_op *op = world_get(&now.world, 10000);
        CHECK(op != NULL);
        if (op->kind == IO_ACCEPT)
            return op;
        server_take(op);
    }
}

/* It is run in the turn of the accept: nothing else has to be taken for it. */
static void runs_in_the_same_turn(const char *backend) {
    server_open(&now, backend, 1);
    server_listener *listener = server_listen(&now);
    (void)server_connect(&now, listener);
    io_op *accept = next_accept();
    server_take(accept);
    CHECK(now.members[0] != NULL && now.members[0]->started == 1);
    server_close(&now);
}

static void several_listeners(const char *backend) {
    server_open(&now, backend, 1);
    for (int i = 0; i < SERVER_LISTENERS; i++)
        connect_many(server_listen(&now), 5);
    SERVER_UNTIL(&now, count() == 20);
    server_check(&now);
    server_close(&now);
}

/* ---- max_connections ------------------------------------------------------------------------- */

static void waits_at_max_connections(const char *backend) {
    server_open(&now, backend, 1);
    group()->io.max_connections = 3;
    server_listener *listener = server_listen(&now);
    connect_many(listener, 8);
    SERVER_UNTIL(&now, count() == 3);
    server_settle(&now);
    CHECK_INT(count(), 3);
    CHECK(listener->io.op == NULL);
    CHECK_INT(group()->io.figures.accepted, 3); /* the system's backlog holds the rest */
    for (int gone = 1; gone <= 5; gone++) {
        server_check(&now);
        (void)io_connection_abort(&server_first_member(&now)->io.io);
        SERVER_UNTIL(&now, atomic_load(&group()->gone_known) == gone && count() == 3);
    }
    server_settle(&now);
    server_check(&now);
    CHECK_INT(group()->io.figures.accepted, 8);
    CHECK_INT(atomic_load(&group()->lost) + atomic_load(&group()->refused), 0);
    (void)io_connection_abort(&server_first_member(&now)->io.io);
    SERVER_UNTIL(&now, count() == 2 && listener->io.op != NULL); /* there is room again */
    server_close(&now);
}

static void one_place_and_two_listeners(const char *backend) {
    server_open(&now, backend, 1);
    group()->io.max_connections = 1;
    server_listener *one = server_listen(&now), *other = server_listen(&now);
    connect_many(one, 3);
    connect_many(other, 3);
    SERVER_UNTIL(&now, count() == 1);
    server_settle(&now);
    for (int gone = 1; gone <= 5; gone++) {
        (void)io_connection_abort(&server_first_member(&now)->io.io);
        SERVER_UNTIL(&now, atomic_load(&group()->gone_known) == gone && count() == 1);
        server_settle(&now);
        server_check(&now);
    }
    CHECK_INT(group()->io.figures.accepted, 6);
    server_close(&now);
}

static void drops_who_waits_when_it_closes(const char *backend) {
    server_open(&now, backend, 1);
    group()->io.max_connections = 1;
    server_listener *one = server_listen(&now), *other = server_listen(&now);
    connect_many(one, 1);
    SERVER_UNTIL(&now, count() == 1);
    connect_many(other, 1);
    server_settle(&now);
    CHECK_INT(server_waiting(&now), 1); /* its accept was armed before the place was taken */
    server_close_listener(other);
    SERVER_UNTIL(&now, now.clients[1].ended);
    CHECK_INT(group()->io.figures.failed, 1);
    server_check(&now);
    server_close(&now);
}

/* ---- a limit for each address ---------------------------------------------------------------- */

static void refuses_an_address(const char *backend) {
    server_open(&now, backend, 1);
    group()->io.max_per_address = 2;
    server_listener *listener = server_listen(&now);
    connect_many(listener, 5);
    SERVER_UNTIL(&now, atomic_load(&group()->refused) == 3);
    SERVER_UNTIL(&now, server_ended_clients(&now) == 3);
    CHECK_INT(count(), 2);
    server_check(&now);
    (void)io_connection_abort(&server_first_member(&now)->io.io);
    SERVER_UNTIL(&now, count() == 1);
    connect_many(listener, 2);
    SERVER_UNTIL(&now, atomic_load(&group()->refused) == 4 && count() == 2);
    server_check(&now);
    server_close(&now);
}

/* Of those that wait each gets its place or is refused, and the next accept follows. */
static void refuses_who_has_waited(const char *backend) {
    server_open(&now, backend, 1);
    group()->io.max_connections = 2;
    group()->io.max_per_address = 1;
    server_listener *listener = server_listen(&now);
    server_member *stranger = server_adopt(&now, group());
    SERVER_UNTIL(&now, stranger->started);
    connect_many(listener, 1);
    SERVER_UNTIL(&now, count() == 2);
    connect_many(listener, 3);
    server_settle(&now);
    (void)io_connection_abort(&stranger->io.io);
    SERVER_UNTIL(&now, atomic_load(&group()->refused) == 3);
    CHECK_INT(count(), 1);
    server_check(&now);
    server_close(&now);
}

/* ---- clients that cannot be served ----------------------------------------------------------- */

static void loses_clients_without_an_object(const char *backend) {
    server_open(&now, backend, 1);
    group()->io.max_connections = 1;
    group()->io.max_per_address = 1;
    group()->makes_none = true;
    server_listener *listener = server_listen(&now);
    connect_many(listener, 4);
    SERVER_UNTIL(&now, atomic_load(&group()->lost) == 4);
    SERVER_UNTIL(&now, server_ended_clients(&now) == 4);
    server_check(&now);
    group()->makes_none = false;
    connect_many(listener, 1); /* neither its place nor its address's was lost */
    SERVER_UNTIL(&now, count() == 1);
    server_check(&now);
    server_close(&now);
}

/* While a client is about to take the last place, another comes and has to wait. */
static void wait_for_another(server_group *self) {
    self->on_make = NULL;
    SERVER_UNTIL(&now, server_waiting(&now) == 1);
    self->makes_none = true;
}

static void make_again(server_group *self) {
    self->makes_none = false;
}

/* The one that waits has the place that a lost client was to have. */
static void a_place_is_free_again(const char *backend) {
    server_open(&now, backend, 1);
    group()->io.max_connections = 1;
    group()->on_make = wait_for_another;
    group()->on_told = make_again;
    connect_many(server_listen(&now), 1);
    connect_many(server_listen(&now), 1);
    SERVER_UNTIL(&now, atomic_load(&group()->lost) == 1 && count() == 1);
    CHECK_INT(server_waiting(&now), 0);
    server_check(&now);
    server_close(&now);
}

static io_native doomed;

/* The socket that was accepted is closed by somebody else. */
static void close_doomed(server_group *self) {
    world_native_close(&self->server->world, doomed, false);
}

static void loses_clients_that_cannot_be_opened(void) {
    server_open(&now, "sim", 1);
    group()->io.max_connections = 1;
    group()->io.max_per_address = 1;
    group()->on_make = close_doomed;
    server_listener *listener = server_listen(&now);
    connect_many(listener, 1);
    doomed = world_socket(&now.world); /* the lowest free number is the accepted one's */
    world_native_close(&now.world, doomed, false);
    SERVER_UNTIL(&now, atomic_load(&group()->lost) == 1);
    CHECK_INT(group()->last_error, -IOE_BADF);
    CHECK_INT(atomic_load(&now.freed), 1); /* the object that was made for it */
    server_check(&now);
    group()->on_make = NULL;
    connect_many(listener, 1);
    SERVER_UNTIL(&now, count() == 1);
    server_check(&now);
    server_close(&now);
}

static void close_all_listeners(server_group *self) {
    for (int i = 0; i < self->server->listener_count; i++)
        server_close_listener(&self->server->listeners[i]);
}

/* ---- pauses ---------------------------------------------------------------------------------- */

static server_listener *failing(int error, uint32_t times, uint32_t period) {
    server_open(&now, "sim", 1);
    server_listener *listener = &now.listeners[now.listener_count++];
    io_native native = world_listener(&now.world, &listener->address);
    CHECK_INT(io_sim_fail_accepts(now.world.lane, native, error, times, period), 0);
    listener->server = &now;
    listener->open = true;
    CHECK_INT(io_port_enter(now.world.port), 0);
    io_listener_open(&listener->io, &group()->io, world_handle(&now.world, native), AF_INET);
    io_port_leave(now.world.port);
    return listener;
}

static void pauses_when_accepting_fails(void) {
    server_listener *listener = failing(-IOE_MFILE, 20, 1);
    connect_many(listener, 3);
    while (atomic_load(&listener->paused) < 20) {
        CHECK(server_step(&now, 10000));
        CHECK(listener->io.op != NULL); /* an accept or a pause, always */
        CHECK((listener->io.op->kind == IO_TIMER) == (listener->io.op == &listener->io.pause.op));
    }
    CHECK_INT(listener->last_error, -IOE_MFILE);
    SERVER_UNTIL(&now, count() == 3);
    CHECK_INT(group()->io.figures.accept_errors, 20);
    CHECK_INT(listener->io.accepting.pauses, 0); /* the next failure is the first again */
    server_check(&now);
    server_close(&now);
}

/* A client that was gone again says nothing of the next. */
static void does_not_pause_for_lost_clients(void) {
    server_listener *listener = failing(-IOE_CONNABORTED, 100, 1);
    connect_many(listener, 1);
    SERVER_UNTIL(&now, count() == 1);
    CHECK_INT(atomic_load(&listener->paused), 0);
    CHECK(group()->io.figures.accept_errors > 0);
    server_close(&now);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void closes_with_an_accept(const char *backend) {
    server_open(&now, backend, 1);
    server_listener *listener = server_listen(&now);
    server_close_listener(listener);
    if (!atomic_load(&listener->released))
        server_close_listener(listener); /* once more does nothing */
    SERVER_UNTIL(&now, atomic_load(&listener->released));
    CHECK(io_list_empty(&now.registry->groups));
    server_close(&now);
}

static void closes_in_a_pause(void) {
    server_listener *listener = failing(-IOE_NOBUFS, UINT32_MAX, 1);
    SERVER_UNTIL(&now,
                 atomic_load(&listener->paused) == 10 && listener->io.op == &listener->io.pause.op);
    uint64_t closed_ns = io_lane_now(now.world.lane); /* the simulation's clock */
    server_close_listener(listener);
    SERVER_UNTIL(&now, atomic_load(&listener->released));
    CHECK(io_lane_now(now.world.lane) - closed_ns < IO_NS_PER_MS); /* it is not waited for */
    server_close(&now);
}

/* From inside every hook. */
static void closes_when_told(void) {
    server_listener *listener = failing(-IOE_NOBUFS, 1, 1);
    group()->on_told = close_all_listeners;
    SERVER_UNTIL(&now, atomic_load(&listener->released));
    CHECK_INT(atomic_load(&listener->paused), 1);
    server_close(&now);

    server_open(&now, "sim", 1);
    group()->makes_none = true;
    group()->on_told = close_all_listeners;
    connect_many(server_listen(&now), 1);
    SERVER_UNTIL(&now, atomic_load(&now.listeners[0].released));
    CHECK_INT(atomic_load(&group()->lost), 1);
    server_close(&now);
}

static void closes_while_it_makes(const char *backend) {
    server_open(&now, backend, 1);
    group()->on_make = close_all_listeners;
    connect_many(server_listen(&now), 1);
    SERVER_UNTIL(&now, count() == 1); /* who was admitted is served */
    SERVER_UNTIL(&now, atomic_load(&now.listeners[0].released));
    server_check(&now);
    server_close(&now);
}

/* It was accepted, and the listener was closed before that was taken. */
static void drops_who_is_too_late(const char *backend) {
    server_open(&now, backend, 1);
    server_listener *listener = server_listen(&now);
    (void)server_connect(&now, listener);
    io_op *accept = next_accept();
    server_close_listener(listener);
    CHECK(!atomic_load(&listener->released)); /* its operation is in our hands */
    server_take(accept);
    CHECK(atomic_load(&listener->released));
    CHECK_INT(group()->io.figures.failed, 1);
    CHECK_INT(count(), 0);
    SERVER_UNTIL(&now, now.clients[0].ended);
    server_close(&now);
}

/* ---- the end of the port --------------------------------------------------------------------- */

static void ends_with_the_port(const char *backend) {
    for (int steps = 0; steps < 12; steps++) {
        server_open(&now, backend, 1);
        group()->io.max_connections = 2;
        connect_many(server_listen(&now), 4);
        for (int i = 0; i < steps && server_step(&now, now.world.sim ? 0 : 5); i++)
            continue;
        CHECK_INT(server_close_port(&now, 10 * IO_NS_PER_SECOND, NULL), 0);
    }
}

/* Descriptors of this process; 0 where they cannot be counted. */
static int descriptors(void) {
    int found = 0;
#ifndef _WIN32
    for (int i = 0; i < 1024; i++)
        found += fcntl(i, F_GETFD) >= 0;
#endif
    return found;
}

/* An accept that has ended, and that nobody takes any more: its socket is closed. */
static void ends_with_an_accept_that_nobody_takes(const char *backend) {
    int before = 0;
    for (int round = 0; round < 3; round++) {
        server_open(&now, backend, 1);
        (void)server_connect(&now, server_listen(&now));
        for (;;) {
            io_op *op = world_get(&now.world, 10000);
            CHECK(op != NULL);
            if (op->kind == IO_ACCEPT) {
                io_lane_give_back(now.world.lane, &op, 1);
                break;
            }
            server_take(op);
        }
        CHECK_INT(server_close_port(&now, 10 * IO_NS_PER_SECOND, NULL), 0);
        CHECK_INT(group()->io.figures.accepted, 0);
        if (round == 0)
            before = descriptors(); /* some are opened once, and stay */
    }
    CHECK_INT(descriptors(), before);
}

static void ends_with_the_port_in_a_pause(void) {
    server_listener *listener = failing(-IOE_NOBUFS, UINT32_MAX, 1);
    SERVER_UNTIL(&now, listener->io.op == &listener->io.pause.op);
    CHECK_INT(server_close_port(&now, 10 * IO_NS_PER_SECOND, NULL), 0);
}

static void begin_close(server_group *self) {
    CHECK(io_port_begin_close(self->server->world.port));
}

/* The port is closed between the accept and the opening: the client is lost, and nobody waits. */
static void port_closes_while_it_makes(const char *backend) {
    server_open(&now, backend, 1);
    group()->on_make = begin_close;
    io_op *op;
    connect_many(server_listen(&now), 1);
    while (atomic_load(&group()->lost) == 0) {
        io_wait wait = {.deadline_ns = io_lane_now(now.world.lane) + 10 * IO_NS_PER_SECOND};
        CHECK_INT(io_lane_get(now.world.lane, &wait, &op, 1), 1);
        server_take(op);
    }
    CHECK_INT(group()->last_error, -IOE_CLOSED);
    CHECK_INT(io_port_drain(now.world.port, 10 * IO_NS_PER_SECOND), 0);
    now.world.port->state = IO_PORT_OPEN; /* the rest is as ever */
    CHECK_INT(server_close_port(&now, 10 * IO_NS_PER_SECOND, NULL), 0);
}

/* ---- threads --------------------------------------------------------------------------------- */

static _Atomic bool stop;

static void work(void *argument) {
    (void)argument;
    while (!atomic_load(&stop))
        (void)server_step(&now, 5);
}

/* Accepting, leaving and asking all at once. */
static void by_several_threads(const char *backend) {
    enum { THREADS = 3, ROUNDS = 40 };
    test_thread threads[THREADS];
    server_open(&now, backend, THREADS);
    group()->io.max_connections = 5;
    io_group_set_timeouts(&group()->io, 20 * IO_NS_PER_MS, IO_NEVER);
    server_listener *listener = server_listen(&now);
    atomic_store(&stop, false);
    for (int i = 0; i < THREADS; i++)
        test_thread_start(&threads[i], work, NULL);
    for (int round = 0; round < ROUNDS; round++) {
        io_group_figures figures;
        (void)server_connect(&now, listener);
        io_group_get_figures(&group()->io, &figures);
        CHECK(io_group_count(&group()->io) <= 5);
        if (round % 8 == 7)
            (void)io_group_abort(&group()->io);
    }
    while (atomic_load(&group()->made) < ROUNDS) {
        (void)io_group_abort(&group()->io);
        test_sleep_ms(1);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++)
        test_thread_join(&threads[i]);
    server_close(&now);
}

BACKENDS(DEFINE, accepts)
BACKENDS(DEFINE, runs_in_the_same_turn)
BACKENDS(DEFINE, several_listeners)
BACKENDS(DEFINE, waits_at_max_connections)
BACKENDS(DEFINE, one_place_and_two_listeners)
BACKENDS(DEFINE, drops_who_waits_when_it_closes)
BACKENDS(DEFINE, refuses_an_address)
BACKENDS(DEFINE, refuses_who_has_waited)
BACKENDS(DEFINE, loses_clients_without_an_object)
BACKENDS(DEFINE, a_place_is_free_again)
BACKENDS(DEFINE, closes_with_an_accept)
BACKENDS(DEFINE, closes_while_it_makes)
BACKENDS(DEFINE, drops_who_is_too_late)
BACKENDS(DEFINE, ends_with_the_port)
BACKENDS(DEFINE, ends_with_an_accept_that_nobody_takes)
BACKENDS(DEFINE, port_closes_while_it_makes)
BACKENDS(DEFINE, by_several_threads)

int main(int argc, char **argv) {
    static const test_case tests[] = {
        // clang-format off
        BACKENDS(ENTRY, accepts)
        BACKENDS(ENTRY, runs_in_the_same_turn)
        BACKENDS(ENTRY, several_listeners)
        BACKENDS(ENTRY, waits_at_max_connections)
        BACKENDS(ENTRY, one_place_and_two_listeners)
        BACKENDS(ENTRY, drops_who_waits_when_it_closes)
        BACKENDS(ENTRY, refuses_an_address)
        BACKENDS(ENTRY, refuses_who_has_waited)
        BACKENDS(ENTRY, loses_clients_without_an_object)
        BACKENDS(ENTRY, a_place_is_free_again)
        TEST(loses_clients_that_cannot_be_opened),
        TEST(pauses_when_accepting_fails),
        TEST(does_not_pause_for_lost_clients),
        BACKENDS(ENTRY, closes_with_an_accept)
        TEST(closes_in_a_pause),
        TEST(closes_when_told),
        BACKENDS(ENTRY, closes_while_it_makes)
        BACKENDS(ENTRY, drops_who_is_too_late)
        BACKENDS(ENTRY, ends_with_the_port)
        BACKENDS(ENTRY, ends_with_an_accept_that_nobody_takes)
        TEST(ends_with_the_port_in_a_pause),
        BACKENDS(ENTRY, port_closes_while_it_makes)
        BACKENDS(ENTRY, by_several_threads)
        // clang-format on
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
