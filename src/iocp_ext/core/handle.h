/* handle.h: what handle.c does for handle_queue.c. */
#ifndef IOCPCORE_HANDLE_H
#define IOCPCORE_HANDLE_H

#include "core/backend.h"

/* Under the handle's lock. Ends what io_handle_close began, when nothing is in flight any more. */
void handle_close_if_idle(io_handle *handle);

#endif
