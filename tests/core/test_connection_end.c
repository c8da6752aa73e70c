/* test_connection_end.c: how connections end: gracefully with everything flushed, by a reset, by an
 * error, by a limit, or with their port. */
#include "connection_pair.h"

static connection_pair both; /* of each test; large, and threads of none */

/* A pair of which ends[1] does not read what ends[0] has sent: more than the system takes. */
static void open_blocked(const char *backend, uint64_t seed) {
    pair_end *end = pair_open_narrow(&both, backend, seed);
    pair_pause(end->peer, true);
    pair_block(end);
}

static void check_reset(const pair_end *end) {
    CHECK_INT(end->came[IO_CONNECTION_EOF], 0);
    CHECK_INT(end->io.reason, IO_REASON_RECEIVE);
    CHECK_INT(end->io.error, -IOE_CONNRESET);
}

/* ---- close ----------------------------------------------------------------------------------- */

static void pause_at_input(pair_end *end, io_connection_event event) {
    if (event == IO_CONNECTION_INPUT)
        pair_pause(end, true);
}

/* A slow reader gets all of it, and then the end of the stream. */
static void flushed(const char *backend, bool linger) {
    for (uint64_t seed = 0; seed < pair_seeds(backend, 10); seed++) {
        open_blocked(backend, seed);
        pair_end *end = &both.ends[0], *peer = &both.ends[1];
        CHECK_INT(pair_send(end, 70000, PAIR_FILE), 1);
        CHECK_INT(pair_send(end, 10, PAIR_COPIED), 1);
        io_connection_close(&end->io, linger);
        CHECK_INT(pair_send(end, 10, PAIR_COPIED), 0);
        peer->on_event = pause_at_input;
        peer->answers = true;
        while (!atomic_load(&peer->gone))
            pair_resume_step(peer);
        CHECK_INT(peer->in, end->out);
        CHECK_INT(peer->came[IO_CONNECTION_EOF], 1);
        PAIR_UNTIL(&both, atomic_load(&end->gone));
        CHECK_INT(end->came[IO_CONNECTION_DRAINED], 0);
        pair_close(&both);
        CHECK_INT(end->io.reason, IO_REASON_CLOSE);
    }
}

static void close_flushes(const char *backend) {
    flushed(backend, true);
}

static void close_flushes_without_linger(const char *backend) {
    flushed(backend, false);
}

enum { NOT_AT_ALL, NOT_SINCE_SILENCED, FOR_A_MOMENT, LINGERS };

/* The peer does not end its stream: it is not waited for, or for a moment. */
static void close_does_not_wait_for_ever(const char *backend) {
    for (int linger = 0; linger < LINGERS; linger++) {
        pair_open(&both, backend, 0);
        uint64_t began_ns = io_lane_now(both.world.lane);
        pair_end *end = &both.ends[0], *peer = &both.ends[1];
        if (linger == NOT_SINCE_SILENCED)
            io_connection_begin_end(&end->io, true, false);
        CHECK_INT(pair_send(end, 10, PAIR_COPIED), 1);
        io_connection_close(&end->io, linger != NOT_AT_ALL);
        PAIR_UNTIL(&both, atomic_load(&end->gone));
        uint64_t took_ns = io_lane_now(both.world.lane) - began_ns;
        CHECK((took_ns >= 1900 * IO_NS_PER_MS) == (linger == FOR_A_MOMENT));
        PAIR_UNTIL(&both, peer->came[IO_CONNECTION_EOF] == 1);
        CHECK_INT(peer->in, 10);
        io_connection_close(&peer->io, true);
        pair_close(&both);
        CHECK_INT(peer->io.reason, IO_REASON_CLOSE);
    }
}

/* What has arrived and is not read would make a reset of the close, and destroy what was sent. */
static void close_with_unread_input(const char *backend) {
    open_blocked(backend, 0);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    pair_pause(end, true);
    CHECK_INT(pair_send(peer, 50000, PAIR_COPIED), 1);
    pair_settle(&both);
    uint64_t before = end->in;
    io_connection_close(&end->io, false);
    CHECK_INT(pair_send(peer, 50000, PAIR_COPIED), 1);
    pair_settle(&both);
    peer->answers = true;
    pair_pause(peer, false);
    pair_close(&both);
    CHECK_INT(end->in, before); /* nothing was handed on */
    CHECK_INT(peer->in, end->out);
    CHECK_INT(peer->came[IO_CONNECTION_EOF], 1);
    CHECK_INT(peer->io.reason, IO_REASON_CLOSE);
}

