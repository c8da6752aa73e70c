/* assert.c: the end of a process whose invariants no longer hold.
 *
 * No attempt is made to go on: the kernel may be writing to memory that we believe is free. */
#include "core/assert.h"

#ifdef IO_ASSERTIONS

#include <stdio.h>
#include <stdlib.h>

void io_assert_failed(const char *condition, const char *file, int line) {
    /* One call, so that lines of several threads do not mix. */
    fprintf(stderr, "iocpcore: assertion failed: %s (%s:%d)\n", condition, file, line);
    fflush(stderr);
    abort();
}

#else
typedef int io_assert_is_empty; /* C has no empty translation units */
#endif
