/* uring.c: the least a server on io_uring can do: echo, or echo once and close.
 *
 *   uring echo|visit BUFFER_BYTES
 *
 * One thread. A multishot accept, a multishot receive per connection into provided buffers, one
 * send at a time per connection (two could change places after a short one), out of the buffer that
 * was received into. All that a round of completions leads to goes in with the next wait. 4 MiB of
 * buffers; their size is the runner's choice, since the limit is what the best setting gives.
 *
 * A visit takes a single receive: closing a descriptor with a receive under way ends nothing. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "listen.h"
#include "ring.h"

enum { SQ_ENTRIES = 1024, CQ_ENTRIES = 16384, MEMORY_BYTES = 4 << 20, FDS_MAX = 65536 };
enum { BUFFERS_MAX = 4096, NONE = -1 };
enum kind { ACCEPT, RECEIVE, SEND, CLOSE };

struct connection {
    int first, last; /* of the buffers to be sent, or NONE */
    bool sending;    /* the first of them */
    bool receiving;  /* the kernel has our receive */
    bool ended;      /* nothing more will come */
};

static struct ring ring;
static struct connection connections[FDS_MAX];
static int next_buffer[BUFFERS_MAX];
static uint32_t buffer_used[BUFFERS_MAX];
static int starved[FDS_MAX], starved_count; /* descriptors */
static bool visit;

static struct sqe *prepare(enum kind kind, uint8_t opcode, int fd) {
    struct sqe *sqe = ring_next(&ring);
    sqe->opcode = opcode;
    sqe->fd = fd;
    sqe->user_data = (uint64_t)kind << 32 | (uint32_t)fd;
    return sqe;
}

static void start_accepting(int listener) {
    prepare(ACCEPT, OP_ACCEPT, listener)->io_priority = ACCEPT_MULTISHOT;
}

static void start_receiving(int fd) {
    struct sqe *sqe = prepare(RECEIVE, OP_RECV, fd);
    sqe->flags = SQE_BUFFER_SELECT;
    sqe->io_priority = visit ? 0 : RECV_MULTISHOT;
    connections[fd].receiving = true;
}

static void start_sending(int fd) {
    struct connection *connection = &connections[fd];
    struct sqe *sqe = prepare(SEND, OP_SEND, fd);
    sqe->address = (uint64_t)(uintptr_t)ring_memory(&ring, (uint16_t)connection->first);
    sqe->length = buffer_used[connection->first];
    sqe->op_flags = MSG_WAITALL | MSG_NOSIGNAL; /* all of it, or an error */
    connection->sending = true;
}

static void close_if_over(int fd) {
    struct connection *connection = &connections[fd];
    if (connection->ended && !connection->receiving && connection->first == NONE)
        prepare(CLOSE, OP_CLOSE, fd);
}

static void accepted(int listener, const struct cqe *cqe) {
    int fd = cqe->result, yes = 1;
    if (fd >= FDS_MAX)
        die("too many connections");
    if (fd >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        connections[fd] = (struct connection){.first = NONE, .last = NONE};
        start_receiving(fd);
    }
    if (!(cqe->flags & CQE_MORE))
        start_accepting(listener);
}

static void received(int fd, const struct cqe *cqe) {
    struct connection *connection = &connections[fd];
    if (cqe->result > 0) {
        int buffer = (int)(cqe->flags >> CQE_BUFFER_SHIFT);
        buffer_used[buffer] = (uint32_t)cqe->result;
        next_buffer[buffer] = NONE;
        if (connection->first == NONE)
            connection->first = buffer;
        else
            next_buffer[connection->last] = buffer;
        connection->last = buffer;
        if (!connection->sending)
            start_sending(fd);
    }
    connection->receiving = cqe->flags & CQE_MORE;
    if (connection->receiving)
        return;
    if (cqe->result == -ENOBUFS)
        starved[starved_count++] = fd;
    else if (cqe->result <= 0 || visit)
        connection->ended = true;
    else
        start_receiving(fd);
    close_if_over(fd);
}

static void sent(int fd, const struct cqe *cqe) {
    struct connection *connection = &connections[fd];
    int buffer = connection->first;
    connection->sending = false;
    connection->first = next_buffer[buffer];
    ring_give_back(&ring, (uint16_t)buffer);
    if (cqe->result < 0)
        shutdown(fd, SHUT_RDWR); /* the receive ends by that */
    if (connection->first != NONE)
        start_sending(fd);
    close_if_over(fd);
    if (starved_count)
        start_receiving(starved[--starved_count]);
}

int main(int count, char **arguments) {
    uint32_t bytes = count == 3 ? (uint32_t)atoi(arguments[2]) : 0;
    int listener;
    if (bytes < MEMORY_BYTES / BUFFERS_MAX || MEMORY_BYTES % bytes)
        die("uring echo|visit BUFFER_BYTES");
    visit = !strcmp(arguments[1], "visit");
    ring_open(&ring, SQ_ENTRIES, CQ_ENTRIES);
    ring_provide(&ring, MEMORY_BYTES / bytes, bytes);
    listener = listen_on_loopback(SOCK_STREAM);
    start_accepting(listener);
    for (;;) {
        const struct cqe *cqe;
        ring_wait(&ring);
        while ((cqe = ring_take(&ring))) {
            int fd = (int)(uint32_t)cqe->user_data;
            switch ((enum kind)(cqe->user_data >> 32)) {
            case ACCEPT:
                accepted(fd, cqe);
                break;
            case RECEIVE:
                received(fd, cqe);
                break;
            case SEND:
                sent(fd, cqe);
                break;
            case CLOSE:
                break;
            }
        }
    }
}
