/* worker.c: the threads in run(), and how a blocked one is replaced.
 *
 * When a worker blocks in a callback, a spare worker takes its slot. (On Windows the kernel does
 * this for completion ports.) A worker keeps no batch of operations on its stack; they stay in the
 * ready queue, so the slot is all that must change hands. One parked worker, the watcher, checks
 * every 2 ms while any callback runs. A worker found in the same callback at two checks is stuck:
 * it loses its slot to the watcher, and competes for a new one when the callback returns. While
 * callbacks are short no slot changes hands. After 50 ms without callbacks the watcher sleeps until
 * the next one begins.
 *
 * A shared lane (IOCP) does not need this. */
#include "core/lane.h"

enum {
    IDLE_TICKS_MAX = 25,
    CALLBACK_NS_MAX = 1000 * 1000, /* cap: a blocked callback does not predict the next ones */
    SINGLE_POLLS = 16, /* polls for one after a poll for several returned fewer than 2 */
};

int io_worker_enter(io_worker *worker, io_lane *lane) {
    int error = lane_thread_init(worker, lane, true, NULL);
    if (error)
        return error;
    io_lane_lock(lane);
    io_list_push_back(&lane->workers, &worker->link);
    lane->worker_count++;
    io_lane_unlock(lane);
    return 0;
}

static void worker_take_slot(io_worker *worker) {
    io_lane *lane = worker->lane;
    io_assert(io_lock_is_mine(&lane->lock) && worker->runs && !worker->parked && !worker->slot);
    io_assert(lane->running < lane->concurrency);
    worker->slot = true;
    lane->running++;
}

static void worker_drop_slot(io_worker *worker) {
    io_lane *lane = worker->lane;
    io_assert(io_lock_is_mine(&lane->lock));
    io_assert(!worker->slot || lane->running > 0);
    if (worker->slot)
        lane->running--;
    worker->slot = false;
}

void io_worker_leave(io_worker *worker) {
    io_lane *lane = worker->lane;
    if (io_port_forked(lane->port))
        return;
    io_lane_lock(lane);
    io_assert(!worker->parked && lane->watcher != worker && lane->worker_count > 0);
    worker_drop_slot(worker);
    io_list_remove(&worker->link);
    lane->worker_count--;
    if (!lane_shared(lane))
        lane_wake_next(lane);
    io_cond_broadcast(&lane->left);
    io_lane_unlock(lane);
    io_cond_destroy(&worker->wake);
}

/* Checks all running callbacks, for the watcher. Returns true if the watcher must run because a
 * worker is stuck. `any`: at least one callback is running. */
static bool worker_find_stuck(io_lane *lane, bool *any) {
    bool needed = !lane->driven || lane->ready_count > 0;
    *any = false;
    for (io_link *link = lane->workers.next; link != &lane->workers; link = link->next) {
        io_worker *worker = IO_CONTAINER(link, io_worker, link);
        if (worker->state != IO_WORKER_CALLBACK || worker->lost)
            continue;
        *any = true;
        if (worker->sequence != worker->last_sequence) {
            worker->last_sequence = worker->sequence;
        } else if (needed) {
            if (lane->running >= lane->concurrency) {
                worker->lost = true;
                worker_drop_slot(worker);
                lane->stats.handovers++;
            }
            return true;
        }
    }
    return false;
}

/* Waits once as a parked worker, becoming the watcher if there is none. Returns true if
 * interrupted. */
static bool worker_watch(io_worker *self, const io_wait *wait, int *idle_ticks) {
    io_lane *lane = self->lane;
    if (lane->watcher == NULL) {
        lane->watcher = self;
        *idle_ticks = 0;
    }
    if (lane->watcher != self)
        return lane_wait_parked(self, wait, IO_NEVER);
    lane->watcher_asleep = *idle_ticks >= IDLE_TICKS_MAX;
    uint64_t tick = lane->watcher_asleep ? IO_NEVER : io_clock_ns() + LANE_TICK_NS;
    bool slept = lane->watcher_asleep;
    bool interrupted = lane_wait_parked(self, wait, tick);
    lane->watcher_asleep = false;
    bool any = false;
    if (self->parked && worker_find_stuck(lane, &any))
        lane_end_parking(self);
    *idle_ticks = any || slept ? 0 : *idle_ticks + 1;
    return interrupted;
}

static bool worker_park(io_worker *self, const io_wait *wait) {
    io_lane *lane = self->lane;
    bool interrupted = false;
    int idle_ticks = 0;
    worker_drop_slot(self);
    lane_park(self);
    lane_wake_next(lane);
    while (self->parked && !interrupted && lane_port_open(lane) && !lane_port_stopping(lane))
        interrupted = worker_watch(self, wait, &idle_ticks);
    lane_end_parking(self);
    if (lane->watcher == self) {
        lane->watcher = NULL;
        io_worker *next = lane_find_parked(lane, true);
        if (next != NULL)
            lane_unpark(next); /* finds nothing to do, parks again and becomes the watcher */
    }
    return interrupted;
}

