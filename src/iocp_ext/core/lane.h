/* lane.h: functions of lane.c for worker.c, timer.c and port.c. All must be called with lane->lock
 * held, except lane_thread_init, lane_shared and lane_port_*. Those that wait release the lock
 * meanwhile. */
#ifndef IOCPCORE_LANE_H
#define IOCPCORE_LANE_H

#include "core/backend.h"

enum {
    LANE_BURST = 64, /* maximum completions delivered between two polls of the kernel */
    LANE_TICK_NS = 2 * 1000 * 1000,
};

#define LANE_PAUSE_NS (50 * IO_NS_PER_MS)        /* pause after a transient wait failure */
#define LANE_RECOVERY_NS (10 * IO_NS_PER_SECOND) /* failure is over after this time without one */

bool lane_shared(const io_lane *lane);
bool lane_port_open(const io_lane *lane);
bool lane_port_stopping(const io_lane *lane);

io_op *lane_take_ready(io_lane *lane); /* NULL if the ready queue is empty */

int lane_thread_init(io_worker *thread, io_lane *lane, bool runs, const io_wait *wait);
/* Waits until a wake or the deadline; may return spuriously. Returns true if it must end the wait
 * with -IOE_INTR: after a signal, or when recheck_ns has passed. */
bool lane_wait_parked(io_worker *thread, const io_wait *wait, uint64_t deadline_ns);
io_worker *lane_find_parked(io_lane *lane, bool runs);
void lane_park(io_worker *thread);        /* puts it first in line; it must not have a slot */
void lane_end_parking(io_worker *thread); /* removes it from the list if it is still there */
void lane_unpark(io_worker *thread);      /* removes it from the list and wakes it */
void lane_signal(io_worker *thread);      /* wakes it to recheck its conditions; stays parked */
void lane_wake_driver(io_lane *lane);
/* Wakes the thread that should take the ready operations or drive the lane, if one is needed. */
void lane_wake_next(io_lane *lane);

/* Handles the outcome of a wait, 0 or an error. After a transient error it pauses, at most until
 * the deadline, and returns -IOE_INTR. Any other error breaks the lane and ends all waiting. */
int lane_wait_ended(io_lane *lane, int error, uint64_t deadline_ns);
/* Polls the kernel or waits in it, and appends the completions to the ready queue. Fires timers. */
int lane_drive(io_lane *lane, const io_wait *wait, uint64_t deadline_ns);
/* Waits in the kernel on a shared lane and appends the completions to the ready queue. Any number
 * of threads may do so at once. */
int lane_wait_shared(io_lane *lane, const io_wait *wait, int maximum, bool worker);
/* Posts all ready operations but the first `keep` back to the kernel, for threads waiting there. */
void lane_repost_surplus(io_lane *lane, size_t keep);

#endif
