/* server.h: a server (net/group.h, net/listener.h) with an embedder in miniature, and its clients.
 *
 * The embedder checks what the hooks promise: no lock is held, one thread at a time runs a member,
 * STARTED comes first and GONE last, and an object is released once, after which its memory is
 * freed. server_check adds up: every accepted client is a member, refused, lost, too late, or
 * waits. */
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
    _Atomic int references; /* its group's, and that of the thread that runs it */
    _Atomic int inside;     /* threads that run it */
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
    bool open; /* was opened */
} server_listener;

struct server_group {
    io_group io;
    server *server;
    bool shakes_hands; /* members are not established when they start, but by the test */
    bool makes_none;   /* `make` fails */
    void (*on_make)(server_group *group); /* inside the hooks */
    void (*on_run)(server_member *member, io_connection_event event);
    void (*on_told)(server_group *group); /* refused, lost, or paused */
    void (*on_time_out)(server_member *member, io_reason reason);
    _Atomic int made, adopted, refused, lost, empty, holds;
    _Atomic int closes, gives_up; /* how often asked for */
    _Atomic int gone_known, gone_unknown;
    int last_error; /* of `lost` */
};

typedef struct server_client {
    server *server;
    io_native native;
    io_handle *handle; /* NULL: closed, or not used */
    int in_flight;
    bool connected, failed;
    bool ended; /* the server has closed it */
    char buffer[64];
} server_client;

struct server {
    test_world world;
    io_registry *registry;
    server_group groups[SERVER_GROUPS]; /* the first is that of the listeners */
    server_listener listeners[SERVER_LISTENERS];
    int listener_count;
    _Atomic int member_count, client_count;
    server_member *members[SERVER_MEMBERS]; /* NULL: freed */
    server_client clients[SERVER_CLIENTS];
    _Atomic int freed;
};

void server_open(server *self, const char *backend, uint32_t concurrency);
server_listener *server_listen(server *self);
/* A client that begins to connect. */
server_client *server_connect(server *self, const server_listener *listener);
void server_client_close(server_client *client);
void server_close_listener(server_listener *listener);
/* A member of a group made of one of two connected natives; the other end is a new client. */
server_member *server_adopt(server *self, server_group *group);

/* One operation, of whomever; false if none comes within this time. */
bool server_step(server *self, unsigned ms);
void server_take(io_op *op);
void server_settle(server *self); /* until nothing happens any more */
#define SERVER_UNTIL(self, condition)                                                \
    do {                                                                             \
        while (!(condition))                                                         \
            if (!server_step(self, 10000))                                           \
                FAIL("%s: never came: %s", (self)->world.backend->name, #condition); \
    } while (0)

/* The first member that is not gone, or NULL. */
server_member *server_first_member(server *self);
int server_waiting(server *self); /* clients that wait in listeners */
int server_ended_clients(server *self);
/* The counts add up. Not while other threads run it. */
void server_check(server *self);

/* Closes clients and listeners, waits until everything has ended, and closes the port. */
void server_close(server *self);
/* Closes the port with whatever there is, and checks that everything has ended with it; how many
 * operations the kernel has kept. `others`, if not NULL, is called when all is collected: other
 * threads may still bring what they have taken. */
size_t server_close_port(server *self, uint64_t timeout_ns, void (*others)(void));

#endif
