/* tls.c: TLS for the load generator, by OpenSSL.
 *
 * Certificates are not looked at: the server makes its own for the occasion. Without OpenSSL's
 * headers (WITH_TLS is not defined) the generator is built without it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "load.h"

#ifdef WITH_TLS

#include <limits.h>
#include <openssl/ssl.h>

static SSL_CTX *context;

void tls_init(void) {
    context = SSL_CTX_new(TLS_client_method());
    if (!context) {
        fputs("load: no TLS context\n", stderr);
        exit(2);
    }
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

struct tls *tls_open(int fd) {
    SSL *ssl = SSL_new(context);
    if (!ssl || !SSL_set_fd(ssl, fd)) {
        fputs("load: no TLS connection\n", stderr);
        exit(2);
    }
    SSL_set_connect_state(ssl);
    return (struct tls *)ssl;
}

void tls_close(struct tls *tls) {
    SSL_shutdown((SSL *)tls);
    SSL_free((SSL *)tls);
}

/* The result of a call that returned `count`, as a system call would give it. */
static ssize_t result(struct tls *tls, int count) {
    if (count > 0)
        return count;
    switch (SSL_get_error((SSL *)tls, count)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        errno = EPROTO;
        return -1;
    }
}

ssize_t tls_send(struct tls *tls, const void *data, size_t bytes) {
    return result(tls, SSL_write((SSL *)tls, data, bytes < INT_MAX ? (int)bytes : INT_MAX));
}

ssize_t tls_receive(struct tls *tls, void *data, size_t bytes) {
    return result(tls, SSL_read((SSL *)tls, data, bytes < INT_MAX ? (int)bytes : INT_MAX));
}

#else

void tls_init(void) {
    fputs("load: built without TLS: OpenSSL's headers were not there\n", stderr);
    exit(2);
}

struct tls *tls_open(int fd) {
    (void)fd;
    return NULL;
}

void tls_close(struct tls *tls) {
    (void)tls;
}

ssize_t tls_send(struct tls *tls, const void *data, size_t bytes) {
    (void)tls, (void)data, (void)bytes;
    errno = ENOSYS;
    return -1;
}

ssize_t tls_receive(struct tls *tls, void *data, size_t bytes) {
    (void)tls, (void)data, (void)bytes;
    errno = ENOSYS;
    return -1;
}

#endif
