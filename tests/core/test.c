/* test.c: see test.h. */
#include "test.h"

#ifdef __has_include
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#endif
#endif
#include <setjmp.h>
#include <stdarg.h>
#ifdef _WIN32
#include <process.h>
#else
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
#endif

static const char *program;
static const char *now_running = "nothing";
static jmp_buf skipped;
static uint64_t divisor = 1;
static char about[100];

void test_about(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(about, sizeof(about), format, arguments);
    va_end(arguments);
}

_Noreturn void test_fail(const char *file, int line, const char *format, ...) {
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "%s:%d: %s: ", file, line, now_running);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s%s\n", about[0] ? "; " : "", about);
    fflush(stderr);
    printf("FAIL %s\n", now_running);
    fflush(stdout);
    _Exit(1);
}

void test_skip(const char *reason) {
    printf("skip %s: %s\n", now_running, reason);
    fflush(stdout);
    longjmp(skipped, 1);
}

uint64_t test_scaled(uint64_t count) {
    return count / divisor > 0 ? count / divisor : 1;
}

uint64_t test_below(test_random *random, uint64_t below) {
    uint64_t z = (random->state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (z ^ (z >> 31)) % below;
}

/* ---- threads --------------------------------------------------------------------------------- */

static void thread_run(void *argument) {
    test_thread *thread = argument;
    thread->function(thread->argument);
    io_mutex_lock(&thread->lock);
    thread->done = true;
    io_cond_signal(&thread->ended);
    io_mutex_unlock(&thread->lock);
}

void test_thread_start(test_thread *thread, void (*function)(void *argument), void *argument) {
    thread->function = function;
    thread->argument = argument;
    thread->done = false;
    CHECK(io_mutex_init(&thread->lock) == 0 && io_cond_init(&thread->ended) == 0);
    CHECK_INT(io_thread_start(thread_run, thread), 0);
}

void test_thread_join(test_thread *thread) {
    io_mutex_lock(&thread->lock);
    while (!thread->done)
        io_cond_wait(&thread->ended, &thread->lock, IO_NEVER);
    io_mutex_unlock(&thread->lock);
    io_cond_destroy(&thread->ended);
    io_mutex_destroy(&thread->lock);
}

void test_kernel_wrote(const void *memory, size_t length) {
#ifdef VALGRIND_MAKE_MEM_DEFINED
    (void)VALGRIND_MAKE_MEM_DEFINED(memory, length);
#else
    (void)memory;
    (void)length;
#endif
}

void test_sleep_ms(unsigned ms) {
#ifdef _WIN32
    Sleep(ms);
#else
    struct timespec time = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
#endif
}

/* ---- the time limit -------------------------------------------------------------------------- */

static _Atomic uint64_t limit_ns = IO_NEVER;

#ifdef _WIN32
static void watch_limit(void *argument) {
    (void)argument;
    for (;;) {
        test_sleep_ms(100);
        if (io_clock_ns() > atomic_load(&limit_ns))
            test_fail(__FILE__, __LINE__, "the time limit has passed");
    }
}
#else
/* The end of a program that a sanitizer or the simulated kernel stops, or that crashes. */
static void on_abort(int number) {
    ssize_t ignored = write(2, about, strlen(about));
    ignored = write(2, "\n", 1);
    (void)ignored;
    signal(number, SIG_DFL);
    raise(number);
}

static void on_alarm(int number) {
    static const char text[] = "the time limit has passed\n";
    (void)number;
    ssize_t ignored = write(2, text, sizeof(text) - 1);
    (void)ignored;
    abort();
}
#endif

static void begin_limit(unsigned seconds) {
    atomic_store(&limit_ns, io_clock_ns() + seconds * IO_NS_PER_SECOND);
#ifndef _WIN32
    alarm(seconds);
#endif
}

/* ---- programs -------------------------------------------------------------------------------- */

bool test_child_dies(const char *argument) {
#ifdef _WIN32
    return _spawnl(_P_WAIT, program, program, argument, (char *)NULL) != 0;
#else
    char *arguments[] = {(char *)(uintptr_t)program, (char *)(uintptr_t)argument, NULL};
    pid_t child;
    int status = 0;
    posix_spawn_file_actions_t silent; /* what it says as it dies is of no use */
    CHECK_INT(posix_spawn_file_actions_init(&silent), 0);
    CHECK_INT(posix_spawn_file_actions_addopen(&silent, 2, "/dev/null", O_WRONLY, 0), 0);
    CHECK_INT(posix_spawn(&child, program, &silent, NULL, arguments, environ), 0);
    CHECK_INT(posix_spawn_file_actions_destroy(&silent), 0);
    CHECK_INT(waitpid(child, &status, 0), child);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
#endif
}

static void run_one(const test_case *test) {
    now_running = test->name;
    printf("run %s\n", test->name);
    fflush(stdout);
    if (setjmp(skipped) != 0)
        return;
    test->run();
    printf("ok %s\n", now_running);
    fflush(stdout);
}

int test_main(int argc, char **argv, const test_case *tests, size_t count) {
    size_t from = 0;
    const char *limit = getenv("TEST_LIMIT"), *slowness = getenv("TEST_SLOWNESS");
    unsigned seconds = limit == NULL ? 60 : (unsigned)atoi(limit);
    const char *only = NULL;
    program = argv[0];
    if (slowness != NULL)
        divisor = (uint64_t)atoi(slowness);
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--from") == 0)
            from = (size_t)atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--only") == 0)
            only = argv[i + 1];
    }
    setvbuf(stdout, NULL, _IOLBF, 4096);
#ifdef _WIN32
    WSADATA data;
    CHECK_INT(WSAStartup(MAKEWORD(2, 2), &data), 0);
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
    CHECK_INT(io_thread_start(watch_limit, NULL), 0);
#else
    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, on_alarm);
    signal(SIGABRT, on_abort);
#endif
    printf("tests %u\n", (unsigned)count);
    for (size_t i = from; i < count; i++) {
        if (only != NULL && strstr(tests[i].name, only) == NULL)
            continue;
        begin_limit(seconds);
        about[0] = '\0';
        run_one(&tests[i]);
    }
    return 0;
}
