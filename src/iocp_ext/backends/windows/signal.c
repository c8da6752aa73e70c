/* signal.c: lets Ctrl-C end a wait of the main thread.
 *
 * A thread that waits on a completion port can be interrupted only by an asynchronous procedure
 * call, queued to it while it waits alertably. A packet would not do: any thread may take it. There
 * are two sources of such calls:
 *
 * - A handler of console events. It runs on a thread of its own, before the interpreter's handler
 * has recorded the signal. So for a while afterwards, the main thread waits in short pieces. - A
 * watch on the event that the interpreter sets once it has recorded a signal. It also sees signals
 * that do not come from a console. It fires once, and the next wait renews it.
 *
 * There is one main thread, so this state exists once per process. */
#include "backends/windows/iocp.h"

enum { PIECE_MS = 10, DEAF_PIECE_MS = 50 };

#define RECHECK_NS IO_NS_PER_SECOND

static struct {
    _Atomic uintptr_t main_thread; /* a HANDLE that calls are queued to; never closed */
    _Atomic bool waiting;          /* the main thread is in a wait */
    _Atomic uint32_t arrived;      /* count of signals */
    _Atomic uint64_t recheck_until;
    _Atomic bool watch_used; /* the watch has fired */
    uint32_t seen;           /* value of `arrived` last seen; main thread only */

    io_mutex lock; /* protects the fields below; callbacks never take it */
    unsigned lanes;
    bool handler_set;
    HANDLE event; /* the event being watched */
    HANDLE watch;
} signal_state;

static void CALLBACK signal_nothing(ULONG_PTR unused) {
    (void)unused;
}

static void signal_arrived(void) {
    atomic_fetch_add(&signal_state.arrived, 1);
    /* If it is not waiting, or the call comes too late, it checks `arrived` before it waits. */
    if (atomic_load(&signal_state.waiting))
        QueueUserAPC(signal_nothing, (HANDLE)atomic_load(&signal_state.main_thread), 0);
}

static BOOL WINAPI signal_console_event(DWORD type) {
    if (type == CTRL_C_EVENT || type == CTRL_BREAK_EVENT) {
        atomic_store(&signal_state.recheck_until, io_clock_ns() + RECHECK_NS);
        signal_arrived();
    }
    return FALSE; /* pass on to the next handler */
}

static void CALLBACK signal_event_set(void *unused, BOOLEAN timed_out) {
    (void)unused;
    (void)timed_out;
    atomic_store(&signal_state.watch_used, true);
    signal_arrived();
}

/* Must be called with the lock held. */
static void signal_end_watch(void) {
    io_assert(io_lock_is_mine(&signal_state.lock));
    if (signal_state.watch != NULL)
        UnregisterWaitEx(signal_state.watch, INVALID_HANDLE_VALUE);
    signal_state.watch = NULL;
    signal_state.event = NULL;
}

/* Returns false if the event cannot be watched now. */
static bool signal_watch(HANDLE event) {
    io_mutex_lock(&signal_state.lock);
    if (signal_state.watch == NULL || signal_state.event != event ||
        atomic_load(&signal_state.watch_used)) {
        signal_end_watch();
        atomic_store(&signal_state.watch_used, false);
        if (RegisterWaitForSingleObject(&signal_state.watch, event, signal_event_set, NULL,
                                        INFINITE, WT_EXECUTEONLYONCE))
            signal_state.event = event;
        else
            signal_state.watch = NULL;
    }
    bool watched = signal_state.watch != NULL;
    io_mutex_unlock(&signal_state.lock);
    return watched;
}

static bool signal_can_be_called(void) {
    if (atomic_load(&signal_state.main_thread) == 0) {
        HANDLE self = OpenThread(THREAD_SET_CONTEXT, FALSE, GetCurrentThreadId());
        atomic_store(&signal_state.main_thread, (uintptr_t)self);
    }
    return atomic_load(&signal_state.main_thread) != 0;
}

void winsignal_attach(void) {
    io_mutex_lock(&signal_state.lock);
    signal_state.lanes++;
    /* This may fail without a console, but then there is no Ctrl-C either. */
    if (!signal_state.handler_set)
        signal_state.handler_set = SetConsoleCtrlHandler(signal_console_event, TRUE) != 0;
    io_mutex_unlock(&signal_state.lock);
}

void winsignal_detach(void) {
    io_mutex_lock(&signal_state.lock);
    io_assert(signal_state.lanes > 0);
    if (--signal_state.lanes == 0)
        signal_end_watch();
    io_mutex_unlock(&signal_state.lock);
}

DWORD winsignal_begin(HANDLE event, DWORD ms) {
    bool hears = signal_can_be_called();
    if (event != NULL)
        hears = signal_watch(event) && hears;
    atomic_store(&signal_state.waiting, true);
    DWORD piece = ms;
    if (!hears)
        piece = DEAF_PIECE_MS;
    if (io_clock_ns() < atomic_load(&signal_state.recheck_until))
        piece = PIECE_MS;
    return piece < ms ? piece : ms;
}

void winsignal_end(void) {
    atomic_store(&signal_state.waiting, false);
}

bool winsignal_take(void) {
    uint32_t arrived = atomic_load(&signal_state.arrived);
    bool is_new = arrived != signal_state.seen;
    signal_state.seen = arrived;
    return is_new;
}
