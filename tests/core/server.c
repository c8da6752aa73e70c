/* server.c: see server.h. */
#include "server.h"

#ifndef _WIN32
#include <fcntl.h>
#endif

/* ---- the embedder ---------------------------------------------------------------------------- */

static server_group *group_of(io_group *group) {
    return IO_CONTAINER(group, server_group, io);
}

static server_member *member_of(io_member *member) {
    return IO_CONTAINER(member, server_member, io);
}

static server_member *member_new(server_group *group) {
    server *self = group->server;
    server_member *member = calloc(1, sizeof(*member));
    CHECK(member != NULL);
    member->group = group;
    member->index = atomic_fetch_add(&self->member_count, 1);
    CHECK(member->index < SERVER_MEMBERS);
    atomic_store(&member->references, 1);
    self->members[member->index] = member;
    return member;
}

static void let_go(server_member *member) {
    server *self = member->group->server;
    if (atomic_fetch_sub(&member->references, 1) != 1)
        return;
    self->members[member->index] = NULL;
    atomic_fetch_add(&self->freed, 1);
    memset(member, 0xa5, sizeof(*member));
    free(member);
}

static io_member *make(io_group *group, const io_address *peer) {
    server_group *self = group_of(group);
    CHECK(io_no_lock_is_mine());
    CHECK(peer->length > 0);
    if (self->on_make != NULL)
        self->on_make(self);
    if (self->makes_none)
        return NULL;
    atomic_fetch_add(&self->made, 1);
    return &member_new(self)->io;
}

static void handle(server_member *member, io_connection_event event) {
    server_group *group = member->group;
    size_t length;
    CHECK(!member->gone);
    CHECK(event == IO_CONNECTION_STARTED || event == IO_CONNECTION_GONE || member->started == 1);
    if (group->on_run != NULL)
        group->on_run(member, event);
    switch (event) {
    case IO_CONNECTION_STARTED:
        CHECK_INT(++member->started, 1);
        if (!group->shakes_hands)
            io_connection_establish(&member->io.io);
        break;
    case IO_CONNECTION_INPUT:
        (void)io_connection_input(&member->io.io, &length);
        io_connection_used(&member->io.io, length);
        break;
    case IO_CONNECTION_EOF:
        io_connection_close(&member->io.io, true);
        break;
    case IO_CONNECTION_GONE:
        member->gone = true;
        atomic_fetch_add(
            io_connection_is_known(&member->io.io) ? &group->gone_known : &group->gone_unknown, 1);
        io_group_leave(&group->io, &member->io);
        break;
    default:
        break;
    }
}

static bool run(io_member *io, io_connection_event event) {
    server_member *member = member_of(io);
    if (event == IO_CONNECTION_IDLE)
        return true;
    atomic_fetch_add(&member->references, 1);
    do {
        CHECK(io_no_lock_is_mine());
        CHECK_INT(atomic_fetch_add(&member->inside, 1), 0);
        handle(member, event);
        CHECK_INT(atomic_fetch_sub(&member->inside, 1), 1);
        CHECK(io_connection_take_spent(&io->io) == NULL);
    } while ((event = io_connection_next(&io->io)) != IO_CONNECTION_IDLE);
    let_go(member);
    return true;
}

static void run_last(io_member *io, io_connection_event event) {
    (void)run(io, event);
}

static bool take_member(io_op *op) {
    io_connection *io = op->owner;
    return run(IO_CONTAINER(io, io_member, io), io_connection_taken(io, op));
}

static void collect_member(io_op *op, bool leaked) {
    if (!leaked)
        io_connection_collected(op->owner, op);
}

static void close_member(io_member *member) {
    CHECK(io_no_lock_is_mine());
    atomic_fetch_add(&member_of(member)->group->closes, 1);
    io_connection_close(&member->io, false);
}

static bool give_up(io_member *member) {
    CHECK(io_no_lock_is_mine());
    atomic_fetch_add(&member_of(member)->group->gives_up, 1);
    return io_connection_give_up(&member->io, false);
}

static void time_out(io_member *member, io_reason reason) {
    server_group *group = member_of(member)->group;
    CHECK(io_no_lock_is_mine());
    if (group->on_time_out != NULL)
        group->on_time_out(member_of(member), reason);
    (void)io_connection_fail(&member->io, reason, -IOE_TIMEDOUT);
}

