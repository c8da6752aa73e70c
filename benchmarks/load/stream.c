/* stream.c: echo on many connections, and many idle connections.
 *
 * Each connection sends the endless stream of the pattern, never more than `depth` messages ahead
 * of what came back. Connections are opened a few at a time, each of the few having had its first
 * answer before further ones are opened: a server's backlog is not what is measured here. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

enum { OPENING_AT_ONCE = 64, EVENTS = 256, BUFFER_BYTES = 256 * 1024 };

static const uint64_t opening_limit_ns = 60000000000;

struct stream {
    int fd; /* -1: closed */
    struct tls *tls;
    size_t start;            /* of its messages in the ring */
    uint64_t sent, received; /* bytes */
    uint64_t *sent_at;       /* by number of message, modulo depth */
};

struct streams {
    const struct settings *settings;
    struct report *report;
    struct pattern pattern;
    struct stream *all;
    size_t opened, answered, closed;
    int epoll;
};

static void close_stream(struct streams *streams, struct stream *stream) {
    if (stream->tls)
        tls_close(stream->tls);
    stream->tls = NULL;
    close(stream->fd);
    stream->fd = -1;
    streams->closed++;
}

static void fail_stream(struct streams *streams, struct stream *stream, const char *what,
                        int error) {
    report_error(streams->report, what, error);
    if (stream->received < streams->pattern.wire)
        streams->answered++; /* nobody need wait for its answer */
    close_stream(streams, stream);
}

/* The end of what may be sent now. While draining that is the end of what has been begun. */
static uint64_t sending_limit(const struct streams *streams, const struct stream *stream) {
    size_t wire = streams->pattern.wire;
    if (streams->settings->mode == MODE_IDLE)
        return wire;
    if (streams->report->phase >= PHASE_DRAINING)
        return (stream->sent + wire - 1) / wire * wire;
    return (stream->received / wire + streams->settings->depth) * wire;
}

static void send_some(struct streams *streams, struct stream *stream) {
    uint64_t limit = sending_limit(streams, stream);
    size_t wire = streams->pattern.wire;
    while (stream->sent < limit) {
        const unsigned char *data = pattern_at(&streams->pattern, stream->start, stream->sent);
        size_t bytes = (size_t)(limit - stream->sent);
        uint64_t now = now_ns();
        ssize_t count = stream->tls ? tls_send(stream->tls, data, bytes)
                                    : send(stream->fd, data, bytes, MSG_NOSIGNAL);
        if (count < 0) {
            if (errno != EAGAIN)
                fail_stream(streams, stream, "send", errno);
            return;
        }
        for (uint64_t n = (stream->sent + wire - 1) / wire;
             n * wire < stream->sent + (uint64_t)count; n++)
            stream->sent_at[n % streams->settings->depth] = now;
        stream->sent += (uint64_t)count;
    }
}

static bool take(struct streams *streams, struct stream *stream, const unsigned char *data,
                 size_t bytes) {
    size_t wire = streams->pattern.wire;
    uint64_t now = now_ns(), first = stream->received / wire;
    uint64_t last = (stream->received + bytes) / wire;
    if (stream->received + bytes > stream->sent ||
        !pattern_matches(&streams->pattern, stream->start, stream->received, data, bytes)) {
        fail_stream(streams, stream, "echo", 0);
        return false;
    }
    for (uint64_t n = first; n < last; n++)
        report_message(streams->report, now - stream->sent_at[n % streams->settings->depth],
                       streams->settings->size);
    stream->received += bytes;
    if (!first && last)
        streams->answered++;
    return true;
}

static void receive(struct streams *streams, struct stream *stream) {
    static unsigned char buffer[BUFFER_BYTES];
    ssize_t count;
    do {
        count = stream->tls ? tls_receive(stream->tls, buffer, sizeof buffer)
                            : recv(stream->fd, buffer, sizeof buffer, 0);
        if (count < 0 && errno == EAGAIN)
            return;
        if (count <= 0) {
            fail_stream(streams, stream, "receive", count ? errno : ECONNRESET);
            return;
        }
        if (!take(streams, stream, buffer, (size_t)count))
            return;
        /* A short receive has emptied the socket, but TLS keeps records of its own. */
    } while (stream->tls || count == sizeof buffer);
}

static void open_some(struct streams *streams) {
    while (streams->opened < streams->settings->connections &&
           streams->opened < streams->answered + OPENING_AT_ONCE) {
        struct stream *stream = &streams->all[streams->opened];
        stream->start = streams->opened++;
        stream->sent_at = checked_calloc(streams->settings->depth, sizeof *stream->sent_at);
        stream->fd = net_connect(streams->settings, SOCK_STREAM, false, 0);
        if (stream->fd < 0) {
            fail_stream(streams, stream, "connect", errno);
            continue;
        }
        if (streams->settings->tls)
            stream->tls = tls_open(stream->fd);
        net_watch(streams->epoll, stream->fd, stream);
    }
}

static void step(struct streams *streams) {
    struct epoll_event events[EVENTS];
    int count = net_wait(streams->epoll, events, EVENTS, streams->report);
    for (int i = 0; i < count; i++) {
        struct stream *stream = events[i].data.ptr;
        if (stream->fd >= 0 && (stream->tls || events[i].events & ~(unsigned)EPOLLOUT))
            receive(streams, stream);
        if (stream->fd >= 0)
            send_some(streams, stream);
    }
}

static bool all_answered(const struct streams *streams) {
    for (size_t i = 0; i < streams->opened; i++) {
        if (streams->all[i].fd >= 0 && streams->all[i].received < streams->all[i].sent)
            return false;
    }
    return true;
}

/* Holds what is open until the end of stdin; none of them may have been closed meanwhile. */
static void hold(struct streams *streams) {
    char byte;
    printf("ready %zu\n", streams->opened - streams->closed);
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    for (size_t i = 0; i < streams->opened; i++) {
        struct stream *stream = &streams->all[i];
        if (stream->fd >= 0 && recv(stream->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0)
            fail_stream(streams, stream, "idle", ECONNRESET);
    }
}

void run_stream(const struct settings *settings, struct report *report) {
    struct streams streams = {.settings = settings, .report = report};
    uint64_t limit = now_ns() + opening_limit_ns;
    pattern_init(&streams.pattern, settings);
    if (settings->tls)
        tls_init();
    streams.epoll = net_epoll();
    streams.all = checked_calloc(settings->connections, sizeof *streams.all);
    while (streams.answered < settings->connections && now_ns() < limit) {
        open_some(&streams);
        step(&streams);
    }
    if (streams.answered < settings->connections)
        report_error(report, "opening", ETIMEDOUT);
    if (settings->mode == MODE_IDLE) {
        hold(&streams);
        report->messages = streams.opened - streams.closed;
    } else if (!report->errors) {
        report_start(report, now_ns());
        while (report_phase(report, now_ns()) < PHASE_DRAINING && streams.closed < streams.opened)
            step(&streams);
        while (report_phase(report, now_ns()) < PHASE_OVER && !all_answered(&streams))
            step(&streams);
        if (!all_answered(&streams))
            report_error(report, "the last answers", ETIMEDOUT);
    }
    for (size_t i = 0; i < streams.opened; i++) {
        if (streams.all[i].fd >= 0)
            close_stream(&streams, &streams.all[i]);
    }
}
