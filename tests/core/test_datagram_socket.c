/* test_datagram_socket.c: datagram sockets as embedders use them. parcels.c does most checks. */
#include "parcels.h"

#ifndef _WIN32
#include <sys/un.h>
#include <unistd.h>
#endif

enum { WRITE_BUFFER = 1 << 20, TURN = PARCELS_TURN, SENDERS = 3 };

static parcels office;

static void begin(const char *backend, uint64_t seed) {
    parcels_open(&office, backend, 1);
    if (office.world.sim)
        io_sim_configure(office.world.lane, seed,
                         seed == 0 ? 0
                                   : (uint32_t)(IO_SIM_FAULTS & ~(IO_SIM_ERRORS | IO_SIM_REFUSE)));
}

static void end(parcel_box *one, parcel_box *other) {
    parcel_end(one);
    if (other != NULL)
        parcel_end(other);
    PARCEL_UNTIL(&office, atomic_load(&office.world.port->in_flight) == 0);
    parcels_close(&office);
}

static uint64_t seeds(const char *backend, uint64_t count) {
    return strcmp(backend, "sim") == 0 ? test_scaled(count) : 1;
}

/* All that was sent has left. */
static void send_all(parcel_box *box, int to, int count, size_t length) {
    for (int i = 0; i < count; i++)
        CHECK(parcel_send(box, to, length) > 0);
    PARCEL_UNTIL(&office, atomic_load(&box->kept) == 0);
}

/* ---- there and back -------------------------------------------------------------------------- */

static void there_and_back(const char *backend) {
    for (uint64_t seed = 0; seed < seeds(backend, 200); seed++) {
        static const size_t lengths[] = {PARCEL_MIN, 100, 1472, 9000, 60000};
        begin(backend, seed);
        parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
        parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
        CHECK(parcel_receive(one) && parcel_receive(other));
        CHECK_INT(io_datagram_socket_native(&one->io), one->native);
        CHECK(!io_datagram_socket_closed(&one->io));
        for (int i = 0; i < (int)COUNT_OF(lengths); i++) {
            CHECK(parcel_send(one, 1, lengths[i]) > 0);
            PARCEL_UNTIL(&office, other->delivered == i + 1);
            CHECK(parcel_send(other, 0, lengths[i]) > 0);
            PARCEL_UNTIL(&office, one->delivered == 2 * i + 1);
            CHECK(parcel_send(one, 0, lengths[i]) > 0); /* to itself */
            PARCEL_UNTIL(&office, one->delivered == 2 * i + 2 && !one->kept && !other->kept);
        }
        parcel_check(one);
        parcel_check(other);
        end(one, other);
    }
}

/* Whatever has to wait, and whenever it is received. */
static void order(const char *backend) {
    for (uint64_t seed = 0; seed < seeds(backend, 100); seed++) {
        begin(backend, seed);
        parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
        parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
        CHECK(parcel_receive(other));
        for (int i = 0; i < 100; i++) {
            atomic_store(&office.scripted, i % 7 == 3 ? -IOE_AGAIN : 0);
            CHECK(parcel_send(one, 1, 200) > 0);
            if (i % 5 == 0)
                (void)parcel_step(&office, 0);
        }
        atomic_store(&office.scripted, 0);
        PARCEL_UNTIL(&office, other->in[0] == 100 && one->kept == 0);
        CHECK_INT(other->delivered, 100); /* so none came twice */
        end(one, other);
    }
}

/* ---- the queue ------------------------------------------------------------------------------- */