static void release(io_member *member) {
    CHECK(io_no_lock_is_mine());
    CHECK(!atomic_exchange(&member_of(member)->released, true));
    let_go(member_of(member));
}

static void hold_group(io_group *group) {
    CHECK(io_no_lock_is_mine());
    atomic_fetch_add(&group_of(group)->holds, 1);
}

static void release_group(io_group *group) {
    CHECK(io_no_lock_is_mine());
    CHECK(atomic_fetch_sub(&group_of(group)->holds, 1) > 0);
}

static void empty(io_group *group) {
    CHECK(io_no_lock_is_mine());
    atomic_fetch_add(&group_of(group)->empty, 1);
}

static void told(server_group *group) {
    CHECK(io_no_lock_is_mine());
    if (group->on_told != NULL)
        group->on_told(group);
}

static void refused(io_group *group, const io_address *peer) {
    CHECK(peer->length > 0);
    atomic_fetch_add(&group_of(group)->refused, 1);
    told(group_of(group));
}

static void lost(io_group *group, const io_address *peer, int error, uint32_t os_error) {
    server_group *self = group_of(group);
    (void)peer;
    (void)os_error;
    CHECK(error <= 0 && (error == 0) == self->makes_none);
    self->last_error = error;
    atomic_fetch_add(&self->lost, 1);
    told(self);
}

static void paused(io_listener *io, int error, uint32_t os_error) {
    server_listener *listener = IO_CONTAINER(io, server_listener, io);
    (void)os_error;
    CHECK(error < 0 && error != -IOE_CANCELED);
    listener->last_error = error;
    atomic_fetch_add(&listener->paused, 1);
    told(group_of(io->group));
}

static void release_listener(io_listener *io) {
    server_listener *listener = IO_CONTAINER(io, server_listener, io);
    CHECK(io_no_lock_is_mine());
    CHECK(!atomic_exchange(&listener->released, true));
    memset(io, 0xa5, sizeof(*io));
}

static const io_owner_ops member_ops = {take_member, collect_member};

static const io_group_hooks hooks = {
    .connection_ops = &member_ops,
    .make = make,
    .run = run,
    .run_last = run_last,
    .close = close_member,
    .give_up = give_up,
    .time_out = time_out,
    .release = release,
    .hold_group = hold_group,
    .release_group = release_group,
    .empty = empty,
    .refused = refused,
    .lost = lost,
    .paused = paused,
    .release_listener = release_listener,
};

/* ---- clients --------------------------------------------------------------------------------- */

static bool take_client(io_op *op);

static void collect_client(io_op *op, bool leaked) {
    if (!leaked)
        io_op_release(op);
}

static const io_owner_ops client_ops = {take_client, collect_client};

static void submit_client(server_client *client, io_op *op) {
    op->owner_ops = &client_ops;
    op->owner = client;
    client->in_flight++;
    io_op_submit(op, client->handle);
}

static void receive(server_client *client) {
    submit_client(client, new_recv(&client->server->world, client->buffer, sizeof(client->buffer)));
}

static bool take_client(io_op *op) {
    server_client *client = op->owner;
    bool connects = op->kind == IO_CONNECT;
    int64_t result = op->result;
    io_op_release(op);
    client->in_flight--;
    if (connects) {
        client->connected = result == 0;
        client->failed = result < 0;
    } else if (result <= 0) {
        client->ended = true;
    }
    if (client->handle == NULL || client->failed || client->ended || client->in_flight > 0)
        return true;
    if (io_port_enter(client->server->world.port) == 0) {
        receive(client);
        io_port_leave(client->server->world.port);
    }
    return true;
}

static server_client *client_new(server *self, io_native native) {
    int index = atomic_fetch_add(&self->client_count, 1);
    CHECK(index < SERVER_CLIENTS);
    server_client *client = &self->clients[index];
    *client = (server_client){.server = self, .native = native};
    client->handle = world_handle(&self->world, native);
    return client;
}

server_client *server_connect(server *self, const server_listener *listener) {
    server_client *client = client_new(self, world_socket(&self->world));
    submit_client(client, new_connect(&self->world, &listener->address));
    return client;
}

void server_client_close(server_client *client) {
    io_handle *handle = client->handle;
    client->handle = NULL;
    if (handle != NULL)
        world_handle_close(handle);
}

