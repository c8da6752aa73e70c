/* worker.c: the threads in run(), and what happens when one of them blocks.
 *
 * What a completion port's kernel does by itself on Windows, a spare does here: when a worker
 * blocks in a callback, another takes its place. Nothing of the blocked worker's batch is on its
 * stack; all is in the ready queue, so the place is all there is to take. One parked worker, the
 * watcher, checks every 2 ms while any callback runs. A worker that is in the same callback at two
 * checks is stuck: it loses its slot to the watcher and, when it comes back, waits its turn. While
 * callbacks are short nobody ever moves; after 50 ms without callbacks the watcher sleeps until one
 * begins.
 *
 * A shared lane (IOCP) needs none of this. */
#include "core/lane.h"

enum {
    IDLE_TICKS_MAX = 25,
    CALLBACK_NS_MAX = 1000 * 1000, /* a blocked one says little about the next ones */
    SINGLE_POLLS = 16,             /* after one for several that brought one at most */
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

/* The watcher checks all callbacks. True: it is to run in a stuck worker's place. */
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

/* One wait of a parked worker, as the watcher or not. True: interrupted. */
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
            lane_unpark(next); /* it finds nothing to do and becomes the watcher */
    }
    return interrupted;
}

/* How many completions a worker that is alone asks for. Asking for several costs more than asking
 * for one when there are no more. So it is tried now and then, and again while it brings several.
 */
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

/* How long callbacks take is only of interest where two may run at once. */
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
        return NULL; /* by the callback, in whose child we are */
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
        if (lane->watcher_asleep) {
            lane->watcher_asleep = false;
            lane_signal(lane->watcher);
        }
        if (!io_list_empty(&lane->parked))
            lane_wake_next(lane);
    }
    io_lane_unlock(lane);
    return op;
}
