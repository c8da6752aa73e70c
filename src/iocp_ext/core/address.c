/* address.c: socket addresses from and to text. Numeric only; resolving names is not our job. */
#ifndef _WIN32
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>
#endif
#include "io.h"

#include <stdio.h>
#include <string.h>

int io_address_inet(io_address *address, const char *host, uint16_t port, uint32_t flow_info,
                    uint32_t scope_id, int family) {
    memset(address, 0, sizeof *address);
    if (family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)&address->storage;
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        address->length = (io_socklen)sizeof *in;
        return inet_pton(AF_INET, host, &in->sin_addr) == 1 ? 0 : -IOE_INVAL;
    }
    if (family != AF_INET6)
        return -IOE_AFNOSUPPORT;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address->storage;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    in6->sin6_flowinfo = htonl(flow_info);
    in6->sin6_scope_id = scope_id;
    address->length = (io_socklen)sizeof *in6;
    return inet_pton(AF_INET6, host, &in6->sin6_addr) == 1 ? 0 : -IOE_INVAL;
}

#ifdef _WIN32

int io_address_unix(io_address *address, const char *path, size_t length) {
    (void)address;
    (void)path;
    (void)length;
    return -IOE_AFNOSUPPORT; /* Python has no AF_UNIX there either */
}

static bool unix_text(const io_address *address, char *text, size_t size) {
    (void)address;
    (void)text;
    (void)size;
    return false;
}

#else

int io_address_unix(io_address *address, const char *path, size_t length) {
    struct sockaddr_un *un = (struct sockaddr_un *)&address->storage;
    bool abstract = length > 0 && path[0] == '\0';
    /* A path in the file system needs room for its terminating zero. */
    if (length + !abstract > sizeof un->sun_path || (!abstract && memchr(path, '\0', length)))
        return -IOE_INVAL;
    memset(address, 0, sizeof *address);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, length);
    address->length = (io_socklen)(offsetof(struct sockaddr_un, sun_path) + length + !abstract);
    return 0;
}

static bool unix_text(const io_address *address, char *text, size_t size) {
    const struct sockaddr_un *un = (const struct sockaddr_un *)&address->storage;
    if (address->storage.ss_family != AF_UNIX)
        return false;
    size_t start = offsetof(struct sockaddr_un, sun_path);
    size_t length = address->length > start ? address->length - start : 0;
    if (length > 0 && un->sun_path[0] == '\0')
        snprintf(text, size, "@%.*s", (int)(length - 1), un->sun_path + 1);
    else
        snprintf(text, size, "%.*s", (int)strnlen(un->sun_path, length), un->sun_path);
    return true;
}

#endif

void io_address_text(const io_address *address, char *text, size_t size) {
    char host[INET6_ADDRSTRLEN];
    const struct sockaddr_in *in = (const struct sockaddr_in *)&address->storage;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->storage;
    int family = address->storage.ss_family;
    if (size == 0)
        return;
    text[0] = '\0';
    if (address->length == 0 || unix_text(address, text, size))
        return;
    if (family == AF_INET && inet_ntop(AF_INET, &in->sin_addr, host, sizeof host))
        snprintf(text, size, "%s:%u", host, ntohs(in->sin_port));
    else if (family == AF_INET6 && inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host))
        snprintf(text, size, "[%s]:%u", host, ntohs(in6->sin6_port));
}
