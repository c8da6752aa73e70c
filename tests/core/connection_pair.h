/* connection_pair.h: connections (net/connection.h) with an embedder in miniature at both ends.
 *
 * What an end sends is one endless pattern, each send from where the one before stopped; what it
 * receives must be the pattern of its peer, without a gap. The embedder also checks what every
 * connection promises: one thread runs it at a time, STARTED comes first, GONE last, each once, and
 * nothing is handed on that is held. Memory that is sent without a copy is counted until it is
 * released. */
#ifndef IOCPCORE_TEST_CONNECTION_PAIR_H
#define IOCPCORE_TEST_CONNECTION_PAIR_H

#include "world.h"

#include "net/connection.h"

enum { PAIR_PERIOD = 1 << 17, PAIR_ENDS = 64, PAIR_EVENTS = IO_CONNECTION_GONE + 1 };

typedef struct connection_pair connection_pair;
typedef struct pair_end pair_end;

struct pair_end {
    io_connection io;
    connection_pair *pair;
    pair_end *peer; /* whose pattern it receives; NULL: somebody else's */
    io_native native;
    io_mutex sending;  /* keeps the pattern in order where several threads send */
    uint64_t out;      /* bytes taken for sending */
    uint64_t in, kept; /* bytes received, and right; and those that are not handed on yet */
    int came[PAIR_EVENTS];
    size_t most;       /* at most so many bytes of input are used at a time; 0: all */
    bool keeps;        /* keeps input, and hands it on when INPUT comes again */
    bool answers;      /* closes when the peer has ended its stream */
    bool shakes_hands; /* it is not established when it starts, but by the test */
    void (*on_event)(pair_end *end, io_connection_event event); /* before anything else */
    void *context;
    _Atomic int inside; /* threads that run it */
    _Atomic bool gone;
    bool open; /* io_connection_open was called; the rest is false */
};

struct connection_pair {
    test_world world;
    io_connection_limits limits;
    io_native file; /* holds the pattern twice */
    bool threads;   /* several run it */
    pair_end ends[PAIR_ENDS];
    int count;
};

extern _Atomic int pair_owned; /* pieces of memory that are not released yet */

/* A port and a pair of open connections, ends[0] and ends[1]. With a seed, the simulated backend
 * does everything but fail. The limits are small: 16 KiB, 64 KiB and 1 MiB of queue. */
void pair_open(connection_pair *self, const char *backend, uint64_t seed);
pair_end *pair_open_narrow(connection_pair *self, const char *backend, uint64_t seed); /* ends[0] */
void pair_begin(connection_pair *self, const char *backend, uint64_t seed); /* without the pair */
uint64_t pair_seeds(const char *backend, uint64_t count);      /* how many are worth while */
pair_end *pair_add(connection_pair *self);                     /* the first of two new ends */
pair_end *pair_adopt(connection_pair *self, io_native native); /* one that has no peer here */
void pair_narrow(pair_end *end); /* little room in the system's buffers, before anything is sent */

/* For several threads: nothing is checked that others may change in the same moment. */
void pair_begin_threads(connection_pair *self, const char *backend, uint64_t seed,
                        uint32_t concurrency);

/* Waits until nobody is there any more, checks that nothing is left behind, and closes the port. */
void pair_close(connection_pair *self);
/* Closes the port with connections in it; how many operations the kernel has kept. */
size_t pair_close_port(connection_pair *self, uint64_t timeout_ns);

/* An operation of a connection was taken. */
void pair_take(io_op *op);
/* One operation; false if none comes within this time. */
bool pair_step(connection_pair *self, unsigned ms);
void pair_settle(connection_pair *self); /* until nothing happens any more */
#define PAIR_UNTIL(self, condition)                                                  \
    do {                                                                             \
        while (!(condition))                                                         \
            if (!pair_step(self, 10000))                                             \
                FAIL("%s: never came: %s", (self)->world.backend->name, #condition); \
    } while (0)

typedef enum pair_how {
    PAIR_COPIED,
    PAIR_OWNED, /* not copied if it is large */
    PAIR_FILE,
} pair_how;
/* What io_connection_send answers. */
int pair_send(pair_end *end, size_t length, pair_how how);
/* The same with several pieces, of all lengths up to `length`, as one. */
int pair_send_pieces(pair_end *end, size_t length, int count, test_random *random);
/* Sends until the queue holds at least this many bytes. */
void pair_fill(pair_end *end, uint64_t queued);
/* The same with so much that a peer that does not read leaves more than write_high of it. */
void pair_block(pair_end *end);
/* Pieces that were sent are released; by the embedder, after whatever it does. */
void pair_release_spent(pair_end *end);
void pair_pause(pair_end *end, bool paused);
/* False: it is closed, and takes none. */
bool pair_post_job(pair_end *end);
/* Closes, aborts, fails, shuts down or silences it. */
void pair_end_somehow(pair_end *end, test_random *random);
/* Resumes it if it is paused, and waits a little. */
void pair_resume_step(pair_end *end);
uint64_t pair_queued(pair_end *end);
/* All of them are gone, and nothing is left. After that the ends may be forgotten. */
void pair_check_all_gone(connection_pair *self);
/* A connection that is gone: nothing of its is left, and it accepts nothing. */
void pair_check_gone(pair_end *end);

#endif
