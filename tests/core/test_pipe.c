/* test_pipe.c: named pipes as streams (Windows only). */
#include "stream_pair.h"

#ifdef _WIN32
#include <wchar.h>

enum { NAME_MAX_LENGTH = 80 };

static void new_name(wchar_t *name) {
    static int count;
    swprintf(name, NAME_MAX_LENGTH, L"\\\\.\\pipe\\iocpcore-test-%lu-%d",
             (unsigned long)GetCurrentProcessId(), ++count);
}

static bool under_wine(void) {
    return GetProcAddress(GetModuleHandleW(L"ntdll.dll"), "wine_get_version") != NULL;
}

/* ---- pairs ----------------------------------------------------------------------------------- */

static io_handle *listen_on(test_world *world, const wchar_t *name) {
    io_handle *handle = NULL;
    uint32_t os_error = 0;
    CHECK_INT(io_pipe_listen(world->lane, name, &handle, &os_error), 0);
    return handle;
}

static io_native connect_to(const wchar_t *name) {
    io_native native = IO_NATIVE_NONE;
    uint32_t os_error = 0;
    CHECK_INT(io_pipe_connect(name, &native, &os_error), 0);
    CHECK_INT(os_error, 0);
    return native;
}

static io_native accepted_by(test_world *world, io_op *op) {
    io_accept *accept = (io_accept *)op;
    CHECK_INT(world_finish(world, op), 0);
    io_native native = accept->accepted;
    CHECK(native != IO_NATIVE_NONE);
    CHECK_INT(accept->peer.length, 0);
    io_op_release(op);
    return native;
}

static io_handle *adopt(test_world *world, io_native native) {
    io_handle *handle = NULL;
    uint32_t os_error = 0;
    CHECK_INT(io_handle_adopt(world->lane, native, IO_FAMILY_PIPE, &handle, &os_error), 0);
    return handle;
}

/* Side 0 is the server's. Every second time its accept comes after the client. */
static void pair_open(stream_pair *both, uint64_t seed) {
    wchar_t name[NAME_MAX_LENGTH];
    stream_pair_begin(both, "iocp", seed);
    new_name(name);
    io_handle *listener = listen_on(&both->world, name);
    io_op *accept = new_accept(&both->world);
    if (seed % 2 == 0)
        io_op_submit(accept, listener);
    both->native[1] = connect_to(name);
    if (seed % 2 == 1)
        io_op_submit(accept, listener);
    both->native[0] = accepted_by(&both->world, accept);
    for (int i = 0; i < 2; i++)
        both->handle[i] = adopt(&both->world, both->native[i]);
    io_handle_close(listener);
}

/* ---- data and its end ------------------------------------------------------------------------ */

static void data(void) {
    static const uint32_t capacities[] = {1, 100, 512, 4096, 5000, 65536};
    for (uint64_t seed = 0; seed < test_scaled(24); seed++) {
        stream_pair both;
        pair_open(&both, seed);
        for (int round = 0; round < 10; round++) {
            uint32_t capacity = capacities[test_below(&both.random, COUNT_OF(capacities))];
            size_t total = 0, most = capacity == 1 ? 50 : 20000;
            int to = round % 2;
            if (test_below(&both.random, 2) == 0)
                stream_pair_start(&both, to, capacity);
            for (uint64_t parts = 1 + test_below(&both.random, 3); parts > 0; parts--) {
                size_t length = 1 + test_below(&both.random, most);
                stream_pair_send(&both, 1 - to, stream_pair_pattern + total, length);
                total += length;
            }
            stream_pair_receive_all(&both, to, 0, total, capacity);
        }
        /* The end comes after everything, whoever closes. */
        int closing = (int)(seed / 2 % 2);
        if (seed % 3 == 0)
            stream_pair_start(&both, 1 - closing, 4096);
        stream_pair_send_now(&both, closing, stream_pair_pattern, 3000);
        stream_pair_close_side(&both, closing);
        stream_pair_receive_all(&both, 1 - closing, 0, 3000, 1000);
        for (int i = 0; i < 3; i++)
            CHECK_INT(stream_pair_receive(&both, 1 - closing, 512), 0);
        io_op *op = new_send(&both.world, stream_pair_pattern, 10);
        io_op_submit(op, both.handle[1 - closing]);
        CHECK_INT(stream_pair_finish(&both, op), -IOE_PIPE);
        io_op_release(op);
        stream_pair_close(&both);
    }
}

