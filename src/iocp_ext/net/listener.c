/* listener.c: from a completed accept to a member of the group.
 *
 * Everything up to the first callback happens in one turn of one worker. The fate of the client is
 * decided with the registry's lock held. Then the embedder makes its object. With the lock held
 * again, the client joins the group and the next accept is armed. Only then does the worker run it:
 * its first callback may block, and other clients must be accepted meanwhile. */
#include "net/listener.h"

typedef enum listener_outcome {
    LISTENER_NO_CLIENT,
    LISTENER_ADMITTED, /* counted in `admitted` until it is a member */
    LISTENER_WAITS,
    LISTENER_TOO_LATE, /* the listener was closed */
    LISTENER_REFUSED,
    LISTENER_NO_MEMORY,
} listener_outcome;

typedef struct listener_client {
    io_native native;
    io_host *host;
    io_address peer;
} listener_client;

static io_port *listener_port_of(const io_listener *self) {
    return self->group->lane->port;
}

static void listener_lock(const io_group *group) {
    io_mutex_lock(&group->registry->lock);
}

static void listener_unlock(const io_group *group) {
    io_mutex_unlock(&group->registry->lock);
}

/* Drops one use. Returns true if the caller must release the listener. */
static bool listener_drop_user(io_listener *self) {
    io_assert(self->users > 0 && io_lock_is_mine(&self->group->registry->lock));
    return --self->users == 0;
}

void io_listener_unref(io_listener *self) {
    io_group *group = self->group;
    const io_group_hooks *hooks = group->hooks;
    listener_lock(group);
    bool release = listener_drop_user(self);
    listener_unlock(group);
    if (release)
        hooks->release_listener(self);
}

/* ---- operations: under the registry's lock, in a port that was entered ----------------------- */

static bool listener_take(io_op *op);
static void listener_collect(io_op *op, bool leaked);
static const io_owner_ops listener_owner_ops = {listener_take, listener_collect};

static void listener_pause(io_listener *self, uint64_t pause_ns) {
    if (self->handle == NULL || self->op != NULL)
        return;
    io_op_embed(&self->pause.op, self->group->lane, IO_TIMER, &listener_owner_ops, self);
    self->op = &self->pause.op;
    self->users++;
    io_timer_submit(&self->pause, pause_ns);
}

static void listener_accept_next(io_listener *self) {
    io_assert(io_lock_is_mine(&self->group->registry->lock));
    if (self->handle == NULL || self->op != NULL || self->waiting != IO_NATIVE_NONE ||
        io_group_full(self->group))
        return;
    io_op *op = io_op_new(self->group->lane, IO_ACCEPT, &listener_owner_ops, self);
    if (op == NULL) {
        listener_pause(self, io_accepting_pause(&self->accepting, -IOE_NOMEM));
        return;
    }
    self->op = op;
    self->users++;
    io_op_submit(op, self->handle);
}

static void listener_release_op(io_listener *self, io_op *op) {
    if (op != &self->pause.op)
        io_op_release(op);
}

/* ---- opening and closing --------------------------------------------------------------------- */

void io_listener_open(io_listener *self, io_group *group, io_handle *handle, int family) {
    *self = (io_listener){
        .group = group, .family = family, .handle = handle, .users = 1, .waiting = IO_NATIVE_NONE};
    listener_lock(group);
    io_list_push_back(&group->listeners, &self->link);
    io_group_update_listing(group);
    listener_accept_next(self);
    listener_unlock(group);
}

void io_listener_close(io_listener *self) {
    io_group *group = self->group;
    listener_lock(group);
    io_handle *handle = self->handle;
    io_native waiting = self->waiting;
    if (handle != NULL) {
        self->handle = NULL;
        self->waiting = IO_NATIVE_NONE;
        io_list_remove(&self->link);
        io_group_update_listing(group);
        group->figures.failed += waiting != IO_NATIVE_NONE;
        if (self->op == &self->pause.op)
            (void)io_op_cancel(self->op);
    }
    listener_unlock(group);
    if (handle == NULL)
        return;
    io_port_close_native(listener_port_of(self), waiting, self->family);
    bool held = !handle->owned;
    io_handle_close(handle);
    if (held)
        io_handle_release(handle);
    io_listener_unref(self);
}

/* ---- what becomes of a client: under the registry's lock ------------------------------------- */

