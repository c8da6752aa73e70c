/* test_uring.c: file operations on io_uring: more than the ring holds, together with sockets, when
 * the kernel has no memory, and after the submitting thread has ended. */
#include "world.h"

#ifndef _WIN32
#include "real_syscall.h"
#include "backends/linux/epoll.h"
#include "backends/linux/uring_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum {
    MORE_THAN_FIT = 9000, /* in a queue of 4096 */
    PIECE = 8,
    LARGE_BYTES = 2 << 20, /* for a thread of the kernel's */
};

static char file_pattern[LARGE_BYTES];

static io_handle *pattern_file(test_world *world, io_native *native) {
    for (size_t i = 0; i < sizeof(file_pattern); i++)
        file_pattern[i] = (char)(i * 31 >> 3 | 1);
    *native = world_file(world, file_pattern, sizeof(file_pattern));
    return world_handle(world, *native);
}

static void close_file(test_world *world, io_handle *handle, io_native native) {
    CHECK_INT(io_handle_forget(handle, false), 0);
    io_handle_release(handle);
    world_native_close(world, native, true);
}

/* ---- a kernel without memory ----------------------------------------------------------------- */

static _Atomic int refusals; /* so many submissions are refused from now on */
static _Atomic int accepted; /* and so many have been taken */

static struct {
    uring_ring *ring; /* NULL: none */
    int error;        /* the result of all that it completes at once */
    int times;
} doctored;

static void doctor(void) {
    uint32_t head = atomic_load(doctored.ring->cq_head), tail = atomic_load(doctored.ring->cq_tail);
    for (; head != tail; head++, doctored.times++)
        doctored.ring->cqes[head & doctored.ring->cq_mask].result = -doctored.error;
}

/* Instead of libc's. */
long syscall(long number, ...) {
    long arguments[SYSCALL_ARGUMENTS];
    SYSCALL_TAKE(number, arguments);
    bool submits = number == URING_SYS_ENTER && arguments[1] == 1;
    if (submits && atomic_load(&refusals) > 0) {
        atomic_fetch_sub(&refusals, 1);
        errno = ENOMEM;
        return -1;
    }
    long result = real_syscall(number, arguments);
    if (submits && result == 1)
        atomic_fetch_add(&accepted, 1);
    if (submits && result == 1 && doctored.ring != NULL)
        doctor();
    return result;
}

/* Memory that whoever writes to it has to wait for. */
typedef struct late_memory {
    int fault;
    char *bytes;
} late_memory;

