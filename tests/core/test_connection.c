/* test_connection.c: working connections: what is sent and received, in which order, and when it
 * is reported. test_connection_end.c tests how they end. */
#include "connection_pair.h"

static connection_pair both; /* of each test; large, and threads of none */

static void close_both(void) {
    both.ends[1].answers = true;
    io_connection_close(&both.ends[0].io, true);
    pair_close(&both);
}

/* ---- events ---------------------------------------------------------------------------------- */

static void answer_input(pair_end *end, io_connection_event event) {
    size_t length;
    if (event != IO_CONNECTION_INPUT)
        return;
    (void)io_connection_input(&end->io, &length);
    CHECK_INT(pair_send(end, length, PAIR_COPIED), 1);
}

static void echo(const char *backend) {
    for (uint64_t seed = 0; seed < pair_seeds(backend, 10); seed++) {
        test_random random = {seed};
        pair_open(&both, backend, seed);
        pair_end *client = &both.ends[0], *server = &both.ends[1];
        server->on_event = answer_input;
        server->answers = true;
        for (uint64_t i = 0; i < test_scaled(200); i++) {
            CHECK_INT(pair_send(client, 1 + (size_t)test_below(&random, 20000), PAIR_COPIED), 1);
            PAIR_UNTIL(&both, client->in == client->out);
        }
        CHECK_INT(client->came[IO_CONNECTION_STARTED], 1);
        CHECK_INT(client->io.bytes_sent, client->out);
        CHECK_INT(client->io.bytes_received, client->out);
        io_connection_close(&client->io, true);
        pair_close(&both);
        CHECK_INT(server->came[IO_CONNECTION_EOF], 1);
        CHECK_INT(client->came[IO_CONNECTION_EOF], 0);
        CHECK_INT(client->io.reason, IO_REASON_CLOSE);
        CHECK_INT(server->io.reason, IO_REASON_CLOSE);
    }
}

static void send_in_event(pair_end *end, io_connection_event event) {
    if (event != IO_CONNECTION_STARTED)
        return;
    for (int i = 0; i < 10; i++)
        CHECK_INT(pair_send(end, 100, PAIR_COPIED), 1);
    CHECK_INT(end->io.bytes_queued, 1000); /* until this is over */
    CHECK(end->io.send == NULL);
    CHECK(end->io.queue_head != NULL && end->io.queue_head->next == NULL);
}

/* Inside an event sends wait for its end; outside they are sent at once. */
static void when_it_is_sent(const char *backend) {
    pair_begin(&both, backend, 0);
    pair_end *end = pair_add(&both);
    end->on_event = send_in_event;
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
    CHECK(end->io.bytes_queued == 0 || end->io.send != NULL);
    PAIR_UNTIL(&both, end->peer->in == 1000 && end->io.send == NULL);
    CHECK_INT(pair_send(end, 100, PAIR_COPIED), 1);
    CHECK(end->io.bytes_queued == 0 || end->io.send != NULL);
    PAIR_UNTIL(&both, end->peer->in == 1100);
    close_both();
}

static void fill_in_event(pair_end *end, io_connection_event event) {
    if (event != IO_CONNECTION_STARTED)
        return;
    pair_fill(end, end->pair->limits.write_high - 10000);
    CHECK(end->io.send == NULL && end->io.bytes_sent == 0);
    while (end->io.send == NULL && end->out < 40000000) /* more than that does not wait */
        CHECK_INT(pair_send(end, 10000, PAIR_OWNED), 1);
    CHECK(end->io.send != NULL);
}

static void much_is_sent_inside_an_event(const char *backend) {
    pair_begin(&both, backend, 0);
    pair_end *end = pair_add(&both);
    end->on_event = fill_in_event;
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
    close_both();
    CHECK_INT(end->peer->in, end->out);
}

/* ---- what is sent ---------------------------------------------------------------------------- */

static size_t some_length(test_random *random) {
    switch (test_below(random, 4)) {
    case 0:
        return 1 + (size_t)test_below(random, 50);
    case 1:
        return 1 + (size_t)test_below(random, 4000);
    case 2:
        return 1 + (size_t)test_below(random, 70000);
    default:
        return (size_t)test_below(random, 2500);
    }
}

