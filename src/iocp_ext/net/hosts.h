/* hosts.h: how many connections of a group each address has. */
#ifndef IOCPCORE_NET_HOSTS_H
#define IOCPCORE_NET_HOSTS_H

#include "core/io.h"

typedef struct io_host io_host;

/* All zero: nobody is counted. The caller's lock protects it. */
typedef struct io_hosts {
    io_host *root;
} io_hosts;

/* Counts one more connection of this peer's address, unless it has `most` already. 1: counted, and
 * `host` is what to give back; 0: refused; or -IOE_NOMEM. Peers without an IP address are not
 * counted: 1, and `host` is NULL. */
int io_hosts_add(io_hosts *self, const io_address *peer, size_t most, io_host **host);
/* One connection fewer. Needs no memory; ignores NULL. */
void io_hosts_remove(io_hosts *self, io_host *host);

#endif
