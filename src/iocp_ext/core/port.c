/* port.c: opening and closing ports, and the table of backends.
 *
 * Closing cancels all operations and waits until the kernel has returned them, because memory that
 * the kernel may still write to cannot be freed. If the kernel does not return an operation in
 * time, its memory and the kernel objects are leaked on purpose. */
#include "core/lane.h"

#include <stdlib.h>
#include <string.h>

static const io_backend *const port_backends[] = {
#if defined(_WIN32)
    &io_backend_iocp,
#elif defined(__linux__)
    &io_backend_uring,
    &io_backend_epoll,
#else
#error "no backend for this system"
#endif
    &io_backend_sim,
    NULL,
};

const io_backend *const *io_backends(void) {
    return port_backends;
}

const io_backend *io_backend_by_name(const char *name) {
    for (const io_backend *const *backend = port_backends; *backend != NULL; backend++)
        if (strcmp((*backend)->name, name) == 0)
            return *backend;
    return NULL;
}

/* ---- open ------------------------------------------------------------------------------------ */

int io_port_open(io_port **out, const io_backend *backend, uint32_t concurrency,
                 uint32_t *os_error) {
    io_port *port = calloc(1, sizeof *port);
    if (port == NULL)
        return -IOE_NOMEM;
    port->backend = backend;
    port->fork_generation = io_fork_generation();
    port->state = IO_PORT_OPEN;
    int error = io_lane_open(&port->lane, port, backend, concurrency);
    if (error)
        goto no_lane;
    error = backend->lane_open(&port->lane, os_error);
    if (error)
        goto not_opened;
    *out = port;
    return 0;

not_opened:
    io_lane_free(&port->lane);
no_lane:
    free(port);
    return error;
}

/* ---- calls ----------------------------------------------------------------------------------- */

int io_port_enter(io_port *port) {
    if (io_port_forked(port))
        return -IOE_FORKED;
    /* Count first, then check the state. So io_port_drain sees this user, or this call sees that
     * the port is closing. */
    atomic_fetch_add(&port->users, 1);
    if (atomic_load(&port->state) != IO_PORT_OPEN) {
        io_port_leave(port);
        return -IOE_CLOSED;
    }
    return 0;
}

void io_port_leave(io_port *port) {
    uint32_t before = atomic_fetch_sub(&port->users, 1);
    io_assert(before > 0);
    if (before == 1 && atomic_load(&port->state) != IO_PORT_OPEN) {
        io_lane_lock(&port->lane);
        io_cond_broadcast(&port->lane.left);
        io_lane_unlock(&port->lane);
    }
}

void io_port_stop(io_port *port) {
    atomic_store(&port->stopping, true);
    io_lane_wake_all(&port->lane);
}

/* ---- close ----------------------------------------------------------------------------------- */

bool io_port_begin_close(io_port *port) {
    int open = IO_PORT_OPEN;
    if (!atomic_compare_exchange_strong(&port->state, &open, IO_PORT_CLOSING))
        return false;
    io_lane_wake_all(&port->lane);
    return true;
}

/* lane->lock must be held. */
static void port_cancel_timers(io_lane *lane, io_list *done) {
    io_assert(io_lock_is_mine(&lane->lock));
    uint32_t count = io_timer_heap_expire(&lane->timers, IO_NEVER, -IOE_CANCELED, done);
    atomic_fetch_add_explicit(&lane->port->cancelled, count, memory_order_relaxed);
}

static void port_cancel_handle(io_handle *handle, void *context) {
    (void)context;
    io_handle_cancel(handle);
}

/* Returns the number of operations submitted and not yet reported. lane->lock must be held. */
static size_t port_owned_by_kernel(const io_port *port) {
    io_assert(io_lock_is_mine(&port->lane.lock));
    io_assert(atomic_load(&port->in_flight) >= (int64_t)port->lane.ready_count);
    return (size_t)atomic_load(&port->in_flight) - port->lane.ready_count;
}

size_t io_port_drain(io_port *port, uint64_t timeout_ns) {
    io_lane *lane = &port->lane;
    uint64_t limit_ns = io_clock_ns() + timeout_ns;
    if (limit_ns < timeout_ns)
        limit_ns = IO_NEVER - 1;
    io_list done;
    io_list_init(&done);

    io_lane_lock(lane);
    /* Check `users` only once: later callers are refused, but count as users meanwhile. */
    bool unused;
    while (!(unused = atomic_load(&port->users) == 0) && io_clock_ns() < limit_ns)
        io_cond_wait(&lane->left, &lane->lock, limit_ns);
    port_cancel_timers(lane, &done);
    io_lane_append(lane, &done);
    io_lane_unlock(lane);
    io_handles_each(lane, port_cancel_handle, NULL);

    io_lane_lock(lane);
    /* Poll at least once, so that a timeout of 0 still collects finished operations. */
    for (bool polled = false; port_owned_by_kernel(port) > 0; polled = true) {
        uint64_t now_ns = io_clock_ns();
        if (!unused || (polled && now_ns >= limit_ns))
            break;
        uint64_t left_ns = now_ns < limit_ns ? limit_ns - now_ns : 0;
        io_wait wait = {.deadline_ns = left_ns ? io_lane_now(lane) + left_ns : 0};
        io_assert(!lane->driven && lane->kernel_waiters == 0);
        lane->waiting = lane->driven = true;
        lane->woken = false;
        io_lane_unlock(lane);
        int error = lane->backend->wait(lane, &wait, wait.deadline_ns, LANE_BURST, &done);
        io_lane_lock(lane);
        lane->waiting = lane->driven = false;
        io_lane_append(lane, &done);
        error = lane_wait_ended(lane, error, limit_ns);
        if (error && error != -IOE_INTR)
            break;
    }
    size_t owned = port_owned_by_kernel(port);
    io_lane_unlock(lane);
    return unused ? owned : owned + 1;
}