/* Everything in the order in which it was sent, however it is queued. */
static void order(const char *backend) {
    for (uint64_t seed = 0; seed < pair_seeds(backend, 10); seed++) {
        test_random random = {seed};
        pair_end *end = pair_open_narrow(&both, backend, seed);
        both.limits.max_write_buffer = UINT64_MAX;
        for (uint64_t i = 0; i < test_scaled(400); i++) {
            int answer = 1;
            if (test_below(&random, 4) == 0)
                answer = pair_send_pieces(end, some_length(&random),
                                          1 + (int)test_below(&random, 16), &random);
            else
                answer = pair_send(end, some_length(&random), (pair_how)test_below(&random, 3));
            CHECK_INT(answer, 1);
            if (test_below(&random, 4) == 0)
                (void)pair_step(&both, 0);
        }
        PAIR_UNTIL(&both, end->peer->in == end->out);
        PAIR_UNTIL(&both, end->io.send == NULL);
        CHECK_INT(atomic_load(&pair_owned), 0);
        CHECK_INT(end->io.bytes_sent, end->out);
        close_both();
    }
}

/* A peer that does not read: everything is queued before anything can be sent. */
static void order_in_the_queue(const char *backend) {
    test_random random = {7};
    pair_end *end = pair_open_narrow(&both, backend, 0);
    both.limits.max_write_buffer = UINT64_MAX;
    pair_pause(end->peer, true);
    pair_fill(end, 50000);
    int before = atomic_load(&pair_owned);
    for (uint64_t i = 0; i < test_scaled(200); i++)
        CHECK_INT(pair_send(end, some_length(&random), (pair_how)test_below(&random, 3)), 1);
    CHECK(atomic_load(&pair_owned) > before || test_scaled(200) < 50);
    pair_settle(&both);
    pair_pause(end->peer, false);
    PAIR_UNTIL(&both, end->peer->in == end->out);
    close_both();
}

/* What may change afterwards is copied, however large. */
static void large_copies(const char *backend) {
    static const size_t lengths[] = {65400, 65480, 65496, 65500, 65536, 65537, 131072, 1000000};
    pair_end *end = pair_open_narrow(&both, backend, 0);
    both.limits.max_write_buffer = UINT64_MAX;
    pair_pause(end->peer, true);
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        CHECK_INT(pair_send(end, lengths[i], PAIR_COPIED), 1);
        CHECK_INT(pair_send(end, 10, PAIR_COPIED), 1);
    }
    CHECK_INT(atomic_load(&pair_owned), 0);
    pair_pause(end->peer, false);
    PAIR_UNTIL(&both, end->peer->in == end->out);
    close_both();
}

static void nothing_to_send(const char *backend) {
    pair_open(&both, backend, 0);
    CHECK_INT(pair_send(&both.ends[0], 0, PAIR_OWNED), 1);
    CHECK_INT(pair_send(&both.ends[0], 0, PAIR_FILE), 1);
    CHECK_INT(io_connection_send(&both.ends[0].io, NULL, 0), 1);
    CHECK_INT(pair_send(&both.ends[0], 3, PAIR_COPIED), 1);
    PAIR_UNTIL(&both, both.ends[1].in == 3);
    close_both();
}

/* The connection has one of its own. */
static void file_is_closed_after_the_call(const char *backend) {
    uint32_t os_error = 0;
    pair_open(&both, backend, 0);
    if (both.world.sim) { /* its files are numbers */
        close_both();
        return;
    }
    pair_end *end = &both.ends[0];
    pair_narrow(end);
    pair_narrow(end->peer);
    pair_pause(end->peer, true);
    pair_fill(end, 50000);
    CHECK_INT(end->out % 10000, 0);
    char *content = calloc(1, PAIR_PERIOD);
    CHECK(content != NULL);
    io_native file = world_file(&both.world, content, PAIR_PERIOD);
    free(content);
    uint64_t before = end->out;
    CHECK_INT(io_connection_send_file(&end->io, file, 1, 0, &os_error), 1);
    world_native_close(&both.world, file, true);
    file = world_file(&both.world, "taken", 5); /* its number, perhaps */
    CHECK_INT(pair_send(end, PAIR_PERIOD, PAIR_FILE), 1);
    CHECK_INT(pair_queued(end) < before + PAIR_PERIOD, 1); /* files do not count */
    CHECK_INT(io_connection_send_file(&end->io, file, 5, UINT64_MAX, &os_error), 1); /* empty */
    world_native_close(&both.world, file, true);
    pair_pause(end->peer, false);
    PAIR_UNTIL(&both, end->peer->in == end->out);
    close_both();
}

