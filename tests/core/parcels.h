/* parcels.h: datagram sockets (net/datagram.h) with an embedder in miniature.
 *
 * Each datagram says who sent it, as the how manyth, and is filled from that. So every one that
 * arrives is checked: it is whole, comes from the address it says, and after those that its sender
 * sent before. The embedder also checks what every socket promises: one turn hands datagrams on at
 * a time, nothing is delivered after the close, the memory of a send comes back once, and the
 * figures are right. A box is freed with its last reference, so that a tool sees late accesses. */
#ifndef IOCPCORE_TEST_PARCELS_H
#define IOCPCORE_TEST_PARCELS_H

#include "scene.h"

#include "net/datagram.h"

enum { PARCEL_BOXES = 64, PARCEL_EVENTS = IO_DATAGRAM_NOT_SENT + 1, PARCEL_MIN = 24 };
enum { PARCELS_TURN = 16 }; /* datagrams, until others have their turn */

/* A script of send_now: it says that it has sent, but nothing arrives. */
enum { PARCELS_LOST = 1 };

typedef struct parcels parcels;

typedef struct parcel_box {
    io_datagram_socket io;
    parcels *parcels;
    int index;
    io_native native;
    io_mutex sending; /* keeps the numbers in order where several threads send */
    uint64_t out;     /* the number of what it sends next */
    uint64_t in[PARCEL_BOXES];
    _Atomic int references; /* the test's, and one for each operation and each call */
    _Atomic bool handing_on;
    _Atomic bool closed;
    _Atomic int came[PARCEL_EVENTS];
    _Atomic int sent, dropped, delivered, kept, collected;
    _Atomic uint64_t pending; /* the bytes of `kept` */
    _Atomic int longest_turn; /* datagrams */
    bool pauses;              /* after NOT_RECEIVED it is the test that asks for the next one */
    bool loses;               /* has no memory for what is received */
    bool stops;               /* ends its turns after each event */
    int32_t error;            /* of the last NOT_... */
    uint32_t failures;
    void (*on_event)(struct parcel_box *box, io_datagram_event event); /* before it is handed on */
    void (*on_delivered)(struct parcel_box *box);
} parcel_box;

struct parcels {
    test_world world;
    io_backend backend;         /* the world's, with: */
    _Atomic int scripted;       /* send_now answers this; 0: what the system says */
    _Atomic int send_now_calls; /* all */
    io_address addresses[PARCEL_BOXES];
    int count;
    bool port_closed;
};

extern _Atomic int parcel_owned; /* pieces of memory that are not released yet */

/* A port on that backend, whose send_now can be scripted, though the backend may have none. */
void parcels_open(parcels *self, const char *backend, uint32_t concurrency);
/* Nothing may be left. */
void parcels_close(parcels *self);
/* With whatever is in flight. How much the kernel has kept. */
size_t parcels_close_port(parcels *self, uint64_t timeout_ns);

/* An open socket that does not receive yet, and can wait with `max_write_buffer` bytes. */
parcel_box *parcel_box_new(parcels *self, uint64_t max_write_buffer);
/* The same for this native. NULL if it cannot be opened; `error` says why. */
parcel_box *parcel_box_adopt(parcels *self, io_native native, const io_address *address,
                             uint64_t max_write_buffer, int *error);
void parcel_secure(parcel_box *box); /* one reference more */
void parcel_drop(parcel_box *box);   /* one less: the last one frees it, which must be closed */
void parcel_close(parcel_box *box);
void parcel_end(parcel_box *box); /* closes it, and drops the test's reference */
bool parcel_receive(parcel_box *box);
/* What io_datagram_socket_send answers. `to` is the number of a box. */
int parcel_send(parcel_box *box, int to, size_t length);

/* An operation that was taken. */
void parcel_take(io_op *op);
/* One operation; false if none comes within this time. */
bool parcel_step(parcels *self, unsigned ms);
#define PARCEL_UNTIL(self, condition)                                                \
    do {                                                                             \
        while (!(condition))                                                         \
            if (!parcel_step(self, 10000))                                           \
                FAIL("%s: never came: %s", (self)->world.backend->name, #condition); \
    } while (0)

/* While nobody else uses it: the figures are those that were counted here. */
void parcel_check(parcel_box *box);

#endif
