/* visit.c: connect, request, response, the server closes; again and again.
 *
 * The latency is that of the whole visit, up to the end of the stream. It is the server that ends
 * it, so the many finished connections that the kernel remembers for a minute are on the server's
 * port; clients take turns with addresses so that no pair of ports is needed twice meanwhile. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

enum { EVENTS = 256, BUFFER_BYTES = 64 * 1024 };

struct visit {
    int fd; /* -1: none */
    size_t number;
    size_t sent, received;
    uint64_t begun;
};

struct visits {
    const struct settings *settings;
    struct report *report;
    struct pattern pattern;
    struct visit *all;
    size_t begun, under_way;
    int epoll;
};

static void begin(struct visits *visits, struct visit *visit) {
    visit->number = visits->begun++;
    visit->sent = visit->received = 0;
    visit->begun = now_ns();
    visit->fd = net_connect(visits->settings, SOCK_STREAM, true, visit->number);
    if (visit->fd < 0) {
        report_error(visits->report, "connect", errno);
        return;
    }
    visits->under_way++;
    net_watch(visits->epoll, visit->fd, visit);
}

/* `error`: 0, or why it ended early. */
static void end(struct visits *visits, struct visit *visit, const char *what, int error) {
    if (error)
        report_error(visits->report, what, error);
    else if (visit->received < visits->settings->size)
        report_error(visits->report, "the server closed early", ECONNRESET);
    else
        report_message(visits->report, now_ns() - visit->begun, visits->settings->size);
    close(visit->fd);
    visit->fd = -1;
    visits->under_way--;
}

static void request(struct visits *visits, struct visit *visit) {
    while (visit->sent < visits->settings->size) {
        const unsigned char *data = pattern_at(&visits->pattern, visit->number, visit->sent);
        ssize_t count = send(visit->fd, data, visits->settings->size - visit->sent, MSG_NOSIGNAL);
        if (count < 0) {
            if (errno != EAGAIN)
                end(visits, visit, "request", errno);
            return;
        }
        visit->sent += (size_t)count;
    }
}

static void response(struct visits *visits, struct visit *visit) {
    static unsigned char buffer[BUFFER_BYTES];
    for (;;) {
        ssize_t count = recv(visit->fd, buffer, sizeof buffer, 0);
        if (count < 0 && errno == EAGAIN)
            return;
        if (count <= 0) {
            end(visits, visit, "response", count ? errno : 0);
            return;
        }
        if (visit->received + (size_t)count > visits->settings->size ||
            !pattern_matches(&visits->pattern, visit->number, visit->received, buffer,
                             (size_t)count)) {
            report_error(visits->report, "response", 0);
            end(visits, visit, "response", EBADMSG);
            return;
        }
        visit->received += (size_t)count;
    }
}

static void step(struct visits *visits) {
    struct epoll_event events[EVENTS];
    int count = net_wait(visits->epoll, events, EVENTS, visits->report);
    for (int i = 0; i < count; i++) {
        struct visit *visit = events[i].data.ptr;
        request(visits, visit);
        if (visit->fd >= 0 && events[i].events & ~(unsigned)EPOLLOUT)
            response(visits, visit);
    }
    for (size_t i = 0; i < visits->settings->connections; i++) {
        if (visits->all[i].fd < 0 && visits->report->phase < PHASE_DRAINING)
            begin(visits, &visits->all[i]);
    }
}

void run_visits(const struct settings *settings, struct report *report) {
    struct visits visits = {.settings = settings, .report = report};
    pattern_init(&visits.pattern, settings);
    visits.epoll = net_epoll();
    visits.all = checked_calloc(settings->connections, sizeof *visits.all);
    for (size_t i = 0; i < settings->connections; i++)
        visits.all[i].fd = -1;
    report_start(report, now_ns());
    while (report_phase(report, now_ns()) < PHASE_DRAINING)
        step(&visits);
    while (report_phase(report, now_ns()) < PHASE_OVER && visits.under_way)
        step(&visits);
    if (visits.under_way)
        report_error(report, "the last visits", ETIMEDOUT);
}
