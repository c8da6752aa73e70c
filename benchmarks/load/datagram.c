/* datagram.c: echo over UDP.
 *
 * Each socket has `depth` datagrams under way. A datagram begins with its number; one that has not
 * come back after a while counts as lost, and the next takes its place. */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

enum { EVENTS = 64, DATAGRAM_BYTES = 65536 };

static const uint64_t lost_ns = 500000000;
static const uint64_t look_ns = 100000000; /* for lost ones */

struct slot {
    uint64_t number; /* 0: free */
    uint64_t sent_at;
};

struct peer {
    int fd;
    uint64_t sent;
    struct slot *slots;
};

struct peers {
    const struct settings *settings;
    struct report *report;
    struct pattern pattern;
    struct peer *all;
    int epoll;
    size_t under_way;
    unsigned char buffer[DATAGRAM_BYTES];
};

static const unsigned char *text_of(const struct peers *peers, uint64_t number) {
    return pattern_at(&peers->pattern, (size_t)(number % 1024), 0);
}

static void send_in(struct peers *peers, struct peer *peer, struct slot *slot) {
    uint64_t number = ++peer->sent, wire = htobe64(number);
    memcpy(peers->buffer, &wire, sizeof wire);
    memcpy(peers->buffer + sizeof wire, text_of(peers, number),
           peers->settings->size - sizeof wire);
    *slot = (struct slot){.number = number, .sent_at = now_ns()};
    peers->under_way++;
    if (send(peer->fd, peers->buffer, peers->settings->size, 0) < 0 && errno != EAGAIN)
        report_error(peers->report, "send", errno);
}

static void send_free(struct peers *peers, struct peer *peer) {
    for (size_t i = 0; i < peers->settings->depth; i++) {
        if (!peer->slots[i].number && peers->report->phase < PHASE_DRAINING)
            send_in(peers, peer, &peer->slots[i]);
    }
}

static void take(struct peers *peers, struct peer *peer, size_t bytes) {
    uint64_t wire;
    memcpy(&wire, peers->buffer, sizeof wire);
    for (size_t i = 0; i < peers->settings->depth; i++) {
        struct slot *slot = &peer->slots[i];
        if (slot->number && slot->number == be64toh(wire)) {
            if (bytes != peers->settings->size ||
                memcmp(peers->buffer + sizeof wire, text_of(peers, slot->number),
                       bytes - sizeof wire) != 0)
                report_error(peers->report, "echo", 0);
            report_message(peers->report, now_ns() - slot->sent_at, bytes);
            slot->number = 0;
            peers->under_way--;
            return;
        }
    }
    /* One that had been given up. */
}

static void receive(struct peers *peers, struct peer *peer) {
    for (;;) {
        ssize_t count = recv(peer->fd, peers->buffer, sizeof peers->buffer, 0);
        if (count < 0) {
            if (errno != EAGAIN)
                report_error(peers->report, "receive", errno);
            break;
        }
        if (count >= 8)
            take(peers, peer, (size_t)count);
    }
    send_free(peers, peer);
}

static void give_up_lost(struct peers *peers, uint64_t now) {
    for (size_t i = 0; i < peers->settings->connections; i++) {
        struct peer *peer = &peers->all[i];
        for (size_t j = 0; j < peers->settings->depth; j++) {
            if (peer->slots[j].number && now - peer->slots[j].sent_at > lost_ns) {
                peer->slots[j].number = 0;
                peers->under_way--;
                if (peers->report->phase == PHASE_MEASURING)
                    peers->report->lost++;
            }
        }
        send_free(peers, peer);
    }
}

void run_datagrams(const struct settings *settings, struct report *report) {
    static struct peers peers;
    uint64_t looked = now_ns();
    peers.settings = settings;
    peers.report = report;
    pattern_init(&peers.pattern, settings);
    peers.epoll = net_epoll();
    peers.all = checked_calloc(settings->connections, sizeof *peers.all);
    report_start(report, now_ns());
    for (size_t i = 0; i < settings->connections; i++) {
        struct peer *peer = &peers.all[i];
        peer->fd = net_connect(settings, SOCK_DGRAM, false, 0);
        if (peer->fd < 0) {
            report_error(report, "connect", errno);
            return;
        }
        peer->slots = checked_calloc(settings->depth, sizeof *peer->slots);
        net_watch(peers.epoll, peer->fd, peer);
        send_free(&peers, peer);
    }
    while (report_phase(report, now_ns()) < PHASE_DRAINING ||
           (report->phase == PHASE_DRAINING && peers.under_way)) {
        struct epoll_event events[EVENTS];
        int count = net_wait(peers.epoll, events, EVENTS, report);
        for (int i = 0; i < count; i++)
            receive(&peers, events[i].data.ptr);
        if (now_ns() - looked > look_ns) {
            looked = now_ns();
            give_up_lost(&peers, looked);
        }
    }
}
