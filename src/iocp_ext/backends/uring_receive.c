/* uring_receive.c: the receives of connections, which hold no memory while nothing arrives.
 *
 * All handles of a lane share a ring of small buffers. The kernel takes one when it has something
 * to put into it; what is in it is copied out when its completion is seen, and the buffer goes
 * straight back. So nobody who is slow keeps one from the others, and 4 KiB cost less to copy than
 * to account for.
 *
 * A *receiver* stands between the kernel and the IO_RECEIVEs of one handle, of which there is one
 * at a time. It is *armed* once and then receives message after message without being asked, until
 * it has had as many bytes as may be held while nobody wants them. That is the kernel's own limit:
 * whoever is paused takes so much from the socket and no more, however late we hear of it, and the
 * peer has to wait. What arrives while no IO_RECEIVE waits is *held*; the end of the stream or an
 * error is held behind it. Every IO_RECEIVE is answered in one place, uring_receive(): from what is
 * held, or else it waits, and is tried again when something has come.
 *
 *      IO_RECEIVE ──► uring_receive ──► held? ended? ──► done
 *                           │no                 ▲
 *                        armed, waits ──► uring_received ◄── kernel
 *
 * Where much arrives at once, small buffers and copies are the dearer way. So after a buffer that
 * was filled, and when there are no buffers left, a handle receives by readiness for a while: it
 * polls, and what is there is fetched when it is handed on. That is also the only way of kernels
 * without such a limit (before 6.17): they would go on until the buffers of all are used up.
 *
 * A socket that is closed under an armed receiver would stay open without anybody knowing. So the
 * receiver outlives its handle: it is told to end, closes the descriptor when its last completion
 * has come, and only then is gone. Its address is what completions carry. */
#include "uring_receive.h"

#include "posix_socket.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum {
    RECEIVER = 2, /* its place in io_handle.backend */
    GROUP = 0,
    BUFFER_BYTES = 4096,
    BUFFERS_AT_FIRST = 64, /* twice as many whenever they were not enough */
    BUFFERS_MAX = 1024,
    /* With the buffer that passes the limit, what is held fits the largest pooled one. */
    MULTISHOT_BYTES = (int)IO_BUFFER_POOLED_MAX - BUFFER_BYTES,
    LARGE_FOR = 4, /* receives by readiness that may be short before it is left again */
    DRAIN_SECONDS = 10,
    PROBE_ENTRIES = 8,
    PROBE_TOKEN = 8,
};

typedef struct uring_receiver {
    _Atomic(io_handle *) handle; /* whose lock guards the rest. NULL: closed, and wait()'s alone */
    io_receive *waiting;
    char *held; /* pooled, or NULL */
    uint32_t held_start, held_length;
    union {
        int32_t ending; /* the result that follows what is held, if `over` */
        int32_t fd;     /* closed: what is to be closed at last, or -1 */
    } last;
    bool armed : 1;      /* the kernel has a receive of ours */
    bool over : 1;       /* ... which has ended for good */
    bool held_large : 1; /* `held` has room for all that can come */
    bool filled : 1;     /* the last receive by readiness took all that it could */
    bool fresh : 1;      /* armed, and nothing has come since */
    bool end_owed : 1;   /* the kernel did not take the cancel */
    uint8_t large;       /* receives by readiness, so many times yet */
} uring_receiver;

static _Atomic uring_way known_way; /* what this kernel can do */
static _Atomic bool as_before;

static uring_receiver *receiver_of(const io_handle *handle) {
    return handle->backend.pointer[RECEIVER];
}

/* ---- buffers --------------------------------------------------------------------------------- */

static size_t ring_bytes(void) {
    return BUFFERS_MAX * sizeof(struct uring_buffer);
}

static char *buffer_memory(const uring_intake *intake, uint32_t id) {
    return intake->memory + (size_t)id * BUFFER_BYTES;
}

/* Gives a buffer to the kernel. */
static void provide(uring_intake *intake, uint32_t id) {
    struct uring_buffer *entry = &intake->ring[intake->tail & (BUFFERS_MAX - 1)];
    entry->address = uring_pointer(buffer_memory(intake, id));
    entry->length = BUFFER_BYTES;
    entry->id = (uint16_t)id;
    atomic_store_explicit(&intake->ring[0].tail, ++intake->tail, memory_order_release);
}

static void provide_more(uring_intake *intake) {
    uint32_t wanted = intake->provided ? 2 * intake->provided : BUFFERS_AT_FIRST;
    while (intake->provided < wanted && intake->provided < BUFFERS_MAX)
        provide(intake, intake->provided++);
}

