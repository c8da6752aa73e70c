/* parcels.c: see parcels.h. */
#include "parcels.h"

#ifndef _WIN32
#include <fcntl.h>
#endif

enum { MAX_SIZE = 65535 };

typedef struct parcel {
    uint64_t number;
    uint32_t from, length;
    uint64_t fill; /* begins here, and goes on to the end */
} parcel;

typedef struct owned {
    size_t length;
    char data[];
} owned;

_Atomic int parcel_owned;

static parcels *scripted; /* whose send_now it is */

static bool take(io_op *op);
static void collect(io_op *op, bool leaked);
static const io_owner_ops parcel_owner_ops = {take, collect};

static void owned_release(owned *memory) {
    memset(memory->data, 0xdd, memory->length);
    free(memory);
    CHECK(atomic_fetch_sub(&parcel_owned, 1) > 0);
}

static char fill_of(uint32_t from, uint64_t number, size_t place) {
    return (char)(from * 131 + number * 17 + place * 7);
}

static owned *owned_new(uint32_t from, uint64_t number, size_t length) {
    owned *memory = malloc(sizeof(*memory) + length);
    CHECK(memory != NULL && length >= PARCEL_MIN);
    parcel head = {number, from, (uint32_t)length, 0};
    memory->length = length;
    memcpy(memory->data, &head, sizeof(head));
    for (size_t i = offsetof(parcel, fill); i < length; i++)
        memory->data[i] = fill_of(from, number, i);
    atomic_fetch_add(&parcel_owned, 1);
    return memory;
}

/* ---- ports ----------------------------------------------------------------------------------- */

static int64_t script_send_now(io_handle *handle, io_vec *vecs, uint32_t count, io_address *to,
                               bool last, uint32_t *os_error) {
    const io_backend *real = scripted->world.backend;
    int answer = atomic_load(&scripted->scripted);
    atomic_fetch_add(&scripted->send_now_calls, 1);
    if (answer == PARCELS_LOST)
        return (int64_t)io_vec_length(vecs);
    if (answer != 0 || real->send_now == NULL)
        return answer != 0 ? answer : -IOE_AGAIN;
    return real->send_now(handle, vecs, count, to, last, os_error);
}

void parcels_open(parcels *self, const char *backend, uint32_t concurrency) {
    memset(self, 0, sizeof(*self));
    world_open(&self->world, backend, concurrency);
    self->backend = *self->world.backend;
    self->backend.send_now = script_send_now;
    self->world.lane->backend = &self->backend;
    scripted = self;
    CHECK_INT(atomic_load(&parcel_owned), 0);
}

/* Operations of the larger kind that were not released. 64 are in a slab (op.c). */
static size_t operations_left(const io_port *port) {
    size_t slabs = 0, unused = 0;
    if (io_guard_enabled())
        return 0;
    for (const struct io_slab *slab = port->slabs[1]; slab != NULL; slab = *(void *const *)slab)
        slabs++;
    for (const io_op *op = port->free_ops[1]; op != NULL; op = (const io_op *)op->link.next)
        unused++;
    return slabs * 64 - unused;
}

void parcels_close(parcels *self) {
    io_port_figures figures;
    CHECK_INT(atomic_load(&parcel_owned), 0);
    CHECK_INT(operations_left(self->world.port), 0);
    if (self->port_closed) {
        io_port_destroy(self->world.port);
        return;
    }
    io_port_stats(self->world.port, &figures);
    CHECK_INT(figures.handles, 0);
    world_close(&self->world);
}

static void collect(io_op *op, bool leaked) {
    if (leaked)
        return;
    parcel_box *box = IO_CONTAINER(op->owner, parcel_box, io);
    owned *memory = io_datagram_socket_collected(op);
    if (memory != NULL) {
        atomic_fetch_add(&box->collected, 1);
        owned_release(memory);
    }
    parcel_drop(box);
}

static void collect_any(io_op *op, bool leaked, void *context) {
    (void)context;
    if (op->owner_ops != NULL)
        op->owner_ops->collect(op, leaked);
    else
        io_op_release(op);
}

size_t parcels_close_port(parcels *self, uint64_t timeout_ns) {
    CHECK(io_port_begin_close(self->world.port));
    size_t leaked = io_port_drain(self->world.port, timeout_ns);
    self->port_closed = true;
    io_port_take_remaining(self->world.port, collect_any, NULL);
    io_port_finish_close(self->world.port, leaked);
    return leaked;
}

/* ---- boxes ----------------------------------------------------------------------------------- */

