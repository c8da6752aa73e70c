/* parcels.h: datagram sockets (net/datagram.h) with a minimal embedder.
 *
 * Each datagram contains its sender and a sequence number, and is filled from these. So every one
 * that arrives can be checked: it is complete, comes from the address of its sender, and follows
 * those sent before. The embedder also checks the guarantees of every socket: only one turn
 * delivers datagrams at a time, nothing is delivered after the close, the memory of a send is
 * returned once, and the figures are right. A box is freed with its last reference, so that
 * sanitizers detect late accesses. */
#ifndef IOCPCORE_TEST_PARCELS_H
#define IOCPCORE_TEST_PARCELS_H

#include "op_case.h"

#include "net/datagram.h"

enum { PARCEL_BOXES = 64, PARCEL_EVENTS = IO_DATAGRAM_NOT_SENT + 1, PARCEL_MIN = 24 };
enum { PARCELS_TURN = 16 }; /* datagrams that one turn delivers at most */

/* A value of `scripted`: send_now reports success, but nothing arrives. */
enum { PARCELS_LOST = 1 };

typedef struct parcels parcels;

typedef struct parcel_box {
    io_datagram_socket io;
    parcels *parcels;
    int index;
    io_native native;
    io_mutex sending; /* keeps the numbers in order when several threads send */
    uint64_t out;     /* the sequence number of the next datagram it sends */
    uint64_t in[PARCEL_BOXES];
    _Atomic int references; /* one of the test, and one for each operation and each call */
    _Atomic bool handing_on;
    _Atomic bool closed;
    _Atomic int came[PARCEL_EVENTS];
    _Atomic int sent, dropped, delivered, kept, collected;
    _Atomic uint64_t pending; /* the bytes of `kept` */
    _Atomic int longest_turn; /* datagrams */
    bool pauses;              /* after NOT_RECEIVED the test starts the next receive */
    bool loses;               /* has no memory for received datagrams */
    bool stops;               /* ends its turn after each event */
    int32_t error;            /* of the last NOT_... event */
    uint32_t failures;
    void (*on_event)(struct parcel_box *box, io_datagram_event event); /* called first */
    void (*on_delivered)(struct parcel_box *box);
} parcel_box;

struct parcels {
    test_world world;
    io_backend backend;         /* the backend of the world, with send_now replaced */
    _Atomic int scripted;       /* the result of send_now; 0: ask the system */
    _Atomic int send_now_calls; /* total number */
    io_address addresses[PARCEL_BOXES];
    int count;
    bool port_closed;
};

extern _Atomic int parcel_owned; /* number of memory pieces not released yet */

/* Opens a port on that backend. Its send_now can be scripted even if the backend has none. */
void parcels_open(parcels *self, const char *backend, uint32_t concurrency);
/* Closes the port, on which nothing may be left. */
void parcels_close(parcels *self);
/* Closes the port with operations in flight. Returns how many the kernel has kept. */
size_t parcels_close_port(parcels *self, uint64_t timeout_ns);

/* Opens a socket that does not receive yet, and may queue `max_write_buffer` bytes. */
parcel_box *parcel_box_new(parcels *self, uint64_t max_write_buffer);
/* Opens a socket for this native. Returns NULL and sets `error` if that fails. */
parcel_box *parcel_box_adopt(parcels *self, io_native native, const io_address *address,
                             uint64_t max_write_buffer, int *error);
void parcel_secure(parcel_box *box); /* adds a reference */
void parcel_drop(parcel_box *box);   /* drops one; the last frees the box, which must be closed */
void parcel_close(parcel_box *box);
void parcel_end(parcel_box *box); /* closes it, and drops the test's reference */
bool parcel_receive(parcel_box *box);
/* Sends to the box with index `to`. Returns the result of io_datagram_socket_send. */
int parcel_send(parcel_box *box, int to, size_t length);

/* Processes a completed operation. */
void parcel_take(io_op *op);
/* Processes one operation. Returns false if none completes in time. */
bool parcel_step(parcels *self, unsigned ms);
#define PARCEL_UNTIL(self, condition)                                                \
    do {                                                                             \
        while (!(condition))                                                         \
            if (!parcel_step(self, 10000))                                           \
                FAIL("%s: never came: %s", (self)->world.backend->name, #condition); \
    } while (0)

/* Checks the figures against those counted here. No other thread may use the box. */
void parcel_check(parcel_box *box);

#endif
