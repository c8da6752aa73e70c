/* iocp.c: the backend for Windows I/O completion ports.
 *
 * A lane is one port. A handle stays bound to it for life. Every overlapped call gets the
 * OVERLAPPED at the start of its operation. The kernel queues one packet when the call ends,
 * whether at once or later; only a refused call queues none. So submit() must not touch an
 * operation after a call that was not refused: another thread may already have the packet. The
 * exception is owned handles, which queue no packet for a call that ends at once
 * (backends/windows/stream.c).
 *
 * Any number of threads wait in GetQueuedCompletionStatusEx; the kernel lets `concurrency` of them
 * run. Besides completed operations they receive packets that we post: operations completed here,
 * wakes, and the expiry of the lane's timer. The result is read from the NTSTATUS in the
 * OVERLAPPED, because WSAGetOverlappedResult needs the socket, which may be closed by then. */
#include "backends/windows/iocp.h"

#include <stdio.h>
#include <stdlib.h>
#include <winternl.h>

enum { BATCH = 64, POST_RETRY_MS = 10 };

uint32_t iocp_status_code(uint32_t status) {
    return RtlNtStatusToDosError((NTSTATUS)status);
}

/* ---- packets of our own ---------------------------------------------------------------------- */

static uint32_t iocp_post_packet(iocp_lane *state, ULONG_PTR key, OVERLAPPED *overlapped) {
    return PostQueuedCompletionStatus(state->port, 0, key, overlapped) ? 0 : GetLastError();
}

static int iocp_post(io_op *op) {
    uint32_t code = iocp_post_packet(op->lane->state, IOCP_KEY_POSTED, &op->overlapped);
    return code ? io_error_from_windows(code) : 0;
}

static void iocp_retry_later(iocp_lane *state, PTP_TIMER timer) {
    if (atomic_load(&state->closing))
        return;
    LARGE_INTEGER due;
    due.QuadPart = -(int64_t)(POST_RETRY_MS * IO_NS_PER_MS / 100);
    FILETIME time = {due.LowPart, (DWORD)due.HighPart};
    SetThreadpoolTimer(timer, &time, 0, 0);
}

/* A post fails only if the system has no memory for a packet. A wake must not be lost, and must not
 * block its caller, who may hold locks. So it is deferred, and a timer posts it. */
static void iocp_defer_wakes(iocp_lane *state, LONG count) {
    atomic_fetch_add_explicit(&state->wakes_deferred, count, memory_order_relaxed);
    iocp_retry_later(state, state->wake_timer);
}

static void iocp_wake(io_lane *lane) {
    if (iocp_post_packet(lane->state, IOCP_KEY_WAKE, NULL) != 0)
        iocp_defer_wakes(lane->state, 1);
}

static void CALLBACK iocp_post_deferred_wakes(PTP_CALLBACK_INSTANCE instance, void *context,
                                              PTP_TIMER timer) {
    iocp_lane *state = context;
    (void)instance;
    (void)timer;
    LONG deferred = atomic_exchange_explicit(&state->wakes_deferred, 0, memory_order_relaxed);
    while (deferred > 0 && iocp_post_packet(state, IOCP_KEY_WAKE, NULL) == 0)
        deferred--;
    if (deferred > 0)
        iocp_defer_wakes(state, deferred);
}

/* ---- the timer ------------------------------------------------------------------------------- */

/* Must be called with the state's lock held. A negative time is relative, in units of 100 ns. */
static void iocp_arm_timer(iocp_lane *state, uint64_t deadline_ns) {
    io_assert(io_lock_is_mine(&state->lock));
    uint64_t now = io_clock_ns();
    uint64_t left = deadline_ns > now ? (deadline_ns - now + 99) / 100 : 0;
    LARGE_INTEGER due;
    due.QuadPart = -(int64_t)left;
    FILETIME time = {due.LowPart, (DWORD)due.HighPart};
    state->armed_ns = deadline_ns;
    SetThreadpoolTimer(state->timer, &time, 0, 0);
}

