/* fuzz_port.c: random operations on a port of the simulated backend, checked against a model.
 *
 * The model: every operation ends exactly once. Operations that are not cancelled end in the order
 * of their direction. One end of a stream receives what was sent at the other, in order; of a send
 * that failed or was cancelled, it may receive a prefix. Posts come in order, and timers not before
 * their time. When everything is closed, nothing is in flight and nothing is left. The simulated
 * kernel checks that the core keeps to the contract of core/backend.h.
 *
 * A failure names its test and its seed: FUZZ_SEED=<seed> fuzz_port --only <test> repeats it. */
#include "seeds.h"

enum { STREAMS = 6, ENDS = 2 * STREAMS, OPERATIONS = 400, SENDS_MAX = 600, LENGTH_MAX = 30000 };

typedef struct fuzz_record {
    io_op *op; /* NULL: not in use */
    uint8_t kind;
    int end; /* index of the handle, -1 for posts and timers */
    int direction;
    uint64_t serial, incarnation;
    uint64_t due_ns;
    size_t length;
    char *buffer;
} fuzz_record;

/* What was sent by one end and what arrived at the other. */
typedef struct fuzz_flow {
    struct {
        uint64_t serial;
        size_t length;
        bool cut; /* failed or cancelled: any beginning may have arrived */
    } sends[SENDS_MAX];
    int send_count;
    char *arrived;
    size_t arrived_length, arrived_capacity;
} fuzz_flow;

typedef struct fuzz_end {
    io_native native;
    io_handle *handle;
    uint64_t incarnation; /* +1 with each new handle */
    fuzz_flow out;
    bool plain; /* a stream whose bytes are checked: one of a pair */
} fuzz_end;

typedef struct fuzz_state {
    test_world world;
    test_random random;
    uint64_t seed;
    uint32_t faults;
    fuzz_record records[OPERATIONS];
    fuzz_end ends[ENDS]; /* 2i and 2i+1 are the two ends of a stream */
    io_native listener, datagram, file;
    io_handle *listener_handle, *datagram_handle, *file_handle;
    io_address listener_address, datagram_address;
    uint64_t next_serial, next_post, posts_seen;
    uint64_t submitted, ended;
} fuzz_state;

static uint64_t seed_now;

