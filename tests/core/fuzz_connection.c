/* fuzz_connection.c: random calls on pairs of connections, from outside and inside their events.
 *
 * They run on the simulated backend with thousands of seeds. The simulated kernel varies everything
 * that a real one may do.
 *
 * The model: an end receives what its peer has sent, in order (connection_pair.c). At the end of
 * the stream it has received everything; if data was lost, there is a reset instead. Each
 * connection ends, and reports that once. One thread simulates several: it takes several
 * operations, and delivers them to their connections later, in any order, even if the port has been
 * closed meanwhile.
 *
 * A failure names its seed: FUZZ_SEED=<seed> fuzz_connection --only <test> repeats it. */
#include "connection_pair.h"
#include "seeds.h"

enum { PAIRS_MAX = 3, HANDS = 6 };

typedef struct fuzz {
    connection_pair connection_pair;
    test_random random;
    io_op *hands[HANDS]; /* taken, and not brought to their connections yet */
    bool busy;           /* ending: nothing is done from inside events */
} fuzz;

static fuzz now;

static uint64_t chance(uint64_t below) {
    return test_below(&now.random, below);
}

/* ---- what an embedder may do ----------------------------------------------------------------- */

static size_t some_length(void) {
    static const size_t most[] = {10, 600, 2500, 9000, 70000};
    return (size_t)chance(most[chance(COUNT_OF(most))] + 1);
}

static void post_job(pair_end *end) {
    bool gone = end->io.phase == IO_CONNECTION_CLOSED;
    CHECK(pair_post_job(end) == !gone);
}

static void do_something(pair_end *end) {
    switch (chance(16)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        (void)pair_send(end, some_length(), (pair_how)chance(3));
        break;
    case 5:
        (void)pair_send_pieces(end, some_length() / 4, 1 + (int)chance(16), &now.random);
        break;
    case 6:
    case 7:
        pair_pause(end, chance(3) == 0);
        break;
    case 8:
        io_connection_hold(&end->io, IO_HOLD_SERIAL, chance(4) == 0);
        break;
    case 9:
        post_job(end);
        break;
    case 10:
        io_connection_ask_for_room(&end->io);
        break;
    case 11:
        end->most = (size_t)chance(3) * (size_t)chance(2000);
        end->keeps = chance(3) == 0;
        break;
    case 12:
        end->answers = chance(3) != 0;
        break;
    case 13:
        (void)io_connection_tick(&end->io);
        (void)pair_queued(end);
        break;
    default:
        if (chance(12) == 0)
            pair_end_somehow(end, &now.random);
        break;
    }
}

static void on_event(pair_end *end, io_connection_event event) {
    if (event == IO_CONNECTION_EOF) {
        CHECK_INT(end->kept, 0);
        CHECK_INT(end->in, end->peer->out); /* an orderly end: nothing is missing */
    }
    for (uint64_t i = chance(3); i > 0 && !now.busy && event != IO_CONNECTION_GONE; i--)
        do_something(&now.connection_pair
                          .ends[chance(4) != 0 ? (uint64_t)(end - now.connection_pair.ends)
                                               : chance((uint64_t)now.connection_pair.count)]);
}

/* ---- threads, in their way ------------------------------------------------------------------- */

static void bring(io_op **hand) {
    io_op *op = *hand;
    *hand = NULL;
    if (op != NULL)
        pair_take(op);
}

static void take_into(io_op **hand, unsigned ms) {
    bring(hand);
    *hand = world_get(&now.connection_pair.world, ms);
}

static void bring_all(void) {
    for (uint64_t i = chance(HANDS), end = i + HANDS; i < end; i++)
        bring(&now.hands[i % HANDS]);
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void begin(uint64_t seed, uint32_t faults) {
    static const uint64_t highs[] = {0, 1000, 65536, 1 << 20};
    connection_pair *self = &now.connection_pair;
    memset(&now.hands, 0, sizeof(now.hands));
    now.random.state = seed;
    now.busy = false;
    test_about("FUZZ_SEED=%llu", (unsigned long long)seed);
    pair_begin(self, "sim", 0);
    io_sim_configure(self->world.lane, seed, faults);
    self->limits.write_high = highs[chance(COUNT_OF(highs))];
    self->limits.write_low = self->limits.write_high / (1 + chance(4));
    self->limits.max_write_buffer = self->limits.write_high + 1 + chance(400000);
    self->limits.read_size = 1 + (uint32_t)chance(chance(2) == 0 ? 300 : 65536);
    self->limits.reads_on = chance(3) == 0;
    for (uint64_t i = 1 + chance(PAIRS_MAX); i > 0; i--) {
        pair_end *end = pair_add(self);
        end->on_event = end->peer->on_event = on_event;
    }
}

static void steps(uint64_t count) {
    for (uint64_t step = 0; step < count; step++) {
        if (chance(3) == 0)
            do_something(&now.connection_pair.ends[chance((uint64_t)now.connection_pair.count)]);
        else
            take_into(&now.hands[chance(HANDS)], (unsigned)chance(3));
    }
}

/* Nothing holds them any more: they end, in some way, within the limits. */
static void end_all(void) {
    connection_pair *self = &now.connection_pair;
    now.busy = true;
    for (int i = 0; i < self->count; i++) {
        pair_end *end = &self->ends[i];
        end->most = 0;
        end->answers = true;
        io_connection_hold(&end->io, IO_HOLD_PAUSED | IO_HOLD_SERIAL, false);
    }
    for (int i = 0; i < self->count; i++)
        if (i % 2 == 0 || self->ends[i].came[IO_CONNECTION_EOF] ||
            self->ends[i].io.hold & IO_HOLD_CLOSING)
            io_connection_close(&self->ends[i].io, chance(2) == 0);
    bring_all();
    pair_close(self);
}

static void end_with_the_port(void) {
    connection_pair *self = &now.connection_pair;
    bool at_once = chance(2) == 0;
    if (at_once)
        bring_all();
    CHECK_INT(pair_close_port(self, 10 * IO_NS_PER_SECOND), 0);
    bring_all();
    pair_check_all_gone(self);
    io_port_destroy(self->world.port);
}

static void run_seed(uint64_t seed, uint32_t faults) {
    begin(seed, faults);
    steps(20 + chance(400));
    if (chance(2) == 0)
        end_all();
    else
        end_with_the_port();
}

SEEDS_TESTS(run_seed, 2000, 6000, 6000)

int main(int argc, char **argv) {
    static const test_case tests[] = {SEEDS_ENTRIES};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
