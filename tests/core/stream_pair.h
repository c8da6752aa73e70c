/* stream_pair.h: a connected pair of owned handles, each with an embedded receive (io_receive).
 *
 * A real connection embeds its receive in the same way. If a receive leaves anything behind, a
 * later one never ends, which the tests detect. */
#ifndef IOCPCORE_TEST_STREAM_PAIR_H
#define IOCPCORE_TEST_STREAM_PAIR_H

#include "world.h"

typedef struct stream_pair {
    test_world world;
    test_random random;
    io_native native[2];
    io_handle *handle[2]; /* NULL: closed */
    io_receive receive[2];
    bool started[2]; /* a receive was started, and its result has not been taken yet */
    bool came[2];    /* the receive has ended */
} stream_pair;

extern char stream_pair_pattern[1 << 20]; /* the data to send */

/* Opens only the port. With a seed, the simulated backend varies everything except that it injects
 * no failures. */
void stream_pair_begin(stream_pair *both, const char *backend, uint64_t seed);
/* Opens the port and a pair of sockets. */
void stream_pair_open(stream_pair *both, const char *backend, uint64_t seed);
void stream_pair_close(stream_pair *both);
void stream_pair_close_side(stream_pair *both, int side);

/* Takes completions until this one has come. Returns its result. The others may be receives, or
 * sends, which must have succeeded. */
int64_t stream_pair_finish(stream_pair *both, io_op *op);
void stream_pair_start(stream_pair *both, int side, uint32_t capacity);
/* Handles a completed receive. Returns true if it has ended, false if it was submitted again. */
bool stream_pair_fetched(io_receive *receive, io_handle *handle);
/* Waits for the started receive and returns its result. It has a buffer if it received data. */
int64_t stream_pair_received(stream_pair *both, int side);
/* Starts a receive, waits for it, and returns its result. */
int64_t stream_pair_receive(stream_pair *both, int side, uint32_t capacity);
/* Receives `length` bytes of the pattern, beginning at `from`. Uses a receive that was already
 * started first. */
void stream_pair_receive_all(stream_pair *both, int side, size_t from, size_t length,
                             uint32_t capacity);

void stream_pair_send(stream_pair *both, int side, const void *data, size_t length);
void stream_pair_send_now(stream_pair *both, int side, const void *data,
                          size_t length); /* and waits */

/* Checks, `rounds` times, that a cancelled receive has taken no data: the next one gets it all. */
void stream_pair_cancel_receives(stream_pair *both, uint64_t rounds);

#endif
