/* reads.c: the least a program can do to read a file at random: one io_uring, no threads.
 *
 *   reads PATH SECONDS DEPTH BYTES cached|direct
 *
 * Always DEPTH reads of BYTES under way, at random multiples of BYTES. It prints what it measured
 * of itself, as the other programs of these cells do. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "listen.h"
#include "ring.h"

enum { DEPTH_MAX = 1024, ALIGNMENT = 4096 };

static struct ring ring;
static char *memory;
static int file;
static uint32_t bytes;
static uint64_t blocks;

static double seconds_of(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void start(uint32_t slot) {
    static uint64_t state = 0x9e3779b97f4a7c15;
    struct sqe *sqe = ring_next(&ring);
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    sqe->opcode = OP_READ;
    sqe->fd = file;
    sqe->address = (uint64_t)(uintptr_t)(memory + (size_t)slot * bytes);
    sqe->length = bytes;
    sqe->offset = state % blocks * bytes;
    sqe->user_data = slot;
}

static uint64_t read_until(double end) {
    uint64_t count = 0;
    while (seconds_of(CLOCK_MONOTONIC) < end) {
        const struct cqe *cqe;
        ring_wait(&ring);
        while ((cqe = ring_take(&ring))) {
            uint32_t slot = (uint32_t)cqe->user_data;
            if (cqe->result != (int32_t)bytes) {
                errno = -cqe->result;
                die("read");
            }
            count++;
            start(slot);
        }
    }
    return count;
}

int main(int count, char **arguments) {
    struct stat status;
    double begun, cpu;
    uint32_t depth;
    uint64_t reads;
    if (count != 6)
        die("reads PATH SECONDS DEPTH BYTES cached|direct");
    depth = (uint32_t)atoi(arguments[3]);
    bytes = (uint32_t)atoi(arguments[4]);
    file = open(arguments[1], O_RDONLY | (strcmp(arguments[5], "direct") ? 0 : O_DIRECT));
    if (file < 0 || fstat(file, &status))
        die(arguments[1]);
    if (!depth || depth > DEPTH_MAX || !bytes || (uint64_t)status.st_size < bytes)
        die("the numbers");
    blocks = (uint64_t)status.st_size / bytes;
    memory = aligned_alloc(ALIGNMENT, (size_t)depth * bytes);
    if (!memory)
        die("memory");
    ring_open(&ring, DEPTH_MAX, 2 * DEPTH_MAX);
    begun = seconds_of(CLOCK_MONOTONIC);
    cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    for (uint32_t slot = 0; slot < depth; slot++)
        start(slot);
    reads = read_until(begun + atof(arguments[2]));
    begun = seconds_of(CLOCK_MONOTONIC) - begun;
    cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("{\"messages\": %llu, \"rate\": %.1f, \"cpu_us\": %.4f}\n", (unsigned long long)reads,
           (double)reads / begun, cpu / (double)reads * 1e6);
    return 0;
}