typedef struct remaining {
    void (*visit)(io_op *op, bool leaked, void *context);
    void *context;
} remaining;

/* Returns the next operation of the handle not yet marked as leaked, and marks it. It may still
 * complete, but that is never reported. */
static io_op *port_next_leaked(io_handle *handle) {
    io_list *lists[] = {&handle->queue[IO_IN], &handle->queue[IO_OUT], &handle->others};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        for (io_link *link = lists[i]->next; link != lists[i]; link = link->next) {
            io_op *op = IO_CONTAINER(link, io_op, link);
            if (!(op->flags & IO_OP_LEAKED)) {
                op->flags |= IO_OP_LEAKED;
                return op;
            }
        }
    }
    return NULL;
}

static void port_visit_handle(io_handle *handle, void *context) {
    remaining *rest = context;
    io_op *op;
    do {
        io_handle_lock(handle);
        op = port_next_leaked(handle);
        io_handle_unlock(handle);
        if (op != NULL)
            rest->visit(op, true, rest->context);
    } while (op != NULL);
}

void io_port_take_remaining(io_port *port, void (*visit)(io_op *op, bool leaked, void *context),
                            void *context) {
    io_lane *lane = &port->lane;
    remaining rest = {visit, context};
    for (;;) {
        io_lane_lock(lane);
        io_link *link = io_list_pop_front(&lane->ready);
        lane->ready_count -= link != NULL;
        io_lane_unlock(lane);
        if (link == NULL)
            break;
        visit(IO_CONTAINER(link, io_op, link), false, context);
    }
    io_handles_each(lane, port_visit_handle, &rest);
    atomic_store(&port->in_flight, 0);
}

static void port_close_backend_handle(io_handle *handle, void *context) {
    (void)context;
    io_assert(handle->in_flight == 0);
    handle->lane->backend->handle_close(handle, false);
    handle->open = false;
}

void io_port_finish_close(io_port *port, size_t leaked) {
    io_lane *lane = &port->lane;
    io_assert(atomic_load(&port->state) == IO_PORT_CLOSING);
    if (leaked == 0) {
        io_handles_each(lane, port_close_backend_handle, NULL);
        if (port->file_pool != NULL)
            io_file_pool_close(port->file_pool);
        lane->backend->lane_close(lane);
        io_lane_close_wake(lane);
    }
    atomic_store(&port->state, leaked == 0 ? IO_PORT_CLOSED : IO_PORT_LEAKED);
    io_lane_lock(lane);
    io_cond_broadcast(&lane->left);
    io_lane_unlock(lane);
}

io_resident *io_port_settle(io_port *port, io_resident *resident) {
    io_resident *settled = NULL;
    return atomic_compare_exchange_strong(&port->resident, &settled, resident) ? resident : settled;
}

void io_port_end_resident(io_port *port, bool leaked) {
    io_resident *resident = atomic_load(&port->resident);
    if (resident != NULL)
        resident->end(resident, leaked);
}

void io_port_destroy(io_port *port) {
    if (atomic_load(&port->state) == IO_PORT_LEAKED || io_port_forked(port))
        return;
    io_assert(atomic_load(&port->state) == IO_PORT_CLOSED && atomic_load(&port->users) == 0);
    /* Not in finish_close: operations taken before the close may be released after it. */
    io_slabs_free(port);
    io_buffer_pool_close(&port->buffers);
    io_handles_free(&port->lane);
    io_lane_free(&port->lane);
    io_resident *resident = atomic_load(&port->resident);
    if (resident != NULL)
        resident->free(resident);
    free(port);
}

/* ---- natives --------------------------------------------------------------------------------- */

void io_port_close_native(io_port *port, io_native native, int family) {
    if (native != IO_NATIVE_NONE)
        port->backend->close_native(&port->lane, native, family);
}

/* ---- statistics ------------------------------------------------------------------------------ */

static void port_count_handle(io_handle *handle, void *context) {
    (void)handle;
    ++*(size_t *)context;
}

void io_port_stats(io_port *port, io_port_figures *figures) {
    io_lane *lane = &port->lane;
    figures->submitted = atomic_load_explicit(&port->submitted, memory_order_relaxed);
    figures->completed = atomic_load_explicit(&port->completed, memory_order_relaxed);
    figures->cancelled = atomic_load_explicit(&port->cancelled, memory_order_relaxed);
    figures->failed = atomic_load_explicit(&port->failed, memory_order_relaxed);
    figures->in_flight = (uint64_t)atomic_load_explicit(&port->in_flight, memory_order_relaxed);
    io_lane_lock(lane);
    figures->waits = lane->stats.waits;
    figures->wakes = lane->stats.wakes;
    figures->handovers = lane->stats.handovers;
    figures->wait_failures = lane->stats.wait_failures;
    figures->workers = lane->worker_count;
    io_lane_unlock(lane);
    size_t handles = 0;
    io_handles_each(lane, port_count_handle, &handles);
    figures->handles = handles;
}

/* ---- posts ----------------------------------------------------------------------------------- */

void io_post_submit(io_op *post) {
    io_port *port = post->lane->port;
    io_list done;
    io_list_init(&done);
    io_assert(io_op_is_idle(post));
    io_port_op_submitted(port);
    atomic_fetch_add_explicit(post->result < 0 ? &port->failed : &port->completed, 1,
                              memory_order_relaxed);
    post->state = IO_OP_COMPLETED;
    io_list_push_back(&done, &post->link);
    io_lane_push(post->lane, &done);
}
