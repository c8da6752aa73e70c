/* listen.h: what every C server does first. */
#ifndef BENCHMARKS_LISTEN_H
#define BENCHMARKS_LISTEN_H

/* A blocking socket on a free loopback port, which is printed. `type` is SOCK_STREAM (listening) or
 * SOCK_DGRAM. Exits if it cannot. */
int listen_on_loopback(int type);
/* Prints `what` failed, and why, and exits. */
_Noreturn void die(const char *what);

#endif
