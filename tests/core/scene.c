/* scene.c: see scene.h. */
#include "scene.h"

void scene_add(test_scene *scene, int place, io_native native, bool is_file) {
    scene->native[place] = native;
    scene->is_file[place] = is_file;
    scene->handle[place] = world_handle(&scene->world, native);
}

void scene_submit(test_scene *scene, io_op *op, int place) {
    CHECK(scene->used < (int)COUNT_OF(scene->ended));
    op->owner = &scene->ended[scene->used++];
    *(int *)op->owner = 0;
    io_op_submit(op, scene->handle[place]);
}

int64_t scene_finish(test_scene *scene, io_op *op) {
    for (;;) {
        io_op *got = world_get(&scene->world, 10000);
        if (got == NULL)
            FAIL("%s: %s never ended", scene->world.backend->name, io_kind_name((io_kind)op->kind));
        CHECK_INT(got->state, IO_OP_COMPLETED);
        CHECK_INT(++*(int *)got->owner, 1);
        if (got == op)
            return op->result;
        io_op_release(got);
    }
}

int64_t scene_end(test_scene *scene, io_op *op) {
    int64_t result = scene_finish(scene, op);
    if (op->kind == IO_ACCEPT && result == 0)
        world_native_close(&scene->world, ((io_accept *)op)->accepted, false);
    io_op_release(op);
    return result;
}

/* Everything that was submitted has ended, once. */
void scene_check_ended(test_scene *scene) {
    io_port *port = scene->world.port;
    for (int i = 0; i < scene->used; i++)
        CHECK_INT(scene->ended[i], 1);
    CHECK_INT(atomic_load(&port->in_flight), 0);
    CHECK_INT(atomic_load(&port->submitted), atomic_load(&port->completed) +
                                                 atomic_load(&port->failed) +
                                                 atomic_load(&port->cancelled));
}

void scene_take_rest(test_scene *scene) {
    io_op *op;
    while (atomic_load(&scene->world.port->in_flight) > 0) {
        op = world_get(&scene->world, 10000);
        CHECK(op != NULL);
        CHECK_INT(++*(int *)op->owner, 1);
        if (op->kind == IO_ACCEPT && op->result == 0)
            world_native_close(&scene->world, ((io_accept *)op)->accepted, false);
        io_op_release(op);
    }
    CHECK(world_quiet(&scene->world, 0));
}

static char pattern[LARGE]; /* made once: that takes long under some tools */

void scene_open(test_scene *scene, const char *backend, io_kind kind, uint64_t seed) {
    memset(scene, 0, sizeof(*scene));
    world_open(&scene->world, backend, 1);
    world_misbehave(&scene->world, seed);
    scene->kind = kind;
    scene->bytes = pattern;
    if (pattern[1] == 0) {
        for (size_t i = 0; i < LARGE; i++)
            pattern[i] = (char)(i * 31 >> 3);
    }
}

void scene_close(test_scene *scene) {
    scene_take_rest(scene);
    scene_check_ended(scene);
    for (int i = 0; i < 3; i++) {
        if (scene->handle[i] == NULL)
            continue;
        CHECK_INT(io_handle_forget(scene->handle[i], false), 0);
        io_handle_release(scene->handle[i]);
        world_native_close(&scene->world, scene->native[i], scene->is_file[i]);
    }
    world_close(&scene->world);
}

/* ---- each kind, and what makes it end -------------------------------------------------------- */

static void add_pair(test_scene *scene) {
    io_native natives[2];
    world_pair(&scene->world, natives);
    scene_add(scene, 0, natives[0], false);
    scene_add(scene, 1, natives[1], false);
}

