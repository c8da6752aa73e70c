/* bulk.c: the least a server can do to send much, from memory or from a file.
 *
 *   bulk send BYTES | bulk file PATH
 *
 * Blocking, one connection at a time. What is sent from memory is a block of 64 KiB, 8-byte
 * big-endian numbers counting up from 0, over and over. */
#include <endian.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "listen.h"

enum { BLOCK_WORDS = 8192, BLOCKS = 4 }; /* 256 KiB per send */

static uint64_t blocks[BLOCKS][BLOCK_WORDS];

static void send_memory(int fd, uint64_t bytes) {
    uint64_t sent = 0;
    while (sent < bytes) {
        size_t offset = (size_t)(sent % sizeof blocks[0]);
        size_t piece = sizeof blocks - offset;
        ssize_t count = send(fd, (char *)blocks + offset,
                             bytes - sent < piece ? (size_t)(bytes - sent) : piece, MSG_NOSIGNAL);
        if (count < 0)
            return;
        sent += (uint64_t)count;
    }
}

static void send_file(int fd, int file, uint64_t bytes) {
    off_t offset = 0;
    while ((uint64_t)offset < bytes) {
        if (sendfile(fd, file, &offset, bytes - (uint64_t)offset) <= 0)
            return;
    }
}

int main(int count, char **arguments) {
    int listener, fd, file = -1;
    uint64_t bytes;
    struct stat status;
    if (count != 3)
        die("bulk send BYTES | bulk file PATH");
    bytes = strtoull(arguments[2], NULL, 10);
    if (!strcmp(arguments[1], "file")) {
        file = open(arguments[2], O_RDONLY | O_CLOEXEC);
        if (file < 0 || fstat(file, &status))
            die(arguments[2]);
        bytes = (uint64_t)status.st_size;
    }
    for (int i = 0; i < BLOCKS; i++) {
        for (uint64_t word = 0; word < BLOCK_WORDS; word++)
            blocks[i][word] = htobe64(word);
    }
    listener = listen_on_loopback(SOCK_STREAM);
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        if (file >= 0)
            send_file(fd, file, bytes);
        else
            send_memory(fd, bytes);
        close(fd);
    }
    die("accept");
}