static void close_all_ways(pair_end *end, io_connection_event event) {
    if (event != IO_CONNECTION_INPUT)
        return;
    CHECK_INT(pair_send(end, 100, PAIR_COPIED), 1);
    io_connection_close(&end->io, true);
    io_connection_close(&end->io, true);
    io_connection_shutdown(&end->io);
    CHECK_INT(pair_send(end, 100, PAIR_COPIED), 0);
    CHECK_INT(end->io.bytes_queued, 100);
}

/* From inside, and more than once. */
static void close_in_an_event(const char *backend) {
    pair_open(&both, backend, 0);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    end->on_event = close_all_ways;
    end->most = 10; /* the rest is thrown away */
    peer->answers = true;
    CHECK_INT(pair_send(peer, 1000, PAIR_COPIED), 1);
    pair_close(&both);
    CHECK_INT(end->came[IO_CONNECTION_INPUT], 1);
    CHECK_INT(peer->in, 100);
    CHECK_INT(peer->io.reason, IO_REASON_CLOSE);
}

/* ---- half-close ------------------------------------------------------------------------------ */

static void shutdown_then_receive(const char *backend) {
    for (uint64_t seed = 0; seed < pair_seeds(backend, 10); seed++) {
        open_blocked(backend, seed);
        pair_end *end = &both.ends[0], *peer = &both.ends[1];
        io_connection_shutdown(&end->io);
        CHECK_INT(pair_send(end, 10, PAIR_COPIED), 0);
        pair_pause(peer, false);
        PAIR_UNTIL(&both, peer->came[IO_CONNECTION_EOF] == 1);
        CHECK_INT(peer->in, end->out);
        for (int i = 0; i < 20; i++) {
            CHECK_INT(pair_send(peer, 5000, PAIR_OWNED), 1);
            PAIR_UNTIL(&both, end->in == peer->out);
        }
        pair_settle(&both);
        CHECK(!atomic_load(&end->gone) && !atomic_load(&peer->gone));
        io_connection_shutdown(&peer->io); /* the other half: that is all */
        PAIR_UNTIL(&both, end->came[IO_CONNECTION_EOF] == 1);
        pair_close(&both);
        CHECK_INT(end->io.reason, IO_REASON_PEER);
        CHECK_INT(peer->io.reason, IO_REASON_PEER);
    }
}

/* An end of input that only the embedder sees. */
static void embedder_ends_input(const char *backend) {
    pair_open(&both, backend, 0);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
    end->answers = true;
    peer->answers = true;
    io_connection_end_input(&end->io);
    CHECK_INT(pair_send(peer, 10, PAIR_COPIED), 1); /* this is under way, or not */
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_EOF] == 1);
    end->peer = NULL; /* it need not have had all */
    pair_close(&both);
    CHECK_INT(end->io.reason, IO_REASON_CLOSE);
}

