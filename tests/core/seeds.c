/* seeds.c: the runs of a seeded fuzzer on the simulator. */
#include "seeds.h"

#include <stdlib.h>

void seeds_run(uint64_t count, uint32_t faults, bool vary,
               void (*run)(uint64_t seed, uint32_t faults)) {
    const char *only = getenv("FUZZ_SEED");
    uint64_t first = only == NULL ? 0 : strtoull(only, NULL, 10);
    uint64_t end = only == NULL ? test_scaled(count) : first + 1;
    for (uint64_t seed = first; seed < end; seed++) {
        test_random choice = {seed ^ 0x5eed};
        uint32_t mask = vary ? (uint32_t)test_below(&choice, IO_SIM_FAULTS + 1) : ~0u;
        run(seed, faults & mask);
    }
}