/* Only moves the timer earlier. A thread that fires timers and then arms the next one must not undo
 * what another thread has set in between. The packet of an expiry resets this, so that later times
 * can be set. */
static void iocp_set_timer(io_lane *lane, uint64_t deadline_ns) {
    iocp_lane *state = lane->state;
    io_mutex_lock(&state->lock);
    if (deadline_ns < state->armed_ns)
        iocp_arm_timer(state, deadline_ns);
    io_mutex_unlock(&state->lock);
}

static void CALLBACK iocp_timer_expired(PTP_CALLBACK_INSTANCE instance, void *context,
                                        PTP_TIMER timer) {
    (void)instance;
    if (iocp_post_packet(context, IOCP_KEY_TIMER, NULL) != 0)
        iocp_retry_later(context, timer);
}

static void iocp_fire_timers(io_lane *lane, io_list *done) {
    iocp_lane *state = lane->state;
    io_mutex_lock(&state->lock);
    state->armed_ns = IO_NEVER;
    io_mutex_unlock(&state->lock);
    iocp_set_timer(lane, io_lane_fire_timers(lane, done));
}

/* ---- cancelling ------------------------------------------------------------------------------ */

bool iocp_under_wine(void) {
    return GetProcAddress(GetModuleHandleW(L"ntdll.dll"), "wine_get_version") != NULL;
}

/* Windows finds every operation that has not ended. Wine misses one whose thread is about to retry
 * it; if the retry leaves it pending, the cancel is lost. */
static bool iocp_cancel_lost(const io_op *op, uint32_t code) {
    return code == ERROR_NOT_FOUND && !HasOverlappedIoCompleted(&op->overlapped) &&
           iocp_under_wine();
}

/* Must be called with the handle's lock held. A timer repeats a lost cancel. Repeating it here
 * could hold the lock for the whole transfer. */
void iocp_cancel_io(io_op *op, HANDLE native) {
    iocp_lane *state = op->lane->state;
    uint32_t code = CancelIoEx(native, &op->overlapped) ? 0 : GetLastError();
    op->flags &= (uint8_t)~IO_OP_CANCEL_DEFERRED;
    if (!iocp_cancel_lost(op, code))
        return;
    op->flags |= IO_OP_CANCEL_DEFERRED;
    if (!atomic_exchange(&state->cancels_deferred, true))
        iocp_retry_later(state, state->cancel_timer);
}

/* Only requests the cancel; the packet reports how the operation ended. */
static int iocp_cancel(io_op *op) {
    io_assert(io_lock_is_mine(&op->handle->lock) && op->state == IO_OP_SUBMITTED);
    if (iocp_is_pipe(op->handle))
        return winpipe_cancel(op);
    switch (op->kind) {
    case IO_POLL:
        return winpoll_cancel(op);
    case IO_READ:
    case IO_WRITE:
    case IO_SYNC:
        return winfile_cancel(op);
    default:
        return winsock_cancel(op);
    }
}

static void iocp_retry_cancels_in(const io_list *list) {
    for (const io_link *link = list->next; link != list; link = link->next) {
        io_op *op = IO_CONTAINER(link, io_op, link);
        if (op->flags & IO_OP_CANCEL_DEFERRED)
            (void)iocp_cancel(op);
    }
}

static void iocp_retry_cancels_of(io_handle *handle, void *context) {
    (void)context;
    io_lock_acquire(&handle->lock);
    if (handle->open) {
        iocp_retry_cancels_in(&handle->queue[IO_IN]);
        iocp_retry_cancels_in(&handle->queue[IO_OUT]);
        iocp_retry_cancels_in(&handle->others);
    }
    io_lock_release(&handle->lock);
}

static void CALLBACK iocp_retry_cancels(PTP_CALLBACK_INSTANCE instance, void *context,
                                        PTP_TIMER timer) {
    io_lane *lane = context;
    iocp_lane *state = lane->state;
    (void)instance;
    (void)timer;
    atomic_store(&state->cancels_deferred, false);
    io_handles_each(lane, iocp_retry_cancels_of, NULL);
}

/* ---- lanes ----------------------------------------------------------------------------------- */

