/* handle.h: functions of handle.c for handle_queue.c. */
#ifndef IOCPCORE_HANDLE_H
#define IOCPCORE_HANDLE_H

#include "core/backend.h"

/* Completes a pending io_handle_close if nothing is in flight any more. The handle's lock must be
 * held. */
void handle_close_if_idle(io_handle *handle);

#endif
