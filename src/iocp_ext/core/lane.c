/* lane.c: the ready queue and the threads that wait for it.
 *
 * On Linux one thread at a time *drives* a lane: it waits in the kernel and moves completions to
 * the ready queue. The other threads are *parked*; the one that parked last is woken first. There
 * are two kinds of threads. Getters (inside get) take what is ready. Workers (inside run, worker.c)
 * hold one of `concurrency` slots while they run callbacks.
 *
 * On a shared lane (IOCP) all threads wait in the kernel, which counts the running ones. They
 * dequeue completions in small batches, so that none is stuck behind a callback. */
#include "core/lane.h"

#include <stdlib.h>

enum {
    WORTH_A_SWITCH_NS = 100 * 1000,  /* wake another worker for this much ready work */
    CALLBACK_INITIAL_NS = 25 * 1000, /* initial estimate */
};

bool lane_shared(const io_lane *lane) {
    return (lane->backend->flags & IO_LANE_SHARED) != 0;
}

bool lane_port_open(const io_lane *lane) {
    return atomic_load_explicit(&lane->port->state, memory_order_acquire) == IO_PORT_OPEN;
}

bool lane_port_stopping(const io_lane *lane) {
    return atomic_load_explicit(&lane->port->stopping, memory_order_acquire);
}

uint64_t io_lane_now(const io_lane *lane) {
    return lane->backend->now ? lane->backend->now(lane) : io_clock_ns();
}

/* ---- the ready queue (under lane->lock) ------------------------------------------------------ */

void io_lane_append(io_lane *lane, io_list *done) {
    io_assert(io_lock_is_mine(&lane->lock));
    for (io_link *link = done->next; link != done; link = link->next) {
        io_assert(IO_CONTAINER(link, io_op, link)->state == IO_OP_COMPLETED);
        lane->ready_count++;
    }
    io_list_splice_back(&lane->ready, done);
}

io_op *lane_take_ready(io_lane *lane) {
    io_assert(io_lock_is_mine(&lane->lock));
    io_assert(io_list_empty(&lane->ready) == (lane->ready_count == 0));
    io_link *link = io_list_pop_front(&lane->ready);
    if (link == NULL)
        return NULL;
    lane->ready_count--;
    io_port_op_taken(lane->port);
    return IO_CONTAINER(link, io_op, link);
}

/* ---- parking and waking (under lane->lock) --------------------------------------------------- */

void lane_signal(io_worker *thread) {
#ifndef _WIN32
    if (thread->main) {
        (void)io_wake_signal(thread->lane->main_wake);
        return;
    }
#endif
    io_cond_signal(&thread->wake);
}

void lane_park(io_worker *thread) {
    io_lane *lane = thread->lane;
    io_assert(io_lock_is_mine(&lane->lock) && !thread->parked && !thread->slot);
    thread->parked = true;
    io_list_push_front(&lane->parked, &thread->parked_link);
}

void lane_end_parking(io_worker *thread) {
    io_assert(io_lock_is_mine(&thread->lane->lock));
    if (thread->parked)
        io_list_remove(&thread->parked_link);
    thread->parked = false;
}

void lane_unpark(io_worker *thread) {
    io_assert(thread->parked);
    lane_end_parking(thread);
    lane_signal(thread);
}

io_worker *lane_find_parked(io_lane *lane, bool runs) {
    for (io_link *link = lane->parked.next; link != &lane->parked; link = link->next) {
        io_worker *thread = IO_CONTAINER(link, io_worker, parked_link);
        io_assert(thread->parked && thread->lane == lane);
        if (thread->runs == runs)
            return thread;
    }
    return NULL;
}

/* Returns true if the caller must call backend->wake, with or without the lock. */
static bool lane_driver_needs_wake(io_lane *lane) {
    io_assert(io_lock_is_mine(&lane->lock));
    if (!lane->waiting || lane->woken)
        return false;
    lane->woken = true;
    lane->stats.wakes++;
    return true;
}

void lane_wake_driver(io_lane *lane) {
    if (lane_driver_needs_wake(lane))
        lane->backend->wake(lane);
}

/* Waking a second worker costs more than a few short callbacks. */
static bool lane_worth_a_switch(const io_lane *lane) {
    return lane->ready_count * lane->callback_ns >= WORTH_A_SWITCH_NS;
}

