/* duplex.h: a connection with owned handles at both ends, and a receive at each, embedded as in a
 * connection of the product. What such a receive leaves behind shows itself as one that never ends.
 */
#ifndef IOCPCORE_TEST_DUPLEX_H
#define IOCPCORE_TEST_DUPLEX_H

#include "world.h"

typedef struct duplex {
    test_world world;
    test_random random;
    io_native native[2];
    io_handle *handle[2]; /* NULL: closed */
    io_receive receive[2];
    bool started[2]; /* the result of the receive has not been taken yet; */
    bool came[2];    /* it has ended */
} duplex;

extern char duplex_pattern[1 << 20]; /* what is sent */

/* Only the port. With a seed, the simulated backend does everything but fail. */
void duplex_begin(duplex *both, const char *backend, uint64_t seed);
/* The same, and a pair of sockets. */
void duplex_open(duplex *both, const char *backend, uint64_t seed);
void duplex_close(duplex *both);
void duplex_close_side(duplex *both, int side);

/* Takes completions until this one is among them. The others are receives, and sends which must
 * have worked. */
int64_t duplex_finish(duplex *both, io_op *op);
void duplex_start(duplex *both, int side, uint32_t capacity);
/* A receive has been reported. True: it is over; false: it goes on. */
bool duplex_fetched(io_receive *receive, io_handle *handle);
/* The result of the receive that was started. There is a buffer if there is something in it. */
int64_t duplex_received(duplex *both, int side);
/* Both. */
int64_t duplex_receive(duplex *both, int side, uint32_t capacity);
/* Receives that many bytes of the pattern, from `from` on; the first by a receive that was started,
 * if there is one. */
void duplex_receive_all(duplex *both, int side, size_t from, size_t length, uint32_t capacity);

void duplex_send(duplex *both, int side, const void *data, size_t length);
void duplex_send_now(duplex *both, int side, const void *data, size_t length); /* and waits */

/* A receive that is cancelled has taken nothing: the next one gets it all. So many times. */
void duplex_cancel_receives(duplex *both, uint64_t rounds);

#endif
