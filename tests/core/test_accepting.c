/* test_accepting.c: failing accepts: which errors an operation retries, and how long a listener
 * pauses. The system's accept is replaced. */
#include "world.h"

#include "core/accepting.h"

#ifndef _WIN32
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { ATTEMPTS_MAX = 16, FOR_EVER = 1 << 30 };

/* ---- the policy ------------------------------------------------------------------------------ */

/* Those that accept(2) lists, and some that only Windows has. */
static const int lost[] = {-IOE_CONNABORTED, -IOE_CONNRESET, -IOE_NETRESET, -IOE_PIPE};
static const int others[] = {-IOE_PERM,
                             -IOE_NETDOWN,
                             -IOE_NETUNREACH,
                             -IOE_HOSTUNREACH,
                             -IOE_OPNOTSUPP,
                             -IOE_NOBUFS,
                             -IOE_MFILE,
                             -IOE_NFILE,
                             -IOE_NOMEM,
                             -IOE_IO,
                             -IOE_BADF,
                             -IOE_INVAL,
                             -IOE_TIMEDOUT,
                             -IOE_NOTCONN,
                             -IOE_NOTSOCK,
                             -IOE_AGAIN,
                             -71 /* EPROTO */,
                             -92 /* ENOPROTOOPT */,
                             -112 /* EHOSTDOWN */,
                             -64 /* ENONET */};

static void at_once_and_how_often(void) {
    for (size_t i = 0; i < COUNT_OF(lost) + 1; i++) {
        io_accept accept = {0};
        int error = i < COUNT_OF(lost) ? lost[i] : -IOE_INTR;
        for (int attempt = 1; attempt < ATTEMPTS_MAX; attempt++)
            CHECK(io_accept_again(&accept, error));
        for (int attempt = 0; attempt < 100; attempt++)
            CHECK(!io_accept_again(&accept, error));
    }
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        io_accept accept = {0};
        CHECK(!io_accept_again(&accept, others[i]));
    }
}

/* Short at first, so that one in two does not slow the others down; at most a tenth of a second. */
static void pauses(void) {
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        io_accepting record = {0};
        uint64_t last_ns = 0;
        for (int failure = 0; failure < 1000; failure++) {
            uint64_t pause_ns = io_accepting_pause(&record, others[i]);
            CHECK(pause_ns > 0 && pause_ns >= last_ns && pause_ns <= 100 * IO_NS_PER_MS);
            CHECK(failure < 7 || pause_ns == 100 * IO_NS_PER_MS);
            last_ns = pause_ns;
        }
        CHECK_INT(io_accepting_pause(&record, 0), 0);
        for (int round = 0; round < 1000; round++) {
            CHECK_INT(io_accepting_pause(&record, others[i]), IO_NS_PER_MS);
            CHECK_INT(io_accepting_pause(&record, 0), 0);
        }
    }
}

/* Clients that go before they are accepted hold up nobody; but not without end. */
static void pauses_for_lost_clients(void) {
    for (size_t i = 0; i < COUNT_OF(lost); i++) {
        io_accepting record = {0};
        int at_once = 0, pauses = 0;
        uint64_t paused_ns = 0;
        for (int failure = 0; failure < 10000; failure++) {
            uint64_t pause_ns = io_accepting_pause(&record, lost[i]);
            at_once += pause_ns == 0;
            pauses += pause_ns > 0;
            paused_ns += pause_ns;
        }
        CHECK(at_once > 9000 && pauses > 100);
        CHECK(paused_ns > 10 * IO_NS_PER_SECOND);
        record = (io_accepting){0};
        for (int round = 0; round < 1000; round++) {
            CHECK_INT(io_accepting_pause(&record, lost[i]), 0);
            if (round % 50 == 49)
                CHECK_INT(io_accepting_pause(&record, 0), 0);
        }
    }
}

/* ---- a system that refuses ------------------------------------------------------------------- */

static struct {
    int error;
    int times;    /* to be refused */
    int attempts; /* so far */
    int period;   /* every such attempt */
} refusal;

#ifndef _WIN32

static bool refuses(void) {
    if (refusal.times == 0 || ++refusal.attempts % refusal.period != 0)
        return false;
    refusal.times--;
    return true;
}

