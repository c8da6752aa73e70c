/* bulk.c: receiving what a server sends by itself, from connecting to the end of the stream.
 *
 * One transfer after another until the time is up; a message is one whole transfer. What is
 * expected is a block of 64 KiB, 8-byte big-endian numbers counting up from 0, over and over. The
 * warm-up is one transfer, because one that had begun before the measuring would count in part. */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

enum { BLOCK_WORDS = 8192, BUFFER_BYTES = 256 * 1024, STALL_MS = 10000 };

static uint64_t block[BLOCK_WORDS];

static bool matches(uint64_t position, const unsigned char *data, size_t bytes) {
    while (bytes) {
        size_t offset = (size_t)(position % sizeof block);
        size_t piece = sizeof block - offset < bytes ? sizeof block - offset : bytes;
        if (memcmp(data, (const unsigned char *)block + offset, piece) != 0)
            return false;
        position += piece;
        data += piece;
        bytes -= piece;
    }
    return true;
}

/* Whether all of one transfer came. */
static bool transfer(const struct settings *settings, struct report *report, int epoll) {
    static unsigned char buffer[BUFFER_BYTES];
    uint64_t received = 0, begun = now_ns();
    int fd = net_connect(settings, SOCK_STREAM, false, 0), error = 0;
    bool over = fd < 0;
    if (over)
        report_error(report, "connect", errno);
    else
        net_watch(epoll, fd, NULL);
    while (!over) {
        struct epoll_event event;
        ssize_t count = recv(fd, buffer, sizeof buffer, 0);
        if (count > 0 && received + (uint64_t)count <= settings->bytes &&
            matches(received, buffer, (size_t)count)) {
            received += (uint64_t)count;
        } else if (count < 0 && errno == EAGAIN) {
            over = epoll_wait(epoll, &event, 1, STALL_MS) == 0;
            error = ETIMEDOUT;
        } else {
            error = count < 0 ? errno : count ? 0 : ECONNRESET;
            over = true;
        }
    }
    if (fd >= 0)
        close(fd);
    if (received != settings->bytes) {
        report_error(report, "transfer", error);
        return false;
    }
    report_message(report, now_ns() - begun, (size_t)received);
    return true;
}

void run_bulk(const struct settings *settings, struct report *report) {
    int epoll = net_epoll();
    for (size_t i = 0; i < BLOCK_WORDS; i++)
        block[i] = htobe64(i);
    if (!transfer(settings, report, epoll))
        return;
    report_start(report, now_ns() - settings->warmup_ns);
    while (report_phase(report, now_ns()) < PHASE_DRAINING) {
        if (!transfer(settings, report, epoll))
            return;
    }
}
