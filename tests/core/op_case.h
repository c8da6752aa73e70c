/* op_case.h: one operation of any kind, with the sockets and files that it needs around it.
 *
 * A case is set up so that its operation is done at once, has to wait until op_case_fulfil, or
 * fails. Everything else happens on the same port, so each wait also sees completions that are not
 * the one it waits for; the owner of an operation counts how often it has ended. */
#ifndef IOCPCORE_TEST_OP_CASE_H
#define IOCPCORE_TEST_OP_CASE_H

#include "world.h"

#define LARGE ((size_t)12 << 20) /* more than a loopback connection takes without a reader */

typedef enum test_way { AT_ONCE, HAS_TO_WAIT, FAILS, WAYS } test_way;
/* One operation under test, with its surroundings. */
typedef struct op_case {
    test_world world;
    io_kind kind;
    io_native native[3];
    bool is_file[3];
    io_handle *handle[3]; /* [0] has the operation; [1] is its peer */
    io_address address;   /* of native[0] or of whom it talks to */
    char *bytes;          /* LARGE, not to be changed */
    char received[64];
    int ended[64]; /* how often; operations have these as owners */
    int used;
} op_case;

/* With a seed, the simulated backend is configured to do everything but fail. */
void op_case_open(op_case *self, const char *backend, io_kind kind, uint64_t seed);
/* Takes what is left, checks that everything ended once, and closes all. */
void op_case_close(op_case *self);
void op_case_add(op_case *self, int place, io_native native, bool is_file);
void op_case_set_up(op_case *self, test_way way);
io_op *op_case_op(op_case *self, test_way way);
/* What lets an operation end that has to wait (or does not have to wait, if it comes first). */
void op_case_fulfil(op_case *self);
bool op_case_has_way(io_kind kind, test_way way);
bool op_case_by_peer(io_kind kind); /* it is the peer that makes it end */

void op_case_submit(op_case *self, io_op *op, int place);
/* Takes completions until this one is among them; its result. The others are released. */
int64_t op_case_finish(op_case *self, io_op *op);
int64_t op_case_end(op_case *self, io_op *op); /* and releases it too */
/* Receives exactly `total` bytes of self->bytes, which `send` may complete meanwhile. */
void op_case_read_all(op_case *self, io_op *send, size_t total);
void op_case_take_rest(op_case *self);
void op_case_check_ended(op_case *self);

#endif