/* ---- making ---------------------------------------------------------------------------------- */

/* The memory of handles is there before other threads are: the race detector does not see that the
 * kernel hands a handle from the thread that opens it to the one that waits. */
static void make_room_for_handles(server *self) {
    enum { HANDLES = 160 };
    io_handle *handles[HANDLES];
    for (int i = 0; i < HANDLES; i++)
        handles[i] = world_handle(&self->world, world_socket(&self->world));
    for (int i = 0; i < HANDLES; i++)
        world_handle_close(handles[i]);
}

void server_open(server *self, const char *backend, uint32_t concurrency) {
    memset(self, 0, sizeof(*self));
    world_open(&self->world, backend, concurrency);
    self->registry = io_registry_of(self->world.port);
    CHECK(self->registry != NULL && io_registry_of(self->world.port) == self->registry);
    for (int i = 0; i < SERVER_GROUPS; i++) {
        server_group *group = &self->groups[i];
        group->server = self;
        io_group_init(&group->io, self->registry, self->world.lane, &hooks);
        group->io.limits = (io_connection_limits){.write_high = 65536,
                                                  .write_low = 16384,
                                                  .max_write_buffer = 1 << 20,
                                                  .read_size = 8192};
    }
    if (concurrency > 1)
        make_room_for_handles(self);
}

server_listener *server_listen(server *self) {
    CHECK(self->listener_count < SERVER_LISTENERS);
    server_listener *listener = &self->listeners[self->listener_count++];
    io_native native = world_listener(&self->world, &listener->address);
    listener->native = native;
    listener->server = self;
    listener->open = true;
    CHECK_INT(io_port_enter(self->world.port), 0);
    io_listener_open(&listener->io, &self->groups[0].io, world_handle(&self->world, native),
                     AF_INET);
    io_port_leave(self->world.port);
    return listener;
}

void server_close_listener(server_listener *listener) {
    if (!listener->open || atomic_load(&listener->released))
        return;
    CHECK_INT(io_port_enter(listener->server->world.port), 0);
    io_listener_close(&listener->io);
    io_port_leave(listener->server->world.port);
}

static void set_nonblocking(const server *self, io_native native) {
#ifdef _WIN32
    u_long on = 1;
    CHECK(self->world.sim || ioctlsocket((SOCKET)native, (long)FIONBIO, &on) == 0);
#else
    CHECK(self->world.sim || fcntl((int)native, F_SETFL, O_NONBLOCK) == 0);
#endif
}

server_member *server_adopt(server *self, server_group *group) {
    io_native natives[2];
    uint32_t os_error = 0;
    world_pair(&self->world, natives);
    set_nonblocking(self, natives[0]);
    server_member *member = member_new(group);
    atomic_fetch_add(&group->adopted, 1);
    CHECK_INT(io_group_adopt(&group->io, &member->io, natives[0], AF_INET, &os_error), 0);
    server_client *client = client_new(self, natives[1]);
    client->connected = true;
    receive(client);
    return member;
}

/* ---- running --------------------------------------------------------------------------------- */

void server_take(io_op *op) {
    CHECK(op->owner_ops != NULL);
    CHECK(op->owner_ops->take(op));
}

bool server_step(server *self, unsigned ms) {
    io_op *op = world_get(&self->world, ms);
    if (op != NULL)
        server_take(op);
    return op != NULL;
}

void server_settle(server *self) {
    while (server_step(self, self->world.sim ? 200 : 30))
        continue;
}

server_member *server_first_member(server *self) {
    int count = atomic_load(&self->member_count);
    for (int i = 0; i < count; i++)
        if (self->members[i] != NULL && !self->members[i]->gone &&
            self->members[i]->io.entry.users > 0)
            return self->members[i];
    return NULL;
}

int server_waiting(server *self) {
    int waiting = 0;
    for (int i = 0; i < self->listener_count; i++)
        if (!atomic_load(&self->listeners[i].released))
            waiting += self->listeners[i].io.waiting != IO_NATIVE_NONE;
    return waiting;
}

