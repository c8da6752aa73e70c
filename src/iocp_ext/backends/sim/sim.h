/* sim.h: control of the simulated backend, for tests and py/port/sim_api.c.
 *
 * Each lane of the backend "sim" has its own clock and network. Natives are indices into the lane's
 * table; like descriptors, they get the lowest free number. Addresses are 127.0.0.1:port. Functions
 * that can fail return 0 or a portable error < 0. Any thread may call them.
 *
 * The simulator is part of every build, because users test their own programs with it. The core
 * knows it only as a struct io_backend; only the API for tests includes this file. */
#ifndef IOCPCORE_BACKENDS_SIM_SIM_H
#define IOCPCORE_BACKENDS_SIM_SIM_H

#include "core/backend.h"

/* Faults to inject, for io_sim_configure. */
enum {
    IO_SIM_PARTIAL = 1u << 0,   /* receives and sends may move less than possible */
    IO_SIM_REFUSE = 1u << 1,    /* submit may fail */
    IO_SIM_DELAY = 1u << 2,     /* completions are delayed and reordered */
    IO_SIM_ERRORS = 1u << 3,    /* operations may end with errors that occur on real systems */
    IO_SIM_CANCEL = 1u << 4,    /* a cancel may win, lose, or tie; otherwise it wins */
    IO_SIM_SPURIOUS = 1u << 5,  /* wait() may return without a reason */
    IO_SIM_IMMEDIATE = 1u << 6, /* submit may return IO_DONE; otherwise always IO_PENDING */
    IO_SIM_RETRY = 1u << 7,     /* spurious results may occur: io_op_retry */
    IO_SIM_READINESS = 1u << 8, /* may report readiness instead of a result: io_handle_ready */
    IO_SIM_CHECK = 1u << 9,     /* operations are poisoned while the simulated kernel owns them */
    IO_SIM_FAULTS = (1u << 10) - 1,
    IO_SIM_STUCK = 1u << 16, /* operations submitted from now on never end, even if cancelled */
};

typedef struct io_sim_stats {
    uint32_t natives;   /* open natives */
    uint32_t files;     /* open files, and closed files that are still referenced */
    uint32_t in_flight; /* operations owned by the simulated kernel */
    uint64_t reports, retries, refusals, errors, at_once;
    uint64_t cancels_won, cancels_lost;
} io_sim_stats;

bool io_sim_lane(const io_lane *lane); /* true for an open lane of this backend */
void io_sim_configure(io_lane *lane, uint64_t seed, uint32_t fault_flags);
void io_sim_get_stats(io_lane *lane, io_sim_stats *stats);

int io_sim_pair(io_lane *lane, io_native natives[2]); /* two connected streams */
int io_sim_listener(io_lane *lane, io_native *native, uint16_t *port);
/* Makes every `period`-th attempt to accept on the listener fail with this portable error, `times`
 * times in all, even if no client is waiting. -IOE_BADF for an unknown native. */
int io_sim_fail_accepts(io_lane *lane, io_native native, int error, uint32_t times,
                        uint32_t period);
int io_sim_socket(io_lane *lane, io_native *native); /* an unconnected stream */
int io_sim_datagram(io_lane *lane, io_native *native, uint16_t *port);
int io_sim_file(io_lane *lane, const void *data, size_t size, io_native *native);
/* Closes the native like close(2): frees its number even if operations are in flight. -IOE_BADF for
 * an unknown native. */
int io_sim_close_native(io_lane *lane, io_native native);
/* Shuts down the send side: the peer sees the end of the stream, and sends from here fail.
 * -IOE_BADF for an unknown native. */
int io_sim_shutdown(io_lane *lane, io_native native);

#endif
