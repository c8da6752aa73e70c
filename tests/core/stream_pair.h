/* stream_pair.h: a connection with owned handles at both ends, and a receive at each, embedded as
 * in a connection of the product. What such a receive leaves behind shows itself as one that never
 * ends.
 */
#ifndef IOCPCORE_TEST_STREAM_PAIR_H
#define IOCPCORE_TEST_STREAM_PAIR_H

#include "world.h"

typedef struct stream_pair {
    test_world world;
    test_random random;
    io_native native[2];
    io_handle *handle[2]; /* NULL: closed */
    io_receive receive[2];
    bool started[2]; /* the result of the receive has not been taken yet; */
    bool came[2];    /* it has ended */
} stream_pair;

extern char stream_pair_pattern[1 << 20]; /* what is sent */

/* Only the port. With a seed, the simulated backend does everything but fail. */
void stream_pair_begin(stream_pair *both, const char *backend, uint64_t seed);
/* The same, and a pair of sockets. */
void stream_pair_open(stream_pair *both, const char *backend, uint64_t seed);
void stream_pair_close(stream_pair *both);
void stream_pair_close_side(stream_pair *both, int side);

/* Takes completions until this one is among them. The others are receives, and sends which must
 * have worked. */
int64_t stream_pair_finish(stream_pair *both, io_op *op);
void stream_pair_start(stream_pair *both, int side, uint32_t capacity);
/* A receive has been reported. True: it is over; false: it goes on. */
bool stream_pair_fetched(io_receive *receive, io_handle *handle);
/* The result of the receive that was started. There is a buffer if there is something in it. */
int64_t stream_pair_received(stream_pair *both, int side);
/* Both. */
int64_t stream_pair_receive(stream_pair *both, int side, uint32_t capacity);
/* Receives that many bytes of the pattern, from `from` on; the first by a receive that was started,
 * if there is one. */
void stream_pair_receive_all(stream_pair *both, int side, size_t from, size_t length,
                             uint32_t capacity);

void stream_pair_send(stream_pair *both, int side, const void *data, size_t length);
void stream_pair_send_now(stream_pair *both, int side, const void *data,
                          size_t length); /* and waits */

/* A receive that is cancelled has taken nothing: the next one gets it all. So many times. */
void stream_pair_cancel_receives(stream_pair *both, uint64_t rounds);

#endif
