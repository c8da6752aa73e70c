/* net.c: sockets and memory for the load generator. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

enum { SOURCES = 64, TICK_MS = 10 };

static int bind_source(int fd, size_t number) {
    struct sockaddr_in source = {.sin_family = AF_INET};
    int yes = 1;
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(number % SOURCES));
    return setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes) ||
           bind(fd, (struct sockaddr *)&source, sizeof source);
}

int net_connect(const struct settings *settings, int type, bool spread, size_t number) {
    int family = settings->address.ss_family, yes = 1, error;
    int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (family == AF_INET && type == SOCK_STREAM)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (spread && family == AF_INET && bind_source(fd, number))
        goto failed;
    if (connect(fd, (const struct sockaddr *)&settings->address, settings->address_bytes) &&
        errno != EINPROGRESS)
        goto failed;
    return fd;
failed:
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

int net_epoll(void) {
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0) {
        perror("load: epoll_create1");
        exit(2);
    }
    return fd;
}

int net_wait(int epoll, struct epoll_event *events, int maximum, struct report *report) {
    if (!report->settings->spin)
        return epoll_wait(epoll, events, maximum, TICK_MS);
    uint64_t began = now_ns();
    int count = epoll_wait(epoll, events, maximum, 0);
    if (count == 0)
        report_spun(report, now_ns() - began);
    return count;
}

void net_watch(int epoll, int fd, void *what) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP};
    event.data.ptr = what;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) {
        perror("load: epoll_ctl");
        exit(2);
    }
}

void *checked_calloc(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) {
        perror("load: memory");
        exit(2);
    }
    return memory;
}
