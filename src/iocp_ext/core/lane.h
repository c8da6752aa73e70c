/* lane.h: what lane.c does for worker.c, timer.c and port.c. All under lane->lock; those that wait
 * leave it meanwhile. */
#ifndef IOCPCORE_LANE_H
#define IOCPCORE_LANE_H

#include "core/backend.h"

enum {
    LANE_BURST = 64, /* completions between two polls of the kernel */
    LANE_TICK_NS = 2 * 1000 * 1000,
};

#define LANE_PAUSE_NS (50 * IO_NS_PER_MS) /* after a wait that has failed, and may not again */
#define LANE_RECOVERY_NS (10 * IO_NS_PER_SECOND) /* without another one: it is over */

bool lane_shared(const io_lane *lane);
bool lane_port_open(const io_lane *lane);
bool lane_port_stopping(const io_lane *lane);

io_op *lane_take_ready(io_lane *lane); /* NULL: nothing is ready */

int lane_thread_init(io_worker *thread, io_lane *lane, bool runs, const io_wait *wait);
/* Waits until unparked, the deadline, or (true) a signal. */
bool lane_wait_parked(io_worker *thread, const io_wait *wait, uint64_t deadline_ns);
io_worker *lane_find_parked(io_lane *lane, bool runs);
void lane_park(io_worker *thread);        /* the first to be woken; it has no slot */
void lane_end_parking(io_worker *thread); /* it stops waiting, unparked or not */
void lane_unpark(io_worker *thread);
void lane_signal(io_worker *thread); /* it checks its conditions, and stays parked */
void lane_wake_driver(io_lane *lane);
/* Somebody must see to what is ready, and somebody must drive: wakes the thread that should. */
void lane_wake_next(io_lane *lane);

/* What a wait has ended with, 0 or an error. If it failed and may not fail again, this pauses, at
 * most until the deadline, and the answer is -IOE_INTR; else waiting is over for everybody. */
int lane_wait_ended(io_lane *lane, int error, uint64_t deadline_ns);
/* Polls the kernel once, or waits for it; what completed is ready then. 0 or a portable error. */
int lane_drive(io_lane *lane, const io_wait *wait, uint64_t deadline_ns);
/* The same on a shared lane, by any number of threads. */
int lane_wait_shared(io_lane *lane, const io_wait *wait, int maximum, bool worker);
/* What this thread does not take at once goes to those that wait in the kernel. */
void lane_repost_surplus(io_lane *lane, size_t keep);

#endif