static void unmap(uring_intake *intake) {
    if (intake->ring != NULL)
        munmap(intake->ring, ring_bytes());
    if (intake->memory != NULL)
        munmap(intake->memory, (size_t)BUFFERS_MAX * BUFFER_BYTES);
    intake->ring = NULL;
    intake->memory = NULL;
}

/* Memory that is there when it is used. A forked child has no business with it. */
static void *map(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (madvise(memory, bytes, MADV_DONTFORK) == 0)
        return memory;
    munmap(memory, bytes);
    return NULL;
}

static bool register_buffers(uring_lane *state) {
    uring_intake *intake = &state->intake;
    intake->ring = map(ring_bytes());
    intake->memory = map((size_t)BUFFERS_MAX * BUFFER_BYTES);
    if (intake->ring == NULL || intake->memory == NULL)
        return false;
    struct uring_buffer_registration registration = {
        .address = uring_pointer(intake->ring), .entries = BUFFERS_MAX, .group = GROUP};
    if (uring_sys_register(state->ring.fd, URING_REGISTER_BUFFERS, &registration, 1) < 0)
        return false;
    provide_more(intake);
    return true;
}

/* ---- what the kernel can do ------------------------------------------------------------------ */

static int submit_receive(uring_lane *state, int fd, int32_t limit, uint64_t token) {
    struct uring_sqe entry;
    memset(&entry, 0, sizeof entry);
    entry.opcode = URING_OP_RECV;
    entry.flags = URING_SQE_BUFFER_SELECT;
    entry.fd = fd;
    entry.buffer_group = GROUP;
    /* Not tried before something is there: it would ask for a buffer, and fail without one. */
    entry.io_priority = URING_RECV_MULTISHOT | URING_RECV_POLL_FIRST;
    entry.file_index = limit;
    entry.user_data = token;
    return uring_submit_entry(state, &entry);
}

/* Receives 8 bytes with a limit of 4: that has to be the end of it. */
static bool limit_works(uring_lane *state, const int pair[2]) {
    struct uring_cqe completion;
    if (send(pair[1], "12345678", 8, MSG_NOSIGNAL) != 8 ||
        submit_receive(state, pair[0], 4, PROBE_TOKEN) || uring_wait_briefly(state, &completion) ||
        !(completion.flags & URING_CQE_BUFFER))
        return false;
    provide(&state->intake, completion.flags >> URING_CQE_BUFFER_SHIFT);
    return completion.result == 8 && !(completion.flags & URING_CQE_MORE);
}

static uring_way probe_way(uring_lane *state) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
        return URING_WAY_UNKNOWN;
    uring_way way = limit_works(state, pair) ? URING_MULTISHOT : URING_BY_POLL;
    posix_close(pair[0]);
    posix_close(pair[1]);
    return way;
}

/* A ring of its own to try it on: what does not work may leave something behind. */
static void probe(void) {
    uring_lane trial;
    trial.intake = (uring_intake){.way = URING_BY_POLL};
    if (uring_ring_open(&trial.ring, PROBE_ENTRIES, PROBE_ENTRIES))
        return;
    if (io_mutex_init(&trial.submit_lock) == 0) {
        known_way = register_buffers(&trial) ? probe_way(&trial) : URING_WAY_UNKNOWN;
        io_mutex_destroy(&trial.submit_lock);
    }
    uring_ring_close(&trial.ring);
    unmap(&trial.intake);
}

void uring_intake_open(uring_lane *state) {
    state->intake = (uring_intake){.way = URING_BY_POLL};
    if (known_way == URING_WAY_UNKNOWN)
        probe();
    if (known_way != URING_MULTISHOT || as_before)
        return;
    if (register_buffers(state))
        state->intake.way = URING_MULTISHOT;
    else
        unmap(&state->intake);
}

void uring_intake_as_before(bool older) {
    as_before = older;
}

/* ---- what is held ---------------------------------------------------------------------------- */

static io_buffer_pool *pool_of(const io_handle *handle) {
    return &handle->lane->port->buffers;
}

static void drop_held(uring_receiver *self, io_handle *handle) {
    if (self->held != NULL)
        io_buffer_release(pool_of(handle), self->held);
    self->held = NULL;
    self->held_start = self->held_length = 0;
    self->held_large = false;
}

/* Room for `length` bytes more. The first piece gets a buffer of its size: often there is no other.
 */
static bool make_room(uring_receiver *self, io_handle *handle, uint32_t length) {
    if (self->held_large)
        return self->held_start + self->held_length + length <= IO_BUFFER_POOLED_MAX;
    bool first = self->held == NULL;
    char *buffer = io_buffer_acquire(pool_of(handle), first ? length : IO_BUFFER_POOLED_MAX);
    if (buffer == NULL)
        return false;
    uint32_t kept = self->held_length;
    if (!first)
        memcpy(buffer, self->held + self->held_start, kept);
    drop_held(self, handle);
    self->held = buffer;
    self->held_length = kept;
    self->held_large = !first;
    return true;
}