static void peer_ends_with_unread_input(const char *backend) {
    for (uint64_t seed = 0; seed < pair_seeds(backend, 10); seed++) {
        pair_open(&both, backend, seed);
        pair_end *end = &both.ends[0], *peer = &both.ends[1];
        pair_pause(end, true);
        CHECK_INT(pair_send(peer, 40000, PAIR_OWNED), 1);
        io_connection_close(&peer->io, true);
        pair_settle(&both);
        CHECK_INT(end->came[IO_CONNECTION_EOF], 0);
        end->on_event = pause_at_input;
        while (end->in < 40000)
            pair_resume_step(end);
        pair_pause(end, false);
        PAIR_UNTIL(&both, end->came[IO_CONNECTION_EOF] == 1);
        io_connection_close(&end->io, true);
        pair_close(&both);
        CHECK_INT(end->io.reason, IO_REASON_CLOSE);
    }
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void abort_is_a_reset(const char *backend) {
    for (uint64_t seed = 0; seed < pair_seeds(backend, 10); seed++) {
        open_blocked(backend, seed);
        pair_end *end = &both.ends[0], *peer = &both.ends[1];
        if (seed % 2 == 1) {
            io_connection_close(&end->io, true);
            pair_settle(&both);
        }
        CHECK(io_connection_abort(&end->io));
        CHECK(!io_connection_abort(&end->io));
        PAIR_UNTIL(&both, atomic_load(&end->gone));
        CHECK_INT(atomic_load(&pair_owned), 0);
        CHECK_INT(end->io.reason, seed % 2 == 1 ? IO_REASON_CLOSE : IO_REASON_ABORT);
        pair_pause(peer, false);
        pair_close(&both);
        check_reset(peer);
    }
}

static void abort_while_lingering(const char *backend) {
    pair_open(&both, backend, 0);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    io_connection_close(&end->io, true);
    PAIR_UNTIL(&both, peer->came[IO_CONNECTION_EOF] == 1 && end->io.timer != NULL);
    CHECK_INT(end->io.phase, IO_CONNECTION_CLOSING);
    CHECK_INT(end->io.send_side, IO_SEND_SIDE_ENDED);
    CHECK(io_connection_abort(&end->io));
    PAIR_UNTIL(&both, atomic_load(&end->gone));
    io_connection_close(&peer->io, true);
    pair_close(&both);
}

/* Only what has not left is lost, and only then the peer sees a reset. */
static void give_up(const char *backend) {
    for (int way = 0; way < 4; way++) {
        bool loses = way >= 2;
        if (way == 2)
            open_blocked(backend, 0);
        else
            pair_open(&both, backend, 0);
        pair_end *end = &both.ends[0], *peer = &both.ends[1];
        if (way == 1)
            io_connection_close(&end->io, true);
        CHECK_INT(io_connection_give_up(&end->io, way == 3), loses);
        CHECK(!io_connection_give_up(&end->io, true));
        PAIR_UNTIL(&both, atomic_load(&end->gone));
        CHECK_INT(end->io.reason, way == 1 ? IO_REASON_CLOSE : IO_REASON_ABORT);
        pair_pause(peer, false);
        if (!loses) {
            PAIR_UNTIL(&both, peer->came[IO_CONNECTION_EOF] == 1);
            io_connection_close(&peer->io, true);
        }
        pair_close(&both);
        if (loses)
            check_reset(peer);
    }
}

static void abort_at_start(const char *backend) {
    pair_open(&both, backend, 0);
    CHECK(io_connection_abort(&both.ends[0].io));
    CHECK(io_connection_abort(&both.ends[1].io));
    pair_close(&both);
    CHECK_INT(both.ends[0].came[IO_CONNECTION_STARTED], 1);
}

/* A peer that does not read has a moment, which is not much longer than this. */
static void fail_has_a_limit(const char *backend) {
    open_blocked(backend, 0);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    bool closing = both.world.sim; /* one that is being closed already is limited, too */
    if (closing) {
        io_connection_close(&end->io, true);
        pair_settle(&both);
    }
    uint64_t began_ns = io_lane_now(both.world.lane);
    CHECK(io_connection_fail(&end->io, IO_REASON_IDLE, -IOE_TIMEDOUT) == !closing);
    CHECK(!io_connection_fail(&end->io, IO_REASON_EMBEDDER, 0));
    PAIR_UNTIL(&both, atomic_load(&end->gone));
    uint64_t took_ns = io_lane_now(both.world.lane) - began_ns;
    CHECK(took_ns >= 1900 * IO_NS_PER_MS && took_ns < 9 * IO_NS_PER_SECOND);
    CHECK_INT(end->io.reason, closing ? IO_REASON_CLOSE : IO_REASON_IDLE);
    CHECK_INT(atomic_load(&pair_owned), 0);
    pair_pause(peer, false);
    pair_close(&both);
    check_reset(peer);
}

static void fail_flushes(const char *backend) {
    open_blocked(backend, 0);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    CHECK(io_connection_fail(&end->io, IO_REASON_EMBEDDER, -5));
    peer->answers = true;
    pair_pause(peer, false);
    pair_close(&both);
    CHECK_INT(peer->in, end->out);
    CHECK_INT(peer->came[IO_CONNECTION_EOF], 1);
    CHECK_INT(end->io.reason, IO_REASON_EMBEDDER);
    CHECK_INT(end->io.error, -5);
}

static void overflow(const char *backend) {
    open_blocked(backend, 0);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    pair_fill(end, both.limits.max_write_buffer); /* the last one is taken whatever its length */
    CHECK_INT(pair_send(end, 1, PAIR_COPIED), 0);
    CHECK_INT(pair_send(end, 1, PAIR_FILE), 0);
    PAIR_UNTIL(&both, atomic_load(&end->gone));
    CHECK_INT(end->io.reason, IO_REASON_OVERFLOW);
    CHECK_INT(end->io.error, -IOE_NOBUFS);
    pair_pause(peer, false);
    pair_close(&both);
    check_reset(peer);
}

/* Broken for sending, it still hands on what had arrived, when it is not held any more. */
static void send_error_with_unread_input(const char *backend) {
    for (int paused = 0; paused < 2; paused++) {
        pair_open(&both, backend, 0);
        pair_end *end = &both.ends[0], *peer = &both.ends[1];
        uint8_t hold = paused ? IO_HOLD_PAUSED : IO_HOLD_SERIAL;
        PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] && peer->came[IO_CONNECTION_STARTED]);
        io_connection_hold(&end->io, hold, true);
        CHECK_INT(pair_send(peer, 1000, PAIR_COPIED), 1);
        pair_settle(&both);
        CHECK(io_connection_abort(&peer->io));
        pair_settle(&both);
        for (int i = 0; i < 5 && end->io.send_side == IO_SEND_SIDE_OPEN; i++) {
            CHECK_INT(pair_send(end, 10, PAIR_COPIED), 1);
            if (end->io.send_side == IO_SEND_SIDE_OPEN)
                pair_settle(&both);
        }
        pair_settle(&both);
        CHECK(end->io.send_side == IO_SEND_SIDE_FAILED && !atomic_load(&end->gone));
        io_connection_hold(&end->io, hold, false);
        pair_close(&both);
        /* On io_uring a receive may have been told of the reset before. */
        bool told = end->io.reason == IO_REASON_RECEIVE && end->io.error == -IOE_CONNRESET;
        CHECK(end->io.reason == IO_REASON_SEND || told);
        CHECK_INT(end->came[IO_CONNECTION_EOF], 0); /* nor was it an orderly end */
#ifndef _WIN32                                      /* there a reset destroys it */
        CHECK_INT(end->in, 1000);
#endif
    }
}