/* Returns how many completions a lone worker requests. Requesting several when only one is there
 * costs more than requesting one. So this tries 2 now and then, and doubles while several come. */
static int worker_batch_size(io_worker *self) {
    if (self->last_batch > 1)
        return self->last_batch > LANE_BURST / 2 ? LANE_BURST : 2 * (int)self->last_batch;
    if (self->single_polls == 0)
        return 2;
    self->single_polls--;
    return 1;
}

static void worker_note_batch(io_worker *self, int maximum, uint32_t count) {
    self->last_batch = count;
    if (maximum > 1 && count < 2)
        self->single_polls = SINGLE_POLLS;
}

static int worker_wait_shared(io_worker *self, const io_wait *wait) {
    io_lane *lane = self->lane;
    for (;;) {
        if (!lane_port_open(lane))
            return -IOE_CLOSED;
        if (lane_port_stopping(lane))
            return 0;
        if (lane->broken)
            return lane->broken;
        if (lane->ready_count > 0)
            return 1;
        bool alone = lane->worker_count == 1 && lane->kernel_waiters == 0;
        int maximum = alone ? worker_batch_size(self) : 1;
        int error = lane_wait_shared(lane, wait, maximum, true);
        worker_note_batch(self, maximum, (uint32_t)lane->ready_count);
        lane_repost_surplus(lane, 1);
        if (lane->ready_count == 0 && (error || wait->deadline_ns == 0))
            return error ? error : -IOE_INTR;
    }
}

static int worker_wait_driven(io_worker *self, const io_wait *wait) {
    io_lane *lane = self->lane;
    for (;;) {
        if (!lane_port_open(lane))
            return -IOE_CLOSED;
        if (lane_port_stopping(lane))
            return 0;
        if (lane->broken)
            return lane->broken;
        if (!self->slot && lane->running < lane->concurrency)
            worker_take_slot(self);
        /* After LANE_BURST deliveries poll the kernel first, unless another thread drives. */
        if (self->slot && lane->ready_count > 0 && (self->turn > 0 || lane->driven)) {
            if (self->turn == 0)
                self->turn = LANE_BURST;
            return 1;
        }
        if (self->slot && !lane->driven) {
            int error = lane_drive(lane, wait, lane->ready_count > 0 ? 0 : wait->deadline_ns);
            self->turn = LANE_BURST;
            lane_wake_next(lane);
            if (lane->ready_count == 0 && (error || wait->deadline_ns == 0))
                return error ? error : -IOE_INTR;
        } else if (wait->deadline_ns == 0 || worker_park(self, wait)) {
            return -IOE_INTR;
        }
    }
}

int io_worker_wait(io_worker *worker, const io_wait *wait) {
    io_lane *lane = worker->lane;
    int error = io_port_enter(lane->port);
    if (error)
        return error;
    io_lane_lock(lane);
    int answer;
#ifndef _WIN32
    worker->main = wait->signals;
#endif
    if (lane_shared(lane))
        answer = worker_wait_shared(worker, wait);
    else
        answer = worker_wait_driven(worker, wait);
    io_lane_unlock(lane);
    io_port_leave(lane->port);
    return answer;
}

/* Updates the average callback time, which is needed only if two callbacks may run at once. */
static void worker_time_callback(io_worker *worker) {
    io_lane *lane = worker->lane;
    if (lane->concurrency == 1 || lane_shared(lane))
        return;
    uint64_t now_ns = io_clock_ns();
    if (worker->state == IO_WORKER_CALLBACK) {
        uint64_t took_ns = now_ns - worker->began_ns;
        if (took_ns > CALLBACK_NS_MAX)
            took_ns = CALLBACK_NS_MAX;
        lane->callback_ns = (7 * lane->callback_ns + took_ns) / 8;
    }
    worker->began_ns = now_ns;
}

io_op *io_worker_take(io_worker *worker) {
    io_lane *lane = worker->lane;
    io_op *op = NULL;
    if (io_port_forked(lane->port))
        return NULL; /* the callback forked, and we are in the child */
    io_lane_lock(lane);
    io_assert(!worker->parked && worker->runs);
    io_assert(!worker->lost || !worker->slot);
    worker_time_callback(worker);
    worker->state = IO_WORKER_CORE;
    bool again = lane_port_open(lane) && !lane_port_stopping(lane) && !worker->lost;
    worker->lost = false;
    if (again && (lane_shared(lane) || worker->turn > 0 || lane->driven))
        op = lane_take_ready(lane);
    if (op != NULL) {
        worker->turn -= worker->turn > 0;
        worker->state = IO_WORKER_CALLBACK;
        worker->sequence++;
        if (lane->watcher_asleep) { /* it must tick while a callback runs */
            lane->watcher_asleep = false;
            lane_signal(lane->watcher);
        }
        if (!io_list_empty(&lane->parked))
            lane_wake_next(lane);
    }
    io_lane_unlock(lane);
    return op;
}
