/* registry.c: the groups of a port, and how its end reaches their connections and listeners. */
#include "net/listener.h"

#include <stdlib.h>

static io_registry *registry_of(io_resident *resident) {
    return IO_CONTAINER(resident, io_registry, resident);
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

static void registry_end(io_resident *resident, bool leaked) {
    io_registry *self = registry_of(resident);
    io_walk walk;
    io_member *member;
    io_listener *listener;
    while ((member = registry_first_orphan(self, &walk)) != NULL)
        for (; member != NULL; member = io_walk_next(&walk))
            registry_orphan(self, walk.group, member, leaked);
    while ((listener = registry_first_listener(self)) != NULL) {
        io_listener_close(listener);
        io_listener_unref(listener);
    }
}

static void registry_free(io_resident *resident) {
    io_registry *self = registry_of(resident);
    io_mutex_destroy(&self->lock);
    free(self);
}

io_registry *io_registry_of(io_port *port) {
    io_resident *settled = atomic_load(&port->resident);
    if (settled != NULL)
        return registry_of(settled);
    io_registry *self = calloc(1, sizeof *self);
    if (self == NULL || io_mutex_init(&self->lock) != 0) {
        free(self);
        return NULL;
    }
    self->resident = (io_resident){registry_end, registry_free};
    io_list_init(&self->groups);
    settled = io_port_settle(port, &self->resident);
    if (settled != &self->resident) /* another thread was faster */
        registry_free(&self->resident);
    return registry_of(settled);
}
