/* port.c: opening a port, closing it, and the choice of its backend.
 *
 * Closing asks the kernel for everything back and waits for it, because memory that the kernel may
 * still write to cannot be freed. If the kernel does not give something back in time, that memory
 * and the kernel objects are leaked on purpose.
 *
 * A fork leaves the child with copies of rings and queues that still belong to the parent; every
 * port remembers how often the process had forked when it was opened, and refuses calls when that
 * is not the present number. */
#include "core/lane.h"

#include <stdlib.h>
#include <string.h>

static _Atomic uint32_t port_fork_generation;

#ifndef _WIN32
static void port_count_fork(void) {
    atomic_fetch_add_explicit(&port_fork_generation, 1, memory_order_relaxed);
}

static void port_watch_forks(void) {
    /* Without memory for the handler a forked child is not recognised; nothing else suffers. */
    (void)pthread_atfork(NULL, NULL, port_count_fork);
}

static void port_watch_forks_once(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, port_watch_forks);
}
#else
static void port_watch_forks_once(void) {}
#endif

bool io_port_forked(const io_port *port) {
    return port->fork_generation !=
           atomic_load_explicit(&port_fork_generation, memory_order_relaxed);
}

static const io_backend *const port_backends[] = {
#ifdef _WIN32
    &io_backend_iocp,
#else
    &io_backend_uring,
    &io_backend_epoll,
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
    port_watch_forks_once();
    io_port *port = calloc(1, sizeof *port);
    if (port == NULL)
        return -IOE_NOMEM;
    port->backend = backend;
    port->fork_generation = atomic_load_explicit(&port_fork_generation, memory_order_relaxed);
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
        return IOE_FORKED;
    atomic_fetch_add(&port->users, 1);
    if (atomic_load(&port->state) != IO_PORT_OPEN) {
        io_port_leave(port);
        return IOE_CLOSED;
    }
    return 0;
}

void io_port_leave(io_port *port) {
    if (atomic_fetch_sub(&port->users, 1) == 1 && atomic_load(&port->state) != IO_PORT_OPEN) {
        io_mutex_lock(&port->lane.lock);
        io_cond_broadcast(&port->lane.left);
        io_mutex_unlock(&port->lane.lock);
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

/* Under lane->lock. */
static void port_cancel_timers(io_lane *lane, io_list *done) {
    io_timer *timer;
    while ((timer = io_timer_heap_first(&lane->timers)) != NULL) {
        io_timer_heap_remove(&lane->timers, timer);
        timer->op.result = -IOE_CANCELED;
        timer->op.state = IO_OP_COMPLETED;
        atomic_fetch_add_explicit(&lane->port->cancelled, 1, memory_order_relaxed);
        io_list_push_back(done, &timer->op.link);
    }
}

static void port_cancel_handle(io_handle *handle, void *context) {
    (void)context;
    io_handle_cancel(handle);
}

/* Operations that have been submitted and have not come back. Under lane->lock. */
static size_t port_owned_by_kernel(const io_port *port) {
    return (size_t)atomic_load(&port->in_flight) - port->lane.ready_count;
}

size_t io_port_drain(io_port *port, uint64_t timeout_ns) {
    io_lane *lane = &port->lane;
    uint64_t limit_ns = io_clock_ns() + timeout_ns;
    if (limit_ns < timeout_ns)
        limit_ns = IO_NEVER - 1;
    io_list done;
    io_list_init(&done);

    io_mutex_lock(&lane->lock);
    /* One look decides: who comes from now on is told that it is closed, but counts meanwhile. */
    bool deserted;
    while (!(deserted = atomic_load(&port->users) == 0) && io_clock_ns() < limit_ns)
        io_cond_wait(&lane->left, &lane->lock, limit_ns);
    port_cancel_timers(lane, &done);
    io_lane_append(lane, &done);
    io_mutex_unlock(&lane->lock);
    io_handles_each(lane, port_cancel_handle, NULL);

    io_mutex_lock(&lane->lock);
    /* At least one look, so that a limit of 0 still collects what is finished. */
    for (bool looked = false; port_owned_by_kernel(port) > 0; looked = true) {
        uint64_t now_ns = io_clock_ns();
        if (!deserted || (looked && now_ns >= limit_ns))
            break;
        uint64_t left_ns = now_ns < limit_ns ? limit_ns - now_ns : 0;
        io_wait wait = {.deadline_ns = left_ns ? io_lane_now(lane) + left_ns : 0};
        lane->waiting = lane->driven = true;
        lane->woken = false;
        io_mutex_unlock(&lane->lock);
        int error = lane->backend->wait(lane, &wait, wait.deadline_ns, 64, &done);
        io_mutex_lock(&lane->lock);
        lane->waiting = lane->driven = false;
        io_lane_append(lane, &done);
        error = lane_waited(lane, error, limit_ns);
        if (error && error != -IOE_INTR)
            break;
    }
    size_t owned = port_owned_by_kernel(port);
    io_mutex_unlock(&lane->lock);
    return deserted ? owned : owned + 1;
}

typedef struct remaining {
    void (*visit)(io_op *op, bool leaked, void *context);
    void *context;
} remaining;

/* The next one that has not been visited. It may still complete, but nobody will hear of it. */
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
        io_lock_acquire(&handle->lock);
        op = port_next_leaked(handle);
        io_lock_release(&handle->lock);
        if (op != NULL)
            rest->visit(op, true, rest->context);
    } while (op != NULL);
}

