/* fuzz_datagram.c: random calls on datagram sockets, from outside and inside their turns.
 *
 * They run on the simulated backend with thousands of seeds. The simulated kernel varies everything
 * that a real one may do.
 *
 * The model is in parcels.c: what arrives was sent, in the same order; each send is returned once;
 * the figures are right. This file also predicts the result of each call. One thread simulates
 * several: it takes several operations, and delivers them to their sockets later, in any order,
 * even if the port has been closed meanwhile.
 *
 * A failure names its seed: FUZZ_SEED=<seed> fuzz_datagram --only <test> repeats it. */
#include "parcels.h"
#include "seeds.h"

enum { HANDS = 6, BOXES_MAX = 4 };

typedef struct fuzz {
    parcels office;
    parcel_box *boxes[BOXES_MAX]; /* NULL: the test has dropped it */
    uint64_t limits[BOXES_MAX];
    test_random random;
    io_op *hands[HANDS]; /* taken, and not brought to their sockets yet */
    int inside;          /* turns, one inside another: nothing is checked that they change */
    bool ending;
} fuzz;

static fuzz now;

static uint64_t chance(uint64_t below) {
    return test_below(&now.random, below);
}

/* ---- what an embedder may do ----------------------------------------------------------------- */

static size_t some_length(void) {
    static const size_t most[] = {1, 100, 1500, 70000};
    return PARCEL_MIN + (size_t)chance(most[chance(COUNT_OF(most))]);
}

static void send_something(parcel_box *box, int index) {
    io_datagram_figures figures;
    size_t length = some_length();
    int calls = atomic_load(&now.office.send_now_calls);
    bool waits = box->io.waiting > 0;
    io_datagram_socket_figures(&box->io, &figures);
    bool full = figures.pending > 0 && figures.pending + length > now.limits[index];
    bool dropped = full || atomic_load(&box->closed) || now.office.port_closed;
    int answer = parcel_send(box, (int)chance((uint64_t)now.office.count), length);
    CHECK((answer == IO_DATAGRAM_DROPPED) == dropped);
    CHECK_INT(atomic_load(&now.office.send_now_calls) - calls, !dropped && !waits);
    CHECK(!waits || answer != IO_DATAGRAM_SENT_NOW);
}

static void receive_something(parcel_box *box) {
    bool due = !box->io.receiving && !atomic_load(&box->closed) && !now.office.port_closed;
    CHECK(parcel_receive(box) == due);
    CHECK(!parcel_receive(box));
}

/* The receive, in flight or in a hand, and each send that is kept have a reference. */
static void check(parcel_box *box) {
    CHECK_INT(box->references, 1 + box->kept + box->io.receiving);
    CHECK(box->io.waiting <= (uint64_t)box->kept);
    parcel_check(box);
}

static void do_something(void) {
    int index = (int)chance((uint64_t)now.office.count);
    parcel_box *box = now.boxes[index];
    static const int scripts[] = {0, 0, PARCELS_LOST, -IOE_AGAIN, -IOE_NOBUFS, -IOE_HOSTUNREACH};
    if (box == NULL)
        return;
    switch (chance(12)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        send_something(box, index);
        break;
    case 5:
    case 6:
        receive_something(box);
        break;
    case 7:
        box->pauses = chance(2) == 0;
        box->loses = chance(3) == 0;
        box->stops = chance(3) == 0;
        break;
    case 8:
    case 9:
        atomic_store(&now.office.scripted, scripts[chance(COUNT_OF(scripts))]);
        break;
    case 10:
        if (now.inside == 0)
            check(box);
        break;
    default:
        if (chance(20) == 0)
            parcel_close(box);
        if (chance(40) == 0) { /* operations keep it until they have ended */
            now.boxes[index] = NULL;
            parcel_end(box);
        }
        break;
    }
}

static void on_event(parcel_box *box, io_datagram_event event) {
    CHECK(event == IO_DATAGRAM_RECEIVED || event == IO_DATAGRAM_SENT || !atomic_load(&box->closed));
    for (uint64_t i = chance(3); i > 0 && !now.ending; i--)
        do_something();
}

static void on_delivered(parcel_box *box) {
    on_event(box, IO_DATAGRAM_RECEIVED);
}

/* ---- threads, in their way ------------------------------------------------------------------- */

static void bring(io_op **hand) {
    io_op *op = *hand;
    *hand = NULL;
    if (op == NULL)
        return;
    now.inside++;
    parcel_take(op);
    now.inside--;
}

static void take_into(io_op **hand, unsigned ms) {
    bring(hand);
    *hand = world_get(&now.office.world, ms);
}

static void bring_all(void) {
    for (uint64_t i = chance(HANDS), end = i + HANDS; i < end; i++)
        bring(&now.hands[i % HANDS]);
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void begin(uint64_t seed, uint32_t faults) {
    static const uint64_t limits[] = {1, 1000, 100000, 1 << 20};
    memset(&now, 0, sizeof(now));
    now.random.state = seed;
    test_about("FUZZ_SEED=%llu", (unsigned long long)seed);
    parcels_open(&now.office, "sim", 1);
    io_sim_configure(now.office.world.lane, seed, faults);
    for (uint64_t i = 1 + chance(BOXES_MAX); i > 0; i--) {
        uint64_t limit = limits[chance(COUNT_OF(limits))];
        parcel_box *box = parcel_box_new(&now.office, limit);
        box->on_event = on_event;
        box->on_delivered = on_delivered;
        now.limits[box->index] = limit;
        now.boxes[box->index] = box;
        if (chance(3) != 0)
            CHECK(parcel_receive(box));
    }
}

static void steps(uint64_t count) {
    for (uint64_t step = 0; step < count; step++) {
        if (chance(3) == 0)
            do_something();
        else
            take_into(&now.hands[chance(HANDS)], (unsigned)chance(3));
    }
}

static void end_boxes(void) {
    for (int i = 0; i < now.office.count; i++) {
        parcel_box *box = now.boxes[i];
        now.boxes[i] = NULL;
        if (box != NULL)
            parcel_end(box);
    }
}

static void end_all(void) {
    end_boxes();
    bring_all();
    while (atomic_load(&now.office.world.port->in_flight) > 0) {
        take_into(&now.hands[0], 10000);
        CHECK(now.hands[0] != NULL); /* it ends */
    }
    bring_all();
}

static void end_with_the_port(void) {
    if (chance(2) == 0)
        bring_all();
    CHECK_INT(parcels_close_port(&now.office, 10 * IO_NS_PER_SECOND), 0);
    if (chance(2) == 0)
        bring_all();
    end_boxes();
    bring_all();
}

static void run_seed(uint64_t seed, uint32_t faults) {
    begin(seed, faults);
    steps(20 + chance(400));
    now.ending = chance(2) == 0;
    if (chance(2) == 0)
        end_all();
    else
        end_with_the_port();
    parcels_close(&now.office);
}

SEEDS_TESTS(run_seed, 2000, 6000, 6000)

int main(int argc, char **argv) {
    static const test_case tests[] = {SEEDS_ENTRIES};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