static void end(uring_receiver *self, int32_t ending) {
    if (!self->over)
        self->last.ending = ending;
    self->over = true;
}

static void hold(uring_receiver *self, io_handle *handle, const char *data, uint32_t length) {
    if (self->over) /* a piece is missing */
        return;
    if (!make_room(self, handle, length)) {
        end(self, -ENOMEM);
        return;
    }
    memcpy(self->held + self->held_start + self->held_length, data, length);
    self->held_length += length;
}

/* Hands on what is held, or as much of it as the receive takes. */
static int give(uring_receiver *self, io_receive *receive) {
    io_handle *handle = receive->op.handle;
    uint32_t length = self->held_length;
    if (self->held_start == 0 && length <= receive->capacity) {
        receive->buffer = self->held;
        self->held = NULL;
    } else {
        length = length < receive->capacity ? length : receive->capacity;
        receive->buffer = io_buffer_acquire(pool_of(handle), length);
        if (receive->buffer == NULL)
            return -IOE_NOMEM;
        memcpy(receive->buffer, self->held + self->held_start, length);
    }
    self->held_start += length;
    self->held_length -= length;
    if (self->held_length == 0)
        drop_held(self, handle);
    receive->op.result = length;
    return IO_DONE;
}

/* ---- receives -------------------------------------------------------------------------------- */

static int arm(uring_receiver *self, const io_handle *handle) {
    uring_lane *state = handle->lane->state;
    atomic_fetch_add(&state->intake.armed, 1);
    int error = submit_receive(state, (int)handle->native, MULTISHOT_BYTES,
                               uring_pointer(self) | URING_TOKEN_RECEIVER);
    self->armed = self->fresh = error == 0;
    self->end_owed = false;
    if (error)
        atomic_fetch_sub(&state->intake.armed, 1);
    return error;
}

/* By readiness. The poll is not needed where the last receive may have left something. */
static int receive_by_poll(const uring_receiver *self, io_op *op) {
    bool ready = op->flags & IO_OP_RESUBMITTED || (self != NULL && self->filled);
    op->flags &= (uint8_t)~IO_OP_RESUBMITTED; /* a connection submits it again as a new one */
    if (!ready)
        return -IOE_AGAIN;
    op->result = IO_RECEIVE_READY;
    return IO_DONE;
}

int uring_receive_now(io_receive *receive) {
    uring_receiver *self = receiver_of(receive->op.handle);
    int answer = posix_perform(&receive->op);
    if (self == NULL)
        return answer;
    int64_t length = answer == IO_DONE ? receive->op.result : 0;
    self->filled = length == receive->capacity;
    if (length >= BUFFER_BYTES)
        self->large = LARGE_FOR;
    else if (length > 0 && self->large > 0)
        self->large--;
    return answer;
}

int uring_receive(io_op *op) {
    uring_receiver *self = receiver_of(op->handle);
    if (self == NULL)
        return receive_by_poll(NULL, op);
    if (self->held != NULL)
        return give(self, (io_receive *)op);
    if (self->over) {
        self->over = false; /* whoever asks again is told again, by the kernel */
        op->result = self->last.ending;
        op->os_error = self->last.ending < 0 ? (uint32_t)-self->last.ending : 0;
        return self->last.ending < 0 ? self->last.ending : IO_DONE;
    }
    if (!self->armed && self->large > 0)
        return receive_by_poll(self, op);
    int error = self->armed ? 0 : arm(self, op->handle);
    if (error) {
        op->os_error = (uint32_t)error;
        return error == EAGAIN ? -IOE_NOMEM : -error;
    }
    self->waiting = (io_receive *)op;
    return IO_PENDING;
}

bool uring_receive_cancel(io_op *op) {
    uring_receiver *self = receiver_of(op->handle);
    if (self == NULL || self->waiting != (io_receive *)op)
        return false;
    self->waiting = NULL;
    return true;
}

static void ask_for_end(uring_receiver *self, const io_handle *handle) {
    uring_lane *state = handle->lane->state;
    int error = uring_submit_cancel(state, uring_pointer(self) | URING_TOKEN_RECEIVER, 0);
    self->end_owed = error != 0;
    if (error)
        state->owes = true;
}

void uring_receiver_ask_again(const io_handle *handle) {
    uring_receiver *self = receiver_of(handle);
    if (self != NULL && self->armed && self->end_owed)
        ask_for_end(self, handle);
}

/* A reset that was there when the receiver was armed, behind data, does not wake the kernel's
 * receive again. Then that one ends, and the next finds it. */