/* Ready operations need a thread to take them, and the lane needs a driver. Unparks a thread for
 * that, or returns true if the caller must call backend->wake to wake the driver. */
static bool lane_wake_parked(io_lane *lane) {
    bool work = lane->ready_count > 0;
    io_assert(lane->running <= lane->concurrency);
    if ((work || !lane->driven) && !io_list_empty(&lane->parked)) {
        io_worker *getter = lane_find_parked(lane, false);
        if (getter != NULL) {
            lane_unpark(getter);
            return false;
        }
        /* If no worker runs but a getter waits in the kernel, that getter is woken below. */
        io_worker *worker = lane->running < lane->concurrency ? lane_find_parked(lane, true) : NULL;
        if (worker != NULL && (lane->running == 0 ? !lane->waiting : lane_worth_a_switch(lane))) {
            lane_unpark(worker);
            return false;
        }
    }
    return work && lane_driver_needs_wake(lane);
}

void lane_wake_next(io_lane *lane) {
    if (lane_wake_parked(lane))
        lane->backend->wake(lane);
}

void io_lane_push(io_lane *lane, io_list *done) {
    if (io_list_empty(done))
        return;
    io_assert(!io_lock_is_mine(&lane->lock));
    if (lane_shared(lane)) {
        io_list refused;
        io_list_init(&refused);
        for (io_link *link; (link = io_list_pop_front(done)) != NULL;)
            if (lane->backend->post(IO_CONTAINER(link, io_op, link)) != 0)
                io_list_push_back(&refused, link);
        if (io_list_empty(&refused))
            return;
        /* The kernel has no memory for packets: the next thread to check the queue takes them. */
        io_lane_lock(lane);
        io_lane_append(lane, &refused);
        io_lane_unlock(lane);
        lane->backend->wake(lane);
        return;
    }
    io_lane_lock(lane);
    io_lane_append(lane, done);
    bool wake = lane_wake_parked(lane);
    io_lane_unlock(lane);
    if (wake) /* outside the lock: a system call, and the woken thread takes the lock */
        lane->backend->wake(lane);
}

void io_lane_give_back(io_lane *lane, io_op **ops, int count) {
    io_list done;
    io_list_init(&done);
    for (int i = 0; i < count; i++) {
        io_assert(ops[i]->state == IO_OP_COMPLETED && io_list_empty(&ops[i]->link));
        io_list_push_back(&done, &ops[i]->link);
    }
    atomic_fetch_add_explicit(&lane->port->in_flight, count, memory_order_relaxed);
    if (!lane_shared(lane)) { /* put them in front of newer completions */
        io_lane_lock(lane);
        io_list_splice_back(&done, &lane->ready);
        lane->ready_count = 0;
        io_lane_unlock(lane);
    }
    io_lane_push(lane, &done);
}

void io_lane_wake_all(io_lane *lane) {
    io_lane_lock(lane);
    while (!io_list_empty(&lane->parked))
        lane_unpark(IO_CONTAINER(lane->parked.next, io_worker, parked_link));
    uint32_t wakes = lane->kernel_waiters;
    lane_wake_driver(lane);
    io_cond_broadcast(&lane->left);
    io_lane_unlock(lane);
    while (wakes-- > 0)
        lane->backend->wake(lane);
}

static uint64_t lane_earlier(uint64_t a_ns, uint64_t b_ns) {
    return a_ns < b_ns ? a_ns : b_ns;
}

/* Returns the time at which the wait must end so that signals are checked. Not used with a virtual
 * clock. */
static uint64_t lane_recheck_at(const io_lane *lane, const io_wait *wait) {
    bool rechecks = wait->recheck_ns != 0 && lane->backend->now == NULL;
    return rechecks ? io_clock_ns() + wait->recheck_ns : IO_NEVER;
}

static bool lane_recheck_due(uint64_t recheck_ns) {
    return recheck_ns != IO_NEVER && io_clock_ns() >= recheck_ns;
}

