/* test_connection_state.c: the valid states of a connection. With assertions on, as here, any other
 * state ends the program. */
#include "connection_pair.h"

#include "net/connection_state.h"

static connection_pair both;

/* ---- the table ------------------------------------------------------------------------------- */

/* As it stands in net/connection.h: for each phase and send side, which receive sides there are, in
 * the order OPEN, EOF, ENDED, DRAINING, DRAINED. */
static const char *const table[][IO_SEND_SIDE_LOST + 1] = {
    /* OPEN    LAST     ENDING   ENDED    DELIVERED FAILED  LOST */
    {"yyy--", "yyyyy", "yyyyy", "yyyyy", "-----", "yyy--", "yyyyy"}, /* OPEN */
    {"-----", "-----", "---yy", "---yy", "---yy", "-----", "---yy"}, /* CLOSING */
    {"yyy--", "yyyyy", "yyyyy", "yyyyy", "yyyyy", "yyy--", "yyyyy"}, /* TEARDOWN */
    {"yyy--", "yyyyy", "yyyyy", "yyyyy", "yyyyy", "yyy--", "yyyyy"}, /* CLOSED */
};

static void every_combination(void) {
    CHECK_INT(COUNT_OF(table), IO_CONNECTION_CLOSED + 1);
    for (int phase = 0; phase <= IO_CONNECTION_CLOSED + 1; phase++)
        for (int send = 0; send <= IO_SEND_SIDE_LOST + 1; send++)
            for (int receive = 0; receive <= IO_RECEIVE_SIDE_DRAINED + 1; receive++) {
                bool known = phase <= IO_CONNECTION_CLOSED && send <= IO_SEND_SIDE_LOST &&
                             receive <= IO_RECEIVE_SIDE_DRAINED;
                bool should = known && table[phase][send][receive] == 'y';
                test_about("phase %d, send side %d, receive side %d", phase, send, receive);
                CHECK(connection_state_exists((io_connection_phase)phase, (io_send_side)send,
                                              (io_receive_side)receive) == should);
            }
    test_about("%s", "");
}

/* ---- what breaks it, each in a process of its own ---------------------------------------------
 */

static void nothing(io_connection *self) {
    (void)self;
}

static void drains_without_being_asked(io_connection *self) {
    self->receive_side = IO_RECEIVE_SIDE_DRAINING;
    self->hold = IO_HOLD_CLOSING;
}

static void drains_without_a_hold(io_connection *self) {
    self->send_side = IO_SEND_SIDE_LAST;
    self->receive_side = IO_RECEIVE_SIDE_DRAINING;
}

static void held_without_an_end(io_connection *self) {
    self->hold = IO_HOLD_CLOSING;
}

static void closing_but_still_sending(io_connection *self) {
    self->phase = IO_CONNECTION_CLOSING;
    self->reason = IO_REASON_CLOSE;
    self->send_side = IO_SEND_SIDE_LAST;
    self->receive_side = IO_RECEIVE_SIDE_DRAINING;
    self->hold = IO_HOLD_CLOSING;
}

static void delivered_while_open(io_connection *self) {
    self->send_side = IO_SEND_SIDE_DELIVERED;
}

static void torn_down_without_a_reason(io_connection *self) {
    self->phase = IO_CONNECTION_TEARDOWN;
    self->hold = IO_HOLD_CLOSING;
}

static void closed_with_a_socket(io_connection *self) {
    self->phase = IO_CONNECTION_CLOSED;
    self->reason = IO_REASON_ABORT;
    self->hold = IO_HOLD_CLOSING;
}

static void gone_before_it_is_closed(io_connection *self) {
    self->send_side = IO_SEND_SIDE_ENDING;
    self->notified = IO_NOTIFIED_CLOSED;
}

static void error_without_a_reason(io_connection *self) {
    self->error = -IOE_CONNRESET;
}

static void throttled_with_little_queued(io_connection *self) {
    self->hold = IO_HOLD_THROTTLED;
}

static void held_for_a_user_who_knows_nothing(io_connection *self) {
    self->notified = IO_NOTIFIED_STARTED;
    self->hold = IO_HOLD_PAUSED;
}

static void ended_with_something_queued(io_connection *self) {
    self->send_side = IO_SEND_SIDE_ENDED;
    self->queue_head = self->queue_tail = (io_chunk *)(uintptr_t)64; /* is not looked into */
}

static void queue_without_a_tail(io_connection *self) {
    self->queue_head = (io_chunk *)(uintptr_t)64;
}

static void bytes_without_a_queue(io_connection *self) {
    self->bytes_queued = 1;
}

