/* group.h: what the connections of one server, or of one kind of client, have in common.
 *
 * A *group* has limits, a clock, figures, and the list of its *members*, which are its connections.
 * All groups of a port are under one lock, that of the port's *registry*, which also leads the end
 * of the port to every connection.
 *
 *      io_registry ──► io_group ──► io_member (an io_connection), ...
 *                         │  └────► io_listener, ...                     net/listener.h
 *                         └───────► io_host, ...                         net/hosts.h
 *
 * The embedder's objects contain these structures, and a table of hooks says what is the embedder's
 * to do. Hooks are called with no lock held, so they may call anything here.
 *
 * The embedder owns the memory. It keeps a member's or a listener's object from the call that
 * brings it in until the hook that releases it; a group's while it has either, and as long as its
 * clock holds it. */
#ifndef IOCPCORE_NET_GROUP_H
#define IOCPCORE_NET_GROUP_H

#include "net/connection.h"
#include "net/hosts.h"

typedef struct io_group io_group;
typedef struct io_member io_member;
struct io_listener;

typedef struct io_registry {
    io_resident resident; /* of the port: ends every member and every listener with it */
    io_mutex lock;        /* before a connection's */
    io_list groups;       /* that have members or listeners */
} io_registry;

/* In the list of members: one of them, or a mark of somebody who walks along it. */
typedef struct io_group_entry {
    io_link link;
    uint32_t users; /* the group, and those who walk; the last one releases it. 0: a mark */
    _Atomic uint32_t handshake_ticks;
} io_group_entry;

/* A connection of a group. All zero at first. */
struct io_member {
    io_connection io;
    io_group_entry entry;
    io_host *host; /* whose connection it is counted as; NULL: nobody's */
};

typedef struct io_group_hooks {
    const io_owner_ops *connection_ops; /* of the operations of connections */
    /* A client was accepted: the object of its connection. NULL: there is none, and `lost` is told
     * why by whatever the embedder remembers. */
    io_member *(*make)(io_group *group, const io_address *peer);
    /* Runs a connection, beginning with this event. False: the thread is to leave its run loop. */
    bool (*run)(io_member *member, io_connection_event event);
    /* The same as the port ends, in no run loop. */
    void (*run_last)(io_member *member, io_connection_event event);
    /* Ends it in good order, without waiting for its peer. */
    void (*close)(io_member *member);
    /* Ends it at once, by io_connection_give_up, and calls nothing of its user's: the port is in
     * use. True: something that was sent is lost. */
    bool (*give_up)(io_member *member);
    /* A time limit has passed: IO_REASON_IDLE or IO_REASON_HANDSHAKE. Called at every tick from
     * then on. */
    void (*time_out)(io_member *member, io_reason reason);
    void (*release)(io_member *member);  /* it is not the group's any more */
    void (*hold_group)(io_group *group); /* the clock needs it, */
    void (*release_group)(io_group *group);
    void (*empty)(io_group *group); /* the last member is gone */
    /* Clients that do not become connections. Their sockets are closed. */
    void (*refused)(io_group *group, const io_address *peer);
    /* `error` is portable, below 0; 0: `make` has failed. */
    void (*lost)(io_group *group, const io_address *peer, int error, uint32_t os_error);
    void (*paused)(struct io_listener *listener, int error, uint32_t os_error);
    void (*release_listener)(struct io_listener *listener);
} io_group_hooks;

typedef struct io_group_figures {
    uint64_t accepted, accept_errors;
    uint64_t refused; /* clients, because of their address's limit */
    uint64_t failed;  /* clients lost, and connections gone before they were established */
    uint64_t closed;  /* connections that were established and are gone */
    uint64_t aborted; /* by io_group_abort, losing something */
    uint64_t bytes_received, bytes_sent;
    /* Of members that are not gone: */
    uint64_t established, establishing, bytes_queued;
} io_group_figures;