bool lane_wait_parked(io_worker *thread, const io_wait *wait, uint64_t deadline_ns) {
    io_lane *lane = thread->lane;
#ifndef _WIN32
    if (thread->main) {
        uint64_t recheck_ns = lane_recheck_at(lane, wait);
        io_lane_unlock(lane);
        bool interrupted =
            io_wake_wait(lane->main_wake, lane_earlier(deadline_ns, recheck_ns), wait->mask);
        io_lane_lock(lane);
        return interrupted || lane_recheck_due(recheck_ns);
    }
#endif
    (void)wait;
    io_cond_wait(&thread->wake, &lane->lock, deadline_ns);
    return false;
}

int lane_thread_init(io_worker *thread, io_lane *lane, bool runs, const io_wait *wait) {
    *thread = (io_worker){.lane = lane, .runs = runs};
#ifndef _WIN32
    thread->main = wait != NULL && wait->signals;
#else
    (void)wait;
#endif
    return io_cond_init(&thread->wake) ? -IOE_NOMEM : 0;
}

/* ---- waits that fail ------------------------------------------------------------------------- */

/* The system is short of a resource. All other errors are permanent: the descriptor was closed or
 * reused for another file, or completions were lost. */
static bool lane_is_transient(int error) {
    return error == -IOE_NOMEM || error == -IOE_NOBUFS || error == -IOE_AGAIN ||
           error == -IOE_BUSY || error == -IOE_MFILE || error == -IOE_NFILE;
}

static void lane_pause_waiting(io_lane *lane, uint64_t deadline_ns) {
    uint64_t end_ns = lane->failed_ns + LANE_PAUSE_NS;
    if (lane->backend->now == NULL && deadline_ns < end_ns)
        end_ns = deadline_ns;
    bool open = lane_port_open(lane), stopping = lane_port_stopping(lane);
    bool driven = lane->driven, shared = lane_shared(lane);
    /* Another driver would only fail the same way. A shared lane has none, and several threads may
     * pause there at once: each would restore what another one had set. */
    lane->driven = driven || !shared;
    while (lane_port_open(lane) == open && lane_port_stopping(lane) == stopping &&
           io_clock_ns() < end_ns)
        io_cond_wait(&lane->left, &lane->lock, end_ns);
    lane->driven = driven;
}

int lane_wait_ended(io_lane *lane, int error, uint64_t deadline_ns) {
    io_assert(io_lock_is_mine(&lane->lock));
    if (error == 0 || error == -IOE_INTR) {
        if (lane->wait_error != 0 && io_clock_ns() - lane->failed_ns > LANE_RECOVERY_NS)
            lane->wait_error = 0;
        return error;
    }
    if (error == -IOE_CLOSED && lane_port_open(lane))
        error = -IOE_BADF; /* other code has closed the queue */
    lane->stats.wait_failures++;
    if (!lane_is_transient(error)) {
        lane->broken = error; /* each thread that leaves wakes the next, which sees this */
        return error;
    }
    if (lane->wait_error == 0) /* keep the first: alternating errors count as one failure */
        lane->wait_error = error;
    lane->failed_ns = io_clock_ns();
    lane_pause_waiting(lane, deadline_ns);
    return -IOE_INTR;
}

/* ---- driving --------------------------------------------------------------------------------- */

static void lane_collect_timers(io_lane *lane, io_list *done) {
    io_assert(io_lock_is_mine(&lane->lock));
    uint32_t count = io_timer_heap_expire(&lane->timers, io_lane_now(lane), 0, done);
    atomic_fetch_add_explicit(&lane->port->completed, count, memory_order_relaxed);
}

uint64_t io_lane_fire_timers(io_lane *lane, io_list *done) {
    io_lane_lock(lane);
    lane_collect_timers(lane, done);
    io_timer *first = io_timer_heap_first(&lane->timers);
    uint64_t deadline_ns = first ? first->deadline_ns : IO_NEVER;
    io_lane_unlock(lane);
    return deadline_ns;
}

