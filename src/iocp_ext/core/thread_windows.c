/* thread_windows.c: starting threads on Windows. */
#ifdef _WIN32
#include "core/thread.h"

#include <process.h>
#include <stdlib.h>

#include "core/error.h"

typedef struct start {
    void (*function)(void *argument);
    void *argument;
} start;

static unsigned __stdcall thread_windows_run(void *argument) {
    start begin = *(start *)argument;
    free(argument);
    begin.function(begin.argument);
    return 0;
}

int io_thread_start(void (*function)(void *argument), void *argument) {
    start *begin = malloc(sizeof *begin);
    if (begin == NULL)
        return -IOE_NOMEM;
    begin->function = function;
    begin->argument = argument;
    /* Not CreateThread: the C library frees its per-thread data only for threads it started. */
    uintptr_t thread = _beginthreadex(NULL, 0, thread_windows_run, begin, 0, NULL);
    if (thread == 0) {
        free(begin);
        return -IOE_AGAIN;
    }
    CloseHandle((HANDLE)thread); /* detached */
    return 0;
}

#else
typedef int io_thread_windows_is_empty; /* C has no empty translation units */
#endif