static int iocp_probe(char *reason, size_t size) {
    uint32_t os_error = 0;
    int error = winsock_start(&os_error);
    if (error)
        snprintf(reason, size, "Winsock does not start (error %lu)", (unsigned long)os_error);
    return error;
}

static int iocp_lane_open(io_lane *lane, uint32_t *os_error) {
    int error = winsock_start(os_error);
    if (error)
        return error;
    iocp_lane *state = calloc(1, sizeof *state);
    if (state == NULL)
        return -IOE_NOMEM;
    state->armed_ns = IO_NEVER;
    state->port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, lane->concurrency);
    if (state->port != NULL)
        state->timer = CreateThreadpoolTimer(iocp_timer_expired, state, NULL);
    if (state->timer != NULL)
        state->wake_timer = CreateThreadpoolTimer(iocp_post_deferred_wakes, state, NULL);
    if (state->wake_timer != NULL)
        state->cancel_timer = CreateThreadpoolTimer(iocp_retry_cancels, lane, NULL);
    if (state->cancel_timer == NULL) {
        *os_error = GetLastError();
        if (state->wake_timer != NULL)
            CloseThreadpoolTimer(state->wake_timer);
        if (state->timer != NULL)
            CloseThreadpoolTimer(state->timer);
        if (state->port != NULL)
            CloseHandle(state->port);
        free(state);
        return io_error_from_windows(*os_error);
    }
    io_mutex_init(&state->lock);
    lane->state = state;
    winsignal_attach();
    return 0;
}

/* Ends a timer of a closing lane. Twice, because a callback that missed `closing` may have set the
 * timer again. */
static void iocp_end_timer(PTP_TIMER timer) {
    for (int i = 0; i < 2; i++) {
        SetThreadpoolTimer(timer, NULL, 0, 0);
        WaitForThreadpoolTimerCallbacks(timer, TRUE);
    }
    CloseThreadpoolTimer(timer);
}

static void iocp_lane_close(io_lane *lane) {
    iocp_lane *state = lane->state;
    atomic_store(&state->closing, true);
    iocp_end_timer(state->timer);
    iocp_end_timer(state->wake_timer);
    iocp_end_timer(state->cancel_timer);
    winsignal_detach();
    winpoll_lane_close(state);
    CloseHandle(state->port);
    io_mutex_destroy(&state->lock);
    free(state->bound);
    free(state);
    lane->state = NULL;
}

/* ---- waiting --------------------------------------------------------------------------------- */

void iocp_report(io_op *op, uint32_t status, uint32_t bytes, io_list *done) {
    int error = io_error_from_ntstatus(status);
    if (error)
        io_op_reported(op, error, iocp_status_code(status), done);
    else
        io_op_reported(op, bytes, 0, done);
}

static void iocp_report_packet(io_op *op, uint32_t bytes, io_list *done) {
    uint32_t status = (uint32_t)op->overlapped.Internal;
    if (iocp_is_pipe(op->handle)) {
        winpipe_report(op, status, bytes, done);
        return;
    }
    switch (op->kind) {
    case IO_RECEIVE:
        winstream_report((io_receive *)op, status, bytes, done);
        break;
    case IO_POLL:
        winpoll_report(op, status, done);
        break;
    case IO_READ:
    case IO_WRITE:
        winfile_report(op, status, bytes, done);
        break;
    default:
        winsock_report(op, status, bytes, done);
    }
}

static void iocp_take_packet(io_lane *lane, const OVERLAPPED_ENTRY *entry, io_list *done) {
    io_op *op = (io_op *)entry->lpOverlapped;
    io_assert(entry->lpCompletionKey != IOCP_KEY_IO || op->state == IO_OP_SUBMITTED);
    io_assert(entry->lpCompletionKey != IOCP_KEY_POSTED || op->state == IO_OP_COMPLETED);
    switch (entry->lpCompletionKey) {
    case IOCP_KEY_IO:
        iocp_report_packet(op, entry->dwNumberOfBytesTransferred, done);
        break;
    case IOCP_KEY_POSTED:
        io_list_push_back(done, &op->link);
        break;
    case IOCP_KEY_TIMER:
        iocp_fire_timers(lane, done);
        break;
    default: /* a wake only has to end the wait */
        break;
    }
}