/* A file that cannot be read: the peer must not take what it got for all of it. */
static void file_error_is_a_reset(const char *backend) {
    for (int closing = 0; closing < 2; closing++) {
        uint32_t os_error = 0;
        pair_open(&both, backend, 0);
        pair_end *end = &both.ends[0], *peer = &both.ends[1];
        PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] && peer->came[IO_CONNECTION_STARTED]);
        CHECK_INT(pair_send(end, 10, PAIR_COPIED), 1);
        PAIR_UNTIL(&both, peer->in == 10);
        if (closing) { /* before it is tried */
            pair_pause(peer, true);
            pair_block(end);
        }
        CHECK_INT(io_connection_send_file(&end->io, peer->native, 0, 100, &os_error), 1);
        io_connection_close(&end->io, true);
        pair_pause(peer, false);
        pair_close(&both);
        check_reset(peer);
    }
}

/* Silenced, it only sends, until the embedder closes it. */
static void silence(const char *backend) {
    pair_open(&both, backend, 0);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
    CHECK_INT(pair_send(peer, 50000, PAIR_OWNED), 1);
    io_connection_begin_end(&end->io, true, true);
    CHECK_INT(pair_send(peer, 200000, PAIR_OWNED), 1); /* is thrown away */
    PAIR_UNTIL(&both, peer->io.bytes_sent == 250000);
    CHECK_INT(pair_send(end, 10, PAIR_COPIED), 1);
    PAIR_UNTIL(&both, peer->in == 10);
    CHECK_INT(end->came[IO_CONNECTION_INPUT], 0);
    io_connection_close(&end->io, true);
    peer->answers = true;
    pair_close(&both);
    CHECK_INT(peer->io.reason, IO_REASON_CLOSE);
}