void scene_set_up(test_scene *scene, test_way way) {
    test_world *world = &scene->world;
    io_address unused;
    switch (scene->kind) {
    case IO_RECV:
    case IO_SEND:
    case IO_SEND_FILE:
    case IO_POLL:
        if (way == FAILS)
            scene_add(scene, 0, world_socket(world), false);
        else
            add_pair(scene);
        if (scene->kind == IO_SEND_FILE)
            scene_add(scene, 2, world_file(world, scene->bytes, LARGE), true);
        break;
    case IO_ACCEPT:
        if (way == FAILS)
            scene_add(scene, 0, world_socket(world), false);
        else
            scene_add(scene, 0, world_listener(world, &scene->address), false);
        scene_add(scene, 1, world_socket(world), false);
        break;
    case IO_CONNECT:
        scene_add(scene, 0, world_socket(world), false);
        scene->native[1] = world_listener(world, &scene->address);
        if (way == FAILS)
            world_native_close(world, scene->native[1], false);
        else
            scene_add(scene, 1, scene->native[1], false);
        break;
    case IO_RECV_FROM:
    case IO_SEND_TO:
        if (way == FAILS && scene->kind == IO_RECV_FROM)
            scene_add(scene, 0, world_socket(world), false);
        else
            scene_add(scene, 0, world_datagram(world, &scene->address), false);
        scene_add(scene, 1, world_datagram(world, &unused), false);
        if (scene->kind == IO_SEND_TO)
            scene->address = unused;
        break;
    case IO_SYNC:
        if (way == FAILS)
            scene_add(scene, 0, world_socket(world), false);
        else
            scene_add(scene, 0, world_file(world, scene->bytes, 1000), true);
        break;
    case IO_READ:
    case IO_WRITE:
        scene_add(scene, 0, world_file(world, scene->bytes, 1000), true);
        break;
    default:
        FAIL("no scene for %s", io_kind_name(scene->kind));
    }
}

io_op *scene_op(test_scene *scene, test_way way) {
    test_world *world = &scene->world;
    size_t length = way == HAS_TO_WAIT ? LARGE : 5;
    switch (scene->kind) {
    case IO_RECV:
        return new_recv(world, scene->received, 5);
    case IO_SEND:
        return new_send(world, scene->bytes, length);
    case IO_ACCEPT:
        return new_accept(world);
    case IO_CONNECT:
        return new_connect(world, &scene->address);
    case IO_RECV_FROM:
        return new_recv_from(world, scene->received, 5);
    case IO_SEND_TO:
        return new_send_to(world, scene->bytes, way == FAILS ? 70000 : 5, &scene->address);
    case IO_SEND_FILE:
        return new_send_file(world, scene->native[2], 0, length);
    case IO_READ:
        return new_file_op(world, IO_READ, scene->received, 5, 3);
    case IO_WRITE:
        return new_file_op(world, IO_WRITE, scene->bytes, 5,
                           way == FAILS ? (UINT64_C(1) << 63) - 1 : 3);
    case IO_SYNC:
        return new_file_op(world, IO_SYNC, NULL, 0, 0);
    case IO_POLL:
        return new_poll(world, way == HAS_TO_WAIT ? IO_READABLE : IO_WRITABLE);
    default:
        FAIL("no operation for %s", io_kind_name(scene->kind));
    }
}

/* What lets an operation end that has to wait (or does not have to wait, if it comes first). */
void scene_fulfil(test_scene *scene) {
    test_world *world = &scene->world;
    switch (scene->kind) {
    case IO_RECV:
    case IO_POLL:
        scene_submit(scene, new_send(world, scene->bytes, 5), 1);
        break;
    case IO_RECV_FROM:
        scene_submit(scene, new_send_to(world, scene->bytes, 5, &scene->address), 1);
        break;
    case IO_ACCEPT:
        scene_submit(scene, new_connect(world, &scene->address), 1);
        break;
    default:
        break;
    }
}

/* Reads what a send that had to wait sends, as far as it comes; `total` bytes if that is known. */
void scene_read_all(test_scene *scene, io_op *send, size_t total) {
    static char part[65536];
    size_t received = 0;
    while (received < total) {
        io_op *op = new_recv(&scene->world, part, sizeof(part));
        scene_submit(scene, op, 1);
        int64_t result;
        for (;;) {
            io_op *got = world_get(&scene->world, 10000);
            CHECK(got != NULL);
            CHECK_INT(++*(int *)got->owner, 1);
            if (got == op)
                break;
            CHECK(got == send);
        }
        result = op->result;
        CHECK(result > 0);
        CHECK(memcmp(part, scene->bytes + received, (size_t)result) == 0);
        received += (size_t)result;
        scene->used--;
        io_op_release(op);
    }
    CHECK_INT(received, total);
}

bool scene_has_way(io_kind kind, test_way way) {
    if (kind == IO_RECEIVE) /* a connection's only: test_receive.c */
        return false;
    if (way == HAS_TO_WAIT)
        return kind == IO_RECV || kind == IO_SEND || kind == IO_ACCEPT || kind == IO_RECV_FROM ||
               kind == IO_SEND_FILE || kind == IO_POLL;
    if (way == FAILS)
        return kind != IO_POLL && kind != IO_READ;
    return true;
}

bool scene_by_peer(io_kind kind) {
    return kind == IO_RECV || kind == IO_ACCEPT || kind == IO_RECV_FROM;
}
