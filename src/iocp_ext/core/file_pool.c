/* file_pool.c: threads for file operations that the kernel cannot do asynchronously.
 *
 * epoll does not support regular files. On Windows some calls have no overlapped form, and some
 * handles were not opened for overlapped I/O. Such operations block a pool thread and then complete
 * like all others. A thread is started when work is waiting and no thread is idle, and runs until
 * the port closes. */
#include "core/io.h"

#include <stdlib.h>

enum { THREADS_MAX = 4 };

typedef struct io_file_pool {
    io_mutex lock;
    io_cond work; /* an operation is waiting, or the pool closes */
    io_cond gone; /* a thread has ended */
    io_list waiting;
    size_t waiting_count;
    int threads, idle;
    bool closing;
} io_file_pool;

static void file_pool_run(void *argument) {
    io_file_pool *pool = argument;
    io_mutex_lock(&pool->lock);
    for (;;) {
        io_link *link = io_list_pop_front(&pool->waiting);
        if (link != NULL) {
            io_transfer *transfer = IO_CONTAINER(link, io_transfer, pool_link);
            io_assert(pool->waiting_count > 0);
            pool->waiting_count--;
            io_mutex_unlock(&pool->lock);
            uint32_t os_error = 0;
            int64_t result = transfer->pool_work(&transfer->op, &os_error);
            io_op_completed_elsewhere(&transfer->op, result, os_error);
            io_mutex_lock(&pool->lock);
        } else if (pool->closing) {
            break;
        } else {
            pool->idle++;
            io_cond_wait(&pool->work, &pool->lock, IO_NEVER);
            pool->idle--;
        }
    }
    pool->threads--;
    io_cond_signal(&pool->gone);
    io_mutex_unlock(&pool->lock);
}

static io_file_pool *file_pool_open(void) {
    io_file_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return NULL;
    io_list_init(&pool->waiting);
    if (io_mutex_init(&pool->lock) != 0)
        goto no_lock;
    if (io_cond_init(&pool->work) != 0)
        goto no_work;
    if (io_cond_init(&pool->gone) != 0)
        goto no_gone;
    return pool;

no_gone:
    io_cond_destroy(&pool->work);
no_work:
    io_mutex_destroy(&pool->lock);
no_lock:
    free(pool);
    return NULL;
}

static io_file_pool *file_pool_of(io_port *port) {
    io_lock_acquire(&port->slab_lock);
    if (port->file_pool == NULL)
        port->file_pool = file_pool_open();
    io_file_pool *pool = port->file_pool;
    io_lock_release(&port->slab_lock);
    return pool;
}

int io_file_pool_submit(io_op *op, int64_t (*work)(io_op *op, uint32_t *os_error)) {
    io_assert(io_lock_is_mine(&op->handle->lock) && op->state == IO_OP_SUBMITTED);
    io_file_pool *pool = file_pool_of(op->lane->port);
    if (pool == NULL)
        return -IOE_NOMEM;
    io_transfer *transfer = (io_transfer *)op;
    int error = 0;
    io_mutex_lock(&pool->lock);
    if (pool->waiting_count >= (size_t)pool->idle && pool->threads < THREADS_MAX) {
        error = io_thread_start(file_pool_run, pool);
        pool->threads += error == 0;
    }
    if (pool->threads > 0) { /* not fatal: the running threads do the work, only slower */
        error = 0;
        op->flags |= IO_OP_IN_POOL;
        transfer->pool_work = work;
        io_list_push_back(&pool->waiting, &transfer->pool_link);
        pool->waiting_count++;
        io_cond_signal(&pool->work);
    }
    io_mutex_unlock(&pool->lock);
    return error;
}

bool io_file_pool_cancel(io_op *op) {
    io_assert(io_lock_is_mine(&op->handle->lock) && op->flags & IO_OP_IN_POOL);
    io_file_pool *pool = file_pool_of(op->lane->port);
    io_transfer *transfer = (io_transfer *)op;
    io_mutex_lock(&pool->lock);
    /* Once started, an operation is in no list: its link points to itself. */
    bool waits = transfer->pool_link.next != &transfer->pool_link;
    if (waits) {
        io_assert(pool->waiting_count > 0);
        io_list_remove(&transfer->pool_link);
        pool->waiting_count--;
    }
    io_mutex_unlock(&pool->lock);
    return waits;
}

void io_file_pool_close(io_file_pool *pool) {
    io_mutex_lock(&pool->lock);
    pool->closing = true;
    io_cond_broadcast(&pool->work);
    while (pool->threads > 0)
        io_cond_wait(&pool->gone, &pool->lock, IO_NEVER);
    io_assert(io_list_empty(&pool->waiting) && pool->waiting_count == 0 && pool->idle == 0);
    io_mutex_unlock(&pool->lock);
    io_cond_destroy(&pool->gone);
    io_cond_destroy(&pool->work);
    io_mutex_destroy(&pool->lock);
    free(pool);
}