static int iocp_wait_failed(uint32_t code, bool shortened) {
    if (code == WAIT_TIMEOUT)
        return shortened ? -IOE_INTR : 0;
    if (code == WAIT_IO_COMPLETION) /* an APC, from winsignal or other code */
        return winsignal_take() ? -IOE_INTR : 0;
    return io_error_from_windows(code);
}

static int iocp_wait(io_lane *lane, const io_wait *wait, uint64_t deadline_ns, int maximum,
                     io_list *done) {
    iocp_lane *state = lane->state;
    OVERLAPPED_ENTRY entries[BATCH];
    ULONG room = maximum < 1 ? 1 : maximum > BATCH ? BATCH : (ULONG)maximum;
    ULONG count = 0;
    DWORD asked = io_deadline_ms(deadline_ns);
    DWORD ms = asked;
    bool signals = wait != NULL && wait->signals && asked > 0;
    if (signals && winsignal_take())
        return -IOE_INTR;
    if (signals) {
        ms = winsignal_begin((HANDLE)wait->mask, asked);
        if (winsignal_take()) {
            winsignal_end();
            return -IOE_INTR;
        }
    }
    BOOL got = GetQueuedCompletionStatusEx(state->port, entries, room, &count, ms, signals);
    uint32_t code = got ? 0 : GetLastError();
    if (signals)
        winsignal_end();
    if (!got)
        return iocp_wait_failed(code, ms < asked);
    for (ULONG i = 0; i < count; i++)
        iocp_take_packet(lane, &entries[i], done);
    /* If packets were taken, the next wait reports the signal. */
    if (signals && io_list_empty(done) && winsignal_take())
        return -IOE_INTR;
    return 0;
}

/* ---- handles --------------------------------------------------------------------------------- */

/* Must be called with the state's lock held. Returns true if the native was in the list. */
static bool iocp_unremember(iocp_lane *state, io_native native) {
    io_assert(io_lock_is_mine(&state->lock));
    for (size_t i = 0; i < state->bound_count; i++) {
        if (state->bound[i] == native) {
            state->bound[i] = state->bound[--state->bound_count];
            return true;
        }
    }
    return false;
}

/* The kernel refuses a handle that is bound to any port, and does not say which. It is this port if
 * the native was bound here before and has not been bound successfully since; a success would mean
 * that its number now belongs to another file. */
int iocp_associate(io_lane *lane, io_native native, uint32_t *os_error) {
    iocp_lane *state = lane->state;
    bool bound = CreateIoCompletionPort((HANDLE)native, state->port, IOCP_KEY_IO, 0) != NULL;
    uint32_t code = bound ? 0 : GetLastError();
    io_mutex_lock(&state->lock);
    bool ours = iocp_unremember(state, native);
    io_mutex_unlock(&state->lock);
    if (bound || (code == ERROR_INVALID_PARAMETER && ours))
        return 0;
    *os_error = code;
    return code == ERROR_INVALID_PARAMETER ? -IOE_EXIST : io_error_from_windows(code);
}

void iocp_dissociated(io_lane *lane, io_native native) {
    iocp_lane *state = lane->state;
    io_mutex_lock(&state->lock);
    if (state->bound_count == state->bound_capacity) {
        size_t capacity = state->bound_capacity ? 2 * state->bound_capacity : 16;
        io_native *bound = realloc(state->bound, capacity * sizeof *bound);
        if (bound != NULL) {
            state->bound = bound;
            state->bound_capacity = capacity;
        }
    }
    /* If memory is short, the native only cannot be associated again later. */
    if (state->bound_count < state->bound_capacity)
        state->bound[state->bound_count++] = native;
    io_mutex_unlock(&state->lock);
}

