/* world.c: see world.h. All sockets are loopback TCP or UDP, so the code for Windows differs only
 * in names. Files are temporary, and deleted at once or when closed. */
#include "world.h"

#ifdef _WIN32
#define close_socket closesocket
typedef SOCKET native_socket;
#else
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <unistd.h>
#define close_socket close
typedef int native_socket;
#endif

void world_open(test_world *world, const char *backend, uint32_t concurrency) {
    char reason[200] = "";
    uint32_t os_error = 0;
    memset(world, 0, sizeof(*world));
    world->backend = io_backend_by_name(backend);
    if (world->backend == NULL)
        test_skip("not a backend of this platform");
    if (world->backend->probe(reason, sizeof(reason)) != 0)
        test_skip(reason);
    CHECK_INT(io_port_open(&world->port, world->backend, concurrency, &os_error), 0);
    world->lane = &world->port->lane;
    world->sim = io_sim_lane(world->lane);
}

static void release_remaining(io_op *op, bool leaked, void *context) {
    size_t *count = context;
    CHECK(!leaked);
    ++*count;
    io_op_release(op);
}

size_t world_close_busy(test_world *world) {
    CHECK(io_port_begin_close(world->port));
    return world_finish_close(world);
}

size_t world_finish_close(test_world *world) {
    size_t remaining = 0;
    size_t leaked = io_port_drain(world->port, 10 * IO_NS_PER_SECOND);
    CHECK_INT(leaked, 0);
    io_port_take_remaining(world->port, release_remaining, &remaining);
    io_port_finish_close(world->port, leaked);
    io_port_destroy(world->port);
    world->port = NULL;
    return remaining;
}

void world_misbehave(const test_world *world, uint64_t seed) {
    if (world->sim && seed != 0)
        io_sim_configure(world->lane, seed,
                         IO_SIM_PARTIAL | IO_SIM_DELAY | IO_SIM_CANCEL | IO_SIM_SPURIOUS |
                             IO_SIM_IMMEDIATE | IO_SIM_RETRY | IO_SIM_READINESS | IO_SIM_CHECK);
}

void world_close(test_world *world) {
    io_port_figures figures;
    io_port_stats(world->port, &figures);
    CHECK_INT(figures.handles, 0);
    CHECK_INT(atomic_load(&world->port->in_flight), 0);
    if (world->sim) {
        io_sim_stats stats;
        io_sim_get_stats(world->lane, &stats);
        CHECK_INT(stats.in_flight, 0);
    }
    CHECK_INT(world_close_busy(world), 0);
}

/* ---- natives --------------------------------------------------------------------------------- */

static native_socket loopback(int type, bool bound, io_address *address) {
    struct sockaddr_in in;
    io_socklen length = sizeof(in);
    native_socket made = socket(AF_INET, type, 0);
    memset(&in, 0, sizeof(in));
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(made != (native_socket)-1);
    if (bound) {
        CHECK_INT(bind(made, (struct sockaddr *)&in, length), 0);
        CHECK_INT(getsockname(made, (struct sockaddr *)&in, &length), 0);
    }
    if (address != NULL) {
        memset(address, 0, sizeof(*address));
        memcpy(&address->storage, &in, sizeof(in));
        address->length = length;
    }
    return made;
}

static void sim_address(io_address *address, uint16_t port) {
    CHECK_INT(io_address_inet(address, "127.0.0.1", port, 0, 0, AF_INET), 0);
}

void world_pair(test_world *world, io_native natives[2]) {
    if (world->sim) {
        CHECK_INT(io_sim_pair(world->lane, natives), 0);
        return;
    }
    io_address address;
    native_socket listener = loopback(SOCK_STREAM, true, &address);
    CHECK_INT(listen(listener, 1), 0);
    native_socket one = loopback(SOCK_STREAM, false, NULL);
    CHECK_INT(connect(one, (struct sockaddr *)&address.storage, address.length), 0);
    native_socket other = accept(listener, NULL, NULL);
    CHECK(other != (native_socket)-1);
    close_socket(listener);
    natives[0] = (io_native)one;
    natives[1] = (io_native)other;
}