static void no_such_file(const char *backend) {
    pair_open(&both, backend, 0);
#ifndef _WIN32 /* where this is the process itself */
    uint32_t os_error = 0;
    if (!both.world.sim)
        CHECK_INT(
            io_connection_send_file(&both.ends[0].io, IO_NATIVE_NONE, 0, UINT64_MAX, &os_error),
            -IOE_BADF);
#endif
    CHECK_INT(pair_send(&both.ends[0], 3, PAIR_COPIED), 1); /* nothing has happened to it */
    PAIR_UNTIL(&both, both.ends[1].in == 3);
    close_both();
}

/* ---- back-pressure --------------------------------------------------------------------------- */

static void throttled(const char *backend) {
    pair_end *end = pair_open_narrow(&both, backend, 0);
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] && end->peer->came[IO_CONNECTION_STARTED]);
    for (int round = 1; round <= 3; round++) {
        pair_pause(end->peer, true);
        if (both.world.sim) {
            CHECK_INT(pair_send(end, (size_t)both.limits.write_high, PAIR_OWNED), 1);
            CHECK(!(end->io.hold & IO_HOLD_THROTTLED));
            CHECK_INT(pair_send(end, 1, PAIR_OWNED), 1);
        } else {
            pair_block(end);
        }
        CHECK(end->io.hold & IO_HOLD_THROTTLED);
        if (both.world.sim)
            pair_block(end);
        CHECK_INT(pair_send(end->peer, 5000, PAIR_COPIED), 1);
        uint64_t before = end->in;
        pair_settle(&both);
        CHECK_INT(end->in, before); /* what comes is not handed on */
        CHECK_INT(end->came[IO_CONNECTION_DRAINED], round - 1);
        pair_pause(end->peer, false);
        PAIR_UNTIL(&both, end->came[IO_CONNECTION_DRAINED] == round);
        PAIR_UNTIL(&both, end->in == end->peer->out && end->peer->in == end->out);
        pair_settle(&both);
        CHECK_INT(end->came[IO_CONNECTION_DRAINED], round);
    }
    close_both();
}

static void pause_at_input(pair_end *end, io_connection_event event) {
    if (event == IO_CONNECTION_INPUT)
        pair_pause(end, true);
}

/* Lets the peer read a piece. */
static void read_a_little(pair_end *end) {
    end->peer->on_event = pause_at_input;
    pair_resume_step(end->peer);
}

/* Files keep what is queued behind them where it is for a while, so each length is seen. */
static void drained_at_the_mark(const char *backend, uint64_t last) {
    enum { MORE = 30000 };
    bool at_more = false, at_last = false;
    pair_end *end = pair_open_narrow(&both, backend, 0);
    both.limits.max_write_buffer = UINT64_MAX;
    pair_pause(end->peer, true);
    pair_block(end);
    CHECK_INT(pair_send(end, PAIR_PERIOD, PAIR_FILE), 1);
    CHECK_INT(pair_send(end, MORE, PAIR_OWNED), 1);
    for (int i = 0; i < 3; i++)
        CHECK_INT(pair_send(end, PAIR_PERIOD, PAIR_FILE), 1);
    CHECK_INT(pair_send(end, (size_t)last, PAIR_OWNED), 1);
    while (end->peer->in < end->out) {
        read_a_little(end);
        uint64_t queued = pair_queued(end);
        at_more = at_more || queued == MORE + last;
        at_last = at_last || queued == last;
        CHECK_INT(end->came[IO_CONNECTION_DRAINED], queued <= both.limits.write_low);
        CHECK_INT(!(end->io.hold & IO_HOLD_THROTTLED), queued <= both.limits.write_low);
    }
    CHECK(MORE + last < both.limits.write_high && at_more && at_last);
    pair_pause(end->peer, false);
    close_both();
    CHECK_INT(end->came[IO_CONNECTION_DRAINED], 1);
}

static void drained_at_write_low(const char *backend) {
    drained_at_the_mark(backend, 16384);
}

static void drained_below_write_low(const char *backend) {
    drained_at_the_mark(backend, 16385);
}