int lane_drive(io_lane *lane, const io_wait *wait, uint64_t deadline_ns) {
    io_list done;
    io_list_init(&done);
    io_assert(io_lock_is_mine(&lane->lock) && !lane->driven && !lane->waiting);
    uint64_t recheck_ns = deadline_ns == 0 ? IO_NEVER : lane_recheck_at(lane, wait);
    io_timer *first = io_timer_heap_first(&lane->timers);
    if (first != NULL)
        deadline_ns = lane_earlier(deadline_ns, first->deadline_ns);
    deadline_ns = lane_earlier(deadline_ns, recheck_ns);
    lane->driven = true;
    lane->waiting = deadline_ns != 0;
    lane->dispatched = 0;
    lane->stats.waits++;
    io_lane_unlock(lane);
    io_assert(io_no_lock_is_mine());
    int error = lane->backend->wait(lane, wait, deadline_ns, LANE_BURST, &done);
    io_lane_lock(lane);
    io_assert(lane->driven);
    lane->driven = lane->waiting = lane->woken = false;
    io_lane_append(lane, &done);
    error = lane_wait_ended(lane, error, deadline_ns);
    if (lane->timers.count > 0) {
        lane_collect_timers(lane, &done);
        io_lane_append(lane, &done);
    }
    return error == 0 && lane_recheck_due(recheck_ns) ? -IOE_INTR : error;
}

int lane_wait_shared(io_lane *lane, const io_wait *wait, int maximum, bool worker) {
    io_list done;
    io_list_init(&done);
    lane->kernel_waiters++;
    lane->kernel_workers += worker;
    lane->stats.waits++;
    io_lane_unlock(lane);
    io_assert(io_no_lock_is_mine());
    int error = lane->backend->wait(lane, wait, wait->deadline_ns, maximum, &done);
    io_lane_lock(lane);
    io_assert(lane->kernel_waiters > 0 && lane->kernel_workers >= worker &&
              lane->kernel_workers <= lane->kernel_waiters);
    lane->kernel_waiters--;
    lane->kernel_workers -= worker;
    io_lane_append(lane, &done);
    error = lane_wait_ended(lane, error, wait->deadline_ns);
    if (worker && lane->kernel_workers == 0)
        io_cond_broadcast(&lane->left);
    /* A getter may have consumed a wake meant for a stopping worker: repeat it until all have left.
     */
    while (!worker && lane_port_stopping(lane) && lane->kernel_workers > 0) {
        lane->backend->wake(lane);
        io_cond_wait(&lane->left, &lane->lock, io_clock_ns() + LANE_TICK_NS);
    }
    return error;
}

void lane_repost_surplus(io_lane *lane, size_t keep) {
    if (lane->ready_count <= keep || lane->kernel_waiters == 0)
        return;
    io_list surplus;
    io_list_init(&surplus);
    while (lane->ready_count > keep) {
        lane->ready_count--;
        io_link *last = lane->ready.previous;
        io_list_remove(last);
        io_list_push_front(&surplus, last);
    }
    io_lane_unlock(lane);
    io_lane_push(lane, &surplus);
    io_lane_lock(lane);
}

/* ---- getters --------------------------------------------------------------------------------- */

static int lane_take_many(io_lane *lane, io_op **ops, int maximum) {
    int count = 0;
    while (count < maximum && lane->ready_count > 0)
        ops[count++] = lane_take_ready(lane);
    lane->dispatched += (size_t)count;
    return count;
}

static bool lane_deadline_passed(const io_lane *lane, uint64_t deadline_ns) {
    return deadline_ns != IO_NEVER && (deadline_ns == 0 || io_lane_now(lane) >= deadline_ns);
}

/* Returns true if a wait was interrupted after the deadline had passed, which is a timeout. */
static bool lane_timed_out(const io_lane *lane, int error, uint64_t deadline_ns) {
    return error == -IOE_INTR && lane_deadline_passed(lane, deadline_ns);
}

static int lane_get_shared(io_lane *lane, const io_wait *wait, io_op **ops, int maximum) {
    int count = 0;
    io_lane_lock(lane);
    for (;;) {
        if (!lane_port_open(lane)) {
            count = -IOE_CLOSED;
            break;
        }
        if ((count = lane_take_many(lane, ops, maximum)) > 0)
            break;
        if (lane->broken) {
            count = lane->broken;
            break;
        }
        int error = lane_wait_shared(lane, wait, maximum, false);
        if (error && !lane_timed_out(lane, error, wait->deadline_ns)) {
            count = error;
            break;
        }
        if (lane->ready_count == 0 && lane_port_open(lane) &&
            lane_deadline_passed(lane, wait->deadline_ns))
            break;
    }
    lane_repost_surplus(lane, 0);
    io_lane_unlock(lane);
    return count;
}