static void lingers_while_open(io_connection *self) {
    self->timer = (io_timer *)(uintptr_t)64;
}

static void established_twice(io_connection *self) {
    connection_is_established(self);
}

/* What comes before the breach is in order. */
static void close_in_order(io_connection *self) {
    CHECK(connection_set_reason(self, IO_REASON_CLOSE, 0, 0));
    connection_end_sending(self, IO_SEND_SIDE_ENDING);
    connection_drain(self);
    connection_begin_closing(self);
}

static void delivered_without_an_end(io_connection *self) {
    close_in_order(self);
    connection_send_was_delivered(self);
}

static void timer_that_has_expired(io_connection *self) {
    close_in_order(self);
    self->timer = (io_timer *)(uintptr_t)64;
    self->timer_expired = true;
}

static void gone_without_an_end(io_connection *self) {
    closed_with_a_socket(self);
    self->handle = NULL;
    self->notified = IO_NOTIFIED_CLOSED;
}

static void failed_with_something_queued(io_connection *self) {
    self->send_side = IO_SEND_SIDE_FAILED;
    self->queue_head = self->queue_tail = (io_chunk *)(uintptr_t)64;
}

static void reason_of_no_kind(io_connection *self) {
    self->reason = IO_REASON_EMBEDDER + 1;
}

static void error_that_is_none(io_connection *self) {
    self->reason = IO_REASON_SEND;
    self->error = IOE_PIPE;
}

static void backlog_of_no_kind(io_connection *self) {
    self->backlog = IO_BACKLOG_DRAINED + 1;
}

static void throttled_early(io_connection *self) {
    self->holds_early = IO_HOLD_THROTTLED;
}

static void jobs_that_are_no_ring(io_connection *self) {
    static io_job job;
    self->jobs_last = &job;
}

static void run_by_nobody(io_connection *self) {
    self->running = true;
    self->runner = 0;
}

static void established_before_it_started(io_connection *self) {
    self->notified = IO_NOTIFIED_NOTHING;
    connection_is_established(self);
}

static void ended_without_being_asked(io_connection *self) {
    connection_send_has_ended(self);
}

static void failed_after_its_end(io_connection *self) {
    connection_end_sending(self, IO_SEND_SIDE_ENDING);
    connection_send_has_ended(self);
    connection_send_has_failed(self);
}

static void asked_for_a_loss(io_connection *self) {
    connection_end_sending(self, IO_SEND_SIDE_LOST);
}

static void resumes_what_is_closing(io_connection *self) {
    connection_end_sending(self, IO_SEND_SIDE_LAST);
    connection_clear_hold(self, IO_HOLD_CLOSING);
}

static void reason_for_nothing(io_connection *self) {
    (void)connection_set_reason(self, IO_REASON_NONE, 0, 0);
}

/* Each change needs the lock. */

static void holds_unlocked(io_connection *self) {
    io_lock_release(&self->lock);
    connection_set_hold(self, IO_HOLD_PAUSED);
    io_lock_acquire(&self->lock);
}

static void resumes_unlocked(io_connection *self) {
    io_lock_release(&self->lock);
    connection_clear_hold(self, IO_HOLD_PAUSED);
    io_lock_acquire(&self->lock);
}

static void ends_sending_unlocked(io_connection *self) {
    io_lock_release(&self->lock);
    connection_end_sending(self, IO_SEND_SIDE_ENDING);
    io_lock_acquire(&self->lock);
}

static void peer_ends_unlocked(io_connection *self) {
    io_lock_release(&self->lock);
    connection_receive_has_ended(self, false);
    io_lock_acquire(&self->lock);
}

static void has_a_reason_unlocked(io_connection *self) {
    io_lock_release(&self->lock);
    (void)connection_set_reason(self, IO_REASON_CLOSE, 0, 0);
    io_lock_acquire(&self->lock);
}

static void runs_unlocked(io_connection *self) {
    io_lock_release(&self->lock);
    (void)connection_run(self);
    io_lock_acquire(&self->lock);
}

static void closing_without_being_asked(io_connection *self) {
    connection_begin_closing(self);
}

static void open_again(io_connection *self) {
    connection_tear_down(self);
    connection_begin_closing(self);
}

static void told_of_no_end(io_connection *self) {
    connection_receive_end_notified(self);
}

static void next_without_running(io_connection *self) {
    io_lock_release(&self->lock);
    (void)io_connection_next(self);
    io_lock_acquire(&self->lock);
}

static void unlocked_by_another_hand(io_connection *self) {
    io_lock_release(&self->lock);
}

