/* guard.c: guard mode, which detects writes to released memory.
 *
 * With IOCPCORE_GUARD=1 every operation and receive buffer has its own pages, and the pages become
 * inaccessible when it is released. A later write by the kernel fails with EFAULT; a write by a
 * thread (Wine completes operations that way) crashes. An address is not reused until 16,384 more
 * have been released, so a late write does not hit a newer operation. */
#include "core/io.h"

#include <stdlib.h>

#ifdef _WIN32
#include <windows.h>
#else
#include <sys/mman.h>
#endif

enum { PAGE = 4096 };

static _Atomic int guard_enabled = -1;

bool io_guard_enabled(void) {
    int value = atomic_load_explicit(&guard_enabled, memory_order_relaxed);
    if (value < 0) {
        const char *asked = getenv("IOCPCORE_GUARD");
        value = asked != NULL && asked[0] == '1';
        atomic_store_explicit(&guard_enabled, value, memory_order_relaxed);
    }
    return value != 0;
}

static size_t guard_pages(size_t size) {
    return (size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

/* A ring of the freed regions whose addresses are still reserved, oldest first. */
enum { HELD_MAX = 16384 };
static struct {
    void *memory;
    size_t size;
} guard_held[HELD_MAX];
static size_t guard_held_next;
static _Atomic bool guard_held_locked;

static void guard_held_lock(void) {
    while (atomic_exchange_explicit(&guard_held_locked, true, memory_order_acquire)) {
    }
}

static void guard_held_unlock(void) {
    atomic_store_explicit(&guard_held_locked, false, memory_order_release);
}

#ifdef _WIN32

void *io_guard_alloc(size_t size) {
    return VirtualAlloc(NULL, guard_pages(size), MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

static void guard_protect(void *memory, size_t size) {
    if (!VirtualFree(memory, size, MEM_DECOMMIT))
        abort();
}

static void guard_unmap(void *memory, size_t size) {
    (void)size;
    if (!VirtualFree(memory, 0, MEM_RELEASE))
        abort();
}

#else

void *io_guard_alloc(size_t size) {
    void *memory =
        mmap(NULL, guard_pages(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static void guard_protect(void *memory, size_t size) {
    /* A new mapping over the old one frees the memory, and merges with its neighbours. */
    if (mmap(memory, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
             0) == MAP_FAILED)
        abort();
}

static void guard_unmap(void *memory, size_t size) {
    if (munmap(memory, size) != 0)
        abort();
}

#endif

void io_guard_free(void *memory, size_t size) {
    size = guard_pages(size);
    guard_protect(memory, size);
    guard_held_lock();
    void *oldest = guard_held[guard_held_next].memory;
    size_t oldest_size = guard_held[guard_held_next].size;
    guard_held[guard_held_next].memory = memory;
    guard_held[guard_held_next].size = size;
    guard_held_next = (guard_held_next + 1) % HELD_MAX;
    guard_held_unlock();
    if (oldest != NULL)
        guard_unmap(oldest, oldest_size);
}
