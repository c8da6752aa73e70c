/* epoll.c: the least a server on epoll can do: echo, or echo once and close.
 *
 *   epoll echo|visit
 *
 * One thread, level-triggered, the interest changed only while a peer does not read. Each event
 * costs one recv and one send. What could not be sent is kept, and the connection is not read until
 * it has gone out. This is a limit to compare with, not a server: it trusts its clients. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "listen.h"

enum { EVENTS = 256, BUFFER_BYTES = 64 * 1024 };

struct connection {
    int fd;
    char *rest; /* unsent, or NULL */
    size_t begin, end;
};

static int epoll;
static bool visit;

static void watch(int operation, int fd, unsigned events, void *what) {
    struct epoll_event event = {.events = events};
    event.data.ptr = what;
    if (epoll_ctl(epoll, operation, fd, &event))
        die("epoll_ctl");
}

static void end(struct connection *connection) {
    close(connection->fd);
    free(connection->rest);
    free(connection);
}

static void accept_all(int listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *connection = calloc(1, sizeof *connection);
        if (!connection)
            die("memory");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        connection->fd = fd;
        watch(EPOLL_CTL_ADD, fd, EPOLLIN, connection);
    }
}

static void keep_rest(struct connection *connection, const char *data, size_t bytes) {
    connection->rest = malloc(bytes);
    if (!connection->rest)
        die("memory");
    memcpy(connection->rest, data, bytes);
    connection->begin = 0;
    connection->end = bytes;
    watch(EPOLL_CTL_MOD, connection->fd, EPOLLOUT, connection);
}

static void echo(struct connection *connection) {
    static char buffer[BUFFER_BYTES];
    ssize_t count = recv(connection->fd, buffer, sizeof buffer, 0), sent;
    if (count <= 0) {
        if (count == 0 || errno != EAGAIN)
            end(connection);
        return;
    }
    sent = send(connection->fd, buffer, (size_t)count, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN)
        sent = 0;
    if (sent < 0 || (visit && sent == count))
        end(connection);
    else if (sent < count)
        keep_rest(connection, buffer + sent, (size_t)(count - sent));
}

static void send_rest(struct connection *connection) {
    ssize_t sent = send(connection->fd, connection->rest + connection->begin,
                        connection->end - connection->begin, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            end(connection);
        return;
    }
    connection->begin += (size_t)sent;
    if (connection->begin < connection->end)
        return;
    free(connection->rest);
    connection->rest = NULL;
    if (visit)
        end(connection);
    else
        watch(EPOLL_CTL_MOD, connection->fd, EPOLLIN, connection);
}

int main(int count, char **arguments) {
    int listener = listen_on_loopback(SOCK_STREAM);
    visit = count == 2 && !strcmp(arguments[1], "visit");
    if (fcntl(listener, F_SETFL, O_NONBLOCK))
        die("fcntl");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!connection)
                accept_all(listener);
            else if (connection->rest)
                send_rest(connection);
            else
                echo(connection);
        }
    }
}
