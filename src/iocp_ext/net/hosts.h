/* hosts.h: counts the connections of a group by address. */
#ifndef IOCPCORE_NET_HOSTS_H
#define IOCPCORE_NET_HOSTS_H

#include "core/io.h"

typedef struct io_host io_host;

/* All zero: empty. Protected by the caller's lock. */
typedef struct io_hosts {
    io_host *root;
} io_hosts;

/* Counts one more connection from this peer's address. Returns 1 if counted, and *host is what to
 * pass to io_hosts_remove; 0 if the address already has `most`; or -IOE_NOMEM. Peers without an IP
 * address are not counted: returns 1, and *host is NULL. */
int io_hosts_add(io_hosts *self, const io_address *peer, size_t most, io_host **host);
/* Counts one connection less. Cannot fail; ignores NULL. */
void io_hosts_remove(io_hosts *self, io_host *host);

#endif
