/* accepting.c: when to accept again after a failure.
 *
 * Accepting fails in three ways. One client may be gone before it was accepted: that is nothing to
 * the others. The system may lack something for a while, such as descriptors. Or it fails every
 * time, because of a security policy or a network that is down. Only the first says for sure that
 * another attempt makes sense at once, and even then somebody may hold locks during the attempts,
 * and others wait for their turn. Everything else gets a pause. It is short at first, because some
 * systems report the network's trouble with one client as an error of accept. */
#include "core/accepting.h"

enum {
    ATTEMPTS_MAX = 16, /* by one operation */
    LOST_MAX = 64,     /* operations in a row that were in vain, without a pause */
};

#define PAUSE_LEAST_NS IO_NS_PER_MS
#define PAUSE_MOST_NS (100 * IO_NS_PER_MS) /* long enough for others to give something back */

/* A client that is gone. Of a pipe's, its end is said to be broken. */
static bool accepting_client_lost(int error) {
    return error == -IOE_CONNABORTED || error == -IOE_CONNRESET || error == -IOE_NETRESET ||
           error == -IOE_PIPE;
}

bool io_accept_again(io_accept *accept, int error) {
    return (error == -IOE_INTR || accepting_client_lost(error)) &&
           ++accept->attempts < ATTEMPTS_MAX;
}

uint64_t io_accepting_pause(io_accepting *self, int64_t result) {
    if (result >= 0) {
        *self = (io_accepting){0};
        return 0;
    }
    if (accepting_client_lost((int)result) && self->lost < LOST_MAX) {
        self->lost++;
        return 0;
    }
    self->lost = 0;
    uint64_t pause_ns = PAUSE_LEAST_NS << self->pauses;
    if (pause_ns >= PAUSE_MOST_NS)
        return PAUSE_MOST_NS;
    self->pauses++;
    return pause_ns;
}
