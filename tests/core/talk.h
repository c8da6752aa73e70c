/* talk.h: connections (net/connection.h) with an embedder in miniature at both ends.
 *
 * What an end sends is one endless pattern, each send from where the one before stopped; what it
 * receives must be the pattern of its peer, without a gap. The embedder also checks what every
 * connection promises: one thread runs it at a time, STARTED comes first, GONE last, each once, and
 * nothing is handed on that is held. Memory that is sent without a copy is counted until it is
 * released. */
#ifndef IOCPCORE_TEST_TALK_H
#define IOCPCORE_TEST_TALK_H

#include "world.h"

#include "net/connection.h"

enum { TALK_PERIOD = 1 << 17, TALK_ENDS = 64, TALK_EVENTS = IO_CONNECTION_GONE + 1 };

typedef struct talk talk;
typedef struct talk_end talk_end;

struct talk_end {
    io_connection io;
    talk *talk;
    talk_end *peer; /* whose pattern it receives; NULL: somebody else's */
    io_native native;
    io_mutex sending;  /* keeps the pattern in order where several threads send */
    uint64_t out;      /* bytes taken for sending */
    uint64_t in, kept; /* bytes received, and right; and those that are not handed on yet */
    int came[TALK_EVENTS];
    size_t most;       /* at most so many bytes of input are used at a time; 0: all */
    bool keeps;        /* keeps input, and hands it on when INPUT comes again */
    bool answers;      /* closes when the peer has ended its stream */
    bool shakes_hands; /* it is not established when it starts, but by the test */
    void (*on_event)(talk_end *end, io_connection_event event); /* before anything else */
    void *context;
    _Atomic int inside; /* threads that run it */
    _Atomic bool gone;
    bool open; /* io_connection_open was called; the rest is false */
};

struct talk {
    test_world world;
    io_connection_limits limits;
    io_native file; /* holds the pattern twice */
    bool threads;   /* several run it */
    talk_end ends[TALK_ENDS];
    int count;
};

extern _Atomic int talk_owned; /* pieces of memory that are not released yet */

/* A port and a pair of open connections, ends[0] and ends[1]. With a seed, the simulated backend
 * does everything but fail. The limits are small: 16 KiB, 64 KiB and 1 MiB of queue. */
void talk_open(talk *self, const char *backend, uint64_t seed);
talk_end *talk_open_narrow(talk *self, const char *backend, uint64_t seed); /* ends[0] */
void talk_begin(talk *self, const char *backend, uint64_t seed);            /* without the pair */
uint64_t talk_seeds(const char *backend, uint64_t count); /* how many are worth while */
talk_end *talk_pair(talk *self);                          /* the first of two new ends */
talk_end *talk_adopt(talk *self, io_native native);       /* one that has no peer here */
void talk_narrow(talk_end *end); /* little room in the system's buffers, before anything is sent */

/* For several threads: nothing is checked that others may change in the same moment. */
void talk_begin_threads(talk *self, const char *backend, uint64_t seed, uint32_t concurrency);

/* Waits until nobody is there any more, checks that nothing is left behind, and closes the port. */
void talk_close(talk *self);
/* Closes the port with connections in it; how many operations the kernel has kept. */
size_t talk_close_port(talk *self, uint64_t timeout_ns);

/* An operation of a connection was taken. */
void talk_take(io_op *op);
/* One operation; false if none comes within this time. */
bool talk_step(talk *self, unsigned ms);
void talk_settle(talk *self); /* until nothing happens any more */
#define TALK_UNTIL(self, condition)                                                  \
    do {                                                                             \
        while (!(condition))                                                         \
            if (!talk_step(self, 10000))                                             \
                FAIL("%s: never came: %s", (self)->world.backend->name, #condition); \
    } while (0)

typedef enum talk_how {
    TALK_COPIED,
    TALK_OWNED, /* not copied if it is large */
    TALK_FILE,
} talk_how;
/* What io_connection_send answers. */
int talk_send(talk_end *end, size_t length, talk_how how);
/* The same with several pieces, of all lengths up to `length`, as one. */
int talk_send_pieces(talk_end *end, size_t length, int count, test_random *random);
/* Sends until the queue holds at least this many bytes. */
void talk_fill(talk_end *end, uint64_t queued);
/* The same with so much that a peer that does not read leaves more than write_high of it. */
void talk_block(talk_end *end);
/* Pieces that were sent are released; by the embedder, after whatever it does. */
void talk_release_spent(talk_end *end);
void talk_pause(talk_end *end, bool paused);
/* False: it is closed, and takes none. */
bool talk_post_job(talk_end *end);
/* Closes, aborts, gives up, fails or shuts it down, or begins to. */
void talk_end_somehow(talk_end *end, test_random *random);
/* Resumes it if it is paused, and waits a little. */
void talk_resume_step(talk_end *end);
uint64_t talk_queued(talk_end *end);
/* All of them are gone, and nothing is left. After that the ends may be forgotten. */
void talk_check_all_gone(talk *self);
/* A connection that is gone: nothing of its is left, and it accepts nothing. */
void talk_check_gone(talk_end *end);

#endif