int server_ended_clients(server *self) {
    int ended = 0;
    for (int i = 0; i < atomic_load(&self->client_count); i++)
        ended += self->clients[i].ended;
    return ended;
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* How many members the list of a group has. */
static size_t listed(server_group *group) {
    size_t count = 0;
    io_walk walk;
    for (io_member *member = io_walk_first(&walk, &group->io); member != NULL;
         member = io_walk_next(&walk))
        count++;
    return count;
}

static void check_group(server_group *group, uint64_t waiting) {
    io_group_figures figures;
    io_group *io = &group->io;
    io_group_get_figures(io, &figures);
    uint64_t gone_known = (uint64_t)atomic_load(&group->gone_known);
    uint64_t gone_unknown = (uint64_t)atomic_load(&group->gone_unknown);
    uint64_t members = io->count + gone_known + gone_unknown;
    CHECK_INT(listed(group), io->count);
    CHECK_INT(io_group_count(io), io->count);
    CHECK_INT(figures.closed, gone_known);
    CHECK_INT(figures.refused, atomic_load(&group->refused));
    CHECK(figures.failed >= gone_unknown + (uint64_t)atomic_load(&group->lost));
    CHECK_INT(io->admitted, 0);
    CHECK_INT(figures.established + figures.establishing, io->count);
    CHECK(io->max_connections == 0 || io->count <= io->max_connections ||
          atomic_load(&group->adopted) > 0);
    CHECK_INT(figures.accepted + (uint64_t)atomic_load(&group->adopted),
              members + figures.refused + figures.failed - gone_unknown + waiting);
    CHECK_INT(atomic_load(&group->holds), io->ticks);
    CHECK(!io_list_empty(&io->link) == (io->count > 0 || !io_list_empty(&io->listeners)));
    if (io->count == 0)
        CHECK(io->hosts.root == NULL);
    CHECK(io->count > 0 || members == 0 || atomic_load(&group->empty) > 0);
}

void server_check(server *self) {
    for (int i = 0; i < SERVER_GROUPS; i++)
        check_group(&self->groups[i], i == 0 ? (uint64_t)server_waiting(self) : 0);
}

static void check_ended(server *self) {
    for (int i = 0; i < self->listener_count; i++)
        CHECK(atomic_load(&self->listeners[i].released));
    for (int i = 0; i < SERVER_GROUPS; i++) {
        CHECK_INT(self->groups[i].io.count, 0);
        CHECK_INT(atomic_load(&self->groups[i].holds), 0);
    }
    CHECK_INT(atomic_load(&self->freed), atomic_load(&self->member_count));
    CHECK(io_list_empty(&self->registry->groups));
}

/* ---- the end --------------------------------------------------------------------------------- */

static bool busy(server *self) {
    bool is_busy = false;
    for (int i = 0; i < self->listener_count; i++)
        is_busy |= !atomic_load(&self->listeners[i].released);
    for (int i = 0; i < SERVER_GROUPS; i++)
        is_busy |= self->groups[i].io.count > 0 || atomic_load(&self->groups[i].holds) > 0;
    return is_busy || atomic_load(&self->world.port->in_flight) > 0;
}

void server_close(server *self) {
    io_port_figures figures;
    for (int i = 0; i < self->listener_count; i++)
        server_close_listener(&self->listeners[i]);
    for (int i = 0; i < atomic_load(&self->client_count); i++)
        server_client_close(&self->clients[i]);
    for (int i = 0; i < SERVER_GROUPS; i++) {
        self->groups[i].io.idle_ticks = self->groups[i].io.handshake_ticks = 0;
        (void)io_group_abort(&self->groups[i].io);
    }
    SERVER_UNTIL(self, !busy(self));
    server_check(self);
    check_ended(self);
    io_port_stats(self->world.port, &figures);
    CHECK_INT(figures.handles, 0);
    world_close(&self->world);
}

static void collect(io_op *op, bool leaked, void *context) {
    (void)context;
    op->owner_ops->collect(op, leaked);
}

size_t server_close_port(server *self, uint64_t timeout_ns, void (*others)(void)) {
    CHECK(io_port_begin_close(self->world.port));
    size_t leaked = io_port_drain(self->world.port, timeout_ns);
    io_port_take_remaining(self->world.port, collect, NULL);
    io_port_end_resident(self->world.port, leaked > 0);
    if (others != NULL)
        others();
    for (int i = 0; i < atomic_load(&self->client_count); i++)
        server_client_close(&self->clients[i]);
    io_port_finish_close(self->world.port, leaked);
    if (leaked == 0) {
        server_check(self);
        check_ended(self);
        io_port_destroy(self->world.port);
    }
    return leaked;
}