/* False: nobody may have it here. */
static bool late_open(late_memory *late) {
    struct uffdio_api api = {.api = UFFD_API};
    late->fault = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (late->fault < 0)
        return false;
    late->bytes =
        mmap(NULL, LARGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(late->bytes != MAP_FAILED);
    struct uffdio_register range = {
        .range = {.start = (uintptr_t)late->bytes, .len = LARGE_BYTES},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    CHECK_INT(ioctl(late->fault, UFFDIO_API, &api), 0);
    CHECK_INT(ioctl(late->fault, UFFDIO_REGISTER, &range), 0);
    return true;
}

static void late_give(const late_memory *late) {
    struct uffdio_zeropage range = {
        .range = {.start = (uintptr_t)late->bytes, .len = LARGE_BYTES},
    };
    CHECK_INT(ioctl(late->fault, UFFDIO_ZEROPAGE, &range), 0);
}

static void late_close(const late_memory *late) {
    CHECK_INT(munmap(late->bytes, LARGE_BYTES), 0);
    close(late->fault);
}

typedef struct waiter {
    test_thread thread;
    test_world *world;
    io_op *op;
} waiter;

static void wait_for_one(void *argument) {
    waiter *self = argument;
    self->op = world_get(self->world, 20000);
}

static void let_it_wait(test_world *world) {
    for (bool waits = false; !waits;) {
        io_mutex_lock(&world->lane->lock);
        waits = world->lane->waiting;
        io_mutex_unlock(&world->lane->lock);
    }
}

/* A cancel that the kernel did not take is asked for again, though nothing else happens: by this
 * thread, which comes to wait later, or by one that waits already. */
static void cancel_refused(void) {
    for (int count = 0; count < 6; count++) {
        test_world world;
        late_memory late;
        io_native native;
        waiter other = {.world = &world};
        bool elsewhere = count % 2 == 1;
        world_open(&world, "io_uring", 1);
        if (!late_open(&late)) {
            world_close(&world);
            test_skip("userfaultfd is not allowed here");
            return;
        }
        io_handle *handle = pattern_file(&world, &native);
        io_op *op = new_file_op(&world, IO_READ, late.bytes, LARGE_BYTES, 0);
        io_op_submit(op, handle);
        CHECK(world_quiet(&world, 20));
        if (elsewhere) {
            test_thread_start(&other.thread, wait_for_one, &other);
            let_it_wait(&world);
        }
        int before = atomic_load(&accepted);
        atomic_store(&refusals, count);
        CHECK(io_op_cancel(op));
        while (atomic_load(&accepted) == before)
            if (elsewhere)
                test_sleep_ms(1);
            else
                CHECK(world_quiet(&world, 20) || count == 0);
        CHECK_INT(atomic_load(&refusals), 0);
        late_give(&late);
        if (elsewhere)
            test_thread_join(&other.thread);
        else
            other.op = world_get(&world, 10000);
        CHECK(other.op == op);
        CHECK(op->result == -IOE_CANCELED || op->result == LARGE_BYTES);
        io_op_release(op);
        close_file(&world, handle, native);
        late_close(&late);
        world_close(&world);
    }
}

/* ---- the queue ------------------------------------------------------------------------------- */

/* All have ended before the first one is taken, and the kernel keeps those for which there was no
 * room. */
static void more_than_fit(void) {
    static char pieces[MORE_THAN_FIT][PIECE];
    test_world world;
    io_native native;
    world_open(&world, "io_uring", 1);
    io_handle *handle = pattern_file(&world, &native);
    size_t count = test_scaled(MORE_THAN_FIT);
    for (size_t i = 0; i < count; i++) {
        io_op *op = new_file_op(&world, IO_READ, pieces[i], PIECE, i * PIECE);
        op->owner = pieces[i];
        io_op_submit(op, handle);
    }
    for (size_t i = 0; i < count; i++) {
        io_op *op = world_get(&world, 10000);
        CHECK(op != NULL);
        CHECK_INT(op->result, PIECE);
        test_kernel_wrote(op->owner, PIECE);
        CHECK(memcmp(op->owner, &file_pattern[(char *)op->owner - pieces[0]], PIECE) == 0);
        memset(op->owner, 0, PIECE); /* not twice */
        io_op_release(op);
    }
    CHECK(world_quiet(&world, 0));
    close_file(&world, handle, native);
    world_close(&world);
}

/* However many files complete, a socket has its turn. */
static void beside_sockets(void) {
    enum { KEPT = 200, TURNS_MAX = 2000 };
    static char pieces[KEPT][PIECE];
    char byte;
    test_world world;
    io_native native, pair[2];
    world_open(&world, "io_uring", 1);
    io_handle *handle = pattern_file(&world, &native);
    world_pair(&world, pair);
    io_handle *sock = world_handle(&world, pair[0]);
    io_op *receive = new_recv(&world, &byte, 1);
    io_op_submit(receive, sock);
    for (int i = 0; i < KEPT; i++)
        io_op_submit(new_file_op(&world, IO_READ, pieces[i], PIECE, 0), handle);
    CHECK_INT(send((int)pair[1], "x", 1, 0), 1);
    for (int turn = 0; receive->state != IO_OP_COMPLETED; turn++) {
        CHECK(turn < TURNS_MAX);
        io_op *op = world_get(&world, 10000);
        CHECK(op != NULL);
        if (op == receive)
            break;
        io_op_release(op);
        io_op_submit(new_file_op(&world, IO_READ, pieces[turn % KEPT], PIECE, 0), handle);
    }
    CHECK_INT(receive->result, 1);
    while (atomic_load(&world.port->in_flight) > 0) {
        io_op *op = world_get(&world, 10000);
        CHECK(op != NULL);
        if (op != receive)
            io_op_release(op);
    }
    io_op_release(receive);
    close_file(&world, handle, native);
    world_handle_close(sock);
    close((int)pair[1]);
    world_close(&world);
}

/* What one thread asks for ends the wait of another. */
static void ends_a_wait(void) {
    for (uint64_t round = 0; round < test_scaled(100); round++) {
        char piece[PIECE];
        test_world world;
        io_native native;
        waiter other = {.world = &world};
        world_open(&world, "io_uring", 1);
        io_handle *handle = pattern_file(&world, &native);
        test_thread_start(&other.thread, wait_for_one, &other);
        let_it_wait(&world);
        io_op *op = new_file_op(&world, IO_READ, piece, PIECE, 0);
        io_op_submit(op, handle);
        test_thread_join(&other.thread);
        CHECK(other.op == op);
        CHECK_INT(op->result, PIECE);
        io_op_release(op);
        close_file(&world, handle, native);
        world_close(&world);
    }
}

/* ---- threads --------------------------------------------------------------------------------- */

enum { READS = 12 };

typedef struct reader {
    test_thread thread;
    test_world *world;
    io_handle *handle;
    char *memory;
} reader;

static void read_often(void *argument) {
    reader *self = argument;
    for (int i = 0; i < READS; i++)
        io_op_submit(new_file_op(self->world, IO_READ, self->memory + (size_t)i * LARGE_BYTES,
                                 LARGE_BYTES, 0),
                     self->handle);
}

/* What the kernel was asked for by a thread that has ended goes on. */
static void thread_ended(void) {
    for (uint64_t round = 0; round < test_scaled(20); round++) {
        test_world world;
        io_native native;
        reader other = {.world = &world};
        world_open(&world, "io_uring", 1);
        other.handle = pattern_file(&world, &native);
        other.memory = calloc(READS, LARGE_BYTES);
        CHECK(other.memory != NULL);
        test_thread_start(&other.thread, read_often, &other);
        test_thread_join(&other.thread);
        for (int i = 0; i < READS; i++) {
            io_op *op = world_get(&world, 10000);
            CHECK(op != NULL);
            CHECK_INT(op->result, LARGE_BYTES);
            io_op_release(op);
        }
        test_kernel_wrote(other.memory, (size_t)READS * LARGE_BYTES);
        for (int i = 0; i < READS; i++)
            CHECK(memcmp(other.memory + (size_t)i * LARGE_BYTES, file_pattern, LARGE_BYTES) == 0);
        free(other.memory);
        close_file(&world, other.handle, native);
        world_close(&world);
    }
}

/* What uring.c's lane begins with. */
typedef struct lane_head {
    epoll_lane readiness;
    uring_ring ring;
} lane_head;

/* Results that say nothing but "again" come to an end, though the kernel says nothing else. */
static void meaningless_for_ever(void) {
    static const int errors[] = {EINTR, EAGAIN};
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        test_world world;
        io_native native;
        char piece[PIECE];
        world_open(&world, "io_uring", 1);
        io_handle *handle = pattern_file(&world, &native);
        doctored.ring = &((lane_head *)world.lane->state)->ring;
        doctored.error = errors[i];
        doctored.times = 0;
        io_op *op = new_file_op(&world, IO_READ, piece, PIECE, 0);
        io_op_submit(op, handle);
        CHECK_INT(world_finish(&world, op), errors[i] == EINTR ? -IOE_INTR : -IOE_NOBUFS);
        CHECK(doctored.times > 4 && doctored.times < 1000);
        doctored.ring = NULL;
        io_op_release(op);
        close_file(&world, handle, native);
        world_close(&world);
    }
}

int main(int argc, char **argv) {
    static const test_case tests[] = {
        TEST(meaningless_for_ever), TEST(cancel_refused), TEST(more_than_fit),
        TEST(beside_sockets),       TEST(ends_a_wait),    TEST(thread_ended),
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
#else
int main(int argc, char **argv) {
    return test_main(argc, argv, NULL, 0);
}
#endif