/* What follows one that waits, waits too, and the system is not asked. */
static void queue_behind(const char *backend) {
    begin(backend, 0);
    parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
    parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
    CHECK(parcel_receive(other));
    atomic_store(&office.scripted, -IOE_AGAIN);
    CHECK_INT(parcel_send(one, 1, 100), IO_DATAGRAM_QUEUED);
    CHECK_INT(office.send_now_calls, 1);
    atomic_store(&office.scripted, 0);
    for (int i = 0; i < 10; i++)
        CHECK_INT(parcel_send(one, 1, 50), IO_DATAGRAM_QUEUED);
    CHECK_INT(office.send_now_calls, 1);
    parcel_check(one);
    CHECK_INT(one->pending, 100 + 10 * 50);
    PARCEL_UNTIL(&office, one->kept == 0 && other->delivered == 11);
    CHECK_INT(one->pending, 0);
    CHECK_INT(one->sent, 11);
    bool at_once = office.world.backend->send_now != NULL;
    CHECK_INT(parcel_send(one, 1, 50), at_once ? IO_DATAGRAM_SENT_NOW : IO_DATAGRAM_QUEUED);
    CHECK_INT(office.send_now_calls, 2);
    PARCEL_UNTIL(&office, one->kept == 0 && other->delivered == 12);
    end(one, other);
}

#ifndef _WIN32
static io_native unix_socket(io_address *address) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    io_socklen length = sizeof(un);
    int native = socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK(native >= 0);
    CHECK_INT(bind(native, (struct sockaddr *)&un, sizeof(un.sun_family)), 0); /* any address */
    CHECK_INT(getsockname(native, (struct sockaddr *)&un, &length), 0);
    memset(address, 0, sizeof(*address));
    memcpy(&address->storage, &un, sizeof(un));
    address->length = length;
    return native;
}
#endif

/* UDP never has to wait on loopback, but a unix socket has when nobody reads. */
static void queue_that_blocks(const char *backend) {
#ifdef _WIN32
    (void)backend;
    test_skip("no such sockets here");
#else
    if (strcmp(backend, "sim") == 0) {
        test_skip("it has no such sockets");
        return;
    }
    io_address address;
    int error;
    begin(backend, 0);
    parcel_box *other = parcel_box_adopt(&office, unix_socket(&address), &address, 1, &error);
    office.addresses[0] = address;
    parcel_box *one =
        parcel_box_adopt(&office, unix_socket(&address), &address, WRITE_BUFFER, &error);
    int left = 0;
    while (parcel_send(one, 0, 100) == IO_DATAGRAM_SENT_NOW)
        CHECK(++left < 10000);
    for (int i = 0; i < 10; i++)
        CHECK_INT(parcel_send(one, 0, 50), IO_DATAGRAM_QUEUED);
    while (parcel_step(&office, 20))
        continue;
    CHECK_INT(one->kept, 11); /* nobody reads */
    CHECK_INT(one->pending, 100 + 10 * 50);
    CHECK_INT(one->sent, left);
    CHECK(parcel_receive(other));
    PARCEL_UNTIL(&office, other->delivered == left + 11 && one->kept == 0);
    CHECK_INT(one->sent, left + 11);
    CHECK_INT(parcel_send(one, 0, 50), IO_DATAGRAM_SENT_NOW);
    PARCEL_UNTIL(&office, other->delivered == left + 12);
    end(one, other);
#endif
}

