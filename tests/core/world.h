/* world.h: creates sockets and files in the same way on simulated and real backends.
 *
 * A world is a port on one backend, with the natives made for it. So a test of the contract is
 * written once, and runs on every backend. */
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

/* Opens a port on that backend. Skips the test if the backend does not work here. */
void world_open(test_world *world, const char *backend, uint32_t concurrency);
/* With a seed other than 0, a simulated backend varies everything from now on, except that it
 * injects no failures. */
void world_misbehave(const test_world *world, uint64_t seed);
/* Closes the port, which must have no handles and nothing in flight. */
void world_close(test_world *world);
/* Closes the port with operations in flight. Returns how many of them this ended. */
size_t world_close_busy(test_world *world);
/* The part of world_close_busy after io_port_begin_close(). No other thread may use the port. */
size_t world_finish_close(test_world *world);

void world_pair(test_world *world, io_native natives[2]);
io_native world_listener(test_world *world, io_address *address);
io_native world_socket(test_world *world);
io_native world_datagram(test_world *world, io_address *address);
io_native world_file(test_world *world, const void *data, size_t size);
void world_native_close(test_world *world, io_native native, bool file);

io_handle *world_handle(test_world *world, io_native native);
/* Returns an owned handle for a connected stream. Closing the handle frees it. */
io_handle *world_adopt(test_world *world, io_native native);
/* Closes handle and native without waiting. */
void world_handle_close(io_handle *handle);

/* Prepared operations. The caller owns the memory for data. */
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

/* Returns the next completed operation, or NULL after `ms`. */
io_op *world_get(test_world *world, unsigned ms);
/* Waits up to 10 s for one completion, which must be of `op`. Returns its result. The caller still
 * owns `op`. */
int64_t world_finish(test_world *world, io_op *op);
/* Submits an operation, waits as world_finish does, and releases it. Returns its result. */
int64_t world_do(test_world *world, io_op *op, io_handle *handle);
/* Waits up to `ms` for a completion, and releases it. Returns true if none came. */
bool world_quiet(test_world *world, unsigned ms);

/* For tests that run once for each backend of the platform. BACKENDS(DEFINE, name) defines the
 * functions, BACKENDS(ENTRY, name) adds them to the table of tests. */
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