/* Nothing is said if it has never been above write_high. */
static void not_above(const char *backend) {
    pair_end *end = pair_open_narrow(&both, backend, 0);
    both.limits.write_high = UINT64_MAX;
    pair_pause(end->peer, true);
    pair_fill(end, 600000);
    pair_settle(&both);
    both.limits.write_high = pair_queued(end) + 1;
    CHECK_INT(pair_send(end, 1, PAIR_COPIED), 1);
    CHECK(!(end->io.hold & IO_HOLD_THROTTLED));
    pair_pause(end->peer, false);
    PAIR_UNTIL(&both, end->peer->in == end->out);
    pair_settle(&both);
    CHECK_INT(end->came[IO_CONNECTION_DRAINED], 0);
    close_both();
}

/* Files have no bytes in the queue, but a descriptor each: they are counted. */
static void many_files(const char *backend) {
    enum { FILES_MOST = 16, FILES_FEW = 4 };
    bool at_few = false, above_few = false;
    pair_end *end = pair_open_narrow(&both, backend, 0);
    both.limits.write_high = both.limits.write_low = UINT64_MAX;
    pair_pause(end->peer, true);
    pair_fill(end, 600000);
    pair_settle(&both);
    for (int i = 0; i < FILES_MOST; i++)
        CHECK_INT(pair_send(end, PAIR_PERIOD, PAIR_FILE), 1);
    CHECK(!(end->io.hold & IO_HOLD_THROTTLED));
    CHECK_INT(pair_send(end, PAIR_PERIOD, PAIR_FILE), 1);
    CHECK(end->io.hold & IO_HOLD_THROTTLED);
    while (end->peer->in < end->out) {
        read_a_little(end);
        at_few = at_few || end->io.files_queued == FILES_FEW;
        above_few = above_few || end->io.files_queued == FILES_FEW + 1;
        CHECK_INT(end->came[IO_CONNECTION_DRAINED], end->io.files_queued <= FILES_FEW);
    }
    CHECK(at_few && above_few);
    pair_pause(end->peer, false);
    close_both();
}

/* Told although it is paused: who has paused it may wait for just that. */
static void drained_while_paused(const char *backend) {
    pair_end *end = pair_open_narrow(&both, backend, 0);
    pair_pause(end->peer, true);
    pair_block(end);
    pair_pause(end, true);
    CHECK_INT(end->came[IO_CONNECTION_DRAINED], 0);
    pair_pause(end->peer, false);
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_DRAINED] == 1);
    close_both();
}

static void room(const char *backend) {
    pair_end *end = pair_open_narrow(&both, backend, 0);
    io_connection_ask_for_room(&end->io);
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_ROOM] == 1);
    pair_pause(end->peer, true);
    pair_block(end);
    io_connection_ask_for_room(&end->io);
    pair_settle(&both);
    CHECK_INT(end->came[IO_CONNECTION_ROOM], 1);
    pair_pause(end->peer, false);
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_ROOM] == 2);
    PAIR_UNTIL(&both, end->peer->in == end->out);
    pair_settle(&both);
    CHECK_INT(end->came[IO_CONNECTION_ROOM], 2);
    close_both();
}

typedef struct reader {
    test_thread thread;
    io_native native;
    uint64_t wanted;
    _Atomic bool reads;
} reader;

static void read_all(void *argument) {
    static char data[1 << 20];
    reader *self = argument;
    for (uint64_t got = 0; got < self->wanted;) {
#ifdef _WIN32
        int length = recv((SOCKET)self->native, data, sizeof(data), 0);
#else
        ssize_t length = recv((int)self->native, data, sizeof(data), 0);
#endif
        CHECK(length > 0);
        got += (uint64_t)length;
        atomic_store(&self->reads, true);
    }
}