static listener_outcome listener_admit(io_group *group, listener_client *client) {
    int counted = 1;
    client->host = NULL;
    if (group->max_per_address != 0)
        counted = io_hosts_add(&group->hosts, &client->peer, group->max_per_address, &client->host);
    group->figures.refused += counted == 0;
    group->figures.failed += counted < 0;
    group->admitted += counted > 0;
    return counted > 0 ? LISTENER_ADMITTED : counted == 0 ? LISTENER_REFUSED : LISTENER_NO_MEMORY;
}

static listener_outcome listener_decide(io_listener *self, listener_client *client) {
    if (self->handle == NULL) {
        self->group->figures.failed++;
        return LISTENER_TOO_LATE;
    }
    if (!io_group_full(self->group))
        return listener_admit(self->group, client);
    io_assert(self->waiting == IO_NATIVE_NONE);
    self->waiting = client->native;
    self->waiting_peer = client->peer;
    return LISTENER_WAITS;
}

/* Records that an accept or a pause has ended. Returns how long to pause now; 0: not at all. */
static uint64_t listener_record(io_listener *self, const io_op *op, listener_client *client,
                                listener_outcome *outcome) {
    io_group_figures *figures = &self->group->figures;
    io_assert(self->op == op);
    self->op = NULL;
    *outcome = LISTENER_NO_CLIENT;
    if (op->kind != IO_ACCEPT)
        return 0;
    if (op->result >= 0) {
        const io_accept *accept = (const io_accept *)op;
        *client = (listener_client){.native = accept->accepted, .peer = accept->peer};
        figures->accepted++;
        *outcome = listener_decide(self, client);
    } else if (op->result == -IOE_CANCELED) {
        return 0;
    } else {
        figures->accept_errors++;
    }
    return self->handle != NULL ? io_accepting_pause(&self->accepting, op->result) : 0;
}

/* ---- what is done for a client --------------------------------------------------------------- */

static void listener_turn_away(io_listener *self, const listener_client *client,
                               listener_outcome outcome) {
    io_group *group = self->group;
    if (outcome == LISTENER_NO_CLIENT || outcome == LISTENER_WAITS)
        return;
    io_port_close_native(listener_port_of(self), client->native, self->family);
    if (outcome == LISTENER_REFUSED)
        group->hooks->refused(group, &client->peer);
    else if (outcome == LISTENER_NO_MEMORY)
        group->hooks->lost(group, &client->peer, -IOE_NOMEM, 0);
}

/* An admitted client cannot be served. */
static void listener_lose(io_listener *self, const listener_client *client, int error,
                          uint32_t os_error) {
    io_group *group = self->group;
    listener_lock(group);
    group->admitted--;
    group->figures.failed++;
    io_hosts_remove(&group->hosts, client->host);
    listener_unlock(group);
    io_port_close_native(listener_port_of(self), client->native, self->family);
    group->hooks->lost(group, &client->peer, error, os_error);
}

/* Makes the client a member, arms the next accept and drops the caller's use of the listener.
 * Returns 0 or a portable error; on an error the caller keeps its use. */
static int listener_join(io_listener *self, const listener_client *client, io_member *member,
                         bool post, uint32_t *os_error) {
    io_group *group = self->group;
    io_port *port = listener_port_of(self);
    io_group_beginning beginning;
    bool release = false;
    int error = io_port_enter(port);
    if (error)
        return error;
    listener_lock(group);
    error = io_group_enlist(group, member, client->native, self->family, client->host, &beginning,
                            os_error);
    if (error == 0) {
        group->admitted--;
        listener_accept_next(self);
        release = listener_drop_user(self);
    }
    listener_unlock(group);
    if (error == 0)
        io_group_begin(group, member, beginning, post);
    io_port_leave(port);
    if (release)
        group->hooks->release_listener(self);
    return error;
}

/* Returns NULL if the client was lost; `lost` was called. Otherwise the caller's use of the
 * listener is dropped, and with `post` other threads may already have released the member. */
static io_member *listener_connect(io_listener *self, const listener_client *client, bool post) {
    const io_group_hooks *hooks = self->group->hooks;
    io_member *member = hooks->make(self->group, &client->peer);
    uint32_t os_error = 0;
    int error = 0;
    if (member != NULL) {
        error = listener_join(self, client, member, post, &os_error);
        if (error == 0)
            return member;
        hooks->release(member);
    }
    listener_lose(self, client, error, os_error);
    return NULL;
}