struct io_group {
    io_registry *registry;
    io_lane *lane;
    const io_group_hooks *hooks;
    io_connection_limits limits;
    size_t max_connections, max_per_address; /* 0: no limit */
    uint64_t tick_ns;                        /* of the clock behind the two below */
    uint32_t idle_ticks, handshake_ticks;    /* 0: no limit */
    /* Under the registry's lock: */
    io_link link;    /* in the registry, while there are members or listeners */
    io_list members; /* io_group_entry */
    io_list listeners;
    io_hosts hosts;
    size_t count;    /* members */
    size_t admitted; /* clients that are about to be members */
    bool shut;
    bool ticks;               /* the clock runs, or is about to */
    bool orphaned;            /* the end of the port has come by */
    io_timer clock;           /* in flight, if it ticks */
    io_group_figures figures; /* but for those of members */
};

/* ---- the registry of a port (registry.c) ----------------------------------------------------- */

/* The registry of this port, made if there is none yet. NULL without memory. */
io_registry *io_registry_of(io_port *port);

/* ---- groups ---------------------------------------------------------------------------------- */

/* Limits may be set until the first member or listener comes. */
void io_group_init(io_group *self, io_registry *registry, io_lane *lane,
                   const io_group_hooks *hooks);
/* How long a member may be idle, and not established; IO_NEVER: for ever. */
void io_group_set_timeouts(io_group *self, uint64_t idle_ns, uint64_t handshake_ns);
/* Makes a member of a connected, non-blocking stream, which it takes over, also when it fails. A
 * worker begins with it. 0 or a portable error; -IOE_CLOSED and -IOE_FORKED are the port's. */
int io_group_adopt(io_group *self, io_member *member, io_native native, int family,
                   uint32_t *os_error);
/* Every member flushes, ends and closes, and so does whoever comes late. */
void io_group_shutdown(io_group *self);
/* Ends what is left at once; how many lose something. */
size_t io_group_abort(io_group *self);
size_t io_group_count(io_group *self);
void io_group_get_figures(io_group *self, io_group_figures *figures);

/* A walk along those that were members when it began and still are. Each is kept until the next
 * one is asked for:
 *
 *      for (io_member *member = io_walk_first(&walk, group); member != NULL;
 *           member = io_walk_next(&walk))
 */
typedef struct io_walk {
    io_group *group;
    io_member *member; /* NULL: it has ended */
    io_group_entry at, end;
} io_walk;

io_member *io_walk_first(io_walk *self, io_group *group);
io_member *io_walk_next(io_walk *self);
void io_walk_stop(io_walk *self); /* before its end */

/* ---- for listener.c and registry.c, under the registry's lock ---------------------------------
 */

static inline bool io_group_full(const io_group *self) {
    io_assert(io_lock_is_mine(&self->registry->lock));
    return self->max_connections != 0 && self->count + self->admitted >= self->max_connections;
}
/* What io_group_enlist leaves to be done without the lock, by io_group_begin. */
typedef struct io_group_beginning {
    bool clock, shut;
} io_group_beginning;

/* Opens the member, in a port that was entered. 0 or a portable error; then the native stays the
 * caller's. */
int io_group_enlist(io_group *self, io_member *member, io_native native, int family, io_host *host,
                    io_group_beginning *beginning, uint32_t *os_error);
/* Takes a member out. True: it was the last one. */
bool io_group_delist(io_group *self, io_member *member);
/* One user fewer. True: the caller is to release it. */
static inline bool io_member_left(io_member *member) {
    io_assert(member->entry.users > 0);
    return --member->entry.users == 0;
}
/* A listener has come or gone, or a member. */
void io_group_relist(io_group *self);
io_member *io_walk_first_locked(io_walk *self, io_group *group);

/* Without the lock, in a port that was entered. `post`: a worker is to begin with the member. */
void io_group_begin(io_group *self, io_member *member, io_group_beginning beginning, bool post);

#endif
