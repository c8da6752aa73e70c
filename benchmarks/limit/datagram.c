/* datagram.c: the least a UDP echo can do: receive one, send it back. */
#include <netinet/in.h>
#include <sys/socket.h>

#include "listen.h"

int main(void) {
    static char buffer[65536];
    int fd = listen_on_loopback(SOCK_DGRAM);
    for (;;) {
        struct sockaddr_in from;
        socklen_t bytes = sizeof from;
        ssize_t count = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &bytes);
        if (count >= 0)
            sendto(fd, buffer, (size_t)count, 0, (struct sockaddr *)&from, bytes);
    }
}