io_native world_listener(test_world *world, io_address *address) {
    io_native native;
    uint16_t port = 0;
    if (world->sim) {
        CHECK_INT(io_sim_listener(world->lane, &native, &port), 0);
        sim_address(address, port);
        return native;
    }
    native_socket listener = loopback(SOCK_STREAM, true, address);
    CHECK_INT(listen(listener, 64), 0);
    return (io_native)listener;
}

io_native world_socket(test_world *world) {
    io_native native;
    if (!world->sim)
        return (io_native)loopback(SOCK_STREAM, false, NULL);
    CHECK_INT(io_sim_socket(world->lane, &native), 0);
    return native;
}

io_native world_datagram(test_world *world, io_address *address) {
    io_native native;
    uint16_t port = 0;
    if (!world->sim)
        return (io_native)loopback(SOCK_DGRAM, true, address);
    CHECK_INT(io_sim_datagram(world->lane, &native, &port), 0);
    sim_address(address, port);
    return native;
}

#ifdef _WIN32
static io_native real_file(const void *data, size_t size) {
    char folder[MAX_PATH], path[MAX_PATH];
    DWORD written = 0;
    CHECK(GetTempPathA(MAX_PATH, folder) > 0);
    CHECK(GetTempFileNameA(folder, "ioc", 0, path) > 0);
    HANDLE file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS,
                              FILE_ATTRIBUTE_TEMPORARY, NULL);
    CHECK(file != INVALID_HANDLE_VALUE);
    CHECK(WriteFile(file, data, (DWORD)size, &written, NULL) && written == size);
    CloseHandle(file);
    file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE | DELETE, 0, NULL, OPEN_EXISTING,
                       FILE_FLAG_OVERLAPPED | FILE_FLAG_DELETE_ON_CLOSE, NULL);
    CHECK(file != INVALID_HANDLE_VALUE);
    return (io_native)file;
}
#else
static io_native real_file(const void *data, size_t size) {
    char path[] = "/tmp/iocpcore-test-XXXXXX";
    int file = mkstemp(path);
    CHECK(file >= 0);
    CHECK_INT(unlink(path), 0);
    if (size > 0)
        CHECK_INT(write(file, data, size), size);
    return file;
}
#endif

io_native world_file(test_world *world, const void *data, size_t size) {
    io_native native;
    if (!world->sim)
        return real_file(data, size);
    CHECK_INT(io_sim_file(world->lane, data, size, &native), 0);
    return native;
}

void world_native_close(test_world *world, io_native native, bool file) {
    if (world->sim)
        CHECK_INT(io_sim_close_native(world->lane, native), 0);
#ifdef _WIN32
    else if (file)
        CloseHandle((HANDLE)native);
#endif
    else
        close_socket((native_socket)native);
    (void)file;
}

io_handle *world_handle(test_world *world, io_native native) {
    io_handle *handle = NULL;
    uint32_t os_error = 0;
    CHECK_INT(io_handle_open(world->lane, native, &handle, &os_error), 0);
    return handle;
}

io_handle *world_adopt(test_world *world, io_native native) {
    io_handle *handle = NULL;
    uint32_t os_error = 0;
#ifdef _WIN32
    u_long on = 1;
    CHECK(world->sim || ioctlsocket((SOCKET)native, (long)FIONBIO, &on) == 0);
#else
    CHECK(world->sim || fcntl((int)native, F_SETFL, O_NONBLOCK) == 0);
#endif
    CHECK_INT(io_handle_adopt(world->lane, native, AF_INET, &handle, &os_error), 0);
    return handle;
}

void world_handle_close(io_handle *handle) {
    io_handle_close(handle);
    io_handle_release(handle);
}

/* ---- operations ------------------------------------------------------------------------------ */

