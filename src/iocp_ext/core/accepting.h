/* accepting.h: how backends and listeners retry after a failed accept. */
#ifndef IOCPCORE_CORE_ACCEPTING_H
#define IOCPCORE_CORE_ACCEPTING_H

#include "core/io.h"

/* For backends. Returns true if a failed attempt must be retried immediately: it was interrupted,
 * or the client has disconnected, which says nothing about the next client. Counts the attempts,
 * and returns false when one operation has made too many. */
bool io_accept_again(io_accept *accept, int error);

/* The recent failures of a listener. All zero after a success. */
typedef struct io_accepting {
    uint32_t lost;   /* consecutive accepts that failed because clients had disconnected */
    uint32_t pauses; /* consecutive pauses */
} io_accepting;

/* Records the result of an accept that was not cancelled. Returns the time to wait before the next
 * accept; 0 for none. */
uint64_t io_accepting_pause(io_accepting *self, int64_t result);

#endif
