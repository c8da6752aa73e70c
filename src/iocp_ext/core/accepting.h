/* accepting.h: what a failed accept means, to backends and to listeners. */
#ifndef IOCPCORE_CORE_ACCEPTING_H
#define IOCPCORE_CORE_ACCEPTING_H

#include "core/io.h"

/* For backends. Whether a failed attempt is made again at once: it was interrupted, or the client
 * was gone again, which says nothing about the next one. True only so often for one operation. */
bool io_accept_again(io_accept *accept, int error);

/* How the accepts of a listener have fared. All zero: well. */
typedef struct io_accepting {
    uint32_t lost;   /* accepts in a row that ended because too many clients were gone again */
    uint32_t pauses; /* in a row */
} io_accepting;

/* An accept has ended, not by a cancel. How long to wait before the next one; 0: not at all. */
uint64_t io_accepting_pause(io_accepting *self, int64_t result);

#endif
