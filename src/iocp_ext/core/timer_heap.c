/* timer_heap.c: a binary heap of timers, ordered by deadline.
 *
 * All backends share this implementation; the kernel only gets the earliest deadline. Timers with
 * equal deadlines fire in the order in which they were set. The owner of the heap must hold its
 * lock: lane->lock for the timers of a lane. */
#include "core/io.h"

#include <stdlib.h>

static bool timer_heap_before(const io_timer *a, const io_timer *b) {
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : a->order < b->order;
}

static void timer_heap_place(io_timer_heap *heap, io_timer *timer, size_t index) {
    heap->items[index] = timer;
    timer->index = index;
}

static void timer_heap_sift_up(io_timer_heap *heap, io_timer *timer, size_t index) {
    while (index > 0) {
        size_t parent = (index - 1) / 2;
        if (!timer_heap_before(timer, heap->items[parent]))
            break;
        timer_heap_place(heap, heap->items[parent], index);
        index = parent;
    }
    timer_heap_place(heap, timer, index);
}

static void timer_heap_sift_down(io_timer_heap *heap, io_timer *timer, size_t index) {
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count &&
            timer_heap_before(heap->items[child + 1], heap->items[child]))
            child++;
        if (!timer_heap_before(heap->items[child], timer))
            break;
        timer_heap_place(heap, heap->items[child], index);
        index = child;
    }
    timer_heap_place(heap, timer, index);
}

bool io_timer_heap_push(io_timer_heap *heap, io_timer *timer) {
    if (heap->count == heap->capacity) {
        size_t capacity = heap->capacity ? 2 * heap->capacity : 64;
        io_timer **items = realloc(heap->items, capacity * sizeof(io_timer *));
        if (items == NULL)
            return false;
        heap->items = items;
        heap->capacity = capacity;
    }
    io_assert(heap->count < heap->capacity);
    timer->order = heap->next_order++;
    timer_heap_sift_up(heap, timer, heap->count++);
    return true;
}

void io_timer_heap_remove(io_timer_heap *heap, io_timer *timer) {
    size_t index = timer->index;
    io_assert(index < heap->count && heap->items[index] == timer);
    io_timer *last = heap->items[--heap->count];
    if (last == timer)
        return;
    if (index > 0 && timer_heap_before(last, heap->items[(index - 1) / 2]))
        timer_heap_sift_up(heap, last, index);
    else
        timer_heap_sift_down(heap, last, index);
}

io_timer *io_timer_heap_first(const io_timer_heap *heap) {
    return heap->count ? heap->items[0] : NULL;
}

uint32_t io_timer_heap_expire(io_timer_heap *heap, uint64_t now_ns, int64_t result, io_list *done) {
    io_timer *timer;
    uint32_t count = 0;
    while ((timer = io_timer_heap_first(heap)) != NULL && timer->deadline_ns <= now_ns) {
        io_assert(timer->op.state == IO_OP_SUBMITTED);
        io_timer_heap_remove(heap, timer);
        timer->op.result = result;
        timer->op.state = IO_OP_COMPLETED;
        io_list_push_back(done, &timer->op.link);
        count++;
    }
    return count;
}

void io_timer_heap_free(io_timer_heap *heap) {
    io_assert(heap->count == 0);
    free(heap->items);
    heap->items = NULL;
    heap->count = heap->capacity = 0;
}