/* Others have their turn while one sends very much to somebody who reads as fast as it comes. */
static void much_to_a_fast_reader(const char *backend) {
    enum { SHARE_MOST = 1 << 20, MUCH = 128 << 20 };
    io_native natives[2];
    pair_end *end = pair_open_narrow(&both, backend, 0);
    if (both.world.sim) { /* reads in the same thread */
        close_both();
        return;
    }
    both.limits.max_write_buffer = UINT64_MAX;
    world_pair(&both.world, natives);
    pair_end *busy = pair_adopt(&both, natives[0]);
    reader other = {.native = natives[1], .wanted = 1 + MUCH};
    test_thread_start(&other.thread, read_all, &other);
    CHECK_INT(pair_send(busy, 1, PAIR_COPIED), 1);
    while (!atomic_load(&other.reads))
        (void)pair_step(&both, 1);
    CHECK_INT(pair_send(busy, MUCH, PAIR_OWNED), 1);
    CHECK(busy->io.bytes_sent <= SHARE_MOST);
    CHECK_INT(pair_send(end, 100, PAIR_COPIED), 1);
    PAIR_UNTIL(&both, end->peer->in == 100);
    CHECK(busy->io.bytes_sent < other.wanted);
    PAIR_UNTIL(&both, busy->io.bytes_sent == other.wanted);
    test_thread_join(&other.thread);
    CHECK(io_connection_abort(&busy->io));
    world_native_close(&both.world, natives[1], false);
    close_both();
}

/* ---- input ----------------------------------------------------------------------------------- */

static void pause_and_resume(const char *backend) {
    for (uint64_t seed = 0; seed < pair_seeds(backend, 10); seed++) {
        test_random random = {seed};
        pair_open(&both, backend, seed);
        pair_end *end = &both.ends[0], *peer = &both.ends[1];
        for (uint64_t i = 0; i < test_scaled(500); i++) {
            end->most = (size_t)test_below(&random, 3000);
            end->keeps = test_below(&random, 4) == 0;
            if (test_below(&random, 2) == 0)
                pair_pause(end, test_below(&random, 2) == 0);
            if (pair_queued(peer) < 100000)
                CHECK_INT(pair_send(peer, some_length(&random), PAIR_OWNED), 1);
            (void)pair_step(&both, 0);
        }
        pair_pause(end, true);
        pair_settle(&both);
        uint64_t before = end->in;
        CHECK_INT(pair_send(peer, 100, PAIR_COPIED), 1);
        pair_settle(&both);
        CHECK_INT(end->in, before);
        end->keeps = true;
        pair_pause(end, false);
        PAIR_UNTIL(&both, end->in == peer->out);
        close_both();
    }
}

/* What is received is all handed on, one piece for each time it is resumed. */
static void paused_in_each_event(const char *backend) {
    pair_open(&both, backend, 0);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    end->most = 700;
    end->on_event = pause_at_input;
    CHECK_INT(pair_send(peer, 7000, PAIR_COPIED), 1);
    for (int i = 1; i <= 10; i++) {
        PAIR_UNTIL(&both, end->came[IO_CONNECTION_INPUT] == i);
        while (pair_step(&both, 0))
            continue;
        CHECK_INT(end->came[IO_CONNECTION_INPUT], i);
        CHECK(end->in <= 700u * (unsigned)i);
        pair_pause(end, false);
        if (end->in == 7000)
            break;
    }
    end->on_event = NULL;
    pair_pause(end, false);
    PAIR_UNTIL(&both, end->in == peer->out);
    io_connection_close(&peer->io, true);
    end->answers = true;
    pair_close(&both);
}

/* ---- jobs and the clock ---------------------------------------------------------------------- */

static void post_in_started(pair_end *end, io_connection_event event) {
    if (event == IO_CONNECTION_STARTED)
        CHECK(pair_post_job(end));
}

static void jobs(const char *backend) {
    pair_begin(&both, backend, 0);
    pair_end *end = pair_add(&both);
    end->on_event = post_in_started;
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_JOBS] == 1);
    CHECK(pair_post_job(end));
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_JOBS] == 2);
    io_connection_hold(&end->io, IO_HOLD_SERIAL, true); /* nothing but jobs */
    CHECK_INT(pair_send(end->peer, 100, PAIR_COPIED), 1);
    pair_settle(&both);
    CHECK(pair_post_job(end));
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_JOBS] == 3);
    pair_settle(&both);
    CHECK_INT(end->in, 0);
    io_connection_hold(&end->io, IO_HOLD_SERIAL, false);
    PAIR_UNTIL(&both, end->in == 100);
    io_connection_close(&end->io, true);
    CHECK(pair_post_job(end)); /* also after this */
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_JOBS] == 4);
    end->peer->answers = true;
    PAIR_UNTIL(&both, atomic_load(&end->gone));
    CHECK(!pair_post_job(end));
    pair_close(&both);
    CHECK_INT(end->came[IO_CONNECTION_JOBS], 4);
}