parcel_box *parcel_box_adopt(parcels *self, io_native native, const io_address *address,
                             uint64_t max_write_buffer, int *error) {
    parcel_box *box = calloc(1, sizeof(*box));
    uint32_t os_error = 0;
    CHECK(box != NULL && self->count < PARCEL_BOXES);
#ifdef _WIN32
    u_long on = 1;
    CHECK(self->world.sim || ioctlsocket((SOCKET)native, (long)FIONBIO, &on) == 0);
#else
    CHECK(self->world.sim || fcntl((int)native, F_SETFL, O_NONBLOCK) == 0);
#endif
    *error = io_datagram_socket_open(&box->io, self->world.lane, native, AF_INET, MAX_SIZE,
                                     max_write_buffer, &parcel_owner_ops, &os_error);
    if (*error != 0) {
        free(box);
        return NULL;
    }
    box->parcels = self;
    box->native = native;
    box->index = self->count;
    CHECK_INT(io_mutex_init(&box->sending), 0);
    atomic_init(&box->references, 1);
    self->addresses[self->count++] = *address;
    return box;
}

parcel_box *parcel_box_new(parcels *self, uint64_t max_write_buffer) {
    io_address address;
    int error;
    io_native native = world_datagram(&self->world, &address);
    parcel_box *box = parcel_box_adopt(self, native, &address, max_write_buffer, &error);
    CHECK_INT(error, 0);
    return box;
}

void parcel_secure(parcel_box *box) {
    CHECK(atomic_fetch_add(&box->references, 1) > 0);
}

void parcel_drop(parcel_box *box) {
    int before = atomic_fetch_sub(&box->references, 1);
    CHECK(before > 0);
    if (before > 1)
        return;
    CHECK(atomic_load(&box->closed));
    parcel_check(box);
    io_datagram_socket_free(&box->io);
    io_mutex_destroy(&box->sending);
    memset(box, 0xdd, sizeof(*box));
    free(box);
}

void parcel_close(parcel_box *box) {
    if (io_datagram_socket_close(&box->io))
        CHECK(!atomic_exchange(&box->closed, true));
    CHECK(io_datagram_socket_closed(&box->io));
    CHECK_INT(io_datagram_socket_native(&box->io), IO_NATIVE_NONE);
}

void parcel_end(parcel_box *box) {
    parcel_close(box);
    parcel_drop(box);
}

bool parcel_receive(parcel_box *box) {
    parcel_secure(box);
    bool in_flight = io_datagram_socket_receive(&box->io);
    if (!in_flight)
        parcel_drop(box);
    return in_flight;
}

int parcel_send(parcel_box *box, int to, size_t length) {
    io_address address = box->parcels->addresses[to];
    io_vec data;
    io_mutex_lock(&box->sending);
    owned *memory = owned_new((uint32_t)box->index, ++box->out, length);
    io_vec_set(&data, memory->data, length);
    parcel_secure(box);
    atomic_fetch_add(&box->kept, 1); /* it may come back at once */
    atomic_fetch_add(&box->pending, length);
    int answer = io_datagram_socket_send(&box->io, &data, &address, memory);
    if (answer != IO_DATAGRAM_QUEUED) {
        CHECK(answer == IO_DATAGRAM_SENT_NOW || answer == IO_DATAGRAM_DROPPED);
        atomic_fetch_add(answer == IO_DATAGRAM_SENT_NOW ? &box->sent : &box->dropped, 1);
        atomic_fetch_sub(&box->kept, 1);
        atomic_fetch_sub(&box->pending, length);
        owned_release(memory);
    }
    io_mutex_unlock(&box->sending);
    if (answer != IO_DATAGRAM_QUEUED)
        parcel_drop(box);
    return answer;
}

void parcel_check(parcel_box *box) {
    io_datagram_figures figures;
    io_datagram_socket_figures(&box->io, &figures);
    CHECK_INT(figures.sent, box->sent);
    CHECK_INT(figures.dropped, box->dropped);
    CHECK_INT(figures.received, box->delivered);
    CHECK_INT(figures.errors,
              box->came[IO_DATAGRAM_NOT_SENT] + box->came[IO_DATAGRAM_NOT_RECEIVED]);
    CHECK_INT(figures.pending, box->pending);
    CHECK(box->kept >= box->collected);
    CHECK(figures.bytes_received >= figures.received * PARCEL_MIN);
    CHECK(figures.bytes_sent >= figures.sent * PARCEL_MIN);
}

/* ---- turns ----------------------------------------------------------------------------------- */

static bool same_address(const io_address *one, const io_address *other) {
    io_address_parts a, b;
    io_address_split(one, &a);
    io_address_split(other, &b);
    return a.family == b.family && strcmp(a.host, b.host) == 0 && a.port == b.port &&
           a.path_length == b.path_length && memcmp(a.path, b.path, a.path_length) == 0;
}

