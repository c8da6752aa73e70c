/* op_case.c: see op_case.h. */
#include "op_case.h"

void op_case_add(op_case *self, int place, io_native native, bool is_file) {
    self->native[place] = native;
    self->is_file[place] = is_file;
    self->handle[place] = world_handle(&self->world, native);
}

void op_case_submit(op_case *self, io_op *op, int place) {
    CHECK(self->used < (int)COUNT_OF(self->ended));
    op->owner = &self->ended[self->used++];
    *(int *)op->owner = 0;
    io_op_submit(op, self->handle[place]);
}

int64_t op_case_finish(op_case *self, io_op *op) {
    for (;;) {
        io_op *got = world_get(&self->world, 10000);
        if (got == NULL)
            FAIL("%s: %s never ended", self->world.backend->name, io_kind_name((io_kind)op->kind));
        CHECK_INT(got->state, IO_OP_COMPLETED);
        CHECK_INT(++*(int *)got->owner, 1);
        if (got == op)
            return op->result;
        io_op_release(got);
    }
}

int64_t op_case_end(op_case *self, io_op *op) {
    int64_t result = op_case_finish(self, op);
    if (op->kind == IO_ACCEPT && result == 0)
        world_native_close(&self->world, ((io_accept *)op)->accepted, false);
    io_op_release(op);
    return result;
}

/* Everything that was submitted has ended, once. */
void op_case_check_ended(op_case *self) {
    io_port *port = self->world.port;
    for (int i = 0; i < self->used; i++)
        CHECK_INT(self->ended[i], 1);
    CHECK_INT(atomic_load(&port->in_flight), 0);
    CHECK_INT(atomic_load(&port->submitted), atomic_load(&port->completed) +
                                                 atomic_load(&port->failed) +
                                                 atomic_load(&port->cancelled));
}

void op_case_take_rest(op_case *self) {
    io_op *op;
    while (atomic_load(&self->world.port->in_flight) > 0) {
        op = world_get(&self->world, 10000);
        CHECK(op != NULL);
        CHECK_INT(++*(int *)op->owner, 1);
        if (op->kind == IO_ACCEPT && op->result == 0)
            world_native_close(&self->world, ((io_accept *)op)->accepted, false);
        io_op_release(op);
    }
    CHECK(world_quiet(&self->world, 0));
}

static char pattern[LARGE]; /* made once: that takes long under some tools */

void op_case_open(op_case *self, const char *backend, io_kind kind, uint64_t seed) {
    memset(self, 0, sizeof(*self));
    world_open(&self->world, backend, 1);
    world_misbehave(&self->world, seed);
    self->kind = kind;
    self->bytes = pattern;
    if (pattern[1] == 0) {
        for (size_t i = 0; i < LARGE; i++)
            pattern[i] = (char)(i * 31 >> 3);
    }
}

void op_case_close(op_case *self) {
    op_case_take_rest(self);
    op_case_check_ended(self);
    for (int i = 0; i < 3; i++) {
        if (self->handle[i] == NULL)
            continue;
        CHECK_INT(io_handle_forget(self->handle[i], false), 0);
        io_handle_release(self->handle[i]);
        world_native_close(&self->world, self->native[i], self->is_file[i]);
    }
    world_close(&self->world);
}

/* ---- each kind, and what makes it end -------------------------------------------------------- */

static void add_pair(op_case *self) {
    io_native natives[2];
    world_pair(&self->world, natives);
    op_case_add(self, 0, natives[0], false);
    op_case_add(self, 1, natives[1], false);
}

