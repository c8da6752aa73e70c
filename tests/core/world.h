/* world.h: one way to make sockets and files, for the simulated backend and for real ones.
 *
 * A world is a port on some backend and the natives made for it. The tests of the contract are
 * written once and run on each. */
#ifndef IOCPCORE_TEST_WORLD_H
#define IOCPCORE_TEST_WORLD_H

#include "test.h"

#include "backends/sim/sim.h"

typedef struct test_world {
    const io_backend *backend;
    io_port *port;
    io_lane *lane;
    bool sim;
} test_world;

/* A port on that backend; skips the test if the backend cannot be used here. */
void world_open(test_world *world, const char *backend, uint32_t concurrency);
/* With a seed that is not 0, a simulated backend does from here on everything but fail. */
void world_misbehave(const test_world *world, uint64_t seed);
/* Closes the port, which must have no handles and nothing in flight. */
void world_close(test_world *world);
/* Closes with whatever is in flight: how many operations ended by that. */
size_t world_close_busy(test_world *world);
/* The rest of that, after io_port_begin_close(). No other thread may still use the port. */
size_t world_finish_close(test_world *world);

void world_pair(test_world *world, io_native natives[2]);
io_native world_listener(test_world *world, io_address *address);
io_native world_socket(test_world *world);
io_native world_datagram(test_world *world, io_address *address);
io_native world_file(test_world *world, const void *data, size_t size);
void world_native_close(test_world *world, io_native native, bool file);

io_handle *world_handle(test_world *world, io_native native);
/* A handle of its own for a connected stream, which is gone when it is closed. */
io_handle *world_adopt(test_world *world, io_native native);
/* Closes handle and native; waits for nothing. */
void world_handle_close(io_handle *handle);

/* Prepared operations. Memory for data is the caller's. */
io_op *new_recv(test_world *world, void *buffer, size_t length); /* NULL: a pooled buffer */
io_op *new_send(test_world *world, const void *data, size_t length);
io_op *new_file_op(test_world *world, io_kind kind, void *data, size_t length, uint64_t offset);
io_op *new_recv_from(test_world *world, void *buffer, size_t length);
io_op *new_send_to(test_world *world, const void *data, size_t length, const io_address *address);
io_op *new_accept(test_world *world);
io_op *new_connect(test_world *world, const io_address *address);
io_op *new_send_file(test_world *world, io_native file, uint64_t offset, uint64_t count);
io_op *new_poll(test_world *world, uint32_t events);

void post(test_world *world, void *owner);

/* The next completed operation, or NULL after `ms`. */
io_op *world_get(test_world *world, unsigned ms);
/* Waits up to 10 s for one operation, which must be this one; its result. It is not released. */
int64_t world_finish(test_world *world, io_op *op);
/* The same for an operation that is submitted here, and releases it. */
int64_t world_do(test_world *world, io_op *op, io_handle *handle);
/* Takes what is ready or comes within `ms`; true when nothing came. */
bool world_quiet(test_world *world, unsigned ms);

/* A test that runs once for each backend of the platform: BACKENDS(DEFINE, name) defines the
 * functions, BACKENDS(ENTRY, name) is their place in the table. */
#ifdef _WIN32
#define BACKENDS(X, test) X(test, sim) X(test, iocp)
#else
#define BACKENDS(X, test) X(test, sim) X(test, epoll) X(test, io_uring)
#endif
#define DEFINE(test, backend)            \
    static void test##_##backend(void) { \
        test(#backend);                  \
    }
#define ENTRY(test, backend) TEST(test##_##backend),

#endif