static void listener_continue(io_listener *self, uint64_t pause_ns) {
    if (io_port_enter(listener_port_of(self)) != 0)
        return;
    listener_lock(self->group);
    if (pause_ns > 0)
        listener_pause(self, pause_ns);
    else
        listener_accept_next(self);
    listener_unlock(self->group);
    io_port_leave(listener_port_of(self));
}

/* Finds a listener of the group whose waiting client can be handled now, and holds it for the
 * caller. Listeners without one just accept again. Returns NULL if there is none. The port must be
 * entered. */
static io_listener *listener_next_to_resume(io_group *group, listener_client *client,
                                            listener_outcome *outcome) {
    io_listener *found = NULL;
    listener_lock(group);
    for (io_link *link = group->listeners.next;
         link != &group->listeners && !io_group_full(group) && found == NULL; link = link->next) {
        io_listener *listener = IO_CONTAINER(link, io_listener, link);
        if (listener->waiting == IO_NATIVE_NONE) {
            listener_accept_next(listener);
            continue;
        }
        *client = (listener_client){.native = listener->waiting, .peer = listener->waiting_peer};
        *outcome = listener_admit(group, client);
        listener->waiting = IO_NATIVE_NONE;
        listener->users++;
        found = listener;
    }
    listener_unlock(group);
    return found;
}

/* Called when there may be room for more members. */
static void listener_resume_all(io_group *group) {
    io_port *port = group->lane->port;
    listener_client client;
    listener_outcome outcome;
    if (group->max_connections == 0)
        return;
    while (io_port_enter(port) == 0) {
        io_listener *listener = listener_next_to_resume(group, &client, &outcome);
        io_port_leave(port);
        if (listener == NULL)
            return;
        bool joined =
            outcome == LISTENER_ADMITTED && listener_connect(listener, &client, true) != NULL;
        if (outcome != LISTENER_ADMITTED)
            listener_turn_away(listener, &client, outcome);
        if (!joined)
            io_listener_unref(listener);
    }
}

/* ---- operations that have ended -------------------------------------------------------------- */

static bool listener_take(io_op *op) {
    io_listener *self = op->owner;
    io_group *group = self->group;
    const io_group_hooks *hooks = group->hooks;
    int64_t result = op->result;
    uint32_t os_error = op->os_error;
    listener_client client;
    listener_outcome outcome;
    io_member *member = NULL;
    listener_lock(group);
    uint64_t pause_ns = listener_record(self, op, &client, &outcome);
    listener_unlock(group);
    listener_release_op(self, op);
    if (pause_ns > 0)
        hooks->paused(self, (int)result, os_error);
    if (outcome == LISTENER_ADMITTED)
        member = listener_connect(self, &client, false);
    else
        listener_turn_away(self, &client, outcome);
    io_assert(io_no_lock_is_mine());
    if (member != NULL)
        return hooks->run(member, io_connection_taken(&member->io, &member->io.wakeup));
    listener_continue(self, pause_ns);
    if (outcome == LISTENER_ADMITTED)
        listener_resume_all(group); /* another client may wait for its place */
    io_listener_unref(self);
    return true;
}

static void listener_collect(io_op *op, bool leaked) {
    io_listener *self = op->owner;
    if (leaked)
        return;                                   /* it stays with the listener */
    if (op->kind == IO_ACCEPT && op->result >= 0) /* too late to serve it */
        io_port_close_native(listener_port_of(self), ((io_accept *)op)->accepted, self->family);
    listener_lock(self->group);
    self->op = NULL;
    listener_unlock(self->group);
    listener_release_op(self, op);
    io_listener_unref(self);
}

void io_group_leave(io_group *group, io_member *member) {
    const io_group_hooks *hooks = group->hooks;
    bool established = io_connection_is_known(&member->io);
    listener_lock(group);
    group->figures.closed += established;
    group->figures.failed += !established;
    bool last = io_group_delist(group, member);
    bool release = io_member_unref(member);
    listener_unlock(group);
    listener_resume_all(group);
    if (last)
        hooks->empty(group);
    if (release)
        hooks->release(member);
}
