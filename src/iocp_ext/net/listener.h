/* listener.h: a listening socket that accepts members for a group.
 *
 *      accept ended ──► admitted: `make` ──► opened, next accept armed ──► `run`
 *              ├──► the group is full: the client waits here, and so does the next accept
 *              ├──► its address has its number: `refused`
 *              ├──► no memory, or it cannot be opened: `lost`
 *              └──► accepting failed: `paused`, or at once the next accept
 *
 * Whatever becomes of one client, the next accept follows. At max_connections what has been
 * accepted waits, and no further accept is made, so that the system's backlog holds the rest. */
#ifndef IOCPCORE_NET_LISTENER_H
#define IOCPCORE_NET_LISTENER_H

#include "core/accepting.h"
#include "net/group.h"

typedef struct io_listener {
    io_group *group;
    int family;
    /* Under the registry's lock: */
    io_link link;      /* in its group, until it is closed */
    io_handle *handle; /* NULL: closed */
    io_op *op;         /* an accept, or the timer of a pause */
    io_timer pause;    /* not made when it is needed: memory may be what is lacking then */
    uint32_t users;    /* the group, its operation, and who handles a client of its */
    io_accepting accepting;
    io_native waiting; /* accepted, and over max_connections */
    io_address waiting_peer;
} io_listener;

/* Accepts on a listening socket's handle, which it takes over. In a port that was entered. */
void io_listener_open(io_listener *self, io_group *group, io_handle *handle, int family);
/* Accepts no more, and closes the socket. In a port that was entered, or at its end. May be called
 * more than once, as long as the listener is not released. */
void io_listener_close(io_listener *self);

/* One user fewer; the last one releases it. */
void io_listener_left(io_listener *self);

/* GONE was handled: takes the member out of its group and releases it. Clients that wait have its
 * place. */
void io_group_leave(io_group *group, io_member *member);

#endif
