/* seeds.h: the runs of a seeded fuzzer on the simulator. */
#ifndef IOCPCORE_TESTS_SEEDS_H
#define IOCPCORE_TESTS_SEEDS_H

#include "world.h"

/* The faults that only delay, cut and reorder: every operation still succeeds. */
#define SEEDS_NO_ERRORS ((uint32_t)IO_SIM_FAULTS & ~(uint32_t)(IO_SIM_ERRORS | IO_SIM_REFUSE))

/* Calls `run` for `count` seeds, scaled as the mode asks. `vary`: each seed gets some of the
 * faults. FUZZ_SEED=N in the environment runs only that seed. */
void seeds_run(uint64_t count, uint32_t faults, bool vary,
               void (*run)(uint64_t seed, uint32_t faults));

#endif
