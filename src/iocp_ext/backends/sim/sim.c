/* sim.c: the simulated backend, a deterministic kernel for tests.
 *
 * Time is virtual. wait() jumps to the earliest scheduled event or to its deadline. If neither
 * exists it blocks until another thread schedules something or calls wake(). Meanwhile the virtual
 * clock advances with the real one, because other threads may be waiting for a deadline. All
 * variation, such as how long a completion takes, how many bytes it moves, and whether a cancel
 * wins, comes from one seeded random sequence. With a single thread, a seed repeats a run exactly.
 *
 *      submit ──► SIM_ATTEMPT ──► performed ──► SIM_REPORT ──► io_op_reported
 *                   ▲    │ not ready
 *                   └─ SIM_WAITING (until its file changes)
 *
 * The simulator also checks the core (sim_check.c). Two concurrent sends or receives on a socket, a
 * handle closed too early, two concurrent waits, or (IO_SIM_CHECK) a write to an operation the
 * kernel owns abort the process and print the seed.
 *
 * Unlike in a real backend, wake() takes a lock and must not be called from a signal handler. A
 * signal does not end a blocked wait: a wait with `signals` returns every 20 ms instead. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "core/accepting.h"
#include "backends/sim/sim_net.h"

#include <stdlib.h>
#include <string.h>

#define SIM_POLL_NS 1000 /* cost of a poll without waiting, so that time passes for pollers too */
#define SIM_SIGNAL_CHECK_NS (20 * IO_NS_PER_MS)

static uint32_t sim_os_error_of(int64_t result) {
    return result < 0 ? io_error_to_system((int)result) : 0;
}

/* ---- chance ---------------------------------------------------------------------------------- */

