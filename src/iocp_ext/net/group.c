/* group.c: adding, removing and walking members, and the clock for their time limits.
 *
 * At each tick every connection counts up; activity resets its count. Whoever must visit every
 * member uses a walk. The registry's lock is free during the visits: members may leave, and other
 * threads may walk too. A walk allocates nothing. It puts two marks into the list, one at its
 * position and one at its end, and holds the current member. */
#include "net/group.h"

#define TICKS_PER_LIMIT 8 /* precision of a time limit */
#define TICK_MIN_NS (10 * IO_NS_PER_MS)
#define TICK_MAX_NS IO_NS_PER_SECOND

static void group_lock(const io_group *self) {
    io_mutex_lock(&self->registry->lock);
}

static void group_unlock(const io_group *self) {
    io_mutex_unlock(&self->registry->lock);
}

/* ---- walks ----------------------------------------------------------------------------------- */

static io_member *group_member_of(io_link *link) {
    return IO_CONTAINER(IO_CONTAINER(link, io_group_entry, link), io_member, entry);
}

static bool group_is_mark(const io_link *link) {
    return IO_CONTAINER(link, const io_group_entry, link)->users == 0;
}

/* Moves to the next member, or ends the walk. Must be called with the lock held. */
static io_member *group_walk_advance(io_walk *self) {
    io_link *link = self->at.link.next;
    while (link != &self->end.link && group_is_mark(link))
        link = link->next;
    io_list_remove(&self->at.link);
    if (link == &self->end.link) {
        io_list_remove(&self->end.link);
        return self->member = NULL;
    }
    io_list_insert_before(link->next, &self->at.link);
    self->member = group_member_of(link);
    self->member->entry.users++;
    return self->member;
}

io_member *io_walk_first_locked(io_walk *self, io_group *group) {
    *self = (io_walk){.group = group};
    io_list_push_front(&group->members, &self->at.link);
    io_list_push_back(&group->members, &self->end.link);
    return group_walk_advance(self);
}

/* In a forked child there is nothing to walk: a mark in the list may be on the stack of a thread
 * that only the parent has. */
io_member *io_walk_first(io_walk *self, io_group *group) {
    if (io_port_forked(group->lane->port))
        return NULL;
    group_lock(group);
    io_member *first = io_walk_first_locked(self, group);
    group_unlock(group);
    return first;
}

io_member *io_walk_next(io_walk *self) {
    io_group *group = self->group; /* releasing the last member may free the group */
    io_assert(io_no_lock_is_mine());
    const io_group_hooks *hooks = group->hooks;
    io_member *before = self->member;
    group_lock(group);
    bool release = io_member_unref(before);
    io_member *next = group_walk_advance(self);
    group_unlock(group);
    if (release)
        hooks->release(before);
    return next;
}

void io_walk_stop(io_walk *self) {
    const io_group_hooks *hooks = self->group->hooks;
    group_lock(self->group);
    bool release = io_member_unref(self->member);
    io_list_remove(&self->at.link);
    io_list_remove(&self->end.link);
    group_unlock(self->group);
    if (release)
        hooks->release(self->member);
}

/* ---- one more member, one fewer -------------------------------------------------------------- */

void io_group_update_listing(io_group *self) {
    io_assert(io_lock_is_mine(&self->registry->lock));
    bool listed = !io_list_empty(&self->link);
    bool lives = self->count > 0 || !io_list_empty(&self->listeners);
    if (lives && !listed)
        io_list_push_back(&self->registry->groups, &self->link);
    else if (!lives && listed)
        io_list_remove(&self->link);
}

/* Returns true if the caller must start the clock. Must be called with the lock held. */
static bool group_claim_clock(io_group *self) {
    io_assert(io_lock_is_mine(&self->registry->lock));
    if (self->ticks || (self->idle_ticks == 0 && self->handshake_ticks == 0) || self->count == 0)
        return false;
    return self->ticks = true;
}

int io_group_enlist(io_group *self, io_member *member, io_native native, int family, io_host *host,
                    io_group_beginning *beginning, uint32_t *os_error) {
    int error = io_connection_open(&member->io, self->lane, native, family, &self->limits,
                                   self->hooks->connection_ops, os_error);
    if (error)
        return error;
    member->host = host;
    member->entry.users = 1;
    io_list_push_back(&self->members, &member->entry.link);
    self->count++;
    io_group_update_listing(self);
    beginning->clock = group_claim_clock(self);
    beginning->shut = self->shut;
    return 0;
}

bool io_group_delist(io_group *self, io_member *member) {
    uint64_t received, sent;
    io_assert(self->count > 0 && io_lock_is_mine(&self->registry->lock));
    (void)io_connection_pending(&member->io, &received, &sent);
    self->figures.bytes_received += received;
    self->figures.bytes_sent += sent;
    io_hosts_remove(&self->hosts, member->host);
    member->host = NULL;
    io_list_remove(&member->entry.link);
    self->count--;
    io_group_update_listing(self);
    return self->count == 0;
}

static bool group_tick(io_op *op);
static void group_collect(io_op *op, bool leaked);
static const io_owner_ops group_owner_ops = {group_tick, group_collect};

/* The port must be entered. */
static void group_start_clock(io_group *self) {
    io_assert(self->ticks && io_no_lock_is_mine());
    self->hooks->hold_group(self);
    io_op_embed(&self->clock.op, self->lane, IO_TIMER, &group_owner_ops, self);
    io_timer_submit(&self->clock, self->tick_ns);
}

