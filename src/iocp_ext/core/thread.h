/* thread.h: locks, conditions, threads and the monotonic clock, for pthreads and Windows.
 *
 * Core locks are held briefly and never across a Python call. In assertion builds a lock records
 * the thread that holds it (lock_owner.c). Times are nanoseconds of the monotonic clock; IO_NEVER
 * is a deadline that never comes. */
#ifndef IOCPCORE_THREAD_H
#define IOCPCORE_THREAD_H

#include <stdatomic.h>

#include "core/assert.h"
#include "core/error.h"
#include "core/platform.h"

#define IO_NEVER UINT64_MAX
#define IO_NS_PER_SECOND UINT64_C(1000000000)
#define IO_NS_PER_MS UINT64_C(1000000)

/* Maximum attempts at a call that signals interrupt. Bounded because the caller may hold locks. */
enum { IO_INTERRUPTIONS_MAX = 64 };

/* ---- clock and threads ----------------------------------------------------------------------- */

#ifdef _WIN32

static inline uintptr_t io_thread_self(void) {
    return (uintptr_t)GetCurrentThreadId();
}

static inline uint64_t io_clock_ns(void) {
    static LARGE_INTEGER frequency; /* all threads write the same value */
    LARGE_INTEGER now;
    if (frequency.QuadPart == 0)
        QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&now);
    uint64_t ticks = (uint64_t)now.QuadPart, hz = (uint64_t)frequency.QuadPart;
    return ticks / hz * IO_NS_PER_SECOND + ticks % hz * IO_NS_PER_SECOND / hz;
}

/* Milliseconds from now to the deadline, rounded up so that a timer never fires early. */
static inline DWORD io_deadline_ms(uint64_t deadline_ns) {
    if (deadline_ns == IO_NEVER)
        return INFINITE;
    uint64_t now = io_clock_ns();
    if (deadline_ns <= now)
        return 0;
    uint64_t ms = (deadline_ns - now + IO_NS_PER_MS - 1) / IO_NS_PER_MS;
    return ms < INFINITE - 1 ? (DWORD)ms : INFINITE - 1;
}

#else

#include <pthread.h>
#include <signal.h>
#include <time.h>

static inline uintptr_t io_thread_self(void) {
    return (uintptr_t)pthread_self();
}

static inline uint64_t io_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * IO_NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

/* Returns the time until the deadline, zero if it has passed. Not for IO_NEVER. */
static inline struct timespec io_time_left(uint64_t deadline_ns) {
    uint64_t now_ns = io_clock_ns();
    uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    return (struct timespec){(time_t)(left_ns / IO_NS_PER_SECOND),
                             (long)(left_ns % IO_NS_PER_SECOND)};
}

#endif

/* Starts a detached thread with all signals blocked. Returns 0 or a portable error. */
int io_thread_start(void (*function)(void *argument), void *argument);

/* ---- lock ownership -------------------------------------------------------------------------- */

#ifdef IO_ASSERTIONS

void io_lock_taken(_Atomic uintptr_t *owner);
void io_lock_left(_Atomic uintptr_t *owner);
/* True if this thread holds the io_mutex or io_lock. io_no_lock_is_mine: if it holds none. */
#define io_lock_is_mine(lock) \
    (atomic_load_explicit(&(lock)->owner, memory_order_relaxed) == io_thread_self())
bool io_no_lock_is_mine(void);

#define IO_LOCK_TAKEN(lock) io_lock_taken(&(lock)->owner)
#define IO_LOCK_LEFT(lock) io_lock_left(&(lock)->owner)

#else

/* For io_assert only, which does not evaluate them in this build. */
#define io_lock_is_mine(lock) ((void)(lock), true)
#define io_no_lock_is_mine() true

#define IO_LOCK_TAKEN(lock) ((void)0)
#define IO_LOCK_LEFT(lock) ((void)0)

#endif

/* ---- mutexes and conditions ------------------------------------------------------------------ */

#ifdef _WIN32
#define IO_BY_SYSTEM(posix, windows) windows
typedef SRWLOCK io_system_mutex;
typedef CONDITION_VARIABLE io_cond;
#else
#define IO_BY_SYSTEM(posix, windows) posix
typedef pthread_mutex_t io_system_mutex;
typedef pthread_cond_t io_cond;
#endif

typedef struct io_mutex {
    io_system_mutex system;
#ifdef IO_ASSERTIONS
    _Atomic uintptr_t owner; /* io_thread_self() of the holder; 0 if free */
#endif
} io_mutex;

static inline int io_mutex_init(io_mutex *mutex) {
#ifdef IO_ASSERTIONS
    mutex->owner = 0;
#endif
    return IO_BY_SYSTEM(io_error_from_errno(pthread_mutex_init(&mutex->system, NULL)),
                        (InitializeSRWLock(&mutex->system), 0));
}

static inline void io_mutex_destroy(io_mutex *mutex) {
    io_assert(!io_lock_is_mine(mutex));
    IO_BY_SYSTEM(pthread_mutex_destroy(&mutex->system), (void)mutex);
}

