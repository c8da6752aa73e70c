/* op_case.h: one operation of any kind, with the sockets and files that it needs.
 *
 * A case is set up so that its operation completes at once, waits until op_case_fulfil, or fails.
 * The helper operations use the same port, so each wait also sees completions other than its own.
 * The owner of an operation counts how often it has ended. */
#ifndef IOCPCORE_TEST_OP_CASE_H
#define IOCPCORE_TEST_OP_CASE_H

#include "world.h"

#define LARGE ((size_t)12 << 20) /* more than a loopback connection buffers without a reader */

typedef enum test_way { AT_ONCE, HAS_TO_WAIT, FAILS, WAYS } test_way;
/* One operation under test, with its surroundings. */
typedef struct op_case {
    test_world world;
    io_kind kind;
    io_native native[3];
    bool is_file[3];
    io_handle *handle[3]; /* [0] has the operation; [1] is its peer */
    io_address address;   /* of native[0] or of its peer */
    char *bytes;          /* LARGE bytes, constant */
    char received[64];
    int ended[64]; /* how often each operation has ended; these are the owners */
    int used;
} op_case;

/* With a seed, the simulated backend varies everything except that it injects no failures. */
void op_case_open(op_case *self, const char *backend, io_kind kind, uint64_t seed);
/* Processes what is left, checks that every operation ended once, and closes everything. */
void op_case_close(op_case *self);
void op_case_add(op_case *self, int place, io_native native, bool is_file);
void op_case_set_up(op_case *self, test_way way);
io_op *op_case_op(op_case *self, test_way way);
/* Does what a waiting operation waits for. If called before, the operation need not wait. */
void op_case_fulfil(op_case *self);
bool op_case_has_way(io_kind kind, test_way way);
bool op_case_by_peer(io_kind kind); /* whether an action of the peer completes it */

void op_case_submit(op_case *self, io_op *op, int place);
/* Takes completions until this one has come, and releases the others. Returns its result. */
int64_t op_case_finish(op_case *self, io_op *op);
int64_t op_case_end(op_case *self, io_op *op); /* op_case_finish, then releases it */
/* Receives exactly `total` bytes of self->bytes. `send` may complete meanwhile. */
void op_case_read_all(op_case *self, io_op *send, size_t total);
void op_case_take_rest(op_case *self);
void op_case_check_ended(op_case *self);

#endif
