/* registry.c: the groups of a port, and how its end reaches their connections and listeners. */
#include "net/listener.h"

int io_registry_open(io_registry *self) {
    io_list_init(&self->groups);
    return io_mutex_init(&self->lock) == 0 ? 0 : -IOE_NOMEM;
}

void io_registry_close(io_registry *self) {
    io_mutex_destroy(&self->lock);
}

/* Starts to walk a group that the end has not reached yet. Returns NULL if there is none. */
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
    if (leaked) { /* never released: the kernel may still write to it */
        io_mutex_lock(&self->lock);
        member->entry.users++;
        io_mutex_unlock(&self->lock);
    }
    if (io_connection_orphaned(&member->io, leaked))
        group->hooks->run_last(member, io_connection_next(&member->io));
}

/* Returns a listener that is not closed, and holds it for the caller. */
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
