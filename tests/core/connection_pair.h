/* connection_pair.h: connections (net/connection.h) with a minimal embedder at both ends.
 *
 * Each end sends one endless pattern; every send continues where the previous one stopped. What it
 * receives must be the pattern of its peer, without gaps. The embedder also checks the guarantees
 * of every connection: one thread runs it at a time, STARTED comes first, GONE comes last, each
 * exactly once, and nothing is delivered while input is held. Memory that is sent without a copy is
 * counted until it is released. */
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
    pair_end *peer; /* the end whose pattern it receives; NULL: not an end of this pair */
    io_native native;
    io_mutex sending;  /* keeps the pattern in order when several threads send */
    uint64_t out;      /* bytes accepted for sending */
    uint64_t in, kept; /* bytes received and checked; bytes of input not used yet */
    int came[PAIR_EVENTS];
    size_t most;       /* the most bytes of input to use at a time; 0: no limit */
    bool keeps;        /* keeps input, and uses it at the next INPUT */
    bool answers;      /* closes when the peer has ended its stream */
    bool shakes_hands; /* the test establishes it, not its start */
    void (*on_event)(pair_end *end, io_connection_event event); /* called before anything else */
    void *context;
    _Atomic int inside; /* number of threads that run it */
    _Atomic bool gone;
    bool open; /* io_connection_open was called; false: no other field is set */
};

struct connection_pair {
    test_world world;
    io_connection_limits limits;
    io_native file; /* contains the pattern twice */
    bool threads;   /* several threads run the port */
    pair_end ends[PAIR_ENDS];
    int count;
};

extern _Atomic int pair_owned; /* number of memory pieces not released yet */

/* Opens a port and a pair of connections, ends[0] and ends[1]. With a seed, the simulated backend
 * varies everything except that it injects no failures. The limits are small: 16 KiB, 64 KiB and
 * 1 MiB of queue. */
void pair_open(connection_pair *self, const char *backend, uint64_t seed);
/* Also narrows the pair, see pair_narrow(). Returns ends[0]. */
pair_end *pair_open_narrow(connection_pair *self, const char *backend, uint64_t seed);
void pair_begin(connection_pair *self, const char *backend, uint64_t seed); /* only the port */
uint64_t pair_seeds(const char *backend, uint64_t count); /* how many seeds are worth running */
pair_end *pair_add(connection_pair *self);                /* adds two ends, returns the first */
pair_end *pair_adopt(connection_pair *self, io_native native); /* an end without a peer here */
void pair_narrow(pair_end *end); /* shrinks the system's buffers; before anything is sent */

/* Opens a port for several threads. Checks that other threads could invalidate are off. */
void pair_begin_threads(connection_pair *self, const char *backend, uint64_t seed,
                        uint32_t concurrency);

/* Waits until all ends are gone, checks that nothing is left behind, and closes the port. */
void pair_close(connection_pair *self);
/* Closes the port with connections on it. Returns how many operations the kernel has kept. */
size_t pair_close_port(connection_pair *self, uint64_t timeout_ns);

/* Processes a completed operation of a connection. */
void pair_take(io_op *op);
/* Processes one operation. Returns false if none completes in time. */
bool pair_step(connection_pair *self, unsigned ms);
void pair_settle(connection_pair *self); /* processes operations until none is left */
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
/* Sends the next part of the pattern. Returns the result of io_connection_send. */
int pair_send(pair_end *end, size_t length, pair_how how);
/* Sends several pieces, each of a random length up to `length`, in one call. */
int pair_send_pieces(pair_end *end, size_t length, int count, test_random *random);
/* Sends until the queue holds at least this many bytes. */
void pair_fill(pair_end *end, uint64_t queued);
/* Sends so much that more than write_high stays queued while the peer does not read. */
void pair_block(pair_end *end);
/* Releases pieces that were sent. The embedder calls this after everything it does. */
void pair_release_spent(pair_end *end);
void pair_pause(pair_end *end, bool paused);
/* Returns false if the connection is closed and takes no job. */
bool pair_post_job(pair_end *end);
/* Ends the connection in a random way: close, abort, give up, fail or shut down. */
void pair_end_somehow(pair_end *end, test_random *random);
/* Resumes a paused connection, and waits a little. */
void pair_resume_step(pair_end *end);
uint64_t pair_queued(pair_end *end);
/* Checks that all ends are gone and nothing is left. The ends may be forgotten after that. */
void pair_check_all_gone(connection_pair *self);
/* Checks a connection that is gone: nothing of it is left, and it accepts nothing. */
void pair_check_gone(pair_end *end);

#endif
