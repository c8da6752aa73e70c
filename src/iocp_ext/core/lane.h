/* lane.h: what lane.c and worker.c share. All under lane->lock; those that wait leave it meanwhile.
 */
#ifndef IOCPCORE_LANE_H
#define IOCPCORE_LANE_H

#include "backend.h"

enum {
    LANE_BURST = 64, /* completions between two looks into the kernel */
    LANE_TICK_NS = 2 * 1000 * 1000,
};

bool lane_shared(const io_lane *lane);
bool lane_port_open(const io_lane *lane);
bool lane_port_stopping(const io_lane *lane);

io_op *lane_take_ready(io_lane *lane); /* NULL: nothing is ready */

int lane_thread_init(io_worker *thread, io_lane *lane, bool runs, const io_wait *wait);
/* Waits until unparked, the deadline, or (true) a signal. */
bool lane_wait_parked(io_worker *thread, const io_wait *wait, uint64_t deadline_ns);
io_worker *lane_find_parked(io_lane *lane, bool runs);
void lane_unpark(io_worker *thread);
void lane_signal(io_worker *thread); /* it looks around, and stays parked */
/* Somebody must see to what is ready, and somebody must drive: wakes the thread that should. */
void lane_kick(io_lane *lane);

/* One look into the kernel; what completed is ready then. 0 or a portable error. */
int lane_drive(io_lane *lane, const io_wait *wait, uint64_t deadline_ns);
/* The same on a shared lane, by any number of threads. */
int lane_wait_shared(io_lane *lane, const io_wait *wait, int maximum, bool worker);
/* What this thread does not take at once goes to those that wait in the kernel. */
void lane_repost_surplus(io_lane *lane, size_t keep);

#endif
