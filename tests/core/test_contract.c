/* test_contract.c: the first rules of the seam (core/backend.h), for every backend of the platform.
 *
 * Each kind of operation is brought to each of its ends: it can be done at once, it has to wait, it
 * fails; and it is cancelled never, while it is queued, right after it was submitted, or when it
 * has completed. Whatever happens, it ends exactly once, and its result means the same everywhere.
 */
#include "scene.h"

typedef enum test_cancel { NEVER, QUEUED, DURING, COMPLETED, CANCELS } test_cancel;
static const char *const way_names[WAYS] = {"done", "pending", "failed"};
static const char *const cancel_names[CANCELS] = {"no", "a queued", "an early", "a late"};

static int64_t expected(io_kind kind, test_way way) {
    switch (kind) {
    case IO_RECV:
    case IO_RECV_FROM:
    case IO_READ:
    case IO_WRITE:
    case IO_SEND_TO:
        return 5;
    case IO_SEND:
    case IO_SEND_FILE:
        return way == HAS_TO_WAIT ? (int64_t)LARGE : 5;
    default:
        return 0;
    }
}

static void check_result(const test_scene *scene, test_way way, test_cancel cancel,
                         int64_t result) {
    bool cancelled = result == -IOE_CANCELED;
    bool right = way == FAILS ? result < 0 && !cancelled : result == expected(scene->kind, way);
    if (cancelled && cancel != NEVER && cancel != COMPLETED)
        right = true;
    /* A short result is right only where partial receives were asked for. */
    if (way != FAILS && scene->world.sim && result > 0 && result < 5 && scene->kind == IO_RECV)
        right = true;
    if (!right)
        FAIL("%s: %s that is %s, with %s cancel: %lld", scene->world.backend->name,
             io_kind_name(scene->kind), way_names[way], cancel_names[cancel], (long long)result);
}

/* A send that was cancelled half way, or not: the peer gets a part from the beginning. */
static void end_large_send(test_scene *scene, io_op *op, test_cancel cancel) {
    if (cancel != DURING) {
        scene_read_all(scene, op, LARGE);
        if (*(int *)op->owner == 0)
            scene_finish(scene, op);
    } else {
        scene_finish(scene, op);
    }
}

static void one_case(const char *backend, io_kind kind, test_way way, test_cancel cancel,
                     uint64_t seed) {
    test_scene scene;
    scene_open(&scene, backend, kind, seed);
    scene_set_up(&scene, way);
    if (way == AT_ONCE && scene_by_peer(kind))
        scene_fulfil(&scene);
    if (way == AT_ONCE && scene_by_peer(kind) && !scene.world.sim)
        test_sleep_ms(1);
    io_op *op = scene_op(&scene, way);
    scene_submit(&scene, op, 0);
    if (cancel == DURING)
        io_op_cancel(op);
    if (cancel == COMPLETED)
        test_sleep_ms(0);
    if (way == HAS_TO_WAIT && cancel == DURING && (seed & 1) != 0)
        scene_fulfil(&scene);
    else if (way == HAS_TO_WAIT && cancel != DURING)
        scene_fulfil(&scene);
    if (way == HAS_TO_WAIT && (kind == IO_SEND || kind == IO_SEND_FILE))
        end_large_send(&scene, op, cancel);
    else
        scene_finish(&scene, op);
    if (cancel == COMPLETED)
        CHECK(!io_op_cancel(op));
    check_result(&scene, way, cancel, op->result);
    if (kind == IO_ACCEPT && op->result == 0) {
        CHECK(((io_accept *)op)->accepted != IO_NATIVE_NONE);
        world_native_close(&scene.world, ((io_accept *)op)->accepted, false);
    }
    if ((kind == IO_RECV || kind == IO_RECV_FROM) && op->result > 0)
        CHECK(memcmp(scene.received, scene.bytes, (size_t)op->result) == 0);
    if (kind == IO_POLL && op->result == 0)
        CHECK_INT(((io_poll *)op)->ready, way == HAS_TO_WAIT ? IO_READABLE : IO_WRITABLE);
    io_op_release(op);
    scene_close(&scene);
}

static bool socket_kind(io_kind kind) {
    return kind != IO_POST && kind != IO_TIMER && kind != IO_POLL && kind != IO_READ &&
           kind != IO_WRITE && kind != IO_SYNC;
}

/* The second of two is cancelled while the first is in the kernel (or queued in the kernel). */
static void cancel_queued(const char *backend, io_kind kind, uint64_t seed) {
    test_scene scene;
    scene_open(&scene, backend, kind, seed);
    scene_set_up(&scene, HAS_TO_WAIT);
    io_op *first = scene_op(&scene, HAS_TO_WAIT), *second = scene_op(&scene, HAS_TO_WAIT);
    scene_submit(&scene, first, 0);
    scene_submit(&scene, second, 0);
    CHECK(io_op_cancel(second));
    int64_t result = scene_finish(&scene, second);
    CHECK_INT(result, -IOE_CANCELED);
    io_op_release(second);
    scene_fulfil(&scene);
    if (kind == IO_SEND || kind == IO_SEND_FILE)
        io_op_cancel(first);
    scene_end(&scene, first);
    scene_close(&scene);
}

static void every_end(const char *backend, test_way way) {
    bool sim = strcmp(backend, "sim") == 0;
    for (int kind = IO_POLL; kind < IO_KINDS; kind++) {
        if (!scene_has_way((io_kind)kind, way))
            continue;
        for (int cancel = NEVER; cancel < CANCELS; cancel++) {
            bool large = way == HAS_TO_WAIT && (kind == IO_SEND || kind == IO_SEND_FILE);
            uint64_t seeds = cancel == DURING && !large ? (sim ? 60 : 10) : (sim ? 4 : 1);
            seeds = test_scaled(seeds) + 1;
            for (uint64_t seed = 0; seed < seeds; seed++) {
                if (cancel != QUEUED)
                    one_case(backend, (io_kind)kind, way, (test_cancel)cancel, seed);
                else if (way == HAS_TO_WAIT && socket_kind((io_kind)kind))
                    cancel_queued(backend, (io_kind)kind, seed);
            }
        }
    }
}

static void ends_at_once(const char *backend) {
    every_end(backend, AT_ONCE);
}

static void ends_after_waiting(const char *backend) {
    every_end(backend, HAS_TO_WAIT);
}

static void ends_failing(const char *backend) {
    every_end(backend, FAILS);
}

#define ALL(X)                      \
    BACKENDS(X, ends_at_once)       \
    BACKENDS(X, ends_after_waiting) \
    BACKENDS(X, ends_failing)

ALL(DEFINE)

int main(int argc, char **argv) {
    static const test_case tests[] = {ALL(ENTRY)};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