/* Many vectors, some of them empty and some larger than what is joined; all of it arrives, in
 * order, while nobody reads at first. */
static void gathered(void) {
    enum { PARTS = 200 };
    for (uint64_t seed = 0; seed < test_scaled(12); seed++) {
        stream_pair both;
        pair_open(&both, seed);
        io_op *op = new_send(&both.world, NULL, 0);
        io_transfer *transfer = (io_transfer *)op;
        CHECK(io_transfer_reserve(transfer, PARTS));
        transfer->vec_count = PARTS;
        for (int i = 0; i < PARTS; i++) {
            size_t length = i % 7 < 3 ? 0 : test_below(&both.random, i % 50 == 49 ? 150000 : 3000);
            if (seed % 3 == 0 && i > 5)
                length = 0; /* it fits into the pipe */
            io_vec_set(&transfer->vecs[i], stream_pair_pattern + transfer->length, length);
            transfer->length += length;
        }
        size_t total = transfer->length;
        CHECK(total < sizeof(stream_pair_pattern));
        io_op_submit(op, both.handle[1]);
        stream_pair_receive_all(&both, 0, 0, total, 65536);
        stream_pair_send_now(&both, 1, stream_pair_pattern, 0);
        stream_pair_send_now(&both, 1, stream_pair_pattern, 20);
        stream_pair_receive_all(&both, 0, 0, 20, 65536);
        stream_pair_close(&both);
    }
}

/* Sends that nobody reads are cancelled, and their memory comes back. */
static void cancelled_sends(void) {
    stream_pair both;
    pair_open(&both, 0);
    io_op *large = new_send(&both.world, stream_pair_pattern, sizeof(stream_pair_pattern));
    io_op *joined = new_send(&both.world, stream_pair_pattern, 10);
    io_transfer *transfer = (io_transfer *)joined;
    io_vec_set(&transfer->vecs[1], stream_pair_pattern, 10);
    transfer->vec_count = 2;
    transfer->length = 20;
    io_op_submit(large, both.handle[0]);
    io_op_submit(joined, both.handle[0]);
    CHECK(transfer->pooled != NULL);
    CHECK(io_op_cancel(joined));
    CHECK_INT(stream_pair_finish(&both, joined), -IOE_CANCELED);
    CHECK(transfer->pooled == NULL);
    io_op_release(joined);
    CHECK(io_op_cancel(large));
    CHECK_INT(stream_pair_finish(&both, large), -IOE_CANCELED);
    io_op_release(large);
    stream_pair_close(&both);
}

/* A write of nothing, which a foreign program may make, is not the end. */
static void empty_writes(void) {
    stream_pair both;
    pair_open(&both, 0);
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    CHECK(event != NULL);
    for (int round = 0; round < 20; round++) {
        OVERLAPPED overlapped = {0};
        DWORD written = 0;
        overlapped.hEvent = (HANDLE)((ULONG_PTR)event | 1);
        if (round % 2 == 0)
            stream_pair_start(&both, 0, 4096);
        BOOL ended = WriteFile((HANDLE)both.native[1], "", 0, &written, &overlapped);
        CHECK(ended || GetLastError() == ERROR_IO_PENDING);
        stream_pair_send(&both, 1, stream_pair_pattern, 10);
        stream_pair_receive_all(&both, 0, 0, 10, 4096);
        CHECK(GetOverlappedResult((HANDLE)both.native[1], &overlapped, &written, TRUE));
    }
    CloseHandle(event);
    stream_pair_close(&both);
}

static void cancelled(void) {
    stream_pair both;
    pair_open(&both, 1);
    stream_pair_cancel_receives(&both, test_scaled(200));
    stream_pair_close(&both);
}

static void closed_under_a_receive(void) {
    for (uint64_t seed = 0; seed < 8; seed++) {
        stream_pair both;
        pair_open(&both, seed);
        stream_pair_start(&both, 0, 4096);
        stream_pair_start(&both, 1, 4096);
        stream_pair_close_side(&both, 0);
        CHECK_INT(stream_pair_received(&both, 0), -IOE_CANCELED);
        CHECK_INT(stream_pair_received(&both, 1), 0);
        stream_pair_close(&both);
    }
}

