/* fork.c: ports of a process that has forked since.
 *
 * A fork leaves the child with copies of rings and queues that still belong to the parent, and with
 * locks that nobody will release. Every port remembers how often the process had forked when it was
 * opened, and refuses calls when that is not the present number. */
#include "core/io.h"

static _Atomic uint32_t fork_count;

#ifndef _WIN32

static void fork_count_one(void) {
    atomic_fetch_add_explicit(&fork_count, 1, memory_order_relaxed);
}

static void fork_watch(void) {
    /* Without memory for the handler a forked child is not recognised; nothing else suffers. */
    (void)pthread_atfork(NULL, NULL, fork_count_one);
}

static void fork_watch_once(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fork_watch);
}

#else

static void fork_watch_once(void) {}

#endif

uint32_t io_fork_generation(void) {
    fork_watch_once();
    return atomic_load_explicit(&fork_count, memory_order_relaxed);
}

bool io_port_forked(const io_port *port) {
    return port->fork_generation != atomic_load_explicit(&fork_count, memory_order_relaxed);
}