static void establish_in_input(pair_end *end, io_connection_event event) {
    if (event == IO_CONNECTION_INPUT && !io_connection_is_known(&end->io))
        io_connection_establish(&end->io);
}

/* What is for the user waits until the connection exists for him, whatever happens before. */
static void nothing_before_it_is_established(const char *backend) {
    pair_begin(&both, backend, 0);
    pair_end *end = pair_add(&both);
    end->shakes_hands = true;
    end->on_event = establish_in_input;
    CHECK(pair_post_job(end));
    io_connection_hold(&end->io, IO_HOLD_PAUSED | IO_HOLD_SERIAL, true); /* not the handshake */
    io_connection_hold(&end->io, IO_HOLD_SERIAL, false);
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
    pair_narrow(end);
    pair_narrow(end->peer);
    pair_pause(end->peer, true);
    CHECK_INT(pair_send(end, 400000, PAIR_OWNED), 1);
    CHECK(pair_post_job(end));
    pair_settle(&both);
    CHECK(pair_queued(end) > both.limits.write_high);
    pair_pause(end->peer, false);
    PAIR_UNTIL(&both, end->peer->in == 400000);
    pair_settle(&both);
    CHECK_INT(end->came[IO_CONNECTION_JOBS] + end->came[IO_CONNECTION_DRAINED], 0);
    CHECK_INT(pair_send(end->peer, 1, PAIR_COPIED), 1); /* the rest of the handshake */
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_JOBS] == 1 && end->came[IO_CONNECTION_DRAINED] == 1);
    uint64_t before = end->in;
    CHECK_INT(pair_send(end->peer, 100, PAIR_COPIED), 1);
    pair_settle(&both);
    CHECK_INT(end->in, before); /* but what follows it */
    pair_pause(end, false);
    PAIR_UNTIL(&both, end->in == 101);
    close_both();
}

/* Jobs of a connection that never exists for its user are dropped when it is gone. */
static void gone_before_it_is_established(const char *backend) {
    pair_begin(&both, backend, 0);
    pair_end *end = pair_add(&both);
    end->shakes_hands = true;
    CHECK(pair_post_job(end));
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
    CHECK(io_connection_abort(&end->io));
    end->peer->answers = true;
    PAIR_UNTIL(&both, atomic_load(&end->gone));
    CHECK_INT(end->came[IO_CONNECTION_JOBS], 0);
    pair_close(&both);
}

static void job_order_taken(pair_end *end, io_connection_event event) {
    if (event != IO_CONNECTION_JOBS)
        return;
    io_job *job = io_connection_take_jobs(&end->io), *expected = end->context;
    for (int i = 0; i < 5; i++, job = job->next)
        CHECK(job == &expected[i]);
    CHECK(job == NULL);
    CHECK(io_connection_take_jobs(&end->io) == NULL);
}

static void order_of_jobs(const char *backend) {
    io_job list[5];
    pair_open(&both, backend, 0);
    pair_end *end = &both.ends[0];
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
    end->on_event = job_order_taken;
    end->context = list;
    for (int i = 0; i < 5; i++)
        CHECK(io_connection_post(&end->io, &list[i]));
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_JOBS] == 1);
    close_both();
}

/* Counts up while nothing happens; what is sent or received, even in part, is something. */
static void ticks(const char *backend) {
    pair_end *end = pair_open_narrow(&both, backend, 0);
    pair_settle(&both);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_INT(io_connection_tick(&end->io), i);
    CHECK_INT(pair_send(end, 10, PAIR_COPIED), 1);
    PAIR_UNTIL(&both, end->peer->in == 10 && end->io.send == NULL);
    CHECK_INT(io_connection_tick(&end->io), 0);
    CHECK_INT(io_connection_tick(&end->io), 1);
    CHECK_INT(pair_send(end->peer, 10, PAIR_COPIED), 1);
    PAIR_UNTIL(&both, end->in == 10);
    CHECK_INT(io_connection_tick(&end->io), 0);
    pair_pause(end->peer, true);
    CHECK_INT(pair_send(end, 400000, PAIR_OWNED), 1); /* the peer does not read it: silence */
    pair_settle(&both);
    CHECK(end->io.send != NULL);
    (void)io_connection_tick(&end->io);
    uint32_t silent = io_connection_tick(&end->io);
    CHECK_INT(io_connection_tick(&end->io), silent + 1);
    end->peer->on_event = pause_at_input; /* ... and then a part of it, again and again */
    for (uint64_t before = end->peer->in; end->peer->in - before < 100000;)
        pair_resume_step(end->peer);
    pair_settle(&both);
#ifndef _WIN32 /* where a send is known to have moved when it ends */
    CHECK(io_connection_tick(&end->io) <= silent + 1);
#endif
    end->peer->on_event = NULL;
    pair_pause(end->peer, false);
    close_both();
    CHECK_INT(io_connection_tick(&end->io), 0);
    CHECK_INT(io_connection_tick(&end->io), 0);
}

