/* accepting.c: when to accept again after a failure.
 *
 * An accept fails for one of three reasons. A client disconnected before it was accepted, which
 * does not concern the others. The system is temporarily short of a resource, such as descriptors.
 * Or every accept fails, because of a security policy or a network that is down. Only the first
 * justifies an immediate retry. Even that is bounded, because the caller may hold locks and other
 * operations are waiting. All other failures cause a pause. It is short at first, because some
 * systems report network trouble of a single client as an error of accept. */
#include "core/accepting.h"

enum {
    ATTEMPTS_MAX = 16, /* per operation */
    LOST_MAX = 64,     /* consecutive failed operations without a pause */
};

#define PAUSE_MIN_NS IO_NS_PER_MS
#define PAUSE_MAX_NS (100 * IO_NS_PER_MS) /* long enough for resources to be released */

/* True if the client disconnected. For pipes the error is -IOE_PIPE. */
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
    uint64_t pause_ns = PAUSE_MIN_NS << self->pauses;
    if (pause_ns >= PAUSE_MAX_NS)
        return PAUSE_MAX_NS;
    self->pauses++;
    return pause_ns;
}
