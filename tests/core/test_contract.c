/* test_contract.c: the first rules of core/backend.h, for every backend of the platform.
 *
 * Each kind of operation is brought to each possible end: it completes at once, has to wait, or
 * fails; and it is not cancelled, or cancelled while queued, right after the submission, or after
 * the completion. In every case it ends exactly once, with the same result on all backends. */
#include "op_case.h"

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

static void check_result(const op_case *subject, test_way way, test_cancel cancel, int64_t result) {
    bool cancelled = result == -IOE_CANCELED;
    bool right = way == FAILS ? result < 0 && !cancelled : result == expected(subject->kind, way);
    if (cancelled && cancel != NEVER && cancel != COMPLETED)
        right = true;
    /* A short result is right only where partial receives were asked for. */
    if (way != FAILS && subject->world.sim && result > 0 && result < 5 && subject->kind == IO_RECV)
        right = true;
    if (!right)
        FAIL("%s: %s that is %s, with %s cancel: %lld", subject->world.backend->name,
             io_kind_name(subject->kind), way_names[way], cancel_names[cancel], (long long)result);
}

/* A send that was cancelled half way, or not: the peer gets a part from the beginning. */
static void end_large_send(op_case *subject, io_op *op, test_cancel cancel) {
    if (cancel != DURING) {
        op_case_read_all(subject, op, LARGE);
        if (*(int *)op->owner == 0)
            op_case_finish(subject, op);
    } else {
        op_case_finish(subject, op);
    }
}

static void one_case(const char *backend, io_kind kind, test_way way, test_cancel cancel,
                     uint64_t seed) {
    op_case subject;
    op_case_open(&subject, backend, kind, seed);
    op_case_set_up(&subject, way);
    if (way == AT_ONCE && op_case_by_peer(kind))
        op_case_fulfil(&subject);
    if (way == AT_ONCE && op_case_by_peer(kind) && !subject.world.sim)
        test_sleep_ms(1);
    io_op *op = op_case_op(&subject, way);
    op_case_submit(&subject, op, 0);
    if (cancel == DURING)
        io_op_cancel(op);
    if (cancel == COMPLETED)
        test_sleep_ms(0);
    if (way == HAS_TO_WAIT && cancel == DURING && (seed & 1) != 0)
        op_case_fulfil(&subject);
    else if (way == HAS_TO_WAIT && cancel != DURING)
        op_case_fulfil(&subject);
    if (way == HAS_TO_WAIT && (kind == IO_SEND || kind == IO_SEND_FILE))
        end_large_send(&subject, op, cancel);
    else
        op_case_finish(&subject, op);
    if (cancel == COMPLETED)
        CHECK(!io_op_cancel(op));
    check_result(&subject, way, cancel, op->result);
    if (kind == IO_ACCEPT && op->result == 0) {
        CHECK(((io_accept *)op)->accepted != IO_NATIVE_NONE);
        world_native_close(&subject.world, ((io_accept *)op)->accepted, false);
    }
    if ((kind == IO_RECV || kind == IO_RECV_FROM) && op->result > 0)
        CHECK(memcmp(subject.received, subject.bytes, (size_t)op->result) == 0);
    if (kind == IO_POLL && op->result == 0)
        CHECK_INT(((io_poll *)op)->ready, way == HAS_TO_WAIT ? IO_READABLE : IO_WRITABLE);
    io_op_release(op);
    op_case_close(&subject);
}

static bool socket_kind(io_kind kind) {
    return kind != IO_POST && kind != IO_TIMER && kind != IO_POLL && kind != IO_READ &&
           kind != IO_WRITE && kind != IO_SYNC;
}

/* The second of two is cancelled while the first is in the kernel (or queued in the kernel). */
static void cancel_queued(const char *backend, io_kind kind, uint64_t seed) {
    op_case subject;
    op_case_open(&subject, backend, kind, seed);
    op_case_set_up(&subject, HAS_TO_WAIT);
    io_op *first = op_case_op(&subject, HAS_TO_WAIT), *second = op_case_op(&subject, HAS_TO_WAIT);
    op_case_submit(&subject, first, 0);
    op_case_submit(&subject, second, 0);
    CHECK(io_op_cancel(second));
    int64_t result = op_case_finish(&subject, second);
    CHECK_INT(result, -IOE_CANCELED);
    io_op_release(second);
    op_case_fulfil(&subject);
    if (kind == IO_SEND || kind == IO_SEND_FILE)
        io_op_cancel(first);
    op_case_end(&subject, first);
    op_case_close(&subject);
}

static void every_end(const char *backend, test_way way) {
    bool sim = strcmp(backend, "sim") == 0;
    for (int kind = IO_POLL; kind < IO_KINDS; kind++) {
        if (!op_case_has_way((io_kind)kind, way))
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