static void look_for_reset(uring_receiver *self, const io_handle *handle) {
    struct pollfd look = {.fd = (int)handle->native};
    self->fresh = false;
    if (poll(&look, 1, 0) == 1 && look.revents & (POLLHUP | POLLERR))
        ask_for_end(self, handle);
}

/* Notes what a completion brings; under the handle's lock. */
static void note(uring_receiver *self, io_handle *handle, const struct uring_cqe *completion) {
    const uring_lane *state = handle->lane->state;
    int32_t result = completion->result;
    if (result > 0 && completion->flags & URING_CQE_BUFFER) {
        uint32_t id = completion->flags >> URING_CQE_BUFFER_SHIFT;
        hold(self, handle, buffer_memory(&state->intake, id), (uint32_t)result);
        if (result == BUFFER_BYTES)
            self->large = LARGE_FOR;
    } else if (result == -ENOBUFS) {
        if (self->large == 0)
            self->large = 1;
    } else if (result != -ECANCELED && result != -EINTR && result != -EAGAIN) {
        end(self, result);
    }
}

static bool came(uring_receiver *self, io_handle *handle, const struct uring_cqe *completion,
                 bool followed, io_list *done) {
    io_lock_acquire(&handle->lock);
    if (atomic_load_explicit(&self->handle, memory_order_acquire) == NULL) {
        io_lock_release(&handle->lock);
        return false;
    }
    note(self, handle, completion);
    if (!(completion->flags & URING_CQE_MORE))
        self->armed = false;
    else if (self->fresh)
        look_for_reset(self, handle);
    io_receive *receive = NULL;
    if (!followed && (self->held != NULL || self->over || !self->armed)) {
        receive = self->waiting;
        self->waiting = NULL;
    }
    io_lock_release(&handle->lock);
    if (receive != NULL)
        io_op_retry(&receive->op, done);
    return true;
}

void uring_received(uring_lane *state, const struct uring_cqe *completion, bool followed,
                    io_list *done) {
    uring_receiver *self =
        (uring_receiver *)(uintptr_t)(completion->user_data - URING_TOKEN_RECEIVER);
    io_handle *handle = atomic_load_explicit(&self->handle, memory_order_acquire);
    bool more = (completion->flags & URING_CQE_MORE) != 0;
    bool closed = handle == NULL || !came(self, handle, completion, followed, done);
    if (completion->flags & URING_CQE_BUFFER)
        provide(&state->intake, completion->flags >> URING_CQE_BUFFER_SHIFT);
    if (completion->result == -ENOBUFS)
        provide_more(&state->intake);
    if (more)
        return;
    atomic_fetch_sub(&state->intake.armed, 1);
    if (closed) {
        if (self->last.fd >= 0)
            posix_close(self->last.fd);
        free(self);
    }
}

/* ---- handles --------------------------------------------------------------------------------- */

void uring_receiver_open(io_handle *handle) {
    const uring_lane *state = handle->lane->state;
    if (state->intake.way == URING_BY_POLL)
        return;
    uring_receiver *self = calloc(1, sizeof *self);
    if (self != NULL)
        atomic_init(&self->handle, handle);
    handle->backend.pointer[RECEIVER] = self;
}

bool uring_receiver_close(io_handle *handle, bool close_native) {
    uring_lane *state = handle->lane->state;
    uring_receiver *self = receiver_of(handle);
    if (self == NULL)
        return false;
    handle->backend.pointer[RECEIVER] = NULL;
    drop_held(self, handle);
    if (!self->armed) {
        free(self);
        return false;
    }
    self->last.fd = close_native ? (int32_t)handle->native : -1;
    int error = uring_submit_cancel(state, uring_pointer(self) | URING_TOKEN_RECEIVER, 0);
    if (error && close_native) /* out of memory: this ends it, too */
        (void)shutdown((int)handle->native, SHUT_RD);
    /* From here it is wait()'s, which may free it at once. */
    atomic_store_explicit(&self->handle, NULL, memory_order_release);
    return true;
}

/* ---- the end of a lane ----------------------------------------------------------------------- */

void uring_intake_drain(uring_lane *state) {
    struct uring_cqe completion;
    io_list none;
    io_list_init(&none);
    for (int tries = 0; state->intake.armed > 0 && tries < DRAIN_SECONDS; tries++) {
        (void)uring_submit_cancel(state, 0, URING_CANCEL_ANY | URING_CANCEL_ALL);
        while (state->intake.armed > 0 && uring_wait_briefly(state, &completion) == 0)
            if ((completion.user_data & URING_TOKEN_BITS) == URING_TOKEN_RECEIVER)
                uring_received(state, &completion, false, &none);
    }
}

void uring_intake_close(uring_lane *state) {
    /* What the kernel has not given back it may still write to. */
    if (state->intake.armed == 0)
        unmap(&state->intake);
}