void io_group_begin(io_group *self, io_member *member, io_group_beginning beginning, bool post) {
    if (beginning.clock)
        group_start_clock(self);
    if (beginning.shut) /* shutdown() has already walked the list and missed it */
        (void)self->hooks->give_up(member);
    if (post)
        io_post_submit(&member->io.wakeup);
}

int io_group_adopt(io_group *self, io_member *member, io_native native, int family,
                   uint32_t *os_error) {
    io_port *port = self->lane->port;
    io_group_beginning beginning;
    int error = io_port_enter(port);
    if (error == 0) {
        group_lock(self);
        error = io_group_enlist(self, member, native, family, NULL, &beginning, os_error);
        group_unlock(self);
        if (error == 0)
            io_group_begin(self, member, beginning, true);
        io_port_leave(port);
    }
    if (error)
        io_port_close_native(port, native, family);
    return error;
}

/* ---- the clock ------------------------------------------------------------------------------- */

/* Returns false if the port is closed, or is the parent process's: then nothing is ours to end. */
static bool group_port_is_open(const io_group *self) {
    bool open = io_port_enter(self->lane->port) == 0;
    if (open)
        io_port_leave(self->lane->port);
    return open;
}

static void group_tick_member(io_group *self, io_member *member) {
    uint32_t silent = io_connection_tick(&member->io);
    io_reason reason = IO_REASON_NONE;
    if (self->idle_ticks != 0 && silent >= self->idle_ticks)
        reason = IO_REASON_IDLE;
    if (self->handshake_ticks != 0 && !io_connection_is_known(&member->io) &&
        member->entry.handshake_ticks++ >= self->handshake_ticks)
        reason = IO_REASON_HANDSHAKE;
    if (reason != IO_REASON_NONE)
        self->hooks->time_out(member, reason);
}

/* The clock runs only while there are members: after each tick it is claimed again, or stops. */
static void group_stop_or_restart_clock(io_group *self) {
    bool entered = io_port_enter(self->lane->port) == 0;
    group_lock(self);
    self->ticks = false;
    bool restart = entered && group_claim_clock(self);
    group_unlock(self);
    if (restart)
        group_start_clock(self);
    if (entered)
        io_port_leave(self->lane->port);
}

static bool group_tick(io_op *op) {
    io_group *self = op->owner;
    io_walk walk;
    if (op->result >= 0 && group_port_is_open(self))
        for (io_member *member = io_walk_first(&walk, self); member != NULL;
             member = io_walk_next(&walk))
            group_tick_member(self, member);
    group_stop_or_restart_clock(self);
    self->hooks->release_group(self);
    return true;
}

static void group_collect(io_op *op, bool leaked) {
    io_group *self = op->owner;
    (void)leaked; /* timers never stay in the kernel */
    group_lock(self);
    self->ticks = false;
    group_unlock(self);
    self->hooks->release_group(self);
}

/* ---- groups ---------------------------------------------------------------------------------- */

void io_group_init(io_group *self, io_registry *registry, io_lane *lane,
                   const io_group_hooks *hooks) {
    *self = (io_group){.registry = registry, .lane = lane, .hooks = hooks};
    io_list_init(&self->link);
    io_list_init(&self->members);
    io_list_init(&self->listeners);
}

static uint32_t group_ticks_of(uint64_t limit_ns, uint64_t tick_ns) {
    uint64_t ticks = limit_ns == IO_NEVER ? 0 : limit_ns / tick_ns + 1;
    return ticks < UINT32_MAX ? (uint32_t)ticks : UINT32_MAX;
}

void io_group_set_timeouts(io_group *self, uint64_t idle_ns, uint64_t handshake_ns) {
    uint64_t least_ns = idle_ns < handshake_ns ? idle_ns : handshake_ns;
    self->tick_ns = least_ns / TICKS_PER_LIMIT;
    if (self->tick_ns < TICK_MIN_NS)
        self->tick_ns = TICK_MIN_NS;
    if (self->tick_ns > TICK_MAX_NS)
        self->tick_ns = TICK_MAX_NS;
    self->idle_ticks = group_ticks_of(idle_ns, self->tick_ns);
    self->handshake_ticks = group_ticks_of(handshake_ns, self->tick_ns);
}

void io_group_shutdown(io_group *self) {
    io_walk walk;
    group_lock(self);
    self->shut = true;
    group_unlock(self);
    if (!group_port_is_open(self))
        return;
    for (io_member *member = io_walk_first(&walk, self); member != NULL;
         member = io_walk_next(&walk)) {
        if (io_connection_is_known(&member->io))
            self->hooks->close(member);
        else
            (void)self->hooks->give_up(member);
    }
}

size_t io_group_abort(io_group *self) {
    io_walk walk;
    size_t aborted = 0;
    if (!group_port_is_open(self))
        return 0;
    for (io_member *member = io_walk_first(&walk, self); member != NULL;
         member = io_walk_next(&walk))
        aborted += self->hooks->give_up(member);
    group_lock(self);
    self->figures.aborted += aborted;
    group_unlock(self);
    return aborted;
}

size_t io_group_count(io_group *self) {
    group_lock(self);
    size_t count = self->count;
    group_unlock(self);
    return count;
}

void io_group_get_figures(io_group *self, io_group_figures *figures) {
    group_lock(self);
    *figures = self->figures;
    for (io_link *link = self->members.next; link != &self->members; link = link->next) {
        uint64_t received, sent;
        if (group_is_mark(link))
            continue;
        io_connection *connection = &group_member_of(link)->io;
        bool established = io_connection_is_known(connection);
        figures->established += established;
        figures->establishing += !established;
        figures->bytes_queued += io_connection_pending(connection, &received, &sent);
        figures->bytes_received += received;
        figures->bytes_sent += sent;
    }
    group_unlock(self);
}