static void addresses(const char *backend) {
    io_address mine, theirs;
    pair_open(&both, backend, 0);
    io_connection_address(&both.ends[0].io, false, &mine);
    io_connection_address(&both.ends[1].io, true, &theirs);
    CHECK(mine.length > 0 && mine.length == theirs.length);
    CHECK(memcmp(&mine.storage, &theirs.storage, (size_t)mine.length) == 0);
    CHECK(io_connection_native(&both.ends[0].io) == both.ends[0].native);
    close_both();
    io_connection_address(&both.ends[0].io, false, &mine);
    CHECK_INT(mine.length, 0);
    CHECK(io_connection_native(&both.ends[0].io) == IO_NATIVE_NONE);
}

// clang-format off
BACKENDS(DEFINE, echo)
BACKENDS(DEFINE, when_it_is_sent)
BACKENDS(DEFINE, much_is_sent_inside_an_event)
BACKENDS(DEFINE, order)
BACKENDS(DEFINE, order_in_the_queue)
BACKENDS(DEFINE, large_copies)
BACKENDS(DEFINE, nothing_to_send)
BACKENDS(DEFINE, file_is_closed_after_the_call)
BACKENDS(DEFINE, no_such_file)
BACKENDS(DEFINE, throttled)
BACKENDS(DEFINE, drained_at_write_low)
BACKENDS(DEFINE, drained_below_write_low)
BACKENDS(DEFINE, not_above)
BACKENDS(DEFINE, many_files)
BACKENDS(DEFINE, much_to_a_fast_reader)
BACKENDS(DEFINE, drained_while_paused)
BACKENDS(DEFINE, room)
BACKENDS(DEFINE, pause_and_resume)
BACKENDS(DEFINE, paused_in_each_event)
BACKENDS(DEFINE, jobs)
BACKENDS(DEFINE, order_of_jobs)
BACKENDS(DEFINE, nothing_before_it_is_established)
BACKENDS(DEFINE, gone_before_it_is_established)
BACKENDS(DEFINE, ticks)
BACKENDS(DEFINE, addresses)

int main(int argc, char **argv) {
    static const test_case tests[] = {
        BACKENDS(ENTRY, echo)
        BACKENDS(ENTRY, when_it_is_sent)
        BACKENDS(ENTRY, much_is_sent_inside_an_event)
        BACKENDS(ENTRY, order)
        BACKENDS(ENTRY, order_in_the_queue)
        BACKENDS(ENTRY, large_copies)
        BACKENDS(ENTRY, nothing_to_send)
        BACKENDS(ENTRY, file_is_closed_after_the_call)
        BACKENDS(ENTRY, no_such_file)
        BACKENDS(ENTRY, throttled)
        BACKENDS(ENTRY, drained_at_write_low)
        BACKENDS(ENTRY, drained_below_write_low)
        BACKENDS(ENTRY, not_above)
        BACKENDS(ENTRY, many_files)
        BACKENDS(ENTRY, much_to_a_fast_reader)
        BACKENDS(ENTRY, drained_while_paused)
        BACKENDS(ENTRY, room)
        BACKENDS(ENTRY, pause_and_resume)
        BACKENDS(ENTRY, paused_in_each_event)
        BACKENDS(ENTRY, jobs)
        BACKENDS(ENTRY, order_of_jobs)
        BACKENDS(ENTRY, nothing_before_it_is_established)
        BACKENDS(ENTRY, gone_before_it_is_established)
        BACKENDS(ENTRY, ticks)
        BACKENDS(ENTRY, addresses)
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
// clang-format on