void op_case_set_up(op_case *self, test_way way) {
    test_world *world = &self->world;
    io_address unused;
    switch (self->kind) {
    case IO_RECV:
    case IO_SEND:
    case IO_SEND_FILE:
    case IO_POLL:
        if (way == FAILS)
            op_case_add(self, 0, world_socket(world), false);
        else
            add_pair(self);
        if (self->kind == IO_SEND_FILE)
            op_case_add(self, 2, world_file(world, self->bytes, LARGE), true);
        break;
    case IO_ACCEPT:
        if (way == FAILS)
            op_case_add(self, 0, world_socket(world), false);
        else
            op_case_add(self, 0, world_listener(world, &self->address), false);
        op_case_add(self, 1, world_socket(world), false);
        break;
    case IO_CONNECT:
        op_case_add(self, 0, world_socket(world), false);
        self->native[1] = world_listener(world, &self->address);
        if (way == FAILS)
            world_native_close(world, self->native[1], false);
        else
            op_case_add(self, 1, self->native[1], false);
        break;
    case IO_RECV_FROM:
    case IO_SEND_TO:
        if (way == FAILS && self->kind == IO_RECV_FROM)
            op_case_add(self, 0, world_socket(world), false);
        else
            op_case_add(self, 0, world_datagram(world, &self->address), false);
        op_case_add(self, 1, world_datagram(world, &unused), false);
        if (self->kind == IO_SEND_TO)
            self->address = unused;
        break;
    case IO_SYNC:
        if (way == FAILS)
            op_case_add(self, 0, world_socket(world), false);
        else
            op_case_add(self, 0, world_file(world, self->bytes, 1000), true);
        break;
    case IO_READ:
    case IO_WRITE:
        op_case_add(self, 0, world_file(world, self->bytes, 1000), true);
        break;
    default:
        FAIL("no case for %s", io_kind_name(self->kind));
    }
}

io_op *op_case_op(op_case *self, test_way way) {
    test_world *world = &self->world;
    size_t length = way == HAS_TO_WAIT ? LARGE : 5;
    switch (self->kind) {
    case IO_RECV:
        return new_recv(world, self->received, 5);
    case IO_SEND:
        return new_send(world, self->bytes, length);
    case IO_ACCEPT:
        return new_accept(world);
    case IO_CONNECT:
        return new_connect(world, &self->address);
    case IO_RECV_FROM:
        return new_recv_from(world, self->received, 5);
    case IO_SEND_TO:
        return new_send_to(world, self->bytes, way == FAILS ? 70000 : 5, &self->address);
    case IO_SEND_FILE:
        return new_send_file(world, self->native[2], 0, length);
    case IO_READ:
        return new_file_op(world, IO_READ, self->received, 5, 3);
    case IO_WRITE:
        return new_file_op(world, IO_WRITE, self->bytes, 5,
                           way == FAILS ? (UINT64_C(1) << 63) - 1 : 3);
    case IO_SYNC:
        return new_file_op(world, IO_SYNC, NULL, 0, 0);
    case IO_POLL:
        return new_poll(world, way == HAS_TO_WAIT ? IO_READABLE : IO_WRITABLE);
    default:
        FAIL("no operation for %s", io_kind_name(self->kind));
    }
}

/* What lets an operation end that has to wait (or does not have to wait, if it comes first). */
void op_case_fulfil(op_case *self) {
    test_world *world = &self->world;
    switch (self->kind) {
    case IO_RECV:
    case IO_POLL:
        op_case_submit(self, new_send(world, self->bytes, 5), 1);
        break;
    case IO_RECV_FROM:
        op_case_submit(self, new_send_to(world, self->bytes, 5, &self->address), 1);
        break;
    case IO_ACCEPT:
        op_case_submit(self, new_connect(world, &self->address), 1);
        break;
    default:
        break;
    }
}

/* Reads what a send that had to wait sends, as far as it comes; `total` bytes if that is known. */
void op_case_read_all(op_case *self, io_op *send, size_t total) {
    static char part[65536];
    size_t received = 0;
    while (received < total) {
        io_op *op = new_recv(&self->world, part, sizeof(part));
        op_case_submit(self, op, 1);
        int64_t result;
        for (;;) {
            io_op *got = world_get(&self->world, 10000);
            CHECK(got != NULL);
            CHECK_INT(++*(int *)got->owner, 1);
            if (got == op)
                break;
            CHECK(got == send);
        }
        result = op->result;
        CHECK(result > 0);
        CHECK(memcmp(part, self->bytes + received, (size_t)result) == 0);
        received += (size_t)result;
        self->used--;
        io_op_release(op);
    }
    CHECK_INT(received, total);
}

bool op_case_has_way(io_kind kind, test_way way) {
    if (kind == IO_RECEIVE) /* a connection's only: test_receive.c */
        return false;
    if (way == HAS_TO_WAIT)
        return kind == IO_RECV || kind == IO_SEND || kind == IO_ACCEPT || kind == IO_RECV_FROM ||
               kind == IO_SEND_FILE || kind == IO_POLL;
    if (way == FAILS)
        return kind != IO_POLL && kind != IO_READ;
    return true;
}

bool op_case_by_peer(io_kind kind) {
    return kind == IO_RECV || kind == IO_ACCEPT || kind == IO_RECV_FROM;
}