typedef struct breach {
    const char *name;
    void (*make)(io_connection *self); /* under the lock */
} breach;

#define BREACH(name) \
    { #name, name }

static const breach breaches[] = {
    BREACH(drains_without_being_asked),
    BREACH(drains_without_a_hold),
    BREACH(held_without_an_end),
    BREACH(closing_but_still_sending),
    BREACH(delivered_while_open),
    BREACH(torn_down_without_a_reason),
    BREACH(closed_with_a_socket),
    BREACH(gone_before_it_is_closed),
    BREACH(error_without_a_reason),
    BREACH(throttled_with_little_queued),
    BREACH(held_for_a_user_who_knows_nothing),
    BREACH(ended_with_something_queued),
    BREACH(queue_without_a_tail),
    BREACH(bytes_without_a_queue),
    BREACH(lingers_while_open),
    BREACH(established_twice),
    BREACH(delivered_without_an_end),
    BREACH(timer_that_has_expired),
    BREACH(gone_without_an_end),
    BREACH(failed_with_something_queued),
    BREACH(reason_of_no_kind),
    BREACH(error_that_is_none),
    BREACH(backlog_of_no_kind),
    BREACH(throttled_early),
    BREACH(jobs_that_are_no_ring),
    BREACH(run_by_nobody),
    BREACH(established_before_it_started),
    BREACH(ended_without_being_asked),
    BREACH(failed_after_its_end),
    BREACH(asked_for_a_loss),
    BREACH(resumes_what_is_closing),
    BREACH(reason_for_nothing),
    BREACH(holds_unlocked),
    BREACH(resumes_unlocked),
    BREACH(ends_sending_unlocked),
    BREACH(peer_ends_unlocked),
    BREACH(has_a_reason_unlocked),
    BREACH(runs_unlocked),
    BREACH(closing_without_being_asked),
    BREACH(open_again),
    BREACH(told_of_no_end),
    BREACH(next_without_running),
    BREACH(unlocked_by_another_hand),
};

static const breach harmless = BREACH(nothing);

static int commit(const breach *which) {
    pair_open(&both, "sim", 0);
    io_connection *self = &both.ends[0].io;
    PAIR_UNTIL(&both, both.ends[0].came[IO_CONNECTION_STARTED] == 1);
    pair_settle(&both);
    connection_lock(self);
    which->make(self);
    connection_unlock(self);
    return 0; /* it was not noticed */
}

static void every_breach_is_noticed(void) {
    CHECK(!test_child_dies(harmless.name));
    for (size_t i = 0; i < COUNT_OF(breaches); i++) {
        test_about("%s", breaches[i].name);
        CHECK(test_child_dies(breaches[i].name));
    }
    test_about("%s", "");
}

/* ---- the sides as ends are asked for -----------------------------------------------------------
 */

static void check_sides(const io_connection *self, io_connection_phase phase, io_send_side send,
                        io_receive_side receive, io_reason reason) {
    CHECK_INT(self->phase, phase);
    CHECK_INT(self->send_side, send);
    CHECK_INT(self->receive_side, receive);
    CHECK_INT(self->reason, reason);
}

static io_connection *started(const char *backend) {
    pair_open(&both, backend, 0);
    pair_end *end = &both.ends[0];
    CHECK(!io_connection_is_known(&end->io));
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] && end->peer->came[IO_CONNECTION_STARTED]);
    CHECK(io_connection_is_known(&end->io));
    check_sides(&end->io, IO_CONNECTION_OPEN, IO_SEND_SIDE_OPEN, IO_RECEIVE_SIDE_OPEN,
                IO_REASON_NONE);
    return &end->io;
}

static void check_asked(const io_connection *self, bool end, bool close) {
    CHECK_INT(io_connection_end_requested(self), end);
    CHECK_INT(io_connection_close_requested(self), close);
    CHECK_INT(io_connection_is_closing(self), close);
}

static void finish(void) {
    both.ends[0].answers = both.ends[1].answers = true;
    io_connection_close(&both.ends[0].io, true);
    pair_close(&both);
    CHECK(io_connection_is_known(&both.ends[0].io));
    check_asked(&both.ends[0].io, true, true);
}

