/* thread_posix.c: starting threads on systems with pthreads.
 *
 * Threads of the core run no Python code and must not receive signals of the process, which Python
 * handles in its main thread. */
#ifndef _WIN32
#include "core/thread.h"

#include <stdlib.h>

typedef struct start {
    void (*function)(void *argument);
    void *argument;
} start;

static void *thread_posix_run(void *argument) {
    start begin = *(start *)argument;
    free(argument);
    begin.function(begin.argument);
    return NULL;
}

int io_thread_start(void (*function)(void *argument), void *argument) {
    start *begin = malloc(sizeof *begin);
    pthread_attr_t attributes;
    if (begin == NULL)
        return -IOE_NOMEM;
    begin->function = function;
    begin->argument = argument;
    if (pthread_attr_init(&attributes) != 0) {
        free(begin);
        return -IOE_NOMEM;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    io_signals saved;
    io_signals_block(&saved);
    pthread_t thread;
    int failed = pthread_create(&thread, &attributes, thread_posix_run, begin);
    io_signals_restore(&saved);
    pthread_attr_destroy(&attributes);
    if (failed)
        free(begin);
    return io_error_from_errno(failed);
}

#else
typedef int io_thread_posix_is_empty; /* C has no empty translation units */
#endif
