/* stream_pair.c: see stream_pair.h. */
#include "stream_pair.h"

char stream_pair_pattern[1 << 20];

void stream_pair_begin(stream_pair *both, const char *backend, uint64_t seed) {
    memset(both, 0, sizeof(*both));
    both->random.state = seed;
    world_open(&both->world, backend, 1);
    world_misbehave(&both->world, seed);
    if (stream_pair_pattern[1] == 0)
        for (size_t i = 0; i < sizeof(stream_pair_pattern); i++)
            stream_pair_pattern[i] = (char)(i * 31 >> 3 | 1);
}

void stream_pair_open(stream_pair *both, const char *backend, uint64_t seed) {
    stream_pair_begin(both, backend, seed);
    world_pair(&both->world, both->native);
    for (int i = 0; i < 2; i++)
        both->handle[i] = world_adopt(&both->world, both->native[i]);
}

void stream_pair_close_side(stream_pair *both, int side) {
    io_handle_close(both->handle[side]);
    both->handle[side] = NULL;
}

void stream_pair_close(stream_pair *both) {
    for (int i = 0; i < 2; i++)
        if (both->handle[i] != NULL)
            io_handle_close(both->handle[i]);
    while (atomic_load(&both->world.port->in_flight) > 0) {
        io_op *op = world_get(&both->world, 10000);
        CHECK(op != NULL && op->kind == IO_SEND);
        io_op_release(op);
    }
    world_close(&both->world);
}

bool stream_pair_fetched(io_receive *receive, io_handle *handle) {
    if (receive->op.result == IO_RECEIVE_READY)
        io_receive_now(receive);
    if (receive->op.result != -IOE_AGAIN)
        return true;
    io_op_submit(&receive->op, handle);
    return false;
}

/* The next completion: a receive is marked, a send (but for the one that is waited for) released.
 */
static io_op *take(stream_pair *both, const io_op *wanted) {
    io_op *op = world_get(&both->world, 10000);
    if (op == NULL)
        FAIL("%s: %s never ended", both->world.backend->name, io_kind_name((io_kind)wanted->kind));
    CHECK_INT(op->state, IO_OP_COMPLETED);
    if (op->kind == IO_RECEIVE) {
        int side = op == &both->receive[1].op;
        CHECK(op == &both->receive[side].op && !both->came[side]);
        both->came[side] = stream_pair_fetched(&both->receive[side], both->handle[side]);
    } else if (op != wanted) {
        CHECK_INT(op->kind, IO_SEND);
        CHECK_INT(op->result, ((io_transfer *)op)->length);
        io_op_release(op);
    }
    return op;
}

int64_t stream_pair_finish(stream_pair *both, io_op *op) {
    while (take(both, op) != op)
        continue;
    return op->result;
}

void stream_pair_start(stream_pair *both, int side, uint32_t capacity) {
    io_receive *receive = &both->receive[side];
    CHECK(!both->started[side]);
    memset(receive, 0xAA, sizeof(*receive));
    io_op_embed(&receive->op, both->world.lane, IO_RECEIVE, IO_SINK_CONNECTION, both);
    receive->buffer = NULL;
    receive->capacity = capacity;
    both->started[side] = true;
    both->came[side] = false;
    if (test_below(&both->random, 2) == 0)
        both->came[side] = io_op_submit_now(&receive->op, both->handle[side]) &&
                           stream_pair_fetched(receive, both->handle[side]);
    else
        io_op_submit(&receive->op, both->handle[side]);
}

int64_t stream_pair_received(stream_pair *both, int side) {
    const io_receive *receive = &both->receive[side];
    while (!both->came[side])
        take(both, &receive->op);
    both->started[side] = false;
    int64_t result = receive->op.result;
    CHECK_INT(receive->op.state, IO_OP_COMPLETED);
    CHECK((receive->buffer != NULL) == (result > 0));
    CHECK(result <= (int64_t)receive->capacity);
    return result;
}

int64_t stream_pair_receive(stream_pair *both, int side, uint32_t capacity) {
    stream_pair_start(both, side, capacity);
    return stream_pair_received(both, side);
}

void stream_pair_receive_all(stream_pair *both, int side, size_t from, size_t length,
                             uint32_t capacity) {
    while (length > 0) {
        if (!both->started[side])
            stream_pair_start(both, side, capacity);
        int64_t result = stream_pair_received(both, side);
        CHECK(result > 0 && (size_t)result <= length);
        CHECK(memcmp(both->receive[side].buffer, stream_pair_pattern + from, (size_t)result) == 0);
        io_receive_release(&both->receive[side]);
        CHECK(both->receive[side].buffer == NULL);
        from += (size_t)result;
        length -= (size_t)result;
    }
}

void stream_pair_send(stream_pair *both, int side, const void *data, size_t length) {
    io_op_submit(new_send(&both->world, data, length), both->handle[side]);
}

void stream_pair_send_now(stream_pair *both, int side, const void *data, size_t length) {
    io_op *op = new_send(&both->world, data, length);
    io_op_submit(op, both->handle[side]);
    CHECK_INT(stream_pair_finish(both, op), length);
    io_op_release(op);
}

void stream_pair_cancel_receives(stream_pair *both, uint64_t rounds) {
    for (uint64_t round = 0; round < rounds; round++) {
        stream_pair_start(both, 0, 512);
        if (round % 3 != 0)
            stream_pair_send(both, 1, stream_pair_pattern + round, 1);
        if (!both->came[0])
            io_op_cancel(&both->receive[0].op);
        int64_t result = stream_pair_received(both, 0);
        if (round % 3 == 0) {
            CHECK_INT(result, -IOE_CANCELED);
            continue;
        }
        if (result == -IOE_CANCELED)
            result = stream_pair_receive(both, 0, 512);
        CHECK_INT(result, 1);
        CHECK_INT(both->receive[0].buffer[0], stream_pair_pattern[round]);
        io_receive_release(&both->receive[0]);
    }
}