/* Parks a getter while another thread drives the lane. Returns true if it was interrupted. */
static bool lane_park_getter(io_worker *self, const io_wait *wait) {
    io_lane *lane = self->lane;
    bool interrupted = false;
    lane_park(self);
    while (self->parked && !interrupted && lane_port_open(lane) &&
           !lane_deadline_passed(lane, wait->deadline_ns))
        interrupted = lane_wait_parked(self, wait, wait->deadline_ns);
    lane_end_parking(self);
    return interrupted;
}

static int lane_get_driven(io_worker *self, const io_wait *wait, io_op **ops, int maximum) {
    io_lane *lane = self->lane;
    bool asked = false; /* polled at least once, even with timeout 0 */
    for (;;) {
        if (!lane_port_open(lane))
            return -IOE_CLOSED;
        /* After LANE_BURST operations poll the kernel first, unless another thread drives. */
        bool last = lane->broken || lane->driven || lane->dispatched < LANE_BURST;
        if (lane->ready_count > 0 && last)
            return lane_take_many(lane, ops, maximum);
        if (lane->broken)
            return lane->broken;
        if (lane->ready_count == 0 && asked && lane_deadline_passed(lane, wait->deadline_ns))
            return 0;
        if (!lane->driven) {
            int error = lane_drive(lane, wait, lane->ready_count > 0 ? 0 : wait->deadline_ns);
            if (error && lane->ready_count == 0)
                return lane_timed_out(lane, error, wait->deadline_ns) ? 0 : error;
        } else if (wait->deadline_ns == 0 || lane_park_getter(self, wait)) {
            return wait->deadline_ns == 0 ? 0 : -IOE_INTR;
        }
        asked = true;
    }
}

int io_lane_get(io_lane *lane, const io_wait *wait, io_op **ops, int maximum) {
    if (lane_shared(lane))
        return lane_get_shared(lane, wait, ops, maximum);
    io_worker self;
    int count = lane_thread_init(&self, lane, false, wait);
    if (count)
        return count;
    io_lane_lock(lane);
    count = lane_get_driven(&self, wait, ops, maximum);
    lane_wake_next(lane);
    io_lane_unlock(lane);
    io_cond_destroy(&self.wake);
    return count;
}

/* ---- the lane itself ------------------------------------------------------------------------- */

/* Not opened on demand: the process may have run out of descriptors by then. */
static int lane_open_wake(io_lane *lane) {
#ifndef _WIN32
    lane->main_wake = io_wake_open();
    if (lane->main_wake < 0)
        return -IOE_MFILE;
#else
    (void)lane;
#endif
    return 0;
}

int io_lane_open(io_lane *lane, io_port *port, const io_backend *backend, uint32_t concurrency) {
    lane->port = port;
    lane->backend = backend;
    lane->concurrency = concurrency;
    lane->callback_ns = CALLBACK_INITIAL_NS;
    lane->main_wake = -1;
    io_list_init(&lane->ready);
    io_list_init(&lane->workers);
    io_list_init(&lane->parked);
    io_list_init(&lane->handles);
    io_list_init(&lane->free_handles);
    int error = -IOE_NOMEM;
    if (io_mutex_init(&lane->lock))
        return error;
    if (io_mutex_init(&lane->handles_lock))
        goto no_handles_lock;
    if (io_cond_init(&lane->left))
        goto no_condition;
    error = lane_open_wake(lane);
    if (error == 0)
        return 0;
    io_cond_destroy(&lane->left);
no_condition:
    io_mutex_destroy(&lane->handles_lock);
no_handles_lock:
    io_mutex_destroy(&lane->lock);
    return error;
}

void io_lane_close_wake(io_lane *lane) {
#ifndef _WIN32
    if (lane->main_wake >= 0)
        io_wake_close(lane->main_wake);
#endif
    lane->main_wake = -1;
}

void io_lane_free(io_lane *lane) {
    io_assert(io_list_empty(&lane->ready) && lane->ready_count == 0);
    io_assert(io_list_empty(&lane->workers) && lane->worker_count == 0 && lane->running == 0);
    io_assert(io_list_empty(&lane->parked) && !lane->driven && lane->kernel_waiters == 0);
    io_timer_heap_free(&lane->timers);
    io_lane_close_wake(lane);
    io_cond_destroy(&lane->left);
    io_mutex_destroy(&lane->handles_lock);
    io_mutex_destroy(&lane->lock);
}