static io_op *new_op(test_world *world, io_kind kind) {
    io_op *op = io_op_new(world->lane, kind, NULL, NULL);
    CHECK(op != NULL);
    return op;
}

static io_op *new_transfer(test_world *world, io_kind kind, void *data, size_t length) {
    io_op *op = new_op(world, kind);
    io_transfer *transfer = (io_transfer *)op;
    CHECK(io_transfer_reserve(transfer, 1));
    io_vec_set(&transfer->vecs[0], data, length);
    transfer->vec_count = 1;
    transfer->length = length;
    return op;
}

io_op *new_recv(test_world *world, void *buffer, size_t length) {
    return new_transfer(world, IO_RECV, buffer, length);
}

io_op *new_send(test_world *world, const void *data, size_t length) {
    return new_transfer(world, IO_SEND, (void *)(uintptr_t)data, length);
}

io_op *new_file_op(test_world *world, io_kind kind, void *data, size_t length, uint64_t offset) {
    if (kind == IO_SYNC)
        return new_op(world, kind);
    io_op *op = new_transfer(world, kind, data, length);
    ((io_transfer *)op)->offset = offset;
    return op;
}

io_op *new_recv_from(test_world *world, void *buffer, size_t length) {
    return new_transfer(world, IO_RECV_FROM, buffer, length);
}

io_op *new_send_to(test_world *world, const void *data, size_t length, const io_address *address) {
    io_op *op = new_transfer(world, IO_SEND_TO, (void *)(uintptr_t)data, length);
    ((io_datagram *)op)->address = *address;
    return op;
}

io_op *new_accept(test_world *world) {
    return new_op(world, IO_ACCEPT);
}

io_op *new_connect(test_world *world, const io_address *address) {
    io_op *op = new_op(world, IO_CONNECT);
    ((io_connect *)op)->address = *address;
    return op;
}

io_op *new_send_file(test_world *world, io_native file, uint64_t offset, uint64_t count) {
    io_op *op = new_op(world, IO_SEND_FILE);
    io_send_file *send = (io_send_file *)op;
    send->file = file;
    send->offset = offset;
    send->remaining = count;
    return op;
}

io_op *new_poll(test_world *world, uint32_t events) {
    io_op *op = new_op(world, IO_POLL);
    ((io_poll *)op)->events = events;
    return op;
}

void post(test_world *world, void *owner) {
    io_op *op = io_op_new(world->lane, IO_POST, NULL, owner);
    CHECK(op != NULL);
    io_post_submit(op);
}

/* ---- completions ----------------------------------------------------------------------------- */

io_op *world_get(test_world *world, unsigned ms) {
    io_op *op = NULL;
    io_wait wait = {.deadline_ns = 0};
    if (ms > 0)
        wait.deadline_ns = io_lane_now(world->lane) + ms * IO_NS_PER_MS;
    CHECK_INT(io_port_enter(world->port), 0);
    int count = io_lane_get(world->lane, &wait, &op, 1);
    io_port_leave(world->port);
    if (count < 0)
        FAIL("%s: waiting fails with %d", world->backend->name, count);
    CHECK(count <= 1);
    return count == 0 ? NULL : op;
}

int64_t world_finish(test_world *world, io_op *op) {
    io_op *got = world_get(world, 10000);
    if (got == NULL)
        FAIL("%s: %s never ended", world->backend->name, io_kind_name((io_kind)op->kind));
    if (got != op)
        FAIL("%s: %s ended instead of %s", world->backend->name, io_kind_name((io_kind)got->kind),
             io_kind_name((io_kind)op->kind));
    CHECK_INT(op->state, IO_OP_COMPLETED);
    return op->result;
}

int64_t world_do(test_world *world, io_op *op, io_handle *handle) {
    io_op_submit(op, handle);
    int64_t result = world_finish(world, op);
    io_op_release(op);
    return result;
}

bool world_quiet(test_world *world, unsigned ms) {
    io_op *op = world_get(world, ms);
    if (op != NULL)
        io_op_release(op);
    return op == NULL;
}
