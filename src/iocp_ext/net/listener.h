/* listener.h: a listening socket that accepts members for a group.
 *
 *      accept ended ──► admitted: `make` ──► opened, next accept armed ──► `run`
 *              ├──► the group is full: the client waits here, no further accept is made
 *              ├──► its address is at its limit: `refused`
 *              ├──► out of memory, or it cannot be opened: `lost`
 *              └──► accepting failed: `paused`, or at once the next accept
 *
 * Whatever happens to one client, the next accept follows. At max_connections the accepted client
 * waits, and no further accept is made, so the rest stay in the system's backlog. */
#ifndef IOCPCORE_NET_LISTENER_H
#define IOCPCORE_NET_LISTENER_H

#include "core/accepting.h"
#include "net/group.h"

typedef struct io_listener {
    io_group *group;
    int family;
    /* With the registry's lock held: */
    io_link link;      /* in its group, until closed */
    io_handle *handle; /* NULL: closed */
    io_op *op;         /* an accept, or the timer of a pause */
    io_timer pause;    /* embedded: a pause may be due to lack of memory */
    uint32_t users;    /* the group, its operation, and the thread that handles its client */
    io_accepting accepting;
    io_native waiting; /* accepted at max_connections */
    io_address waiting_peer;
} io_listener;

/* Takes over the handle of a listening socket and starts to accept. The port must be entered. */
void io_listener_open(io_listener *self, io_group *group, io_handle *handle, int family);
/* Stops accepting and closes the socket. The port must be entered, or at its end. May be called
 * again until the listener is released. */
void io_listener_close(io_listener *self);

/* Drops one use of the listener; the last one releases it. */
void io_listener_unref(io_listener *self);

/* Removes a member from its group and releases it, after GONE was handled. A waiting client may
 * take its place. */
void io_group_leave(io_group *group, io_member *member);

#endif
