/* fork.c: detects ports inherited across a fork.
 *
 * A forked child has copies of rings and queues that still belong to the parent, and locks that no
 * thread will release. Each port stores the fork count at the time it was opened, and refuses calls
 * when the current count differs. */
#include "core/io.h"

static _Atomic uint32_t fork_count;

#ifndef _WIN32

static void fork_count_one(void) {
    atomic_fetch_add_explicit(&fork_count, 1, memory_order_relaxed);
}

static void fork_watch(void) {
    /* If this fails for lack of memory, forked children are not detected. Not fatal. */
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