/* Instead of libc's. */
int accept4(int listener, __SOCKADDR_ARG address, socklen_t *restrict length, int flags) {
    if (refuses()) {
        errno = io_error_to_errno(refusal.error);
        return -1;
    }
    return (int)syscall(SYS_accept4, listener, address.__sockaddr__, length, flags);
}

#endif

typedef struct world_of_refusals {
    test_world world;
    io_address address;
    io_native listener;
    io_handle *handle;
    io_handle *clients[64];
    io_op *connects[64];
    int count;
} world_of_refusals;

static void open_world(world_of_refusals *self, const char *backend) {
    if (strcmp(backend, "iocp") == 0)
        test_skip("AcceptEx cannot be made to fail at will");
    memset(self, 0, sizeof *self);
    world_open(&self->world, backend, 1);
    self->listener = world_listener(&self->world, &self->address);
    self->handle = world_handle(&self->world, self->listener);
}

static void add_client(world_of_refusals *self) {
    io_native native = world_socket(&self->world);
    io_handle *handle = world_handle(&self->world, native);
    io_op *connect = new_connect(&self->world, &self->address);
    io_op_submit(connect, handle);
    CHECK_INT(world_finish(&self->world, connect), 0);
    io_op_release(connect);
    self->clients[self->count++] = handle;
}

static void refuse(world_of_refusals *self, int error, int times, int period) {
    refusal.error = error;
    refusal.times = times;
    refusal.attempts = 0;
    refusal.period = period;
    if (self->world.sim)
        CHECK_INT(io_sim_fail_accepts(self->world.lane, self->listener, error, (uint32_t)times,
                                      (uint32_t)period),
                  0);
}

static void close_world(world_of_refusals *self) {
    refusal.times = 0;
    for (int i = 0; i < self->count; i++)
        world_handle_close(self->clients[i]);
    world_handle_close(self->handle);
    world_close(&self->world);
}

/* The result of one accept. A refusal costs no client. */
static int64_t accept_one(world_of_refusals *self, int error, int times, int period) {
    io_op *accept = new_accept(&self->world);
    refuse(self, error, times, period);
    io_op_submit(accept, self->handle);
    int64_t result = world_finish(&self->world, accept);
    if (result == 0)
        world_native_close(&self->world, ((io_accept *)accept)->accepted, false);
    io_op_release(accept);
    return result;
}

static void add_clients(world_of_refusals *self, int count) {
    for (int i = 0; i < count; i++)
        add_client(self);
}

/* Whatever is not about one client for sure is the answer, after one attempt. */
static void told_at_once(const char *backend) {
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        if (others[i] == -IOE_AGAIN) /* it means: wait */
            continue;
        world_of_refusals self;
        open_world(&self, backend);
        add_clients(&self, 3);
        CHECK_INT(accept_one(&self, others[i], FOR_EVER, 1), others[i]);
        CHECK(self.world.sim || FOR_EVER - refusal.times == 1);
        CHECK_INT(accept_one(&self, others[i], 0, 1), 0);
        close_world(&self);
    }
}

/* Clients that are gone are passed over; but if all are, it is told. */
static void passed_over(const char *backend) {
    for (size_t i = 0; i < COUNT_OF(lost); i++) {
        world_of_refusals self;
        open_world(&self, backend);
        add_clients(&self, 2 * ATTEMPTS_MAX + 2);
        CHECK_INT(accept_one(&self, lost[i], ATTEMPTS_MAX - 1, 1), 0);
        CHECK_INT(accept_one(&self, lost[i], FOR_EVER, 1), lost[i]);
        CHECK_INT(accept_one(&self, lost[i], FOR_EVER, 2), 0); /* every second one */
        close_world(&self);
    }
}

BACKENDS(DEFINE, told_at_once)
BACKENDS(DEFINE, passed_over)

int main(int argc, char **argv) {
    static const test_case tests[] = {
        TEST(at_once_and_how_often), TEST(pauses), TEST(pauses_for_lost_clients),
        BACKENDS(ENTRY, told_at_once) /**/
        BACKENDS(ENTRY, passed_over)  /**/
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
