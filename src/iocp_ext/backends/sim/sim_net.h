/* sim_net.h: internals of the simulated kernel, shared by the files of this directory.
 *
 * A *sim_file* is an open file: a stream, a listener, a datagram socket or an array of bytes. It is
 * reference-counted: the table of natives, handles, operations in flight and the network each hold
 * references. A *sim_work* is one operation owned by the simulated kernel. sim->lock guards
 * everything. */
#ifndef IOCPCORE_BACKENDS_SIM_SIM_NET_H
#define IOCPCORE_BACKENDS_SIM_SIM_NET_H

#include "backends/sim/sim.h"

#define SIM_START_NS IO_NS_PER_SECOND /* initial time: not 0, which means "no time" in places */

typedef enum sim_type { SIM_STREAM, SIM_LISTENER, SIM_DATAGRAM, SIM_FILE } sim_type;

typedef struct sim_file {
    uint8_t type; /* sim_type */
    bool connected;
    bool ended;       /* no more data will arrive */
    bool broken;      /* reset: sends and receives fail */
    bool sends_ended; /* the send side was shut down */
    uint32_t refs;
    io_native native;  /* IO_NATIVE_NONE once it is closed */
    uint64_t identity; /* never reused */
    uint16_t port;     /* 0: not bound */
    uint16_t peer_port;
    struct sim_file *peer; /* other end of a connected stream, while both are open; a reference */
    io_link link;          /* in the listener's queue */
    io_list queue;         /* listener: connections; datagram socket: packets */
    size_t queued;
    io_list works; /* operations in flight */
    char *bytes;   /* data arrived and not yet received, or the content of a file */
    size_t start, end, capacity;
    int accept_error; /* see io_sim_fail_accepts */
    uint32_t accept_failures, accept_period, accept_attempts;
} sim_file;

typedef struct sim_packet {
    io_link link;
    uint16_t from;
    size_t length;
    char bytes[];
} sim_packet;

typedef enum sim_phase {
    SIM_WAITING,  /* for data, space or a peer; not scheduled */
    SIM_ATTEMPT,  /* scheduled for an attempt */
    SIM_REPORT,   /* scheduled for its report; the result is known */
    SIM_READYING, /* readiness is being reported; the core calls submit again */
    SIM_STUCK,    /* never ends (IO_SIM_STUCK) */
} sim_phase;

typedef struct sim_work {
    io_timer timer; /* scheduled time; used only as an element of the heap */
    io_link link;   /* sim_file.works */
    io_op *op;
    sim_file *file;
    uint64_t token; /* the handle's token */
    int64_t result;
    uint8_t phase; /* sim_phase */
    uint8_t kind;
    bool cancelled;
    /* With IO_SIM_CHECK: copies of the operation's head, which must not change, and of its body,
     * which a pattern has replaced. */
    bool poisoned;
    io_op head;
    size_t body_size;
    char body[];
} sim_work;

typedef struct sim_kernel {
    io_mutex lock;
    io_cond changed; /* work was scheduled, or wake() was called */
    io_lane *lane;
    uint64_t now_ns;
    uint64_t seed, random;
    uint32_t faults;
    bool waiting;           /* a thread is in wait() */
    bool blocked;           /* ... with nothing scheduled: the clock follows the real one */
    uint64_t blocked_at_ns; /* real time when it blocked */
    bool woken;
    io_timer_heap scheduled;
    sim_file **natives; /* indexed by native */
    size_t native_count;
    uint64_t next_identity;
    uint16_t next_port;
    io_sim_stats stats;
} sim_kernel;

uint64_t sim_random(sim_kernel *sim, uint64_t below);
/* Returns true in one of `one_in` cases, if the fault is enabled. */
bool sim_chance(sim_kernel *sim, uint32_t fault, uint64_t one_in);
/* Schedules another attempt of the operations that wait for this file. */
void sim_file_changed(sim_kernel *sim, sim_file *file);

/* sim_check.c */
/* Prints the seed and aborts, because the core broke a rule of backend.h. */
_Noreturn void sim_fail(const sim_kernel *sim, const char *what, const io_op *op);
bool sim_sends(uint8_t kind);
bool sim_receives(uint8_t kind);
size_t sim_op_size(uint8_t kind); /* size of the whole operation, with its head */
void sim_check_submit(const sim_kernel *sim, const sim_file *file, const io_op *op);
void sim_poison(sim_kernel *sim, sim_work *work);
void sim_unpoison(sim_kernel *sim, sim_work *work);

/* sim_net.c */
sim_file *sim_file_of(const sim_kernel *sim, io_native native);
void sim_file_unref(sim_kernel *sim, sim_file *file);
void sim_native_close(sim_kernel *sim, sim_file *file);
void sim_shutdown(sim_kernel *sim, sim_file *file);
void sim_prepare_close(sim_kernel *sim, sim_file *file, bool reset);
void sim_address(const sim_file *file, bool peer, io_address *address);
/* Performs the operation. Returns false if it must wait. */
bool sim_attempt(sim_kernel *sim, sim_file *file, io_op *op, int64_t *result);
/* Returns true, and sets the result, if io_sim_fail_accepts makes this attempt fail. */
bool sim_accept_fails(sim_file *file, int64_t *result);
/* Returns an error that this kind of operation has on real systems, and applies its side effects to
 * the file. */
int64_t sim_error(sim_kernel *sim, sim_file *file, io_kind kind);

#endif