static inline void io_mutex_lock(io_mutex *mutex) {
    io_assert(!io_lock_is_mine(mutex));
    IO_BY_SYSTEM(pthread_mutex_lock, AcquireSRWLockExclusive)(&mutex->system);
    IO_LOCK_TAKEN(mutex);
}

static inline void io_mutex_unlock(io_mutex *mutex) {
    IO_LOCK_LEFT(mutex);
    IO_BY_SYSTEM(pthread_mutex_unlock, ReleaseSRWLockExclusive)(&mutex->system);
}

static inline int io_cond_init(io_cond *cond) {
#ifdef _WIN32
    InitializeConditionVariable(cond);
    return 0;
#else
    pthread_condattr_t attributes;
    int failed = pthread_condattr_init(&attributes);
    if (failed)
        return io_error_from_errno(failed);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    failed = pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
    return io_error_from_errno(failed);
#endif
}

static inline void io_cond_destroy(io_cond *cond) {
    IO_BY_SYSTEM(pthread_cond_destroy(cond), (void)cond);
}

static inline void io_cond_signal(io_cond *cond) {
    IO_BY_SYSTEM(pthread_cond_signal, WakeConditionVariable)(cond);
}

static inline void io_cond_broadcast(io_cond *cond) {
    IO_BY_SYSTEM(pthread_cond_broadcast, WakeAllConditionVariable)(cond);
}

/* Returns when signalled, at the deadline, or spuriously: the caller must check its condition. */
static inline void io_cond_wait(io_cond *cond, io_mutex *mutex, uint64_t deadline_ns) {
    IO_LOCK_LEFT(mutex);
#ifdef _WIN32
    SleepConditionVariableSRW(cond, &mutex->system, io_deadline_ms(deadline_ns), 0);
#else
    if (deadline_ns == IO_NEVER) {
        pthread_cond_wait(cond, &mutex->system);
    } else {
        struct timespec until = {(time_t)(deadline_ns / IO_NS_PER_SECOND),
                                 (long)(deadline_ns % IO_NS_PER_SECOND)};
        pthread_cond_timedwait(cond, &mutex->system, &until);
    }
#endif
    IO_LOCK_TAKEN(mutex);
}

/* ---- small locks --------------------------------------------------------------------------------
 *
 * For objects of which there are very many. Initialised with zeros; four bytes on POSIX systems.
 * Cannot be used with a condition. */

#ifdef _WIN32

typedef io_mutex io_lock;

static inline void io_lock_acquire(io_lock *lock) {
    io_mutex_lock(lock);
}

static inline void io_lock_release(io_lock *lock) {
    io_mutex_unlock(lock);
}

#else

typedef struct io_lock {
    _Atomic uint32_t state;  /* 0: free, 1: held, 2: held and perhaps contended */
#ifdef IO_ASSERTIONS
    _Atomic uintptr_t owner; /* as in io_mutex */
#endif
} io_lock;

void io_lock_wait(io_lock *lock);
void io_lock_wake(io_lock *lock);

static inline void io_lock_acquire(io_lock *lock) {
    uint32_t expected = 0;
    io_assert(!io_lock_is_mine(lock));
    if (!atomic_compare_exchange_strong_explicit(&lock->state, &expected, 1, memory_order_acquire,
                                                 memory_order_relaxed))
        io_lock_wait(lock);
    IO_LOCK_TAKEN(lock);
}

static inline void io_lock_release(io_lock *lock) {
    IO_LOCK_LEFT(lock);
    if (atomic_exchange_explicit(&lock->state, 0, memory_order_release) == 2)
        io_lock_wake(lock);
}

#endif

/* ---- signals and wakes ----------------------------------------------------------------------- */

#ifdef _WIN32

/* Signals do not interrupt waits on Windows. The iocp backend handles Ctrl-C. */
typedef struct io_signals {
    int unused;
} io_signals;
static inline void io_signals_block(io_signals *saved) {
    saved->unused = 0;
}
static inline void io_signals_restore(const io_signals *saved) {
    (void)saved;
}

/* After this only a later signal ends a wait for the event. */
static inline void io_event_reset(void *event) {
    ResetEvent(event);
}

#else

/* Blocks all signals in this thread, so that a signal arriving before a wait still ends it. */
typedef struct io_signals {
    sigset_t mask;
} io_signals;
static inline void io_signals_block(io_signals *saved) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved->mask);
}
static inline void io_signals_restore(const io_signals *saved) {
    pthread_sigmask(SIG_SETMASK, &saved->mask, NULL);
}

/* Opens a descriptor on which a thread can wait together with signals (eventfd). Returns -1 if
 * there are no descriptors left. */
int io_wake_open(void);
bool io_wake_signal(int wake); /* false if other code has closed the descriptor */
void io_wake_close(int wake);
/* Waits for io_wake_signal, the deadline, or a signal of the process. Returns true after a signal.
 * `mask`: the signals blocked during the wait. */
bool io_wake_wait(int wake, uint64_t deadline_ns, const sigset_t *mask);

#endif

#endif
