/* assert.c: ends the process when an assertion fails.
 *
 * Going on would be unsafe: the kernel may be writing to memory that we believe is free. */
#include "core/assert.h"

#ifdef IO_ASSERTIONS

#include <stdio.h>
#include <stdlib.h>

void io_assert_failed(const char *condition, const char *file, int line) {
    /* A single call, so that the output of several threads does not mix. */
    fprintf(stderr, "iocpcore: assertion failed: %s (%s:%d)\n", condition, file, line);
    fflush(stderr);
    abort();
}

#else
typedef int io_assert_is_empty; /* C has no empty translation units */
#endif
