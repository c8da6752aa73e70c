/* sim.h: the simulated backend seen from those who set its scene: tests, and py/port/sim_api.c.
 *
 * A lane of the backend "sim" has a clock and a network of its own. Natives are small integers of
 * that lane's table, the lowest free number first, as descriptors are. Addresses are
 * 127.0.0.1:port. Functions that can fail return 0 or a portable error < 0. Any thread may call
 * them.
 *
 * The simulator is part of every build, because users test their own programs with it. Nobody else
 * knows it: the core reaches it through struct io_backend, like every backend, and only the API for
 * tests includes this file. */
#ifndef IOCPCORE_BACKENDS_SIM_SIM_H
#define IOCPCORE_BACKENDS_SIM_SIM_H

#include "core/backend.h"

/* What may go wrong, for io_sim_configure. */
enum {
    IO_SIM_PARTIAL = 1u << 0,   /* receives and sends move less than they could */
    IO_SIM_REFUSE = 1u << 1,    /* submit fails at once */
    IO_SIM_DELAY = 1u << 2,     /* completions are late, and overtake each other */
    IO_SIM_ERRORS = 1u << 3,    /* errors that the operation really has */
    IO_SIM_CANCEL = 1u << 4,    /* a cancel wins, loses, or ties; else it wins */
    IO_SIM_SPURIOUS = 1u << 5,  /* wait() returns for no reason */
    IO_SIM_AT_ONCE = 1u << 6,   /* submit may answer IO_DONE; else always IO_PENDING */
    IO_SIM_RETRY = 1u << 7,     /* results without meaning: io_op_retry */
    IO_SIM_READINESS = 1u << 8, /* reports readiness instead of a result: io_handle_ready */
    IO_SIM_CHECK = 1u << 9,     /* operations are poisoned while the simulated kernel has them */
    IO_SIM_FAULTS = (1u << 10) - 1,
    IO_SIM_STUCK = 1u << 16, /* operations submitted from now on never end, even if cancelled */
};

typedef struct io_sim_stats {
    uint32_t natives;   /* open ones */
    uint32_t files;     /* open ones, and closed ones that something still refers to */
    uint32_t in_flight; /* operations that the simulated kernel has */
    uint64_t reports, retries, refusals, errors, at_once;
    uint64_t cancels_won, cancels_lost;
} io_sim_stats;

bool io_sim_lane(const io_lane *lane); /* is it one of ours? */
void io_sim_configure(io_lane *lane, uint64_t seed, uint32_t fault_flags);
void io_sim_get_stats(io_lane *lane, io_sim_stats *stats);

int io_sim_pair(io_lane *lane, io_native natives[2]); /* two connected streams */
int io_sim_listener(io_lane *lane, io_native *native, uint16_t *port);
/* From now on every `period`-th attempt to accept there fails with this portable error, so many
 * times, whether a client waits or not. 0 or -IOE_BADF. */
int io_sim_fail_accepts(io_lane *lane, io_native native, int error, uint32_t times,
                        uint32_t period);
int io_sim_socket(io_lane *lane, io_native *native); /* a stream, to be connected */
int io_sim_datagram(io_lane *lane, io_native *native, uint16_t *port);
int io_sim_file(io_lane *lane, const void *data, size_t size, io_native *native);
/* What close(2) is: the number is free again, whatever is in flight. 0 or -IOE_BADF. */
int io_sim_close_native(io_lane *lane, io_native native);
/* The peer sees end of stream; what it sends after that fails. */
int io_sim_shutdown(io_lane *lane, io_native native);

#endif
