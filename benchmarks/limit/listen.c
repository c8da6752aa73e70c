/* listen.c: what every C server does first. */
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "listen.h"

enum { BACKLOG = 1024 };

_Noreturn void die(const char *what) {
    perror(what);
    exit(1);
}

int listen_on_loopback(int type) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t bytes = sizeof address;
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) ||
        (type == SOCK_STREAM && listen(fd, BACKLOG)) ||
        getsockname(fd, (struct sockaddr *)&address, &bytes))
        die("listen");
    signal(SIGPIPE, SIG_IGN);
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}
