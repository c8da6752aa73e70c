/* report.c: the course of a run, and its figures.
 *
 * A run opens its connections, warms up, measures, waits for what is under way, and is over. What
 * arrives while measuring counts. Processor times are those of the kernel's own clocks of whole
 * processes (all threads, those that ended too, in nanoseconds); the figures of /proc/PID/stat are
 * too coarse for short runs. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "load.h"

static const uint64_t second = 1000000000;
static const uint64_t drain_ns = 5000000000; /* a server that has not answered by then never will */

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time = {0};
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * second + (uint64_t)time.tv_nsec;
}

uint64_t now_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t servers_cpu(const struct settings *settings) {
    uint64_t sum = 0;
    for (size_t i = 0; i < settings->servers_count; i++) {
        clockid_t clock;
        if (!clock_getcpuclockid(settings->servers[i], &clock))
            sum += clock_ns(clock);
    }
    return sum;
}

void report_init(struct report *report, const struct settings *settings) {
    report->settings = settings;
    report->phase = PHASE_OPENING;
}

void report_start(struct report *report, uint64_t now) {
    report->phase = PHASE_WARMING;
    report->phase_end = now + report->settings->warmup_ns;
}

static void start_measuring(struct report *report) {
    report->phase = PHASE_MEASURING;
    report->load_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    report->server_cpu = servers_cpu(report->settings);
    report->wall = now_ns();
    report->phase_end = report->wall + report->settings->measure_ns;
}

static void stop_measuring(struct report *report) {
    report->phase = PHASE_DRAINING;
    report->wall = now_ns() - report->wall;
    report->server_cpu = servers_cpu(report->settings) - report->server_cpu;
    report->load_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - report->load_cpu;
    report->load_cpu -= report->spun < report->load_cpu ? report->spun : report->load_cpu;
    report->phase_end = now_ns() + drain_ns;
}

enum phase report_phase(struct report *report, uint64_t now) {
    if (report->phase == PHASE_OPENING || now < report->phase_end)
        return report->phase;
    if (report->phase == PHASE_WARMING)
        start_measuring(report);
    else if (report->phase == PHASE_MEASURING)
        stop_measuring(report);
    else
        report->phase = PHASE_OVER;
    return report->phase;
}

/* Values below HISTOGRAM_SUB have a bucket each; above, every power of two has half as many. */
static size_t bucket_of(uint64_t value) {
    int shift = 0;
    while (value >> shift >= HISTOGRAM_SUB)
        shift++;
    return (size_t)shift * (HISTOGRAM_SUB / 2) + (size_t)(value >> shift);
}

static uint64_t bucket_value(size_t bucket) {
    size_t shift = bucket < HISTOGRAM_SUB ? 0 : bucket / (HISTOGRAM_SUB / 2) - 1;
    return (uint64_t)(bucket - shift * (HISTOGRAM_SUB / 2)) << shift;
}

void report_message(struct report *report, uint64_t latency, size_t bytes) {
    if (report->phase != PHASE_MEASURING)
        return;
    report->messages++;
    report->bytes += bytes;
    report->histogram[bucket_of(latency)]++;
    if (latency > report->latency_max)
        report->latency_max = latency;
}

void report_error(struct report *report, const char *what, int error) {
    if (!report->errors++)
        snprintf(report->first_error, sizeof report->first_error, "%s: %s", what,
                 error ? strerror(error) : "not what was sent");
}

void report_spun(struct report *report, uint64_t ns) {
    if (report->phase == PHASE_MEASURING)
        report->spun += ns;
}

static double percentile_us(const struct report *report, double share) {
    uint64_t wanted = (uint64_t)(share * (double)report->messages), seen = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += report->histogram[i];
        if (seen > wanted)
            return (double)bucket_value(i) / 1e3;
    }
    return (double)report->latency_max / 1e3;
}

void report_print(const struct report *report) {
    static const char *const modes[] = {"echo", "idle", "visit", "datagram", "bulk"};
    bool measured = report->phase >= PHASE_DRAINING && report->wall;
    double wall = measured ? (double)report->wall / 1e9 : 1;
    printf("{\"mode\": \"%s\", \"connections\": %zu, \"messages\": %llu, \"seconds\": %.6f, "
           "\"rate\": %.1f, \"bytes_per_second\": %.0f, ",
           modes[report->settings->mode], report->settings->connections,
           (unsigned long long)report->messages, measured ? wall : 0,
           measured ? (double)report->messages / wall : 0, (double)report->bytes / wall);
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, ",
           percentile_us(report, 0.5), percentile_us(report, 0.99), percentile_us(report, 0.999),
           (double)report->latency_max / 1e3);
    printf("\"load_cpu\": %.4f, \"server_cpu_seconds\": %.6f, ",
           measured ? (double)report->load_cpu / 1e9 / wall : 0,
           measured ? (double)report->server_cpu / 1e9 : 0);
    printf("\"lost\": %llu, \"errors\": %llu, \"first_error\": \"%s\"}\n",
           (unsigned long long)report->lost, (unsigned long long)report->errors,
           report->first_error);
}