void io_port_take_remaining(io_port *port, void (*visit)(io_op *op, bool leaked, void *context),
                            void *context) {
    io_lane *lane = &port->lane;
    remaining rest = {visit, context};
    for (;;) {
        io_mutex_lock(&lane->lock);
        io_link *link = io_list_pop_front(&lane->ready);
        lane->ready_count -= link != NULL;
        io_mutex_unlock(&lane->lock);
        if (link == NULL)
            break;
        visit(IO_CONTAINER(link, io_op, link), false, context);
    }
    io_handles_each(lane, port_visit_handle, &rest);
    atomic_store(&port->in_flight, 0);
}

static void port_close_backend_handle(io_handle *handle, void *context) {
    (void)context;
    handle->lane->backend->handle_close(handle, false);
    handle->open = false;
}

void io_port_finish_close(io_port *port, size_t leaked) {
    io_lane *lane = &port->lane;
    if (leaked == 0) {
        io_handles_each(lane, port_close_backend_handle, NULL);
        if (port->file_pool != NULL)
            io_file_pool_close(port->file_pool);
        lane->backend->lane_close(lane);
        io_lane_close_wake(lane);
    }
    atomic_store(&port->state, leaked == 0 ? IO_PORT_CLOSED : IO_PORT_LEAKED);
    io_mutex_lock(&lane->lock);
    io_cond_broadcast(&lane->left);
    io_mutex_unlock(&lane->lock);
}

void io_port_destroy(io_port *port) {
    if (atomic_load(&port->state) == IO_PORT_LEAKED || io_port_forked(port))
        return;
    /* Not before: what was taken while the port was open may be released after it is closed. */
    io_slabs_free(port);
    io_buffer_pool_close(&port->buffers);
    io_lane_free(&port->lane);
    free(port);
}

/* ---- natives ----------------------------------------------------------------------------------
 */

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
    io_mutex_lock(&lane->lock);
    figures->waits = lane->stats.waits;
    figures->wakes = lane->stats.wakes;
    figures->handovers = lane->stats.handovers;
    figures->wait_failures = lane->stats.wait_failures;
    figures->workers = lane->worker_count;
    io_mutex_unlock(&lane->lock);
    size_t handles = 0;
    io_handles_each(lane, port_count_handle, &handles);
    figures->handles = handles;
}

/* ---- posts ----------------------------------------------------------------------------------- */

void io_post_submit(io_op *post) {
    io_port *port = post->lane->port;
    io_list done;
    io_list_init(&done);
    atomic_fetch_add_explicit(&port->in_flight, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&port->submitted, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(post->result < 0 ? &port->failed : &port->completed, 1,
                              memory_order_relaxed);
    post->state = IO_OP_COMPLETED;
    io_list_push_back(&done, &post->link);
    io_lane_push(post->lane, &done);
}
