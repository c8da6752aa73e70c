/* group.h: the state shared by the connections of one server, or of one kind of client.
 *
 * A *connection group* has limits, a clock, figures, and a list of its connections, the *members*.
 * One lock protects all groups of a port: that of the port's *registry*. The registry also ends
 * every connection when the port closes.
 *
 *      io_registry ──► io_group ──► io_member (an io_connection), ...
 *                         │  └────► io_listener, ...                     net/listener.h
 *                         └───────► io_host, ...                         net/hosts.h
 *
 * The embedder's objects contain these structures. Its table of hooks is called with no lock held,
 * so a hook may call anything here.
 *
 * The embedder owns the memory. It keeps the object of a member or a listener from the call that
 * adds it until the hook that releases it. It keeps a group while the group has members or
 * listeners, and while its clock holds it. */
#ifndef IOCPCORE_NET_GROUP_H
#define IOCPCORE_NET_GROUP_H

#include "net/connection.h"
#include "net/hosts.h"

typedef struct io_group io_group;
typedef struct io_member io_member;
struct io_listener;

typedef struct io_registry {
    io_resident resident; /* of the port: its end is that of every member and every listener */
    io_mutex lock;        /* taken before a connection's lock */
    io_list groups;       /* with members or listeners */
} io_registry;

/* An entry in the list of members: a member, or the mark of a walk. */
typedef struct io_group_entry {
    io_link link;
    uint32_t users; /* the group and each walk; the last one releases the member. 0: a mark */
    _Atomic uint32_t handshake_ticks;
} io_group_entry;

/* A connection of a group. All zero at first. */
struct io_member {
    io_connection io;
    io_group_entry entry;
    io_host *host; /* the address it is counted under; NULL: not counted */
};

typedef struct io_group_hooks {
    const io_owner_ops *connection_ops; /* for the operations of connections */
    /* Creates the object for the connection of an accepted client. Returns NULL on failure; the
     * embedder remembers the cause for `lost`. */
    io_member *(*make)(io_group *group, const io_address *peer);
    /* Runs a connection, starting with this event. Returns false if the thread must leave its run
     * loop. */
    bool (*run)(io_member *member, io_connection_event event);
    /* Runs a connection while the port closes, outside any run loop. */
    void (*run_last)(io_member *member, io_connection_event event);
    /* Ends the connection gracefully, without waiting for its peer. */
    void (*close)(io_member *member);
    /* Ends the connection at once with io_connection_give_up. Must not call user code: the port may
     * be entered. Returns true if unsent data is lost. */
    bool (*give_up)(io_member *member);
    /* A time limit expired: IO_REASON_IDLE or IO_REASON_HANDSHAKE. Repeated at every tick. */
    void (*time_out)(io_member *member, io_reason reason);
    void (*release)(io_member *member);  /* the group is done with it */
    void (*hold_group)(io_group *group); /* while its clock runs */
    void (*release_group)(io_group *group);
    void (*empty)(io_group *group); /* the last member has left */
    /* Clients that did not become connections. Their sockets are closed. */
    void (*refused)(io_group *group, const io_address *peer);
    /* `error` is portable, below 0; 0: `make` has failed. */
    void (*lost)(io_group *group, const io_address *peer, int error, uint32_t os_error);
    void (*paused)(struct io_listener *listener, int error, uint32_t os_error);
    void (*release_listener)(struct io_listener *listener);
} io_group_hooks;

typedef struct io_group_figures {
    uint64_t accepted, accept_errors;
    uint64_t refused; /* clients over the limit of their address */
    uint64_t failed;  /* clients lost, and connections that ended before they were established */
    uint64_t closed;  /* connections that ended after they were established */
    uint64_t aborted; /* connections that lost data in io_group_abort */
    uint64_t bytes_received, bytes_sent;
    /* Of current members: */
    uint64_t established, establishing, bytes_queued;
} io_group_figures;

