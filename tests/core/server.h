/* server.h: a server (net/group.h, net/listener.h) with a minimal embedder, and its clients.
 *
 * The embedder checks the guarantees of the hooks: no lock is held, one thread at a time runs a
 * member, STARTED comes first and GONE last, and an object is released once, after which its memory
 * is freed. server_check checks the counts: every accepted client is a member, or was refused,
 * lost or accepted too late, or still waits. */
#ifndef IOCPCORE_TEST_SERVER_H
#define IOCPCORE_TEST_SERVER_H

#include "world.h"

#include "net/listener.h"

enum { SERVER_MEMBERS = 512, SERVER_CLIENTS = 512, SERVER_LISTENERS = 4, SERVER_GROUPS = 2 };

typedef struct server server;
typedef struct server_group server_group;

typedef struct server_member {
    io_member io;
    server_group *group;
    int index;              /* in server.members */
    _Atomic int references; /* one of its group, one of the thread that runs it */
    _Atomic int inside;     /* number of threads that run it */
    int started;
    bool gone;
    _Atomic bool released;
} server_member;

typedef struct server_listener {
    io_listener io;
    server *server;
    io_native native;
    io_address address;
    _Atomic int paused;
    int last_error;
    _Atomic bool released;
    bool open; /* it has been opened */
} server_listener;

struct server_group {
    io_group io;
    server *server;
    bool shakes_hands;                    /* the test establishes members, not their start */
    bool makes_none;                      /* `make` fails */
    void (*on_make)(server_group *group); /* this and the next three are called by the hooks */
    void (*on_run)(server_member *member, io_connection_event event);
    void (*on_told)(server_group *group); /* for refused, lost and paused */
    void (*on_time_out)(server_member *member, io_reason reason);
    _Atomic int made, adopted, refused, lost, empty, holds;
    _Atomic int closes, gives_up; /* number of calls of these hooks */
    _Atomic int gone_known, gone_unknown;
    int last_error; /* of `lost` */
};

typedef struct server_client {
    server *server;
    io_native native;
    io_handle *handle; /* NULL: closed, or not used */
    int in_flight;
    bool connected, failed;
    bool ended; /* the server has closed the connection */
    char buffer[64];
} server_client;

struct server {
    test_world world;
    io_registry *registry;
    server_group groups[SERVER_GROUPS]; /* the first one has the listeners */
    server_listener listeners[SERVER_LISTENERS];
    int listener_count;
    _Atomic int member_count, client_count;
    server_member *members[SERVER_MEMBERS]; /* NULL: freed */
    server_client clients[SERVER_CLIENTS];
    _Atomic int freed;
};

void server_open(server *self, const char *backend, uint32_t concurrency);
server_listener *server_listen(server *self);
/* Starts to connect a new client. */
server_client *server_connect(server *self, const server_listener *listener);
void server_client_close(server_client *client);
void server_close_listener(server_listener *listener);
/* Adds one end of a connected pair to a group. The other end becomes a new client. */
server_member *server_adopt(server *self, server_group *group);

/* Processes one operation of any owner. Returns false if none completes in time. */
bool server_step(server *self, unsigned ms);
void server_take(io_op *op);
void server_settle(server *self); /* processes operations until none is left */
#define SERVER_UNTIL(self, condition)                                                \
    do {                                                                             \
        while (!(condition))                                                         \
            if (!server_step(self, 10000))                                           \
                FAIL("%s: never came: %s", (self)->world.backend->name, #condition); \
    } while (0)

/* The first member that is not gone, or NULL. */
server_member *server_first_member(server *self);
int server_waiting(server *self); /* number of clients that wait in listeners */
int server_ended_clients(server *self);
/* Checks that the counts add up. No other thread may run the server. */
void server_check(server *self);

/* Closes clients and listeners, waits until everything has ended, and closes the port. */
void server_close(server *self);
/* Closes the port with everything on it, and checks that everything has ended. Returns how many
 * operations the kernel has kept. `others`, if not NULL, is called when all operations have been
 * collected: simulated other threads then deliver what they have taken. */
size_t server_close_port(server *self, uint64_t timeout_ns, void (*others)(void));

#endif