/* Only the closing handshake may be sent; what arrives is still handed on. */
static void last_words_then_shutdown(const char *backend) {
    io_connection *self = started(backend);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    check_asked(self, false, false);
    io_connection_begin_end(self, false, true);
    check_sides(self, IO_CONNECTION_OPEN, IO_SEND_SIDE_LAST, IO_RECEIVE_SIDE_OPEN, IO_REASON_NONE);
    check_asked(self, true, false);
    CHECK_INT(pair_send(end, 10, PAIR_COPIED), 1);
    CHECK_INT(pair_send(peer, 10, PAIR_COPIED), 1);
    PAIR_UNTIL(&both, peer->in == 10 && end->in == 10);
    io_connection_shutdown(self);
    CHECK_INT(pair_send(end, 10, PAIR_COPIED), 0);
    io_connection_begin_end(self, false, true); /* too late to go back */
    CHECK_INT(pair_send(end, 10, PAIR_COPIED), 0);
    PAIR_UNTIL(&both, peer->came[IO_CONNECTION_EOF] == 1);
    check_sides(self, IO_CONNECTION_OPEN, IO_SEND_SIDE_ENDED, IO_RECEIVE_SIDE_OPEN, IO_REASON_NONE);
    CHECK_INT(pair_send(peer, 10, PAIR_COPIED), 1);
    PAIR_UNTIL(&both, end->in == 20);
    io_connection_close(&peer->io, true);
    finish();
}

static void last_words_then_close(const char *backend) {
    io_connection *self = started(backend);
    pair_end *end = &both.ends[0], *peer = &both.ends[1];
    io_connection_begin_end(self, true, true);
    check_sides(self, IO_CONNECTION_OPEN, IO_SEND_SIDE_LAST, IO_RECEIVE_SIDE_DRAINING,
                IO_REASON_NONE);
    check_asked(self, true, true);
    CHECK_INT(pair_send(end, 10, PAIR_COPIED), 1);
    PAIR_UNTIL(&both, peer->in == 10);
    io_connection_shutdown(&peer->io);
    PAIR_UNTIL(&both, self->receive_side == IO_RECEIVE_SIDE_DRAINED);
    CHECK_INT(end->came[IO_CONNECTION_EOF], 0);
    io_connection_close(self, true);
    CHECK_INT(self->reason, IO_REASON_CLOSE);
    finish();
}

/* An end that nobody has asked for shows in the phase, and in the sides only when it is over. */
static void reset_by_the_peer(const char *backend) {
    io_connection *self = started(backend);
    pair_end *end = &both.ends[0];
    CHECK(io_connection_abort(&end->peer->io));
    CHECK(io_connection_close_requested(&end->peer->io));
    PAIR_UNTIL(&both, io_connection_is_closing(self));
    CHECK(atomic_load(&end->gone) || !io_connection_close_requested(self));
    PAIR_UNTIL(&both, atomic_load(&end->gone));
    CHECK(self->reason == IO_REASON_RECEIVE);
    CHECK_INT(self->notified, IO_NOTIFIED_CLOSED);
    check_asked(self, true, true);
    pair_close(&both);
}

static void gone_unknown(const char *backend) {
    pair_begin(&both, backend, 0);
    pair_end *end = pair_add(&both);
    end->shakes_hands = true;
    end->peer->answers = true;
    PAIR_UNTIL(&both, end->came[IO_CONNECTION_STARTED] == 1);
    CHECK_INT(end->io.notified, IO_NOTIFIED_STARTED);
    CHECK(io_connection_fail(&end->io, IO_REASON_IDLE, -IOE_TIMEDOUT));
    check_sides(&end->io, IO_CONNECTION_CLOSING, IO_SEND_SIDE_ENDING, IO_RECEIVE_SIDE_DRAINING,
                IO_REASON_IDLE);
    PAIR_UNTIL(&both, atomic_load(&end->gone));
    CHECK_INT(end->io.notified, IO_NOTIFIED_FAILED);
    CHECK(!io_connection_is_known(&end->io));
    pair_close(&both);
}

BACKENDS(DEFINE, last_words_then_shutdown)
BACKENDS(DEFINE, last_words_then_close)
BACKENDS(DEFINE, reset_by_the_peer)
BACKENDS(DEFINE, gone_unknown)

int main(int argc, char **argv) {
    static const test_case tests[] = {
        TEST(every_combination), TEST(every_breach_is_noticed),
        BACKENDS(ENTRY, last_words_then_shutdown) BACKENDS(ENTRY, last_words_then_close)
            BACKENDS(ENTRY, reset_by_the_peer) BACKENDS(ENTRY, gone_unknown)};
    for (size_t i = 0; argc == 2 && i < COUNT_OF(breaches); i++)
        if (strcmp(argv[1], breaches[i].name) == 0)
            return commit(&breaches[i]);
    if (argc == 2 && strcmp(argv[1], harmless.name) == 0)
        return commit(&harmless);
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
