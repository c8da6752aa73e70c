/* uring_receive.h: how a connection receives (IO_RECEIVE), and the buffers for it. */
#ifndef IOCPCORE_URING_RECEIVE_H
#define IOCPCORE_URING_RECEIVE_H

#include "uring.h"

/* Finds out what the kernel can do; never fails. */
void uring_intake_open(uring_lane *state);
/* Waits for what is armed, before the ring is closed; */
void uring_intake_drain(uring_lane *state);
/* and gives back the memory after that. */
void uring_intake_close(uring_lane *state);
/* For tests: lanes that are opened from now on are as on an older kernel, or not any more. */
void uring_intake_as_before(bool older);

/* For a handle that is owned. The others, and any without memory, receive by poll. */
void uring_receiver_open(io_handle *handle);
/* True: the descriptor is closed later, by the receiver, if it is to be closed at all. */
bool uring_receiver_close(io_handle *handle, bool close_native);

/* IO_DONE or an error: it has ended. IO_PENDING: the receiver has it. -IOE_AGAIN: it is to be
 * submitted again when a poll says so. Under the handle's lock, as are the next two. */
int uring_receive(io_op *op);
int uring_receive_now(io_receive *receive); /* after IO_RECEIVE_READY */
/* True: the receiver had it, and does not know it any more. */
bool uring_receive_cancel(io_op *op);
/* Sees to a cancel of the receiver's own that the kernel did not take; under the handle's lock. */
void uring_receiver_ask_again(const io_handle *handle);
/* A completion with a receiver's token. `followed`: the next one is of the same. */
void uring_received(uring_lane *state, const struct uring_cqe *completion, bool followed,
                    io_list *done);

#endif