static void what_pipes_have_not(void) {
    stream_pair both;
    io_address address;
    pair_open(&both, 0);
    const io_backend *backend = both.world.backend;
    CHECK_INT(backend->shutdown(both.handle[0]), -IOE_OPNOTSUPP);
    backend->address(both.handle[0], true, &address);
    CHECK_INT(address.length, 0);
    backend->address(both.handle[1], false, &address);
    CHECK_INT(address.length, 0);
    stream_pair_send_now(&both, 0, stream_pair_pattern, 10);
    backend->prepare_close(both.handle[0], false);
    stream_pair_close_side(&both, 0);
    stream_pair_receive_all(&both, 1, 0, 10, 512);
    CHECK_INT(world_do(&both.world, new_accept(&both.world), both.handle[1]), -IOE_INVAL);
    CHECK_INT(world_do(&both.world, new_poll(&both.world, IO_READABLE), both.handle[1]),
              -IOE_OPNOTSUPP);
    stream_pair_close(&both);
}

/* ---- listening ------------------------------------------------------------------------------- */

static void expect_no_place(const wchar_t *name) {
    io_native native = IO_NATIVE_NONE;
    uint32_t os_error = 0;
    CHECK_INT(io_pipe_connect(name, &native, &os_error), -IOE_AGAIN);
    CHECK_INT(os_error, ERROR_PIPE_BUSY);
    CHECK_INT(native, IO_NATIVE_NONE);
}

/* As many clients find a place as there are accepts, and one more. */
static void places(void) {
    enum { ACCEPTS = 3 };
    test_world world;
    wchar_t name[NAME_MAX_LENGTH];
    io_op *accepts[ACCEPTS + 1];
    io_native clients[ACCEPTS + 2], served[ACCEPTS + 1];
    uint32_t os_error = 0;
    world_open(&world, "iocp", 1);
    new_name(name);
    io_handle *listener = listen_on(&world, name);
    for (int i = 0; i <= ACCEPTS; i++)
        accepts[i] = new_accept(&world);
    for (int i = 0; i < ACCEPTS; i++)
        io_op_submit(accepts[i], listener);
    for (int i = 0; i <= ACCEPTS; i++)
        clients[i] = connect_to(name);
    expect_no_place(name);
    CHECK_INT(io_pipe_wait(name, 20, &os_error), -IOE_TIMEDOUT);
    for (int i = 0; i < ACCEPTS; i++) {
        io_op *op = world_get(&world, 10000);
        CHECK(op != NULL && op->result == 0);
        served[i] = ((io_accept *)op)->accepted;
        io_op_release(op);
    }
    CHECK(world_quiet(&world, 0));
    io_op_submit(accepts[ACCEPTS], listener);
    served[ACCEPTS] = accepted_by(&world, accepts[ACCEPTS]);
    CHECK_INT(io_pipe_wait(name, 10000, &os_error), 0);
    clients[ACCEPTS + 1] = connect_to(name);
    expect_no_place(name);
    for (int i = 0; i < ACCEPTS + 2; i++)
        io_native_close_file(clients[i]);
    for (int i = 0; i < ACCEPTS + 1; i++)
        io_native_close_file(served[i]);
    io_handle_close(listener);
    CHECK_INT(io_pipe_connect(name, &clients[0], &os_error), -IOE_NOENT);
    world_close(&world);
}

/* A client that wrote something and left before it was accepted is heard all the same. */
static void client_was_quicker(void) {
    for (int round = 0; round < 4; round++) {
        stream_pair both;
        wchar_t name[NAME_MAX_LENGTH];
        stream_pair_begin(&both, "iocp", (uint64_t)round);
        new_name(name);
        io_handle *listener = listen_on(&both.world, name);
        both.handle[1] = adopt(&both.world, connect_to(name));
        if (round % 2 == 0)
            stream_pair_send_now(&both, 1, stream_pair_pattern, 100);
        stream_pair_close_side(&both, 1);
        io_op *accept = new_accept(&both.world);
        io_op_submit(accept, listener);
        both.handle[0] = adopt(&both.world, accepted_by(&both.world, accept));
        if (round % 2 == 0)
            stream_pair_receive_all(&both, 0, 0, 100, 4096);
        CHECK_INT(stream_pair_receive(&both, 0, 4096), 0);
        io_handle_close(listener);
        stream_pair_close(&both);
    }
}

