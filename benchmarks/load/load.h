/* load.h: what the files of the load generator share. main.c explains the whole. */
#ifndef BENCHMARKS_LOAD_H
#define BENCHMARKS_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

enum mode { MODE_ECHO, MODE_IDLE, MODE_VISIT, MODE_DATAGRAM, MODE_BULK };
enum framing { FRAMING_NONE, FRAMING_LENGTH, FRAMING_LF, FRAMING_CRLF };
enum { SERVERS_MAX = 8 };

struct settings {
    enum mode mode;
    enum framing framing;
    struct sockaddr_storage address;
    socklen_t address_bytes;
    size_t connections;
    size_t depth;   /* messages under way per connection */
    size_t size;    /* bytes of a message, without its frame */
    uint64_t bytes; /* of one bulk transfer */
    uint64_t warmup_ns, measure_ns;
    bool marked; /* every message begins with '!' */
    bool tls;
    bool spin;                  /* never sleeps while it waits */
    pid_t servers[SERVERS_MAX]; /* whose processor time is reported */
    size_t servers_count;
};

/* Prints what is wrong and exits with 2. */
void settings_parse(struct settings *settings, int count, char **arguments);

/* --- report.c: the course of a run, and its figures ------------------------------------------ */

enum phase { PHASE_OPENING, PHASE_WARMING, PHASE_MEASURING, PHASE_DRAINING, PHASE_OVER };

enum { HISTOGRAM_SUB = 128, HISTOGRAM_BUCKETS = 58 * HISTOGRAM_SUB };

struct report {
    const struct settings *settings;
    enum phase phase;
    uint64_t phase_end;
    uint64_t wall, load_cpu, server_cpu; /* ns: at the start of measuring, then of it */
    uint64_t spun;                       /* ns of looking for events in vain, while measuring */
    uint64_t messages, bytes, errors, lost;
    uint64_t latency_max;
    char first_error[160];
    uint32_t histogram[HISTOGRAM_BUCKETS]; /* of latencies: under 1 % wide */
};

uint64_t now_ns(void);
void report_init(struct report *report, const struct settings *settings);
/* Everything is open: the warm-up starts. */
void report_start(struct report *report, uint64_t now);
/* Moves on to the next phase when it is time. */
enum phase report_phase(struct report *report, uint64_t now);
/* One message came back. Only those that come while measuring count. */
void report_message(struct report *report, uint64_t latency, size_t bytes);
void report_error(struct report *report, const char *what, int error);
void report_spun(struct report *report, uint64_t ns);
void report_print(const struct report *report);

/* --- pattern.c: what is sent, and whether it came back --------------------------------------- */

/* The endless stream of messages of every connection is one ring of different messages, as they
 * look on the wire; connections start at different ones. It lies in memory twice in a row, so that
 * the messages under way are one piece wherever they begin. */
struct pattern {
    unsigned char *ring;
    size_t bytes; /* of the ring once */
    size_t wire;  /* of one message */
};

void pattern_init(struct pattern *pattern, const struct settings *settings);
/* Whether `data` is what stands at `position` of the stream that starts at message `start`. */
bool pattern_matches(const struct pattern *pattern, size_t start, uint64_t position,
                     const unsigned char *data, size_t bytes);
const unsigned char *pattern_at(const struct pattern *pattern, size_t start, uint64_t position);

/* --- net.c ----------------------------------------------------------------------------------- */

/* A connecting non-blocking socket of the settings' address. Number n of them comes from the n-th
 * loopback address if `spread`, since one address has 28,000 ports. -1: errno says why. */
int net_connect(const struct settings *settings, int type, bool spread, size_t number);
int net_epoll(void);
/* What epoll_wait(2) gives, before long in any case. */
int net_wait(int epoll, struct epoll_event *events, int maximum, struct report *report);
/* Edge-triggered, in both directions. */
void net_watch(int epoll, int fd, void *what);
void *checked_calloc(size_t count, size_t size);

/* --- tls.c: with OpenSSL, where it was there when this was built ------------------------------ */

struct tls;
/* Exits with 2 if there is no TLS in this build. */
void tls_init(void);
struct tls *tls_open(int fd);
void tls_close(struct tls *tls);
/* As send(2) and recv(2) on a non-blocking socket. */
ssize_t tls_send(struct tls *tls, const void *data, size_t bytes);
ssize_t tls_receive(struct tls *tls, void *data, size_t bytes);

/* --- the modes ------------------------------------------------------------------------------- */

void run_stream(const struct settings *settings, struct report *report); /* echo and idle */
void run_visits(const struct settings *settings, struct report *report);
void run_datagrams(const struct settings *settings, struct report *report);
void run_bulk(const struct settings *settings, struct report *report);

#endif