/* One is taken however large it is; then no more than the limit. */
static void limits(const char *backend) {
    begin(backend, 0);
    parcel_box *one = parcel_box_new(&office, 1000);
    parcel_box *other = parcel_box_new(&office, 1000);
    CHECK(parcel_receive(other));
    atomic_store(&office.scripted, -IOE_AGAIN);
    CHECK_INT(parcel_send(one, 1, 1500), IO_DATAGRAM_QUEUED);
    CHECK_INT(parcel_send(one, 1, PARCEL_MIN), IO_DATAGRAM_DROPPED);
    PARCEL_UNTIL(&office, one->kept == 0);
    CHECK_INT(parcel_send(one, 1, 500), IO_DATAGRAM_QUEUED);
    CHECK_INT(parcel_send(one, 1, 501), IO_DATAGRAM_DROPPED);
    CHECK_INT(parcel_send(one, 1, 500), IO_DATAGRAM_QUEUED);
    CHECK_INT(parcel_send(one, 1, PARCEL_MIN), IO_DATAGRAM_DROPPED);
    CHECK_INT(one->dropped, 3);
    parcel_check(one);
    PARCEL_UNTIL(&office, one->kept == 0 && other->delivered == 3);
    atomic_store(&office.scripted, 0);
    if (office.world.backend->send_now != NULL) /* what leaves at once does not count */
        for (int i = 0; i < 5; i++)
            CHECK_INT(parcel_send(one, 1, 700), IO_DATAGRAM_SENT_NOW);
    end(one, other);
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* They are told in a turn, count as pending until then, and hold up nothing. */
static void errors_of_sends(const char *backend) {
    begin(backend, 0);
    parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
    parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
    CHECK(parcel_receive(other));
    atomic_store(&office.scripted, -IOE_HOSTUNREACH);
    CHECK_INT(parcel_send(one, 1, 400), IO_DATAGRAM_QUEUED);
    atomic_store(&office.scripted, 0);
    parcel_check(one);
    CHECK_INT(one->pending, 400);
    CHECK_INT(one->came[IO_DATAGRAM_NOT_SENT], 0);
    (void)parcel_send(one, 1, 100);
    CHECK_INT(office.send_now_calls, 2); /* nothing waits */
    PARCEL_UNTIL(&office, one->kept == 0 && other->delivered == 1);
    CHECK_INT(one->came[IO_DATAGRAM_NOT_SENT], 1);
    CHECK_INT(one->error, -IOE_HOSTUNREACH);
    parcel_check(one);
    CHECK_INT(one->pending, 0);
    CHECK_INT(parcel_send(one, 1, 66000), IO_DATAGRAM_QUEUED); /* the system's own answer */
    PARCEL_UNTIL(&office, one->kept == 0);
    CHECK_INT(one->came[IO_DATAGRAM_NOT_SENT], 2);
    CHECK_INT(one->error, -IOE_MSGSIZE);
    atomic_store(&office.scripted, -IOE_AGAIN); /* or an operation's */
    CHECK_INT(parcel_send(one, 1, 66000), IO_DATAGRAM_QUEUED);
    CHECK_INT(parcel_send(one, 1, 100), IO_DATAGRAM_QUEUED);
    PARCEL_UNTIL(&office, one->kept == 0 && other->delivered == 2);
    CHECK_INT(one->came[IO_DATAGRAM_NOT_SENT], 3);
    atomic_store(&office.scripted, -IOE_HOSTUNREACH);
    CHECK_INT(parcel_send(one, 1, 400), IO_DATAGRAM_QUEUED);
    parcel_close(one); /* nobody wants to know any more */
    PARCEL_UNTIL(&office, one->kept == 0);
    CHECK_INT(one->came[IO_DATAGRAM_NOT_SENT], 3);
    end(one, other);
}

/* The receive ends as if the system had said this, or the core had cancelled it. */
static void fail_next_receive(parcel_box *from, parcel_box *to, int error) {
    CHECK(parcel_send(from, to->index, 100) > 0);
    for (;;) {
        io_op *op = world_get(&office.world, 10000);
        CHECK(op != NULL);
        bool it = op->kind == IO_RECV_FROM && op->owner == &to->io;
        if (it) {
            op->result = -error;
            op->flags |= IO_OP_CANCEL_ASKED; /* which is no reason to end the next one */
        }
        parcel_take(op);
        if (it) {
            bool again = to->io.receiving; /* the receive is in flight, as if it was a new one */
            CHECK(!again || (to->io.receive->transfer.op.flags & IO_OP_CANCEL_ASKED) == 0);
            return;
        }
    }
}

/* None of them ends the socket; those in a row are counted. The embedder asks for the next one. */
static void errors_of_receives(const char *backend) {
    begin(backend, 0);
    parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
    parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
    CHECK(parcel_receive(other));
    for (int i = 1; i <= 100; i++) {
        fail_next_receive(one, other, IOE_CONNREFUSED);
        CHECK_INT(other->came[IO_DATAGRAM_NOT_RECEIVED], i);
        CHECK_INT(other->failures, i);
        CHECK_INT(other->error, -IOE_CONNREFUSED);
    }
    send_all(one, 1, 1, 100);
    PARCEL_UNTIL(&office, other->delivered == 1);
    fail_next_receive(one, other, IOE_NOBUFS);
    CHECK_INT(other->failures, 1); /* in a row */
    other->pauses = true;
    fail_next_receive(one, other, IOE_NOBUFS);
    CHECK_INT(other->failures, 2);
    send_all(one, 1, 3, 100);
    while (parcel_step(&office, 20))
        continue;
    CHECK_INT(other->delivered, 1); /* nothing is asked for */
    CHECK(parcel_receive(other));
    CHECK(!parcel_receive(other));
    PARCEL_UNTIL(&office, other->delivered == 4);
    fail_next_receive(one, other, IOE_NOBUFS);
    parcel_close(other); /* while it pauses */
    CHECK(!parcel_receive(other));
    end(one, other);
}

/* Without memory in the embedder the same. */
static void lost(const char *backend) {
    begin(backend, 0);
    parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
    parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
    CHECK(parcel_receive(other));
    other->loses = true;
    send_all(one, 1, 3, 100);
    PARCEL_UNTIL(&office, other->came[IO_DATAGRAM_NOT_RECEIVED] == 3);
    CHECK_INT(other->failures, 3);
    CHECK_INT(other->delivered, 0);
    other->loses = false;
    send_all(one, 1, 1, 100);
    PARCEL_UNTIL(&office, other->delivered == 1);
    CHECK_INT(other->failures, 0);
    end(one, other);
}

#ifndef _WIN32
/* Real ones: nobody listens where a connected socket sends. */
static void refused(const char *backend) {
    if (strcmp(backend, "sim") == 0) {
        test_skip("nobody tells the sender there");
        return;
    }
    io_address nobody;
    begin(backend, 0);
    io_native gone = world_datagram(&office.world, &nobody);
    parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
    world_native_close(&office.world, gone, false);
    CHECK_INT(connect((int)one->native, (struct sockaddr *)&nobody.storage, nobody.length), 0);
    office.addresses[office.count++] = nobody;
    CHECK(parcel_receive(one));
    for (int i = 0; i < 3; i++) {
        int before = one->came[IO_DATAGRAM_NOT_RECEIVED] + one->came[IO_DATAGRAM_NOT_SENT];
        CHECK(parcel_send(one, 1, 100) > 0);
        PARCEL_UNTIL(&office,
                     one->came[IO_DATAGRAM_NOT_RECEIVED] + one->came[IO_DATAGRAM_NOT_SENT] >
                         before);
        CHECK_INT(one->error, -IOE_CONNREFUSED);
    }
    end(one, NULL);
}
#endif

static void not_a_socket(const char *backend) {
    int error;
    begin(backend, 0);
    io_address address = {0};
    io_native file = world_file(&office.world, "x", 1);
    if (office.world.sim) {
        CHECK_INT(io_sim_close_native(office.world.lane, file), 0);
        CHECK(parcel_box_adopt(&office, file, &address, 1, &error) == NULL);
        CHECK(error < 0);
    } else {
#ifndef _WIN32
        close((int)file);
        uint32_t os_error = 0;
        static io_datagram_socket none;
        error = io_datagram_socket_open(&none, office.world.lane, file, AF_INET, 100, 1, NULL,
                                        &os_error);
        CHECK_INT(error, -IOE_BADF);
        CHECK_INT(io_datagram_socket_native(&none), IO_NATIVE_NONE);
#else
        world_native_close(&office.world, file, true);
#endif
    }
    parcels_close(&office);
}

/* ---- turns ----------------------------------------------------------------------------------- */

static int ready_before; /* datagrams that were delivered when the post came */

/* However many have come: then others have their turn. */
static void bound_of_a_turn(const char *backend) {
    begin(backend, 0);
    parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
    parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
    if (office.world.sim)
        io_sim_configure(office.world.lane, 0, IO_SIM_IMMEDIATE);
    send_all(one, 1, 5 * TURN, 100);
    CHECK(parcel_receive(other));
    ready_before = 0;
    while (other->delivered < 5 * TURN) {
        io_op *op = world_get(&office.world, 10000);
        CHECK(op != NULL);
        int before = other->delivered;
        post(&office.world, NULL); /* ready now: the next turn comes behind it */
        parcel_take(op);
        CHECK(other->delivered - before <= TURN);
        op = world_get(&office.world, 10000);
        CHECK(op != NULL && op->kind == IO_POST);
        io_op_release(op);
    }
    CHECK(other->longest_turn <= TURN);
    if (strcmp(backend, "epoll") == 0)
        CHECK_INT(other->longest_turn, TURN);
    CHECK_INT(other->delivered, 5 * TURN);
    end(one, other);
}

/* A turn ends after an event if the embedder wants it, or if the port is stopped. */
static void turns_that_end(const char *backend) {
    for (int stopped = 0; stopped < 2; stopped++) {
        begin(backend, 0);
        parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
        parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
        send_all(one, 1, 10, 100);
        CHECK(parcel_receive(other));
        other->stops = !stopped;
        if (stopped)
            io_port_stop(office.world.port);
        for (int i = 1; i <= 10; i++)
            PARCEL_UNTIL(&office, other->delivered == i);
        CHECK_INT(other->longest_turn, 1);
        end(one, other);
    }
}

/* ---- closing --------------------------------------------------------------------------------- */

static void close_it(parcel_box *box) {
    parcel_close(box);
}

static void close_on_receive(parcel_box *box, io_datagram_event event) {
    if (event == IO_DATAGRAM_RECEIVED || event == IO_DATAGRAM_NOT_RECEIVED)
        parcel_close(box);
}

static void never_opened(const char *backend) {
    static io_datagram_socket none;
    io_datagram_figures figures;
    io_address to = {0};
    io_vec data;
    char byte = 'x';
    begin(backend, 0);
    io_vec_set(&data, &byte, 1);
    CHECK_INT(io_datagram_socket_send(&none, &data, &to, NULL), IO_DATAGRAM_DROPPED);
    CHECK(!io_datagram_socket_receive(&none));
    CHECK_INT(io_datagram_socket_native(&none), IO_NATIVE_NONE);
    CHECK(!io_datagram_socket_closed(&none));
    CHECK(io_datagram_socket_close(&none));
    CHECK(!io_datagram_socket_close(&none));
    CHECK(io_datagram_socket_closed(&none));
    io_datagram_socket_figures(&none, &figures);
    CHECK_INT(figures.dropped, 1);
    io_datagram_socket_free(&none);
    memset(&none, 0, sizeof(none));
    parcels_close(&office);
}

typedef enum closing {
    BEFORE_RECEIVING,
    WHILE_IT_WAITS,
    AFTER_IT_CAME, /* the receive has ended, and nobody has taken it */
    BEFORE_DELIVERY,
    AFTER_DELIVERY,
    IN_A_LOSS,
    IN_A_FAILURE,
    WITH_SENDS,
    CLOSINGS
} closing;

static int undeliverable(closing when) {
    return when == AFTER_DELIVERY ? 1 : 0;
}

static void close_when(const char *backend, closing when, uint64_t seed) {
    begin(backend, seed);
    parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
    parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
    if (when != BEFORE_RECEIVING)
        CHECK(parcel_receive(other));
    if (when == WITH_SENDS) {
        atomic_store(&office.scripted, -IOE_AGAIN);
        for (int i = 0; i < 20; i++)
            CHECK_INT(parcel_send(other, 0, 100), IO_DATAGRAM_QUEUED);
        parcel_close(other);
    } else if (when >= AFTER_IT_CAME) {
        other->on_event = when == BEFORE_DELIVERY || when == IN_A_LOSS || when == IN_A_FAILURE
                              ? close_on_receive
                              : NULL;
        other->on_delivered = when == AFTER_DELIVERY ? close_it : NULL;
        other->loses = when == IN_A_LOSS;
        if (when == IN_A_FAILURE)
            fail_next_receive(one, other, IOE_CONNREFUSED);
        else if (when == AFTER_IT_CAME)
            send_all(one, 1, 3, 100);
        else
            CHECK(parcel_send(one, 1, 100) > 0);
        if (when == AFTER_IT_CAME)
            parcel_close(other);
        else
            PARCEL_UNTIL(&office, atomic_load(&other->closed));
    } else {
        parcel_close(other);
    }
    CHECK(!parcel_receive(other));
    CHECK_INT(parcel_send(other, 0, 100), IO_DATAGRAM_DROPPED);
    int before = other->delivered;
    PARCEL_UNTIL(&office, atomic_load(&other->references) == 1);
    CHECK_INT(other->delivered, before); /* nothing is delivered after the close */
    CHECK(when == AFTER_IT_CAME || before == undeliverable(when));
    CHECK(other->io.receive == NULL || when == BEFORE_RECEIVING || when == IN_A_FAILURE);
    end(one, other);
}

static void closing_in_every_state(const char *backend) {
    for (int when = 0; when < CLOSINGS; when++)
        for (uint64_t seed = 0; seed < seeds(backend, 60); seed++)
            close_when(backend, (closing)when, seed);
}

static bool native_is_open(io_native native) {
    int type;
    io_socklen length = sizeof(type);
#ifdef _WIN32
    return office.world.sim ||
           getsockopt((SOCKET)native, SOL_SOCKET, SO_TYPE, (char *)&type, &length) == 0;
#else
    return office.world.sim || getsockopt((int)native, SOL_SOCKET, SO_TYPE, &type, &length) == 0;
#endif
}

/* What is in flight ends with the port, and nobody takes it; then there is only the native left. */
static void end_of_the_port(const char *backend) {
    for (uint64_t seed = 0; seed < seeds(backend, 100); seed++) {
        begin(backend, seed);
        parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
        parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
        CHECK(parcel_receive(one));
        atomic_store(&office.scripted, -IOE_AGAIN);
        for (int i = 0; i < 5; i++)
            CHECK_INT(parcel_send(one, 1, 100), IO_DATAGRAM_QUEUED);
        CHECK_INT(parcels_close_port(&office, 10 * IO_NS_PER_SECOND), 0);
        CHECK_INT(one->collected, 5);
        CHECK_INT(one->references, 1);
        CHECK_INT(atomic_load(&parcel_owned), 0);
        CHECK(!io_datagram_socket_closed(&one->io));
        CHECK_INT(parcel_send(one, 1, 100), IO_DATAGRAM_DROPPED);
        CHECK(!parcel_receive(one));
        CHECK(!parcel_receive(other));
        io_native natives[] = {one->native, other->native};
        CHECK(native_is_open(natives[0]) && native_is_open(natives[1]));
        parcel_end(one);
        parcel_end(other);
        CHECK(office.world.sim || !(native_is_open(natives[0]) || native_is_open(natives[1])));
        parcels_close(&office);
    }
}

/* A turn that is under way then ends, and asks for nothing more. */
static void port_closed_in_a_turn(const char *backend) {
    begin(backend, 0);
    parcel_box *one = parcel_box_new(&office, WRITE_BUFFER);
    parcel_box *other = parcel_box_new(&office, WRITE_BUFFER);
    CHECK(parcel_receive(other));
    CHECK(parcel_send(one, 1, 100) > 0);
    io_op *op;
    while ((op = world_get(&office.world, 10000)) != NULL && op->kind != IO_RECV_FROM)
        parcel_take(op);
    CHECK(op != NULL);
    CHECK_INT(parcels_close_port(&office, 10 * IO_NS_PER_SECOND), 0);
    CHECK_INT(other->references, 2);
    parcel_take(op);
    CHECK_INT(other->delivered, 1);
    CHECK_INT(other->references, 1);
    parcel_end(one);
    parcel_end(other);
    parcels_close(&office);
}

/* ---- threads --------------------------------------------------------------------------------- */

static _Atomic bool stop;

static void getter(void *argument) {
    (void)argument;
    while (!atomic_load(&stop))
        (void)parcel_step(&office, 5);
}

static void sender(void *argument) {
    parcel_box *box = argument;
    for (uint64_t i = test_scaled(300) + 20; i > 0; i--)
        (void)parcel_send(box, (int)(i % 2), 100);
    parcel_drop(box);
}

static void receiver(void *argument) {
    parcel_box *box = argument;
    for (uint64_t i = test_scaled(300) + 20; i > 0; i--)
        (void)parcel_receive(box);
    parcel_drop(box);
}

/* They send, receive and close the same socket, whose last reference may be a turn's. */
static void many_threads(const char *backend) {
    for (uint64_t round = 0; round < test_scaled(40); round++) {
        test_thread getters[2], others[SENDERS + 1];
        begin(backend, round);
        atomic_store(&stop, false);
        parcel_box *one = parcel_box_new(&office, 5000);
        parcel_box *other = parcel_box_new(&office, 5000);
        CHECK(parcel_receive(other));
        atomic_store(&office.scripted, round % 2 == 0 ? 0 : -IOE_AGAIN);
        for (int i = 0; i < 2; i++)
            test_thread_start(&getters[i], getter, NULL);
        for (int i = 0; i <= SENDERS; i++) {
            parcel_secure(one);
            test_thread_start(&others[i], i < SENDERS ? sender : receiver, one);
        }
        if (round % 4 < 2)
            parcel_close(one);
        for (int i = 0; i <= SENDERS; i++)
            test_thread_join(&others[i]);
        parcel_end(one);
        parcel_end(other);
        for (int i = 0; i < 1000 && atomic_load(&office.world.port->in_flight) > 0; i++)
            test_sleep_ms(10);
        atomic_store(&stop, true);
        for (int i = 0; i < 2; i++)
            test_thread_join(&getters[i]);
        PARCEL_UNTIL(&office, atomic_load(&office.world.port->in_flight) == 0);
        parcels_close(&office);
    }
}

#ifdef _WIN32
#define LINUX(X, test)
#else
#define LINUX(X, test) BACKENDS(X, test)
#endif

#define EACH(X)                         \
    BACKENDS(X, there_and_back)         \
    BACKENDS(X, order)                  \
    BACKENDS(X, queue_behind)           \
    BACKENDS(X, queue_that_blocks)      \
    BACKENDS(X, limits)                 \
    BACKENDS(X, errors_of_sends)        \
    BACKENDS(X, errors_of_receives)     \
    BACKENDS(X, lost)                   \
    LINUX(X, refused)                   \
    BACKENDS(X, not_a_socket)           \
    BACKENDS(X, bound_of_a_turn)        \
    BACKENDS(X, turns_that_end)         \
    BACKENDS(X, never_opened)           \
    BACKENDS(X, closing_in_every_state) \
    BACKENDS(X, end_of_the_port)        \
    BACKENDS(X, port_closed_in_a_turn)  \
    BACKENDS(X, many_threads)

EACH(DEFINE)

int main(int argc, char **argv) {
    static const test_case tests[] = {EACH(ENTRY)};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