#define EXPECT(condition)                                                         \
    do {                                                                          \
        if (!(condition))                                                         \
            FAIL("FUZZ_SEED=%llu: %s", (unsigned long long)seed_now, #condition); \
    } while (0)

static uint64_t chance(fuzz_state *fuzz, uint64_t below) {
    return test_below(&fuzz->random, below);
}

/* What a send carries: known from its serial number alone. */
static char byte_of(uint64_t serial, size_t place) {
    uint64_t mixed = (serial * 2654435761u) ^ (place * 40503u);
    return (char)(mixed ^ (mixed >> 11));
}

/* ---- streams --------------------------------------------------------------------------------- */

static void flow_clear(fuzz_flow *flow) {
    free(flow->arrived);
    memset(flow, 0, sizeof(*flow));
}

static void flow_append(fuzz_flow *flow, const char *bytes, size_t length) {
    if (flow->arrived_length + length > flow->arrived_capacity) {
        flow->arrived_capacity = 2 * (flow->arrived_length + length);
        flow->arrived = realloc(flow->arrived, flow->arrived_capacity);
        CHECK(flow->arrived != NULL);
    }
    memcpy(flow->arrived + flow->arrived_length, bytes, length);
    flow->arrived_length += length;
}

/* How far the bytes from `start` on are those of this send. */
static size_t matching(const fuzz_flow *flow, int send, size_t start) {
    size_t length = 0;
    while (length < flow->sends[send].length && start + length < flow->arrived_length &&
           flow->arrived[start + length] == byte_of(flow->sends[send].serial, length))
        length++;
    return length;
}

/* Is what arrived a beginning of what was sent? `place[i]`: it may, if the sends so far took i. */
static void flow_check(fuzz_flow *flow) {
    size_t size = flow->arrived_length + 1;
    bool *place = calloc(2 * size, 1), *next = place + size;
    CHECK(place != NULL);
    bool *both = place;
    place[0] = true;
    bool right = flow->arrived_length == 0;
    for (int send = 0; send < flow->send_count && !right; send++) {
        memset(next, 0, size);
        for (size_t start = 0; start < size; start++) {
            if (!place[start])
                continue;
            size_t length = matching(flow, send, start);
            right = right || start + length == flow->arrived_length;
            if (flow->sends[send].cut)
                memset(next + start, 1, length + 1);
            else if (length == flow->sends[send].length)
                next[start + length] = true;
        }
        bool *swap = place;
        place = next;
        next = swap;
    }
    free(both);
    EXPECT(right);
}

static void end_open(fuzz_state *fuzz, int number, io_native native, bool plain) {
    fuzz_end *end = &fuzz->ends[number];
    end->native = native;
    end->handle = world_handle(&fuzz->world, native);
    end->incarnation++;
    end->plain = plain;
    flow_clear(&end->out);
}

static void pair_open(fuzz_state *fuzz, int stream) {
    io_native natives[2];
    world_pair(&fuzz->world, natives);
    end_open(fuzz, 2 * stream, natives[0], true);
    end_open(fuzz, 2 * stream + 1, natives[1], true);
}

/* ---- submitting ------------------------------------------------------------------------------ */

static fuzz_record *free_record(fuzz_state *fuzz) {
    for (int i = 0; i < OPERATIONS; i++) {
        if (fuzz->records[i].op == NULL)
            return &fuzz->records[i];
    }
    return NULL;
}

static void start(fuzz_state *fuzz, fuzz_record *record, io_op *op, io_handle *handle, int end,
                  int direction) {
    record->op = op;
    record->kind = op->kind;
    record->end = end;
    record->direction = direction;
    record->serial = ++fuzz->next_serial;
    record->incarnation = end >= 0 ? fuzz->ends[end].incarnation : 0;
    op->owner = record;
    fuzz->submitted++;
    if (op->kind == IO_SEND || op->kind == IO_SEND_TO) {
        for (size_t i = 0; i < record->length; i++)
            record->buffer[i] = byte_of(record->serial, i);
    }
    if (op->kind == IO_SEND && fuzz->ends[end].plain) {
        fuzz_flow *out = &fuzz->ends[end].out;
        out->sends[out->send_count].serial = record->serial;
        out->sends[out->send_count].length = record->length;
        out->sends[out->send_count++].cut = true; /* until it has succeeded */
    }
    if (handle != NULL)
        io_op_submit(op, handle);
}

static void buffer(fuzz_state *fuzz, fuzz_record *record, bool empty) {
    uint64_t most = chance(fuzz, 8) == 0 ? LENGTH_MAX : 300;
    record->length = 1 + (size_t)chance(fuzz, most);
    record->buffer = empty ? NULL : malloc(record->length);
    CHECK(empty || record->buffer != NULL);
}

static void submit_stream(fuzz_state *fuzz, fuzz_record *record) {
    int number = (int)chance(fuzz, ENDS);
    fuzz_end *end = &fuzz->ends[number];
    switch (chance(fuzz, 8)) {
    case 0:
    case 1:
    case 2:
        buffer(fuzz, record, chance(fuzz, 2) == 0);
        start(fuzz, record, new_recv(&fuzz->world, record->buffer, record->length), end->handle,
              number, IO_IN);
        break;
    case 3:
    case 4:
    case 5:
        if (end->out.send_count == SENDS_MAX)
            return;
        buffer(fuzz, record, false);
        start(fuzz, record, new_send(&fuzz->world, record->buffer, record->length), end->handle,
              number, IO_OUT);
        break;
    case 6:
        if (end->plain)
            return; /* what it sends is not in the model */
        start(fuzz, record, new_send_file(&fuzz->world, fuzz->file, chance(fuzz, 100), 500),
              end->handle, number, IO_OUT);
        break;
    default:
        start(fuzz, record, new_poll(&fuzz->world, 1 + (uint32_t)chance(fuzz, 3)), end->handle,
              number, -1);
        break;
    }
}

static void submit_other(fuzz_state *fuzz, fuzz_record *record) {
    test_world *world = &fuzz->world;
    int number = (int)chance(fuzz, ENDS);
    switch (chance(fuzz, 8)) {
    case 0:
        start(fuzz, record, new_accept(world), fuzz->listener_handle, -1, -1);
        break;
    case 1:
        start(fuzz, record, new_connect(world, &fuzz->listener_address), fuzz->ends[number].handle,
              number, IO_OUT);
        break;
    case 2:
        buffer(fuzz, record, false);
        start(fuzz, record,
              new_send_to(world, record->buffer, record->length, &fuzz->datagram_address),
              fuzz->datagram_handle, -1, -1);
        break;
    case 3:
        buffer(fuzz, record, chance(fuzz, 2) == 0);
        start(fuzz, record, new_recv_from(world, record->buffer, record->length),
              fuzz->datagram_handle, -1, -1);
        break;
    case 4:
    case 5: {
        io_kind kind = (io_kind)(IO_READ + chance(fuzz, 3));
        buffer(fuzz, record, kind == IO_READ && chance(fuzz, 2) == 0);
        if (record->buffer != NULL)
            memset(record->buffer, 7, record->length);
        start(fuzz, record,
              new_file_op(world, kind, record->buffer, record->length, chance(fuzz, 5000)),
              fuzz->file_handle, -1, -1);
        break;
    }
    case 6: {
        io_timer *timer = (io_timer *)io_op_new(world->lane, IO_TIMER, NULL, NULL);
        uint64_t delay_ns = chance(fuzz, 30 * IO_NS_PER_MS);
        start(fuzz, record, &timer->op, NULL, -1, -1);
        record->due_ns = io_lane_now(world->lane) + delay_ns;
        io_timer_submit(timer, delay_ns);
        break;
    }
    default:
        start(fuzz, record, io_op_new(world->lane, IO_POST, NULL, NULL), NULL, -1, -1);
        record->due_ns = fuzz->next_post++;
        io_post_submit(record->op);
        break;
    }
}

/* ---- completions ----------------------------------------------------------------------------- */

/* What is not cancelled does not overtake what was submitted before it. */
static void check_order(const fuzz_state *fuzz, const fuzz_record *ended) {
    const fuzz_end *end = &fuzz->ends[ended->end];
    if (ended->op->result == -IOE_CANCELED || ended->incarnation != end->incarnation)
        return;
    for (int i = 0; i < OPERATIONS; i++) {
        const fuzz_record *other = &fuzz->records[i];
        EXPECT(other->op == NULL || other->end != ended->end ||
               other->direction != ended->direction || other->incarnation != ended->incarnation ||
               other->serial >= ended->serial);
    }
}

static void ended_recv(fuzz_state *fuzz, const fuzz_record *record) {
    const fuzz_end *end = &fuzz->ends[record->end];
    io_op *op = record->op;
    if (!end->plain || end->incarnation != record->incarnation || op->result <= 0)
        return;
    EXPECT((size_t)op->result <= record->length);
    flow_append(&fuzz->ends[record->end ^ 1].out, io_vec_base(&((io_transfer *)op)->inline_vecs[0]),
                (size_t)op->result);
}

static void ended_send(fuzz_state *fuzz, const fuzz_record *record) {
    fuzz_flow *out = &fuzz->ends[record->end].out;
    if (fuzz->ends[record->end].incarnation != record->incarnation || record->op->result < 0)
        return;
    EXPECT((size_t)record->op->result == record->length);
    for (int i = 0; i < out->send_count; i++) {
        if (out->sends[i].serial == record->serial)
            out->sends[i].cut = false;
    }
}

static void ended_accept(fuzz_state *fuzz, const io_accept *accept) {
    if (accept->op.result < 0)
        return;
    EXPECT(accept->accepted != IO_NATIVE_NONE && accept->peer.length > 0);
    io_handle *handle = world_handle(&fuzz->world, accept->accepted);
    world_handle_close(handle);
}

static void handle_ended(fuzz_state *fuzz, io_op *op) {
    fuzz_record *record = op->owner;
    EXPECT(record >= fuzz->records && record < fuzz->records + OPERATIONS);
    EXPECT(record->op == op && record->kind == op->kind);
    EXPECT(op->state == IO_OP_COMPLETED);
    fuzz->ended++;
    if (record->end >= 0 && record->direction >= 0)
        check_order(fuzz, record);
    switch ((io_kind)op->kind) {
    case IO_RECV:
        ended_recv(fuzz, record);
        break;
    case IO_SEND:
        ended_send(fuzz, record);
        break;
    case IO_ACCEPT:
        ended_accept(fuzz, (const io_accept *)op);
        break;
    case IO_POLL:
        EXPECT(op->result < 0 || ((io_poll *)op)->ready != 0);
        break;
    case IO_TIMER:
        EXPECT(op->result == -IOE_CANCELED ||
               io_lane_now(&fuzz->world.port->lane) >= record->due_ns);
        break;
    case IO_POST:
        EXPECT(op->result == 0 && record->due_ns == fuzz->posts_seen++);
        break;
    default:
        EXPECT(op->result <= (int64_t)LENGTH_MAX);
        break;
    }
    io_op_release(op);
    free(record->buffer);
    memset(record, 0, sizeof(*record));
}

static void get(fuzz_state *fuzz, int maximum, uint64_t ms) {
    io_op *ops[16];
    io_lane *lane = fuzz->world.lane;
    io_wait wait = {.deadline_ns = ms == 0 ? 0 : io_lane_now(lane) + ms * IO_NS_PER_MS};
    int count = io_lane_get(lane, &wait, ops, maximum);
    EXPECT(count >= 0 && count <= maximum);
    for (int i = 0; i < count; i++)
        handle_ended(fuzz, ops[i]);
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void cancel_some(fuzz_state *fuzz) {
    fuzz_record *record = &fuzz->records[chance(fuzz, OPERATIONS)];
    for (int tries = 0; record->op == NULL && tries < 50; tries++)
        record = &fuzz->records[chance(fuzz, OPERATIONS)];
    if (record->op != NULL)
        io_op_cancel(record->op);
}

/* One end, or both; what was in flight ends, and new ones take the place. */
static void renew_stream(fuzz_state *fuzz) {
    int stream = (int)chance(fuzz, STREAMS);
    for (int i = 0; i < 2; i++) {
        fuzz_end *end = &fuzz->ends[2 * stream + i];
        flow_check(&end->out);
        world_handle_close(end->handle);
    }
    if (chance(fuzz, 2) == 0) {
        pair_open(fuzz, stream);
        return;
    }
    for (int i = 0; i < 2; i++) /* to be connected; or not */
        end_open(fuzz, 2 * stream + i, world_socket(&fuzz->world), false);
}

static void fuzz_open(fuzz_state *fuzz, uint64_t seed, uint32_t faults) {
    memset(fuzz, 0, sizeof(*fuzz));
    fuzz->seed = seed_now = seed;
    fuzz->random.state = seed;
    fuzz->faults = faults;
    world_open(&fuzz->world, "sim", 1);
    io_sim_configure(fuzz->world.lane, seed, faults);
    for (int i = 0; i < STREAMS; i++)
        pair_open(fuzz, i);
    fuzz->listener = world_listener(&fuzz->world, &fuzz->listener_address);
    fuzz->datagram = world_datagram(&fuzz->world, &fuzz->datagram_address);
    fuzz->file = world_file(&fuzz->world, "0123456789", 10);
    fuzz->listener_handle = world_handle(&fuzz->world, fuzz->listener);
    fuzz->datagram_handle = world_handle(&fuzz->world, fuzz->datagram);
    fuzz->file_handle = world_handle(&fuzz->world, fuzz->file);
}

static void steps(fuzz_state *fuzz, uint64_t count) {
    for (uint64_t step = 0; step < count; step++) {
        uint64_t what = chance(fuzz, 100);
        fuzz_record *record = what < 60 ? free_record(fuzz) : NULL;
        if (what < 60 && record == NULL)
            get(fuzz, 16, 1);
        else if (what < 42)
            submit_stream(fuzz, record);
        else if (what < 60)
            submit_other(fuzz, record);
        else if (what < 68)
            cancel_some(fuzz);
        else if (what < 69)
            renew_stream(fuzz);
        else
            get(fuzz, 1 + (int)chance(fuzz, 16), chance(fuzz, 3));
    }
}

static void visit_remaining(io_op *op, bool leaked, void *context) {
    EXPECT(!leaked);
    if (op->kind == IO_POST) /* the order holds here too */
        handle_ended(context, op);
    else if (op->kind == IO_ACCEPT || op->kind == IO_TIMER) {
        fuzz_state *fuzz = context;
        fuzz_record *record = op->owner;
        EXPECT(record->op == op);
        fuzz->ended++;
        io_op_release(op);
        memset(record, 0, sizeof(*record));
    } else {
        handle_ended(context, op);
    }
}

static void check_all_ended(const fuzz_state *fuzz) {
    EXPECT(fuzz->submitted == fuzz->ended);
    EXPECT(fuzz->next_post == fuzz->posts_seen);
    for (int i = 0; i < OPERATIONS; i++)
        EXPECT(fuzz->records[i].op == NULL);
}

/* Ends everything by closing the handles, or by closing the port with all in flight. */
static void finish(fuzz_state *fuzz) {
    io_port *port = fuzz->world.port;
    EXPECT((uint64_t)atomic_load(&port->in_flight) == fuzz->submitted - fuzz->ended);
    if (chance(fuzz, 2) == 0) {
        for (int i = 0; i < OPERATIONS; i++) {
            if (fuzz->records[i].op != NULL && fuzz->records[i].kind == IO_TIMER)
                io_op_cancel(fuzz->records[i].op);
        }
        for (int i = 0; i < ENDS; i++)
            io_handle_close(fuzz->ends[i].handle);
        io_handle_close(fuzz->listener_handle);
        io_handle_close(fuzz->datagram_handle);
        io_handle_close(fuzz->file_handle);
        for (int i = 0; i < 10000 && fuzz->ended < fuzz->submitted; i++)
            get(fuzz, 16, 50);
        check_all_ended(fuzz);
        EXPECT(atomic_load(&port->in_flight) == 0);
        io_sim_stats stats;
        io_sim_get_stats(fuzz->world.lane, &stats);
        EXPECT(stats.in_flight == 0 && stats.natives == 0 && stats.files == 0);
    }
    EXPECT(io_port_begin_close(port));
    EXPECT(io_port_drain(port, 10 * IO_NS_PER_SECOND) == 0);
    io_port_take_remaining(port, visit_remaining, fuzz);
    check_all_ended(fuzz);
    EXPECT(atomic_load(&port->submitted) == atomic_load(&port->completed) +
                                                atomic_load(&port->failed) +
                                                atomic_load(&port->cancelled));
    io_port_finish_close(port, 0);
    io_port_destroy(port);
    for (int i = 0; i < ENDS; i++) {
        flow_check(&fuzz->ends[i].out);
        flow_clear(&fuzz->ends[i].out);
    }
}

static void run_seed(uint64_t seed, uint32_t faults) {
    static fuzz_state fuzz;
    fuzz_open(&fuzz, seed, faults);
    steps(&fuzz, 100 + chance(&fuzz, 900));
    finish(&fuzz);
}

static void only_checks(void) {
    seeds_run(500, IO_SIM_CHECK, false, run_seed);
}

SEEDS_TESTS(run_seed, 1000, 2000, 3000)

int main(int argc, char **argv) {
    static const test_case tests[] = {TEST(only_checks), SEEDS_ENTRIES};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