/* Accepts that are cancelled, and a listener that is closed with accepts in flight. */
static void accepts_cancelled(void) {
    test_world world;
    wchar_t name[NAME_MAX_LENGTH];
    uint32_t os_error = 0;
    io_native native;
    world_open(&world, "iocp", 1);
    new_name(name);
    io_handle *listener = listen_on(&world, name);
    for (int round = 0; round < 10; round++) {
        io_op *accept = new_accept(&world);
        io_op_submit(accept, listener);
        CHECK(io_op_cancel(accept));
        CHECK_INT(world_finish(&world, accept), -IOE_CANCELED);
        CHECK_INT(((io_accept *)accept)->accepted, IO_NATIVE_NONE);
        io_op_release(accept);
        native = connect_to(name); /* the name was there all the time */
        accept = new_accept(&world);
        io_op_submit(accept, listener);
        io_native_close_file(accepted_by(&world, accept));
        io_native_close_file(native);
    }
    io_op *accepts[3];
    for (int i = 0; i < 3; i++) {
        accepts[i] = new_accept(&world);
        io_op_submit(accepts[i], listener);
    }
    io_handle_close(listener);
    for (int i = 0; i < 3; i++) {
        io_op *op = world_get(&world, 10000);
        CHECK(op != NULL);
        CHECK_INT(op->result, -IOE_CANCELED);
        io_op_release(op);
    }
    CHECK_INT(io_pipe_connect(name, &native, &os_error), -IOE_NOENT);
    io_handle *again = listen_on(&world, name);
    io_handle_close(again);
    world_close(&world);
}

/* What is still listening, accepting and receiving when the port is closed. */
static void port_closed(void) {
    stream_pair both;
    wchar_t name[NAME_MAX_LENGTH];
    uint32_t os_error = 0;
    io_native native;
    pair_open(&both, 0);
    new_name(name);
    io_handle *listener = listen_on(&both.world, name);
    io_op_submit(new_accept(&both.world), listener);
    io_op_submit(new_accept(&both.world), listener);
    CHECK_INT(world_close_busy(&both.world), 2);
    CHECK_INT(io_pipe_connect(name, &native, &os_error), -IOE_NOENT);
    for (int i = 0; i < 2; i++)
        io_native_close_file(both.native[i]);
}

static void name_in_use(void) {
    test_world world;
    wchar_t name[NAME_MAX_LENGTH];
    io_handle *other = NULL;
    uint32_t os_error = 0;
    if (under_wine())
        test_skip("Wine lets anybody make the first instance");
    world_open(&world, "iocp", 1);
    new_name(name);
    io_handle *listener = listen_on(&world, name);
    CHECK_INT(io_pipe_listen(world.lane, name, &other, &os_error), -IOE_ADDRINUSE);
    io_handle_close(listener);
    world_close(&world);
}

static void wrong_names(void) {
    static const wchar_t *const names[] = {L"",
                                           L"x",
                                           L"C:\\Windows\\win.ini",
                                           L"\\\\.\\COM1",
                                           L"\\\\.\\pipe\\",
                                           L"\\\\\\pipe\\x",
                                           L"\\\\.\\pip\\x"};
    test_world world;
    io_handle *handle = NULL;
    io_native native;
    uint32_t os_error = 0;
    for (size_t i = 0; i < COUNT_OF(names); i++)
        CHECK_INT(io_pipe_connect(names[i], &native, &os_error), -IOE_INVAL);
    CHECK_INT(io_pipe_connect(L"\\\\.\\pipe\\iocpcore-nobody", &native, &os_error), -IOE_NOENT);
    CHECK_INT(os_error, ERROR_FILE_NOT_FOUND);
    CHECK(io_pipe_wait(L"\\\\.\\pipe\\iocpcore-nobody", 10, &os_error) < 0);
    world_open(&world, "iocp", 1);
    CHECK(io_pipe_listen(world.lane, L"C:\\x", &handle, &os_error) < 0);
    CHECK(handle == NULL);
    world_close(&world);
    world_open(&world, "sim", 1);
    CHECK_INT(io_pipe_listen(world.lane, L"\\\\.\\pipe\\x", &handle, &os_error), -IOE_OPNOTSUPP);
    world_close(&world);
}

int main(int argc, char **argv) {
    static const test_case tests[] = {
        TEST(data),
        TEST(gathered),
        TEST(cancelled_sends),
        TEST(empty_writes),
        TEST(cancelled),
        TEST(closed_under_a_receive),
        TEST(what_pipes_have_not),
        TEST(places),
        TEST(client_was_quicker),
        TEST(accepts_cancelled),
        TEST(port_closed),
        TEST(name_in_use),
        TEST(wrong_names),
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
#else
int main(int argc, char **argv) {
    return test_main(argc, argv, NULL, 0);
}
#endif
