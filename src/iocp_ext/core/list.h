/* list.h: an intrusive doubly linked list. An element is in at most one list at a time. */
#ifndef IOCPCORE_LIST_H
#define IOCPCORE_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct io_link {
    struct io_link *next;
    struct io_link *previous;
} io_link;

typedef io_link io_list; /* the head: `next` is the first element, `previous` the last */

#define IO_CONTAINER(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

static inline void io_list_init(io_list *list) {
    list->next = list;
    list->previous = list;
}

static inline bool io_list_empty(const io_list *list) {
    return list->next == list;
}

static inline void io_list_insert_before(io_link *place, io_link *element) {
    element->next = place;
    element->previous = place->previous;
    place->previous->next = element;
    place->previous = element;
}

static inline void io_list_push_back(io_list *list, io_link *element) {
    io_list_insert_before(list, element);
}

static inline void io_list_push_front(io_list *list, io_link *element) {
    io_list_insert_before(list->next, element);
}

static inline void io_list_remove(io_link *element) {
    element->previous->next = element->next;
    element->next->previous = element->previous;
    element->next = element;
    element->previous = element;
}

static inline io_link *io_list_pop_front(io_list *list) {
    io_link *first = list->next;
    if (first == list)
        return NULL;
    io_list_remove(first);
    return first;
}

/* Moves all elements of `from` to the end of `to`. */
static inline void io_list_splice_back(io_list *to, io_list *from) {
    if (io_list_empty(from))
        return;
    from->next->previous = to->previous;
    to->previous->next = from->next;
    from->previous->next = to;
    to->previous = from->previous;
    io_list_init(from);
}

#endif