struct io_group {
    io_registry *registry;
    io_lane *lane;
    const io_group_hooks *hooks;
    io_connection_limits limits;
    size_t max_connections, max_per_address; /* 0: no limit */
    uint64_t tick_ns;                        /* the unit of the two limits below */
    uint32_t idle_ticks, handshake_ticks;    /* 0: no limit */
    /* With the registry's lock held: */
    io_link link;    /* in the registry, if there are members or listeners */
    io_list members; /* io_group_entry */
    io_list listeners;
    io_hosts hosts;
    size_t count;    /* members */
    size_t admitted; /* clients about to become members */
    bool shut;
    bool ticks;               /* the clock runs, or is about to start */
    bool orphaned;            /* the end of the port has reached it */
    io_timer clock;           /* in flight if `ticks` */
    io_group_figures figures; /* without those of current members */
};

/* ---- the registry of a port (registry.c) ----------------------------------------------------- */

/* The registry of a port, created on first use. Returns NULL without memory. Any thread. */
io_registry *io_registry_of(io_port *port);

/* ---- groups ---------------------------------------------------------------------------------- */

/* Limits may be set until the first member or listener is added. */
void io_group_init(io_group *self, io_registry *registry, io_lane *lane,
                   const io_group_hooks *hooks);
/* How long a member may be idle, and how long it may take to be established. IO_NEVER: no limit. */
void io_group_set_timeouts(io_group *self, uint64_t idle_ns, uint64_t handshake_ns);
/* Makes a connected, non-blocking stream a member. Takes over the stream, even on failure. A worker
 * then runs the member. Returns 0 or a portable error; -IOE_CLOSED and -IOE_FORKED refer to the
 * port. */
int io_group_adopt(io_group *self, io_member *member, io_native native, int family,
                   uint32_t *os_error);
/* Closes every established member gracefully. Members that are not established, or are added later,
 * are ended at once. */
void io_group_shutdown(io_group *self);
/* Ends the remaining members at once. Returns how many of them lost data. */
size_t io_group_abort(io_group *self);
size_t io_group_count(io_group *self);
void io_group_get_figures(io_group *self, io_group_figures *figures);

/* Walks the members that were in the group at the start and still are. Each one stays valid until
 * the next is requested:
 *
 *      for (io_member *member = io_walk_first(&walk, group); member != NULL;
 *           member = io_walk_next(&walk)) */
typedef struct io_walk {
    io_group *group;
    io_member *member; /* NULL: the walk has ended */
    io_group_entry at, end;
} io_walk;

io_member *io_walk_first(io_walk *self, io_group *group);
io_member *io_walk_next(io_walk *self);
void io_walk_stop(io_walk *self); /* before the walk has ended */

/* ---- for listener.c and registry.c, with the registry's lock held ---------------------------- */

static inline bool io_group_full(const io_group *self) {
    io_assert(io_lock_is_mine(&self->registry->lock));
    return self->max_connections != 0 && self->count + self->admitted >= self->max_connections;
}
/* What io_group_enlist leaves for io_group_begin, which runs without the lock. */
typedef struct io_group_beginning {
    bool clock, shut;
} io_group_beginning;

/* Opens the member's connection and adds it. The port must be entered. Returns 0 or a portable
 * error; on an error the caller still owns the native. */
int io_group_enlist(io_group *self, io_member *member, io_native native, int family, io_host *host,
                    io_group_beginning *beginning, uint32_t *os_error);
/* Removes a member. Returns true if it was the last one. */
bool io_group_delist(io_group *self, io_member *member);
/* Drops one use of the member. Returns true if the caller must release it. */
static inline bool io_member_unref(io_member *member) {
    io_assert(member->entry.users > 0);
    return --member->entry.users == 0;
}
/* Updates whether the registry lists the group, after a member or listener was added or removed. */
void io_group_update_listing(io_group *self);
io_member *io_walk_first_locked(io_walk *self, io_group *group);

/* Must be called without the lock, in an entered port. `post`: schedules a worker for the
 * member. */
void io_group_begin(io_group *self, io_member *member, io_group_beginning beginning, bool post);

#endif