/* The end of the peer's stream was not told; that sending fails ends it all the same. */
static void silenced_and_broken(const char *backend) {
    pair_open(&both, backend, 0);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] && peer->came[IO_CONNECTION_STARTED]);
    io_connection_begin_end(&end->io, true, true);
    io_connection_shutdown(&peer->io);
    PAIR_UNTIL(&both, end->io.receive_side == IO_RECEIVE_SIDE_DRAINED);
    CHECK(io_connection_abort(&peer->io));
    PAIR_UNTIL(&both, atomic_load(&peer->gone));
    for (int i = 0; i < 5 && pair_send(end, 10, PAIR_COPIED) == 1; i++)
        pair_settle(&both);
    pair_close(&both);
    CHECK_INT(end->io.reason, IO_REASON_SEND);
    CHECK_INT(end->came[IO_CONNECTION_EOF], 0);
}

/* ---- the end of the port --------------------------------------------------------------------- */

enum phase { UNBORN, IDLE, PAUSED, BLOCKED, FLUSHING, LINGERING, ABORTED, FAILED, GONE, PHASES };

static void bring_to(pair_end *end, enum phase phase) {
    if (phase == UNBORN)
        return;
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
    pair_narrow(end);
    pair_narrow(end->peer);
    if (phase == PAUSED) {
        end->on_event = pause_at_input;
        end->most = 10;
        CHECK_INT(pair_send(end->peer, 1000, PAIR_OWNED), 1);
        PAIR_UNTIL(&both, end->in == 10);
    }
    if (phase == BLOCKED || phase == FLUSHING || phase == FAILED) {
        pair_pause(end->peer, true);
        pair_block(end);
        CHECK_INT(pair_send(end, 1000, PAIR_FILE), 1);
    }
    if (phase == FLUSHING || phase == LINGERING || phase == GONE)
        io_connection_close(&end->io, true);
    if (phase == FAILED)
        CHECK(io_connection_fail(&end->io, IO_REASON_IDLE, -IOE_TIMEDOUT));
    if (phase == LINGERING)
        PAIR_UNTIL(&both, end->io.timer != NULL);
    if (phase == GONE)
        PAIR_UNTIL(&both, atomic_load(&end->gone));
    if (phase == ABORTED)
        CHECK(io_connection_abort(&end->io));
}

static void closed_in_phase(const char *backend, enum phase phase, uint64_t seed) {
    pair_begin(&both, backend, seed);
    pair_end *end = pair_add(&both);
    end->peer->answers = phase == GONE;
    bring_to(end, phase);
    CHECK_INT(pair_close_port(&both, 10 * IO_NS_PER_SECOND), 0);
    for (int i = 0; i < both.count; i++) {
        CHECK_INT(both.ends[i].came[IO_CONNECTION_GONE], 1);
        pair_check_gone(&both.ends[i]);
        CHECK(!io_connection_orphaned(&both.ends[i].io, false));
    }
    CHECK_INT(end->came[IO_CONNECTION_STARTED], phase != UNBORN);
    CHECK_INT(atomic_load(&pair_owned), 0);
    io_reason reason = phase == FAILED                      ? IO_REASON_IDLE
                       : phase == FLUSHING || phase == GONE ? IO_REASON_CLOSE
                       : phase == LINGERING                 ? IO_REASON_CLOSE
                       : phase == ABORTED                   ? IO_REASON_ABORT
                                                            : IO_REASON_PORT;
    CHECK_INT(end->io.reason, reason);
    if (reason == IO_REASON_PORT)
        CHECK_INT(end->io.error, -IOE_CANCELED);
    io_port_destroy(both.world.port);
}

static void port_closed_in_every_phase(const char *backend) {
    for (uint64_t seed = 0; seed < pair_seeds(backend, 5); seed++)
        for (int phase = 0; phase < PHASES; phase++)
            closed_in_phase(backend, (enum phase)phase, seed);
}

