/* test_natives.c: sockets that no handle owns. A caller with a port can close one in the same way
 * on every backend. */
#include "op_case.h"

/* Its peer sees the end of the stream, and IO_NATIVE_NONE is nobody's. */
static void unowned_is_closed(const char *backend) {
    test_world world;
    io_native natives[2];
    char buffer[8];
    world_open(&world, backend, 1);
    world_pair(&world, natives);
    io_handle *handle = world_handle(&world, natives[0]);
    io_op *op = new_recv(&world, buffer, sizeof buffer);
    io_op_submit(op, handle);
    io_port_close_native(world.port, IO_NATIVE_NONE, AF_INET);
    CHECK(world_quiet(&world, 0));
    io_port_close_native(world.port, natives[1], AF_INET);
    CHECK_INT(world_finish(&world, op), 0);
    io_op_release(op);
    world_handle_close(handle);
    world_close(&world);
}

/* One that was accepted, and that nobody took before the port was closed. */
static void unowned_outlives_its_port(const char *backend) {
    test_world world, other;
    io_native natives[2];
    char buffer[8];
    world_open(&world, backend, 1);
    world_open(&other, backend, 1);
    world_pair(&world, natives);
    CHECK(io_port_begin_close(world.port));
    size_t leaked = io_port_drain(world.port, IO_NS_PER_SECOND);
    io_port_finish_close(world.port, leaked);
    io_port_close_native(world.port, natives[1], AF_INET);
    if (world.backend->own_natives == NULL) { /* otherwise both have ended with their lane */
        io_handle *handle = world_handle(&other, natives[0]);
        CHECK_INT(world_do(&other, new_recv(&other, buffer, sizeof buffer), handle), 0);
        world_handle_close(handle);
    }
    io_port_destroy(world.port);
    world_close(&other);
}

/* Only the simulator's numbers are its own, and messages can say so. */
static void whose_numbers(void) {
    for (const io_backend *const *each = io_backends(); *each != NULL; each++) {
        bool sim = strcmp((*each)->name, "sim") == 0;
        CHECK((*each)->close_native != NULL);
        CHECK(sim == ((*each)->own_natives != NULL));
    }
}

#define ALL(X)                     \
    BACKENDS(X, unowned_is_closed) \
    BACKENDS(X, unowned_outlives_its_port)

ALL(DEFINE)

int main(int argc, char **argv) {
    static const test_case tests[] = {ALL(ENTRY) TEST(whose_numbers)};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
