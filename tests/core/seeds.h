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

/* The tests of every fuzzer, and their entries in its list of tests. The arguments are numbers of
 * seeds. */
#define SEEDS_TESTS(run, for_no_faults, for_no_errors, for_faults) \
    static void no_faults(void) {                                  \
        seeds_run(for_no_faults, 0, false, run);                   \
    }                                                              \
    static void no_errors(void) {                                  \
        seeds_run(for_no_errors, SEEDS_NO_ERRORS, false, run);     \
    }                                                              \
    static void all_faults(void) {                                 \
        seeds_run(for_faults, IO_SIM_FAULTS, false, run);          \
    }                                                              \
    static void some_faults(void) {                                \
        seeds_run(for_faults, IO_SIM_FAULTS, true, run);           \
    }
#define SEEDS_ENTRIES TEST(no_faults), TEST(no_errors), TEST(all_faults), TEST(some_faults)

#endif