static void close_port(pair_end *end, io_connection_event event) {
    if (event != IO_CONNECTION_JOBS || end->pair->world.port->state != IO_PORT_OPEN)
        return;
    CHECK_INT(pair_close_port(&both, 10 * IO_NS_PER_SECOND), 0);
    CHECK_INT(end->peer->came[IO_CONNECTION_GONE], 1);
    CHECK_INT(end->came[IO_CONNECTION_GONE], 0); /* it is busy with this */
    CHECK_INT(pair_send(end, 10, PAIR_COPIED), 0);
}

static void port_closed_in_an_event(const char *backend) {
    pair_open(&both, backend, 0);
    pair_end *end = &both.ends[0];
    io_job *job = calloc(1, sizeof(*job));
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] && end->peer->came[IO_CONNECTION_STARTED]);
    end->on_event = close_port;
    CHECK(job != NULL && io_connection_post(&end->io, job));
    io_op *op = world_get(&both.world, 10000);
    CHECK(op == &end->io.wakeup);
    pair_take(op);
    CHECK_INT(end->came[IO_CONNECTION_GONE], 1);
    pair_check_gone(end);
    io_port_destroy(both.world.port);
}

/* Operations that a thread has taken, and has not come to yet, are theirs as long: they are not
 * gone, and would not have been freed, before that. */
static void port_closed_with_operations_in_hand(const char *backend) {
    for (int round = 0; round < 4; round++) {
        pair_open(&both, backend, 0);
        pair_end *end = &both.ends[0];
        io_op *ops[8];
        int count = 0;
        if (round > 0) {
            PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
            PAIR_UNTIL(&both, end->peer->came[IO_CONNECTION_STARTED] == 1);
            pair_settle(&both);
        }
        if (round == 2)
            CHECK_INT(pair_send(end->peer, 1000, PAIR_OWNED), 1);
        if (round == 3) {
            CHECK_INT(pair_send(end, 200000, PAIR_OWNED), 1);
            CHECK(io_connection_abort(&end->peer->io));
        }
        for (io_op *op; count < 8 && (op = world_get(&both.world, 50)) != NULL;)
            ops[count++] = op;
        CHECK(count > 0 || round == 1 || !both.world.sim);
        CHECK_INT(pair_close_port(&both, 10 * IO_NS_PER_SECOND), 0);
        for (int i = 0; i < count; i++)
            pair_take(ops[i]);
        for (int i = 0; i < both.count; i++) {
            CHECK_INT(both.ends[i].came[IO_CONNECTION_GONE], 1);
            pair_check_gone(&both.ends[i]);
        }
        CHECK_INT(atomic_load(&pair_owned), 0);
        io_port_destroy(both.world.port);
    }
}

/* What the kernel has kept it may still read: it is not given back. */
static void port_closed_with_a_leak(void) {
    pair_open(&both, "sim", 0);
    pair_end *end = &both.ends[0];
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] && end->peer->came[IO_CONNECTION_STARTED]);
    pair_settle(&both);
    io_sim_configure(both.world.lane, 0, IO_SIM_STUCK);
    CHECK_INT(pair_send(end, 100000, PAIR_OWNED), 1);
    CHECK_INT(pair_send(end, 100000, PAIR_OWNED), 1);
    CHECK(end->io.send != NULL);
    CHECK_INT(pair_close_port(&both, 0), 1);
    CHECK_INT(end->came[IO_CONNECTION_GONE], 1);
    CHECK_INT(end->peer->came[IO_CONNECTION_GONE], 1);
    CHECK_INT(end->io.reason, IO_REASON_PORT);
    CHECK_INT(atomic_load(&pair_owned), 2);
    pair_check_gone(end->peer);
    /* It really is gone for good; this test leaks on purpose, so what it can reach stays there. */
    static io_port *leaked;
    leaked = both.world.port;
    CHECK(leaked != NULL);
}

