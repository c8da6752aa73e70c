/* lock_owner.c: tracks lock ownership in assertion builds.
 *
 * Each lock stores the thread that holds it, and each thread counts the locks it holds. So
 * functions can assert what their comments demand: a lock is held, is not held, or none is held. */
#include "core/thread.h"

#ifdef IO_ASSERTIONS

static _Thread_local unsigned lock_owner_held; /* number of locks this thread holds */

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
