/* timer.c: submitting, cancelling and withdrawing timers.
 *
 * A submitted timer is in its lane's heap (timer_heap.c) and in no other list. The lane fires it
 * (lane.c). */
#include "core/lane.h"

void io_timer_submit(io_timer *timer, uint64_t delay_ns) {
    io_lane *lane = timer->op.lane;
    uint64_t now_ns = io_lane_now(lane), set_ns = 0;
    io_assert(io_op_is_idle(&timer->op));
    timer->deadline_ns = delay_ns < IO_NEVER - now_ns ? now_ns + delay_ns : IO_NEVER - 1;
    io_port_op_submitted(lane->port);
    io_list done;
    io_list_init(&done);
    io_lane_lock(lane);
    timer->op.state = IO_OP_SUBMITTED;
    if (!io_timer_heap_push(&lane->timers, timer)) {
        timer->op.result = -IOE_NOMEM;
        timer->op.state = IO_OP_COMPLETED;
        atomic_fetch_add_explicit(&lane->port->failed, 1, memory_order_relaxed);
        io_list_push_back(&done, &timer->op.link);
    } else if (timer->index == 0) {
        set_ns = timer->deadline_ns;
        lane_wake_driver(lane); /* it waits for a later deadline */
    }
    io_lane_unlock(lane);
    if (set_ns != 0 && lane->backend->set_timer)
        lane->backend->set_timer(lane, set_ns);
    io_lane_push(lane, &done);
}

/* Completes a pending timer with `result`. Returns true if the timer was pending: the caller owns
 * it now. */
static bool timer_take(io_timer *timer, int64_t result) {
    io_lane *lane = timer->op.lane;
    io_lane_lock(lane);
    bool pending = timer->op.state == IO_OP_SUBMITTED;
    if (pending) {
        io_timer_heap_remove(&lane->timers, timer);
        timer->op.result = result;
        timer->op.state = IO_OP_COMPLETED;
    }
    io_lane_unlock(lane);
    if (pending)
        atomic_fetch_add_explicit(&lane->port->cancelled, 1, memory_order_relaxed);
    return pending;
}

bool io_timer_cancel(io_timer *timer, io_list *done) {
    bool pending = timer_take(timer, -IOE_CANCELED);
    if (pending)
        io_list_push_back(done, &timer->op.link);
    return pending;
}

bool io_timer_withdraw(io_timer *timer) {
    io_lane *lane = timer->op.lane;
    if (!timer_take(timer, -IOE_CANCELED))
        return false;
    io_port_op_taken(lane->port);
    io_op_release(&timer->op);
    return true;
}
