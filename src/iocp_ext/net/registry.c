/* registry.c: the groups of a port, and what its end means to them. */
#include "net/listener.h"

int io_registry_open(io_registry *self) {
    io_list_init(&self->groups);
    return io_mutex_init(&self->lock) == 0 ? 0 : -IOE_NOMEM;
}

void io_registry_close(io_registry *self) {
    io_mutex_destroy(&self->lock);
}

/* Begins a walk along a group to which the end has not come yet. NULL: there is none. */
static io_member *registry_first_orphan(io_registry *self, io_walk *walk) {
    io_member *member = NULL;
    io_mutex_lock(&self->lock);
    for (io_link *link = self->groups.next; link != &self->groups && member == NULL;
         link = link->next) {
        io_group *group = IO_CONTAINER(link, io_group, link);
        if (!group->orphaned)
            member = io_walk_first_locked(walk, group);
        group->orphaned = true;
    }
    io_mutex_unlock(&self->lock);
    return member;
}

static void registry_orphan(io_registry *self, io_group *group, io_member *member, bool leaked) {
    if (leaked) { /* the kernel may write to it for ever */
        io_mutex_lock(&self->lock);
        member->entry.users++;
        io_mutex_unlock(&self->lock);
    }
    if (io_connection_orphaned(&member->io, leaked))
        group->hooks->run_last(member, io_connection_next(&member->io));
}

/* A listener that is not closed; the caller is a user of it. */
static io_listener *registry_first_listener(io_registry *self) {
    io_listener *listener = NULL;
    io_mutex_lock(&self->lock);
    for (io_link *link = self->groups.next; link != &self->groups && listener == NULL;
         link = link->next) {
        io_group *group = IO_CONTAINER(link, io_group, link);
        if (!io_list_empty(&group->listeners))
            listener = IO_CONTAINER(group->listeners.next, io_listener, link);
    }
    if (listener != NULL)
        listener->users++;
    io_mutex_unlock(&self->lock);
    return listener;
}

void io_registry_end(io_registry *self, bool leaked) {
    io_walk walk;
    io_member *member;
    io_listener *listener;
    while ((member = registry_first_orphan(self, &walk)) != NULL)
        for (; member != NULL; member = io_walk_next(&walk))
            registry_orphan(self, walk.group, member, leaked);
    while ((listener = registry_first_listener(self)) != NULL) {
        io_listener_close(listener);
        io_listener_left(listener);
    }
}
