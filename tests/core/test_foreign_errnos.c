/* test_foreign_errnos.c: core/error.h on a system whose errno values differ from Linux, such as a
 * BSD. */
#include <errno.h>

#ifndef _WIN32
#undef __linux__
#undef EAGAIN
#define EAGAIN 35
#undef ENOTSOCK
#define ENOTSOCK 38 /* Linux's ENOSYS */
#undef ENOSYS
#define ENOSYS 78
#undef ECONNRESET
#define ECONNRESET 54
#undef ECONNREFUSED
#define ECONNREFUSED 61
#undef ECANCELED
#define ECANCELED 89
#undef EDESTADDRREQ
#define EDESTADDRREQ 39
#endif
#include "core/error.h"

#ifndef _WIN32
#define __linux__ 1 /* what runs the test is Linux */
#endif
#include "test.h"

#ifndef _WIN32
static void every_errno(void) {
#define X(name, number, native, windows, text)         \
    CHECK_INT(io_error_from_errno(native), -(number)); \
    CHECK_INT(io_error_to_errno(-(number)), native);
    IO_SYSTEM_ERRORS(X)
#undef X
    CHECK_INT(io_error_from_errno(0), 0);
    CHECK_INT(io_error_from_errno(54), -IOE_CONNRESET);
    CHECK_INT(io_error_from_errno(38), -IOE_NOTSOCK);
    CHECK_INT(io_error_to_errno(-IOE_NOSYS), 78);
    CHECK_INT((int)io_error_to_system(-IOE_CANCELED), 89);
}

/* The system's number says nothing then, and is kept as os_error. */
static void unknown_errno(void) {
    CHECK_INT(io_error_from_errno(9999), -IOE_OTHER);
    CHECK_INT(io_error_from_errno(104), -IOE_OTHER);
    CHECK_INT(io_error_to_errno(-IOE_CLOSED), IOE_CLOSED);
}
#else
static void every_errno(void) {
    test_skip("Windows goes by codes of its own");
}
static void unknown_errno(void) {
    test_skip("Windows goes by codes of its own");
}
#endif

int main(int argc, char **argv) {
    static const test_case tests[] = {TEST(every_errno), TEST(unknown_errno)};
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
