/* test_errors.c: errno values, Windows codes and NT statuses convert to one set of error numbers,
 * which are negative. */
#include "core/io.h"
#include "test.h"

static void windows_codes(void) {
#define CHECK_ROW(number, windows, text)                \
    CHECK(strcmp(io_error_text(-(number)), text) == 0); \
    CHECK_INT(io_error_to_windows(-(number)), windows); \
    if ((windows) != 0)                                 \
        CHECK_INT(io_error_from_windows(windows), -(number));
#define X(name, number, native, windows, text) CHECK_ROW(number, windows, text)
    IO_SYSTEM_ERRORS(X)
#undef X
#define X(name, number, windows, text) CHECK_ROW(number, windows, text)
    IO_CORE_ERRORS(X)
#undef X
    CHECK_INT(io_error_from_windows(0), 0);
    CHECK_INT(io_error_from_windows(0xfffffff0u), -IOE_OTHER);
    CHECK_INT(io_error_from_windows(64), -IOE_CONNRESET); /* ERROR_NETNAME_DELETED */
    CHECK(strcmp(io_error_text(-99999), "Unknown error") == 0);
    CHECK_INT(io_error_to_windows(-99999), 0);
}

static void nt_statuses(void) {
    CHECK_INT(io_error_from_ntstatus(0), 0);
    CHECK_INT(io_error_from_ntstatus(0x40000000u), 0);             /* information */
    CHECK_INT(io_error_from_ntstatus(0xC0000120u), -IOE_CANCELED); /* STATUS_CANCELLED */
    CHECK_INT(io_error_from_ntstatus(0xC000020Du), -IOE_CONNRESET);
    CHECK_INT(io_error_from_ntstatus(0xC0000236u), -IOE_CONNREFUSED);
    CHECK_INT(io_error_from_ntstatus(0xC0070005u), -IOE_PERM); /* ERROR_ACCESS_DENIED, wrapped */
    CHECK_INT(io_error_from_ntstatus(0xC0FFFFFFu), -IOE_OTHER);
}

/* What users see is the errno of their system. */
static void errnos(void) {
#ifdef _WIN32
    test_skip("Windows goes by codes of its own");
#else
#define X(name, number, native, windows, text)         \
    CHECK_INT(io_error_from_errno(native), -(number)); \
    CHECK_INT(io_error_to_errno(-(number)), native);   \
    CHECK_INT((int)io_error_to_system(-(number)), native);
    IO_SYSTEM_ERRORS(X)
#undef X
    CHECK_INT(io_error_from_errno(0), 0);
    CHECK_INT((int)io_error_to_system(0), 0);
#endif
}

/* On Linux what the table does not have goes through, and has its text. */
static void unknown_errnos(void) {
#ifdef __linux__
    CHECK_INT(io_error_from_errno(EXDEV), -EXDEV);
    CHECK_INT(io_error_to_errno(-EXDEV), EXDEV);
    CHECK(strcmp(io_error_text(-EXDEV), strerror(EXDEV)) == 0);
#else
    test_skip("the numbers of this system are not those of the table");
#endif
}

/* Every function of the core that may be asked in vain answers with the same sign. */
static void answers_of_the_core(void) {
    io_address address;
    io_port *port;
    uint32_t os_error = 0;
    int family, type, protocol;
    CHECK_INT(io_address_inet(&address, "nowhere", 1, 0, 0, AF_INET), -IOE_INVAL);
    CHECK_INT(io_address_inet(&address, "nowhere", 1, 0, 0, AF_INET6), -IOE_INVAL);
    CHECK_INT(io_address_inet(&address, "127.0.0.1", 1, 0, 0, 12345), -IOE_AFNOSUPPORT);
    CHECK(io_address_unix(&address, "a\0b", 3) < 0);
    const io_backend *sim = io_backend_by_name("sim");
    CHECK_INT(io_port_open(&port, sim, 1, &os_error), 0);
    CHECK(io_socket_describe(-1, &family, &type, &protocol) < 0);
    CHECK_INT(io_port_enter(port), 0);
    io_port_leave(port);
    CHECK_INT(io_lane_end(&port->lane), -IOE_CANCELED);
    CHECK(io_port_begin_close(port));
    CHECK_INT(io_port_enter(port), -IOE_CLOSED);
    io_port_finish_close(port, io_port_drain(port, 0));
    CHECK_INT(io_port_enter(port), -IOE_CLOSED);
    port->fork_generation++;
    CHECK_INT(io_port_enter(port), -IOE_FORKED);
    port->fork_generation--;
    io_port_destroy(port);
}

int main(int argc, char **argv) {
    static const test_case tests[] = {
        TEST(windows_codes),  TEST(nt_statuses),         TEST(errnos),
        TEST(unknown_errnos), TEST(answers_of_the_core),
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