static void check_content(parcel_box *box, io_datagram_turn *turn) {
    const char *data;
    size_t length;
    const io_address *from = io_datagram_turn_received(turn, &data, &length);
    parcel head;
    CHECK(length >= PARCEL_MIN);
    memcpy(&head, data, sizeof(head));
    CHECK_INT(head.length, length);
    CHECK(head.from < (uint32_t)box->parcels->count);
    for (size_t i = offsetof(parcel, fill); i < length; i++)
        if (data[i] != fill_of(head.from, head.number, i))
            FAIL("number %llu from %u is wrong at %u", (unsigned long long)head.number, head.from,
                 (unsigned)i);
    CHECK(same_address(from, &box->parcels->addresses[head.from]));
    if (head.number <= box->in[head.from])
        FAIL("number %llu from %u comes after %llu", (unsigned long long)head.number, head.from,
             (unsigned long long)box->in[head.from]);
    box->in[head.from] = head.number;
}

/* The event that it has become. */
static io_datagram_event received(parcel_box *box, io_datagram_turn *turn) {
    bool closed = atomic_load(&box->closed);
    if (box->loses) {
        io_datagram_event event = io_datagram_turn_lose(turn);
        CHECK(event == IO_DATAGRAM_IDLE || event == IO_DATAGRAM_NOT_RECEIVED);
        CHECK(!closed || event == IO_DATAGRAM_IDLE);
        return event;
    }
    if (io_datagram_turn_deliver(turn)) {
        CHECK(!closed);
        box->failures = 0;
        atomic_fetch_add(&box->delivered, 1);
        check_content(box, turn);
        if (box->on_delivered != NULL)
            box->on_delivered(box);
    } else {
        CHECK(io_datagram_socket_closed(&box->io));
    }
    return IO_DATAGRAM_RECEIVED;
}

static void not_received(parcel_box *box, io_datagram_turn *turn) {
    CHECK_INT(turn->failures, box->failures + 1);
    box->failures = turn->failures;
    box->error = turn->error;
    atomic_store(&box->handing_on, false); /* from here on it is another's turn */
    if (!box->pauses)
        (void)parcel_receive(box);
}

static void send_ended(parcel_box *box, io_datagram_turn *turn, io_datagram_event event) {
    owned *memory = turn->data_owner;
    bool failed = turn->op->result < 0;
    CHECK(event == IO_DATAGRAM_SENT || (failed && turn->error == turn->op->result));
    if (event == IO_DATAGRAM_NOT_SENT)
        box->error = turn->error;
    CHECK_INT(((io_datagram *)turn->op)->transfer.length, memory->length);
    atomic_fetch_add(&box->sent, !failed);
    atomic_fetch_sub(&box->pending, memory->length);
    CHECK(atomic_fetch_sub(&box->kept, 1) > 0);
    owned_release(memory);
}

static void handle(parcel_box *box, io_datagram_turn *turn, io_datagram_event event) {
    bool receives = event == IO_DATAGRAM_RECEIVED || event == IO_DATAGRAM_NOT_RECEIVED;
    CHECK(!receives || !atomic_exchange(&box->handing_on, true));
    atomic_fetch_add(&box->came[event], 1);
    if (box->on_event != NULL)
        box->on_event(box, event);
    if (event == IO_DATAGRAM_RECEIVED) {
        event = received(box, turn);
        atomic_fetch_add(&box->came[IO_DATAGRAM_NOT_RECEIVED], event == IO_DATAGRAM_NOT_RECEIVED);
    }
    if (event == IO_DATAGRAM_NOT_RECEIVED)
        not_received(box, turn);
    else if (receives)
        atomic_store(&box->handing_on, false);
    else
        send_ended(box, turn, event);
}

void parcel_take(io_op *op) {
    parcel_box *box = IO_CONTAINER(op->owner, parcel_box, io);
    bool receives = op->kind == IO_RECV_FROM;
    io_datagram_turn turn;
    int events = 0;
    if (receives)
        parcel_secure(box);
    io_datagram_event event = io_datagram_turn_begin(&turn, op);
    while (event != IO_DATAGRAM_IDLE) {
        events++;
        handle(box, &turn, event);
        bool more = !box->stops;
        event = io_datagram_turn_next(&turn, more);
        CHECK(more || event == IO_DATAGRAM_IDLE);
    }
    CHECK(events <= PARCELS_TURN);
    CHECK(receives || (events == 1 && !turn.in_flight));
    if (events > atomic_load(&box->longest_turn))
        atomic_store(&box->longest_turn, events);
    if (receives)
        parcel_drop(box);
    if (!turn.in_flight)
        parcel_drop(box);
}

static bool take(io_op *op) {
    parcel_take(op);
    return true;
}

bool parcel_step(parcels *self, unsigned ms) {
    io_op *op = world_get(&self->world, ms);
    if (op == NULL)
        return false;
    if (op->owner_ops != NULL)
        (void)op->owner_ops->take(op);
    else
        io_op_release(op); /* a post of the test */
    return true;
}
