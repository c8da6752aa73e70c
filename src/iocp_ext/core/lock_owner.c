/* lock_owner.c: who holds which lock, in assertion builds.
 *
 * Each lock names the thread that holds it, and each thread counts what it holds. That is enough to
 * assert "under this lock", "not under that one" and "under none", which is what the comments at
 * functions promise. */
#include "core/thread.h"

#ifdef IO_ASSERTIONS

static _Thread_local unsigned lock_owner_held; /* by this thread */

void io_lock_taken(_Atomic uintptr_t *owner) {
    io_assert(atomic_load_explicit(owner, memory_order_relaxed) == 0);
    atomic_store_explicit(owner, io_thread_self(), memory_order_relaxed);
    lock_owner_held++;
}

void io_lock_left(_Atomic uintptr_t *owner) {
    io_assert(atomic_load_explicit(owner, memory_order_relaxed) == io_thread_self());
    io_assert(lock_owner_held > 0);
    atomic_store_explicit(owner, 0, memory_order_relaxed);
    lock_owner_held--;
}

bool io_no_lock_is_mine(void) {
    return lock_owner_held == 0;
}

#else
typedef int io_lock_owner_is_empty; /* C has no empty translation units */
#endif