/* splitmix64, which works with any seed, even 0. */
uint64_t sim_random(sim_kernel *sim, uint64_t below) {
    uint64_t z = (sim->random += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (z ^ (z >> 31)) % below;
}

bool sim_chance(sim_kernel *sim, uint32_t fault, uint64_t one_in) {
    return (sim->faults & fault) != 0 && sim_random(sim, one_in) == 0;
}

static uint64_t sim_now_locked(const sim_kernel *sim) {
    return sim->now_ns + (sim->blocked ? io_clock_ns() - sim->blocked_at_ns : 0);
}

/* Mostly microseconds, but sometimes long enough for all other completions to overtake. */
static uint64_t sim_delay_ns(sim_kernel *sim) {
    if (!(sim->faults & IO_SIM_DELAY))
        return 0;
    if (sim_random(sim, 16) == 0)
        return sim_random(sim, 50 * IO_NS_PER_MS);
    return sim_random(sim, 20000);
}

/* ---- operations owned by the simulated kernel ------------------------------------------------ */

static sim_work *sim_work_of(const sim_file *file, const io_op *op) {
    for (io_link *link = file->works.next; link != &file->works; link = link->next) {
        sim_work *work = IO_CONTAINER(link, sim_work, link);
        if (work->op == op)
            return work;
    }
    return NULL;
}

static bool sim_scheduled(const sim_work *work) {
    return work->phase == SIM_ATTEMPT || work->phase == SIM_REPORT;
}

static void sim_unschedule(sim_kernel *sim, sim_work *work) {
    if (sim_scheduled(work))
        io_timer_heap_remove(&sim->scheduled, &work->timer);
    work->phase = SIM_WAITING;
}

static void sim_schedule(sim_kernel *sim, sim_work *work, sim_phase phase) {
    sim_unschedule(sim, work);
    work->timer.deadline_ns = sim_now_locked(sim) + sim_delay_ns(sim);
    if (!io_timer_heap_push(&sim->scheduled, &work->timer))
        sim_fail(sim, "out of memory", work->op);
    work->phase = (uint8_t)phase;
    if (sim->blocked)
        io_cond_broadcast(&sim->changed);
}

void sim_file_changed(sim_kernel *sim, sim_file *file) {
    for (io_link *link = file->works.next; link != &file->works; link = link->next) {
        sim_work *work = IO_CONTAINER(link, sim_work, link);
        if (work->phase == SIM_WAITING)
            sim_schedule(sim, work, SIM_ATTEMPT);
    }
}

static sim_work *sim_work_new(sim_kernel *sim, sim_file *file, io_op *op) {
    size_t body_size = sim_op_size(op->kind) - sizeof(io_op);
    sim_work *work = calloc(1, sizeof(*work) + body_size);
    if (work == NULL)
        return NULL;
    work->op = op;
    work->file = file;
    work->kind = op->kind;
    work->body_size = body_size;
    work->token = io_handle_token(op->handle);
    work->phase = SIM_WAITING;
    file->refs++;
    io_list_push_back(&file->works, &work->link);
    sim->stats.in_flight++;
    return work;
}

/* Ends the kernel's ownership. After this the operation must not be touched. */
static void sim_work_end(sim_kernel *sim, sim_work *work) {
    sim_unschedule(sim, work);
    sim_unpoison(sim, work);
    io_list_remove(&work->link);
    sim_file_unref(sim, work->file);
    sim->stats.in_flight--;
    free(work);
}

/* ---- submit and cancel ----------------------------------------------------------------------- */

static bool sim_fails(sim_kernel *sim, sim_file *file, const io_op *op, int64_t *result) {
    if (op->kind != IO_ACCEPT || !sim_accept_fails(file, result)) {
        if (!sim_chance(sim, IO_SIM_ERRORS, 48))
            return false;
        *result = sim_error(sim, file, (io_kind)op->kind);
    }
    sim->stats.errors++;
    return true;
}

/* Attempts the operation. Returns true if it has a result, which may be an error. */
static bool sim_attempt_or_fail(sim_kernel *sim, sim_file *file, io_op *op, int64_t *result) {
    while (sim_fails(sim, file, op, result))
        if (op->kind != IO_ACCEPT || !io_accept_again((io_accept *)op, (int)*result))
            return true;
    return sim_attempt(sim, file, op, result);
}

static int sim_submit_locked(sim_kernel *sim, sim_file *file, io_op *op) {
    io_assert(io_lock_is_mine(&sim->lock));
    sim_work *work = sim_work_of(file, op);
    if (work != NULL && work->phase != SIM_READYING)
        return IO_PENDING; /* still pending: the readiness concerned another operation */
    if (work != NULL)
        sim_work_end(sim, work);
    sim_check_submit(sim, file, op);
    if (file->native == IO_NATIVE_NONE)
        return -IOE_BADF;
    if (sim_chance(sim, IO_SIM_REFUSE, 24)) {
        sim->stats.refusals++;
        return sim_random(sim, 2) == 0 ? -IOE_NOBUFS : -IOE_NOMEM;
    }
    int64_t result = 0;
    bool stuck = (sim->faults & IO_SIM_STUCK) != 0;
    bool at_once = !stuck && !(op->flags & IO_OP_YIELD) && sim_chance(sim, IO_SIM_IMMEDIATE, 3);
    if (at_once && sim_attempt_or_fail(sim, file, op, &result)) {
        sim->stats.at_once++;
        if (result < 0)
            return (int)result;
        op->result = result;
        return IO_DONE;
    }
    work = sim_work_new(sim, file, op);
    if (work == NULL)
        return -IOE_NOMEM;
    if (stuck)
        work->phase = SIM_STUCK;
    else
        sim_schedule(sim, work, SIM_ATTEMPT);
    sim_poison(sim, work);
    return IO_PENDING;
}

static int sim_submit(io_op *op) {
    sim_kernel *sim = op->lane->state;
    io_assert(io_lock_is_mine(&op->handle->lock));
    io_mutex_lock(&sim->lock);
    sim_file *file = op->handle->backend.pointer[0];
    if (file == NULL)
        sim_fail(sim, "submit on a handle that was never opened or is closed", op);
    int status = sim_submit_locked(sim, file, op);
    if (status < 0)
        op->os_error = sim_os_error_of(status);
    io_mutex_unlock(&sim->lock);
    return status;
}

static int sim_cancel_locked(sim_kernel *sim, sim_work *work) {
    io_assert(io_lock_is_mine(&sim->lock));
    if (work->phase == SIM_STUCK || work->phase == SIM_REPORT)
        return IO_PENDING;
    io_op *op = work->op;
    bool readying = work->phase == SIM_READYING;
    if (readying || sim_chance(sim, IO_SIM_CANCEL, 4)) {
        sim_work_end(sim, work);
        sim->stats.cancels_won++;
        return IO_DONE;
    }
    if (sim_chance(sim, IO_SIM_RETRY, 6)) { /* as if EINTR: the core must remember the cancel */
        work->cancelled = true;
        sim_schedule(sim, work, SIM_ATTEMPT);
        return IO_PENDING;
    }
    work->result = -IOE_CANCELED;
    sim_unpoison(sim, work);
    if (sim_chance(sim, IO_SIM_CANCEL, 3)) {
        /* The cancel loses. Or they tie: a send moves some bytes and still reports cancelled. */
        int64_t result = 0;
        if (sim_attempt(sim, work->file, op, &result)) {
            sim->stats.cancels_lost++;
            bool tie = (op->kind == IO_SEND || op->kind == IO_SEND_FILE) && result >= 0 &&
                       sim_random(sim, 3) == 0;
            if (!tie)
                work->result = result;
        }
    } else {
        sim->stats.cancels_won++;
    }
    sim_schedule(sim, work, SIM_REPORT);
    sim_poison(sim, work);
    return IO_PENDING;
}

static int sim_cancel(io_op *op) {
    sim_kernel *sim = op->lane->state;
    io_assert(io_lock_is_mine(&op->handle->lock));
    io_mutex_lock(&sim->lock);
    sim_file *file = op->handle->backend.pointer[0];
    sim_work *work = file == NULL ? NULL : sim_work_of(file, op);
    /* If there is none, the thread in wait() is reporting the operation just now. */
    int status = work == NULL ? IO_PENDING : sim_cancel_locked(sim, work);
    io_mutex_unlock(&sim->lock);
    return status;
}

/* ---- wait and wake --------------------------------------------------------------------------- */

/* Reports readiness of the handle, so that the core calls submit again. Releases sim->lock
 * meanwhile. */
static void sim_make_ready(sim_kernel *sim, sim_work *work, io_list *done) {
    uint64_t token = work->token;
    uint32_t events = IO_READABLE | IO_WRITABLE;
    if (sim_sends(work->kind) && sim_random(sim, 2) == 0)
        events = IO_WRITABLE;
    else if (sim_receives(work->kind) && sim_random(sim, 2) == 0)
        events = IO_READABLE;
    sim_unschedule(sim, work);
    sim_unpoison(sim, work);
    work->phase = SIM_READYING;
    io_mutex_unlock(&sim->lock);
    io_handle_ready(token, events, done);
    io_mutex_lock(&sim->lock);
}

static bool sim_by_readiness(uint8_t kind) {
    return sim_sends(kind) || sim_receives(kind) || kind == IO_POLL;
}

/* Runs one event that is due and already removed from the heap. Returns true if anything was
 * reported. */
static bool sim_run_due(sim_kernel *sim, sim_work *work, io_list *done) {
    io_op *op = work->op;
    sim_phase phase = (sim_phase)work->phase;
    work->phase = SIM_WAITING;
    if (phase == SIM_ATTEMPT) {
        if (!work->cancelled && sim_by_readiness(work->kind) &&
            sim_chance(sim, IO_SIM_READINESS, 6)) {
            sim_make_ready(sim, work, done);
            return true;
        }
        if (work->cancelled || sim_chance(sim, IO_SIM_RETRY, 10)) {
            sim->stats.retries++;
            sim_work_end(sim, work);
            io_mutex_unlock(&sim->lock);
            io_op_retry(op, done);
            io_mutex_lock(&sim->lock);
            return true;
        }
        sim_unpoison(sim, work);
        bool ended = sim_attempt_or_fail(sim, work->file, op, &work->result);
        sim_poison(sim, work);
        if (!ended)
            return false;
        if (sim->faults & IO_SIM_DELAY) {
            sim_schedule(sim, work, SIM_REPORT);
            return false;
        }
    }
    int64_t result = work->result;
    sim->stats.reports++;
    sim_work_end(sim, work);
    io_mutex_unlock(&sim->lock);
    io_op_reported(op, result, sim_os_error_of(result), done);
    io_mutex_lock(&sim->lock);
    return true;
}

/* Runs the events that are due. After the first report time no longer jumps. */
static int sim_wait_locked(sim_kernel *sim, const io_wait *wait, uint64_t deadline_ns, int maximum,
                           io_list *done) {
    int reported = 0;
    uint64_t signals_ns = 0;
    for (;;) {
        if (sim->woken) {
            sim->woken = false;
            deadline_ns = sim->now_ns;
        }
        if (reported >= maximum || (reported > 0 && sim_chance(sim, IO_SIM_DELAY, 4)))
            return 0;
        io_timer *first = io_timer_heap_first(&sim->scheduled);
        uint64_t limit_ns = reported > 0 || deadline_ns < sim->now_ns ? sim->now_ns : deadline_ns;
        if (first != NULL && first->deadline_ns <= limit_ns) {
            sim_work *work = IO_CONTAINER(first, sim_work, timer);
            io_timer_heap_remove(&sim->scheduled, first);
            if (first->deadline_ns > sim->now_ns)
                sim->now_ns = first->deadline_ns;
            reported += sim_run_due(sim, work, done);
            continue;
        }
        if (reported > 0)
            return 0;
        if (deadline_ns != IO_NEVER) {
            sim->now_ns = limit_ns;
            return 0;
        }
        if (wait->signals && signals_ns == 0)
            signals_ns = io_clock_ns() + SIM_SIGNAL_CHECK_NS;
        else if (wait->signals && io_clock_ns() >= signals_ns)
            return -IOE_INTR;
        sim->blocked_at_ns = io_clock_ns();
        sim->blocked = true;
        io_cond_wait(&sim->changed, &sim->lock, wait->signals ? signals_ns : IO_NEVER);
        sim->now_ns = sim_now_locked(sim);
        sim->blocked = false;
    }
}

static int sim_wait(io_lane *lane, const io_wait *wait, uint64_t deadline_ns, int maximum,
                    io_list *done) {
    sim_kernel *sim = lane->state;
    int status = 0;
    io_mutex_lock(&sim->lock);
    if (sim->waiting)
        sim_fail(sim, "two threads wait at once", NULL);
    sim->waiting = true;
    if (deadline_ns <= sim->now_ns)
        sim->now_ns += SIM_POLL_NS;
    if (!sim_chance(sim, IO_SIM_SPURIOUS, 16))
        status = sim_wait_locked(sim, wait, deadline_ns, maximum, done);
    sim->waiting = false;
    io_mutex_unlock(&sim->lock);
    return status;
}

static void sim_wake(io_lane *lane) {
    sim_kernel *sim = lane->state;
    io_mutex_lock(&sim->lock);
    sim->woken = true;
    io_cond_broadcast(&sim->changed);
    io_mutex_unlock(&sim->lock);
}

static uint64_t sim_now(const io_lane *lane) {
    sim_kernel *sim = lane->state;
    io_mutex_lock(&sim->lock);
    uint64_t now_ns = sim_now_locked(sim);
    io_mutex_unlock(&sim->lock);
    return now_ns;
}

/* ---- lanes and handles ----------------------------------------------------------------------- */

static int sim_probe(char *reason, size_t size) {
    if (size > 0)
        reason[0] = '\0';
    return 0;
}

static int sim_lane_open(io_lane *lane, uint32_t *os_error) {
    sim_kernel *sim = calloc(1, sizeof(*sim));
    *os_error = 0;
    if (sim == NULL)
        return -IOE_NOMEM;
    if (io_mutex_init(&sim->lock) != 0) {
        free(sim);
        return -IOE_NOMEM;
    }
    if (io_cond_init(&sim->changed) != 0) {
        io_mutex_destroy(&sim->lock);
        free(sim);
        return -IOE_NOMEM;
    }
    sim->lane = lane;
    sim->now_ns = SIM_START_NS;
    sim->next_port = 40000;
    lane->state = sim;
    return 0;
}

/* Closes the natives still open, as a process exit closes descriptors. */
static void sim_lane_close(io_lane *lane) {
    sim_kernel *sim = lane->state;
    if (sim == NULL)
        return;
    io_mutex_lock(&sim->lock);
    if (sim->stats.in_flight > 0)
        sim_fail(sim, "the lane is closed with operations in flight", NULL);
    if (sim->waiting)
        sim_fail(sim, "the lane is closed while a thread waits", NULL);
    for (size_t i = 0; i < sim->native_count; i++) {
        if (sim->natives[i] != NULL)
            sim_native_close(sim, sim->natives[i]);
    }
    bool leaked = sim->stats.files > 0;
    io_mutex_unlock(&sim->lock);
    if (leaked)
        sim_fail(sim, "the lane is closed before its handles", NULL);
    lane->state = NULL;
    io_timer_heap_free(&sim->scheduled);
    io_cond_destroy(&sim->changed);
    io_mutex_destroy(&sim->lock);
    free(sim->natives);
    free(sim);
}

static int sim_handle_open(io_handle *handle, uint32_t *os_error) {
    sim_kernel *sim = handle->lane->state;
    int error = 0;
    io_mutex_lock(&sim->lock);
    sim_file *file = sim_file_of(sim, handle->native);
    if (file == NULL) {
        error = -IOE_BADF;
        *os_error = io_error_to_system(-IOE_BADF);
    } else {
        handle->type = file->type == SIM_FILE       ? IO_FILE
                       : file->type == SIM_DATAGRAM ? IO_DATAGRAM
                                                    : IO_STREAM;
        handle->family = AF_INET;
        handle->identity[0] = file->identity;
        handle->identity[1] = 0;
        handle->backend.pointer[0] = file;
        file->refs++;
    }
    io_mutex_unlock(&sim->lock);
    return error;
}

static void sim_handle_close(io_handle *handle, bool close_native) {
    sim_kernel *sim = handle->lane->state;
    io_mutex_lock(&sim->lock);
    sim_file *file = handle->backend.pointer[0];
    if (file == NULL)
        sim_fail(sim, "a handle is closed twice", NULL);
    for (io_link *link = file->works.next; link != &file->works; link = link->next) {
        sim_work *work = IO_CONTAINER(link, sim_work, link);
        if (work->op->handle == handle)
            sim_fail(sim, "a handle is closed with an operation in flight", work->op);
    }
    handle->backend.pointer[0] = NULL;
    if (close_native && file->native != IO_NATIVE_NONE)
        sim_native_close(sim, file);
    sim_file_unref(sim, file);
    io_mutex_unlock(&sim->lock);
}

static int sim_handle_shutdown(io_handle *handle) {
    sim_kernel *sim = handle->lane->state;
    io_mutex_lock(&sim->lock);
    sim_file *file = handle->backend.pointer[0];
    bool connected = file->connected && !file->broken;
    if (connected)
        sim_shutdown(sim, file);
    io_mutex_unlock(&sim->lock);
    return connected ? 0 : -IOE_NOTCONN;
}

static void sim_handle_prepare_close(io_handle *handle, bool reset) {
    sim_kernel *sim = handle->lane->state;
    io_mutex_lock(&sim->lock);
    sim_prepare_close(sim, handle->backend.pointer[0], reset);
    io_mutex_unlock(&sim->lock);
}

static void sim_handle_address(io_handle *handle, bool peer, io_address *answer) {
    sim_kernel *sim = handle->lane->state;
    io_mutex_lock(&sim->lock);
    sim_address(handle->backend.pointer[0], peer, answer);
    io_mutex_unlock(&sim->lock);
}

/* ---- for tests ------------------------------------------------------------------------------- */

bool io_sim_lane(const io_lane *lane) {
    return lane->backend == &io_backend_sim && lane->state != NULL;
}

void io_sim_configure(io_lane *lane, uint64_t seed, uint32_t fault_flags) {
    sim_kernel *sim = lane->state;
    io_mutex_lock(&sim->lock);
    sim->seed = sim->random = seed;
    sim->faults = fault_flags;
    io_mutex_unlock(&sim->lock);
}

void io_sim_get_stats(io_lane *lane, io_sim_stats *stats) {
    sim_kernel *sim = lane->state;
    io_mutex_lock(&sim->lock);
    *stats = sim->stats;
    io_mutex_unlock(&sim->lock);
}

static int sim_on_native(io_lane *lane, io_native native,
                         void (*act)(sim_kernel *sim, sim_file *file)) {
    sim_kernel *sim = lane->state;
    io_mutex_lock(&sim->lock);
    sim_file *file = sim_file_of(sim, native);
    if (file != NULL)
        act(sim, file);
    io_mutex_unlock(&sim->lock);
    return file != NULL ? 0 : -IOE_BADF;
}

int io_sim_close_native(io_lane *lane, io_native native) {
    return sim_on_native(lane, native, sim_native_close);
}

/* Ignores an unknown native: the user may have closed it. Does nothing after the port was closed,
 * because closing the lane closes all its natives. */
static void sim_close_native(io_lane *lane, io_native native, int family) {
    (void)family;
    if (io_port_enter(lane->port) == 0) {
        (void)io_sim_close_native(lane, native);
        io_port_leave(lane->port);
    }
}

int io_sim_shutdown(io_lane *lane, io_native native) {
    return sim_on_native(lane, native, sim_shutdown);
}

const io_backend io_backend_sim = {
    .name = "sim",
    .flags = IO_NEVER_DEFAULT,
    .own_natives = "an integer handle of the simulation",
    .probe = sim_probe,
    .lane_open = sim_lane_open,
    .lane_close = sim_lane_close,
    .wait = sim_wait,
    .wake = sim_wake,
    .handle_open = sim_handle_open,
    .handle_close = sim_handle_close,
    .close_native = sim_close_native,
    .submit = sim_submit,
    .cancel = sim_cancel,
    .shutdown = sim_handle_shutdown,
    .prepare_close = sim_handle_prepare_close,
    .address = sim_handle_address,
    .now = sim_now,
};
