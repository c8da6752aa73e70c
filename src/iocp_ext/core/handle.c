/* handle.c: opening and closing handles, and the slots they live in.
 *
 * A slot is reused when its handle is neither open nor held. Slots are not freed while the port
 * exists, so a late pointer still points to a handle; the generation tells if it is the same
 * one. */
#include "core/handle.h"

#include "core/token.h"

#include <stdlib.h>

enum { HANDLES_PER_CHUNK = 32 };

struct io_handle_chunk {
    struct io_handle_chunk *next;
    io_handle handles[HANDLES_PER_CHUNK];
};

/* ---- slots ----------------------------------------------------------------------------------- */

static bool handle_is_idle(const io_handle *handle) {
    return handle->in_flight == 0 && io_list_empty(&handle->queue[IO_IN]) &&
           io_list_empty(&handle->queue[IO_OUT]) && io_list_empty(&handle->others) &&
           handle->waiting[IO_IN] == 0 && handle->waiting[IO_OUT] == 0 && !handle->busy[IO_IN] &&
           !handle->busy[IO_OUT];
}

static void handle_slot_free(io_handle *handle) {
    io_lane *lane = handle->lane;
    io_assert(!handle->open && !handle->held && handle_is_idle(handle));
    io_mutex_lock(&lane->handles_lock);
    io_list_remove(&handle->link);
    io_list_push_front(&lane->free_handles, &handle->link);
    io_mutex_unlock(&lane->handles_lock);
}

/* handles_lock must be held. */
static bool handle_slots_grow(io_lane *lane) {
    io_assert(io_lock_is_mine(&lane->handles_lock));
    struct io_handle_chunk *chunk = calloc(1, sizeof *chunk);
    if (chunk == NULL)
        return false;
    for (int i = HANDLES_PER_CHUNK - 1; i >= 0; i--) {
        io_handle *handle = &chunk->handles[i];
        handle->lane = lane;
        io_list_push_front(&lane->free_handles, &handle->link);
    }
    chunk->next = lane->handle_chunks;
    lane->handle_chunks = chunk;
    return true;
}

static io_handle *handle_slot_take(io_lane *lane) {
    io_mutex_lock(&lane->handles_lock);
    io_link *link = NULL;
    if (!io_list_empty(&lane->free_handles) || handle_slots_grow(lane)) {
        link = io_list_pop_front(&lane->free_handles);
        io_list_push_back(&lane->handles, link);
    }
    io_mutex_unlock(&lane->handles_lock);
    return link != NULL ? IO_CONTAINER(link, io_handle, link) : NULL;
}

uint64_t io_handle_token(const io_handle *handle) {
    return io_token(handle, handle->generation);
}

/* ---- open ------------------------------------------------------------------------------------ */

/* The caller knows `type` and `family` of an owned native. For others the backend finds them. */
static int handle_open(io_lane *lane, io_native native, bool owned, io_handle_type type, int family,
                       io_handle **out, uint32_t *os_error) {
    io_handle *handle = handle_slot_take(lane);
    if (handle == NULL)
        return -IOE_NOMEM;
    io_handle_lock(handle);
    io_assert(!handle->open && !handle->held && handle->in_flight == 0);
    handle->native = native;
    handle->generation++;
    handle->in_flight = 0;
    handle->closing = handle->native_gone = false;
    handle->owned = owned;
    handle->type = (uint8_t)type;
    handle->family = family;
    handle->ready = 0;
    handle->busy[IO_IN] = handle->busy[IO_OUT] = false;
    handle->waiting[IO_IN] = handle->waiting[IO_OUT] = 0;
    io_list_init(&handle->queue[IO_IN]);
    io_list_init(&handle->queue[IO_OUT]);
    io_list_init(&handle->others);
    for (size_t i = 0; i < sizeof handle->backend.word / sizeof handle->backend.word[0]; i++)
        handle->backend.word[i] = 0;
    int error = lane->backend->handle_open(handle, os_error);
    handle->open = error == 0;
    handle->held = error == 0 && !owned;
    io_handle_unlock(handle);
    if (error) {
        handle_slot_free(handle);
        return error;
    }
    *out = handle;
    return 0;
}

int io_handle_open(io_lane *lane, io_native native, io_handle **handle, uint32_t *os_error) {
    return handle_open(lane, native, false, IO_STREAM, 0, handle, os_error);
}

int io_handle_adopt(io_lane *lane, io_native native, int family, io_handle **handle,
                    uint32_t *os_error) {
    return handle_open(lane, native, true, IO_STREAM, family, handle, os_error);
}

int io_handle_adopt_datagram(io_lane *lane, io_native native, int family, io_handle **handle,
                             uint32_t *os_error) {
    return handle_open(lane, native, true, IO_DATAGRAM, family, handle, os_error);
}

/* ---- close ----------------------------------------------------------------------------------- */

/* The handle's lock must be held. */
static void handle_close(io_handle *handle, bool close_native) {
    io_assert(io_lock_is_mine(&handle->lock));
    io_assert(handle->open && handle_is_idle(handle));
    handle->lane->backend->handle_close(handle, close_native);
    handle->open = false;
}

void handle_close_if_idle(io_handle *handle) {
    io_assert(io_lock_is_mine(&handle->lock));
    if (!handle->closing || !handle->open || handle->in_flight > 0)
        return;
    handle_close(handle, !handle->native_gone);
    if (!handle->held)
        handle_slot_free(handle);
}

void io_handle_release(io_handle *handle) {
    io_handle_lock(handle);
    io_assert(handle->held);
    handle->held = false;
    bool unused = !handle->open;
    io_handle_unlock(handle);
    if (unused)
        handle_slot_free(handle);
}

int io_handle_forget(io_handle *handle, bool native_gone) {
    io_handle_lock(handle);
    bool busy = handle->in_flight > 0;
    if (!busy && handle->open) {
        handle->native_gone = native_gone;
        handle_close(handle, false);
    }
    io_handle_unlock(handle);
    return busy ? -IOE_BUSY : 0;
}

/* ---- all handles of a port ------------------------------------------------------------------- */

void io_handles_each(io_lane *lane, void (*visit)(io_handle *handle, void *context),
                     void *context) {
    io_mutex_lock(&lane->handles_lock);
    struct io_handle_chunk *chunk = lane->handle_chunks;
    io_mutex_unlock(&lane->handles_lock);
    /* No lock: chunks are only added at the front of the list, and stay until io_handles_free. */
    for (; chunk != NULL; chunk = chunk->next)
        for (int i = 0; i < HANDLES_PER_CHUNK; i++)
            if (chunk->handles[i].open)
                visit(&chunk->handles[i], context);
}

void io_handles_free(io_lane *lane) {
    while (lane->handle_chunks != NULL) {
        struct io_handle_chunk *chunk = lane->handle_chunks;
        lane->handle_chunks = chunk->next;
        for (int i = 0; i < HANDLES_PER_CHUNK; i++)
            io_assert(!chunk->handles[i].open);
        free(chunk);
    }
}
