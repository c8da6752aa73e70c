/* signal.c: Ctrl-C ends a wait of the main thread.
 *
 * Nothing interrupts a thread that waits on a completion port, except an asynchronous procedure
 * call that is queued to it while it waits alertably. A packet would not do: any other thread may
 * take it. Two parties queue such a call:
 *
 *  - a handler of console events. It runs, on a thread of its own, before the interpreter's handler
 *    has noted the signal, so for a while after it the main thread waits in short pieces.
 *  - a watch on the event that the interpreter sets once it has noted a signal, which also hears
 *    signals that do not come from a console. It hears once and is renewed by the next wait.
 *
 * There is one main thread, so all of this is kept once for the process. */
#include "backends/windows/iocp.h"

enum { PIECE_MS = 10, DEAF_PIECE_MS = 50 };

#define RECHECK_NS IO_NS_PER_SECOND

static struct {
    _Atomic uintptr_t main_thread; /* a HANDLE to queue calls to; never closed */
    _Atomic bool waiting;          /* the main thread is in a wait */
    _Atomic uint32_t arrived;      /* signals so far */
    _Atomic uint64_t recheck_until;
    _Atomic bool watch_used; /* the watch has heard its signal */
    uint32_t seen;           /* the main thread's: of `arrived` */

    io_mutex lock; /* of what follows; never taken by the callbacks */
    unsigned lanes;
    bool handler_set;
    HANDLE event; /* what the watch watches */
    HANDLE watch;
} state;

static void CALLBACK nothing(ULONG_PTR unused) {
    (void)unused;
}

static void signal_arrived(void) {
    atomic_fetch_add(&state.arrived, 1);
    /* If it is not waiting, or the call comes too late, it looks at `arrived` before it waits. */
    if (atomic_load(&state.waiting))
        QueueUserAPC(nothing, (HANDLE)atomic_load(&state.main_thread), 0);
}

static BOOL WINAPI console_event(DWORD type) {
    if (type == CTRL_C_EVENT || type == CTRL_BREAK_EVENT) {
        atomic_store(&state.recheck_until, io_clock_ns() + RECHECK_NS);
        signal_arrived();
    }
    return FALSE; /* on to the next handler */
}

static void CALLBACK event_set(void *unused, BOOLEAN timed_out) {
    (void)unused;
    (void)timed_out;
    atomic_store(&state.watch_used, true);
    signal_arrived();
}

/* Under the lock. */
static void end_watch(void) {
    if (state.watch != NULL)
        UnregisterWaitEx(state.watch, INVALID_HANDLE_VALUE);
    state.watch = NULL;
    state.event = NULL;
}

/* False: it cannot be watched now. */
static bool watch(HANDLE event) {
    io_mutex_lock(&state.lock);
    if (state.watch == NULL || state.event != event || atomic_load(&state.watch_used)) {
        end_watch();
        atomic_store(&state.watch_used, false);
        if (RegisterWaitForSingleObject(&state.watch, event, event_set, NULL, INFINITE,
                                        WT_EXECUTEONLYONCE))
            state.event = event;
        else
            state.watch = NULL;
    }
    bool watched = state.watch != NULL;
    io_mutex_unlock(&state.lock);
    return watched;
}

static bool can_be_called(void) {
    if (atomic_load(&state.main_thread) == 0) {
        HANDLE self = OpenThread(THREAD_SET_CONTEXT, FALSE, GetCurrentThreadId());
        atomic_store(&state.main_thread, (uintptr_t)self);
    }
    return atomic_load(&state.main_thread) != 0;
}

void winsignal_attach(void) {
    io_mutex_lock(&state.lock);
    state.lanes++;
    /* Without a console it may be refused, and there is no Ctrl-C either. */
    if (!state.handler_set)
        state.handler_set = SetConsoleCtrlHandler(console_event, TRUE) != 0;
    io_mutex_unlock(&state.lock);
}

void winsignal_detach(void) {
    io_mutex_lock(&state.lock);
    if (--state.lanes == 0)
        end_watch();
    io_mutex_unlock(&state.lock);
}

DWORD winsignal_begin(HANDLE event, DWORD ms) {
    bool hears = can_be_called();
    if (event != NULL)
        hears = watch(event) && hears;
    atomic_store(&state.waiting, true);
    DWORD piece = ms;
    if (!hears)
        piece = DEAF_PIECE_MS;
    if (io_clock_ns() < atomic_load(&state.recheck_until))
        piece = PIECE_MS;
    return piece < ms ? piece : ms;
}

void winsignal_end(void) {
    atomic_store(&state.waiting, false);
}

bool winsignal_take(void) {
    uint32_t arrived = atomic_load(&state.arrived);
    bool is_new = arrived != state.seen;
    state.seen = arrived;
    return is_new;
}
