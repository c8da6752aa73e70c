/* assert.h: io_assert(condition), for conditions that only a bug in this library can violate.
 *
 * Debug builds, sanitizer builds and the C tests check the condition and abort. Release builds
 * compile it but never evaluate it, so it must not have side effects. */
#ifndef IOCPCORE_ASSERT_H
#define IOCPCORE_ASSERT_H

#if defined(IOCPCORE_DEBUG) && !defined(IO_ASSERTIONS)
#define IO_ASSERTIONS 1
#endif

#ifdef IO_ASSERTIONS

#define io_assert(condition) \
    ((condition) ? (void)0 : io_assert_failed(#condition, __FILE__, __LINE__))

_Noreturn void io_assert_failed(const char *condition, const char *file, int line);

#else

/* Never evaluated, but marks the variables in the condition as used. */
#define io_assert(condition) ((void)(0 && (condition)))

#endif
#endif