/* What the peer sees when the port is closed: a reset where something is lost. */
static void port_closed_seen_from_outside(const char *backend) {
    for (int aborted = 0; aborted < 3; aborted++) {
        static test_world other;
        static char data[65536];
        io_native natives[2];
        pair_begin(&both, backend, 0);
        if (both.world.sim) {
            pair_close(&both);
            return;
        }
        world_open(&other, backend, 1);
        world_pair(&both.world, natives);
        pair_end *end = pair_adopt(&both, natives[0]);
        io_handle *peer = world_handle(&other, natives[1]);
        PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
        CHECK_INT(world_do(&other, new_send(&other, data, 1000), peer), 1000);
        pair_pause(end, true); /* that is not read by anybody */
        CHECK_INT(pair_send(end, 10, PAIR_COPIED), 1);
        if (aborted == 1)
            CHECK(io_connection_abort(&end->io));
        else if (aborted == 2)
            pair_block(end);
        CHECK_INT(pair_close_port(&both, 10 * IO_NS_PER_SECOND), 0);
        CHECK_INT(atomic_load(&pair_owned), 0);
        int64_t result, total = 0;
        while ((result = world_do(&other, new_recv(&other, data, sizeof(data)), peer)) > 0)
            total += result;
        CHECK_INT(result, aborted ? -IOE_CONNRESET : 0);
        CHECK(aborted || total == 10);
        world_handle_close(peer);
        world_close(&other);
        io_port_destroy(both.world.port);
    }
}

// clang-format off
BACKENDS(DEFINE, close_flushes)
BACKENDS(DEFINE, close_flushes_without_linger)
BACKENDS(DEFINE, close_does_not_wait_for_ever)
BACKENDS(DEFINE, close_with_unread_input)
BACKENDS(DEFINE, close_in_an_event)
BACKENDS(DEFINE, shutdown_then_receive)
BACKENDS(DEFINE, embedder_ends_input)
BACKENDS(DEFINE, peer_ends_with_unread_input)
BACKENDS(DEFINE, abort_is_a_reset)
BACKENDS(DEFINE, abort_while_lingering)
BACKENDS(DEFINE, give_up)
BACKENDS(DEFINE, abort_at_start)
BACKENDS(DEFINE, fail_has_a_limit)
BACKENDS(DEFINE, fail_flushes)
BACKENDS(DEFINE, overflow)
BACKENDS(DEFINE, send_error_with_unread_input)
BACKENDS(DEFINE, file_error_is_a_reset)
BACKENDS(DEFINE, silence)
BACKENDS(DEFINE, silenced_and_broken)
BACKENDS(DEFINE, port_closed_in_every_phase)
BACKENDS(DEFINE, port_closed_in_an_event)
BACKENDS(DEFINE, port_closed_with_operations_in_hand)
BACKENDS(DEFINE, port_closed_seen_from_outside)

int main(int argc, char **argv) {
    static const test_case tests[] = {
        BACKENDS(ENTRY, close_flushes)
        BACKENDS(ENTRY, close_flushes_without_linger)
        BACKENDS(ENTRY, close_does_not_wait_for_ever)
        BACKENDS(ENTRY, close_with_unread_input)
        BACKENDS(ENTRY, close_in_an_event)
        BACKENDS(ENTRY, shutdown_then_receive)
        BACKENDS(ENTRY, embedder_ends_input)
        BACKENDS(ENTRY, peer_ends_with_unread_input)
        BACKENDS(ENTRY, abort_is_a_reset)
        BACKENDS(ENTRY, abort_while_lingering)
        BACKENDS(ENTRY, give_up)
        BACKENDS(ENTRY, abort_at_start)
        BACKENDS(ENTRY, fail_has_a_limit)
        BACKENDS(ENTRY, fail_flushes)
        BACKENDS(ENTRY, overflow)
        BACKENDS(ENTRY, send_error_with_unread_input)
        BACKENDS(ENTRY, file_error_is_a_reset)
        BACKENDS(ENTRY, silence)
        BACKENDS(ENTRY, silenced_and_broken)
        BACKENDS(ENTRY, port_closed_in_every_phase)
        BACKENDS(ENTRY, port_closed_in_an_event)
        BACKENDS(ENTRY, port_closed_with_operations_in_hand)
        BACKENDS(ENTRY, port_closed_seen_from_outside)
        TEST(port_closed_with_a_leak),
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
// clang-format on
