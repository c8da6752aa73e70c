/* epoll.h: waiting for readiness. It is the whole of the epoll backend; the io_uring backend waits
 * the same way for everything but files. */
#ifndef IOCPCORE_BACKENDS_LINUX_EPOLL_H
#define IOCPCORE_BACKENDS_LINUX_EPOLL_H

#include "core/backend.h"

enum { EPOLL_TOKEN_WAKE = 0 }; /* no handle has this token */

/* The first member of a lane's `state`. */
typedef struct epoll_lane {
    int epoll;
    _Atomic int wake; /* eventfd */
} epoll_lane;

int epoll_state_open(epoll_lane *state);
void epoll_state_close(epoll_lane *state);
/* The last step of lane_open(): stores the new state in the lane or, after an error, frees it.
 * Returns the error. */
int epoll_lane_opened(io_lane *lane, void *state, int error, uint32_t *os_error);
/* A wait also ends when this descriptor becomes readable. */
int epoll_watch(const epoll_lane *state, int fd);

/* Functions for struct io_backend. */
int epoll_lane_wait(io_lane *lane, const io_wait *wait, uint64_t deadline_ns, int maximum,
                    io_list *done);
void epoll_wake(io_lane *lane);
int epoll_handle_open(io_handle *handle, uint32_t *os_error);
void epoll_handle_close(io_handle *handle, bool close_native);
int epoll_submit(io_op *op);
int epoll_cancel(io_op *op);
int epoll_receive_now(io_receive *receive);

#endif