static int iocp_handle_open(io_handle *handle, uint32_t *os_error) {
    handle->identity[0] = (uint64_t)handle->native;
    handle->identity[1] = 0;
    if (iocp_is_pipe(handle))
        return winpipe_open(handle, os_error);
    if (handle->owned && handle->type == IO_STREAM)
        return winstream_open(handle, os_error);
    int error = winsock_open(handle, os_error);
    return error == -IOE_NOTSOCK ? winfile_open(handle, os_error) : error;
}

static void iocp_handle_close(io_handle *handle, bool close_native) {
    if (iocp_is_pipe(handle))
        winpipe_close(handle, close_native);
    else if (handle->type == IO_FILE)
        winfile_close(handle, close_native);
    else
        winsock_close(handle, close_native);
}

static void iocp_close_native(io_lane *lane, io_native native, int family) {
    (void)lane;
    if (family == IO_FAMILY_PIPE)
        io_native_close_file(native);
    else
        closesocket((SOCKET)native);
}

static int iocp_shutdown(io_handle *handle) {
    return iocp_is_pipe(handle) ? -IOE_OPNOTSUPP : winstream_shutdown(handle);
}

static void iocp_prepare_close(io_handle *handle, bool reset) {
    if (!iocp_is_pipe(handle))
        winstream_prepare_close(handle, reset);
}

static void iocp_address(io_handle *handle, bool peer, io_address *answer) {
    if (iocp_is_pipe(handle))
        answer->length = 0;
    else
        winstream_address(handle, peer, answer);
}

/* ---- operations ------------------------------------------------------------------------------ */

int iocp_refused(io_op *op, uint32_t code) {
    op->os_error = code;
    return io_error_from_windows(code);
}

/* The kernel queues a packet for every status that is not an error. A warning, such as a truncated
 * datagram, is not an error, although the call fails. Reading the status is safe: a thread that
 * already has the packet needs the handle's lock to report it. */
int iocp_started(io_op *op, bool succeeded, uint32_t code) {
    const io_handle *handle = op->handle;
    io_assert(io_lock_is_mine(&handle->lock));
    bool stream = handle->owned && handle->type == IO_STREAM;
    if (succeeded && stream && handle->backend.word[WINSTREAM_SKIPS]) {
        op->result = (int64_t)op->overlapped.InternalHigh;
        return IO_DONE;
    }
    if (succeeded || code == ERROR_IO_PENDING)
        return IO_PENDING;
    bool warned = io_nt_severity((uint32_t)op->overlapped.Internal) == IO_NT_WARNING;
    return warned ? IO_PENDING : iocp_refused(op, code);
}

int iocp_again(io_op *op) {
    op->overlapped = (OVERLAPPED){0};
    uint32_t code = iocp_post_packet(op->lane->state, IOCP_KEY_IO, &op->overlapped);
    return code ? iocp_refused(op, code) : IO_PENDING;
}

static int iocp_submit(io_op *op) {
    io_assert(io_lock_is_mine(&op->handle->lock) && op->state == IO_OP_SUBMITTED);
    op->overlapped = (OVERLAPPED){0};
    if (iocp_is_pipe(op->handle))
        return winpipe_submit(op);
    switch (op->kind) {
    case IO_RECEIVE:
        return winstream_receive((io_receive *)op);
    case IO_POLL:
        return winpoll_submit(op);
    case IO_READ:
    case IO_WRITE:
    case IO_SYNC:
        return winfile_submit(op);
    default:
        return winsock_submit(op);
    }
}

const io_backend io_backend_iocp = {
    .name = "iocp",
    .flags = IO_LANE_SHARED | IO_KERNEL_QUEUES,
    .probe = iocp_probe,
    .lane_open = iocp_lane_open,
    .lane_close = iocp_lane_close,
    .wait = iocp_wait,
    .wake = iocp_wake,
    .handle_open = iocp_handle_open,
    .handle_close = iocp_handle_close,
    .close_native = iocp_close_native,
    .submit = iocp_submit,
    .cancel = iocp_cancel,
    .check_file = winfile_check,
    .hold_file = winfile_hold,
    .shutdown = iocp_shutdown,
    .prepare_close = iocp_prepare_close,
    .address = iocp_address,
    .post = iocp_post,
    .set_timer = iocp_set_timer,
};
