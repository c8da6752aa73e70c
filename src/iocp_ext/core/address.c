/* address.c: conversion of socket addresses from and to text. Numeric only: names are not resolved
 * here. */
#ifndef _WIN32
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>
#endif
#include "core/io.h"

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
    return -IOE_AFNOSUPPORT; /* Python has no AF_UNIX on Windows either */
}

static void address_split_unix(const io_address *address, io_address_parts *parts) {
    (void)address;
    (void)parts;
}

#else

int io_address_unix(io_address *address, const char *path, size_t length) {
    struct sockaddr_un *un = (struct sockaddr_un *)&address->storage;
    bool abstract = length > 0 && path[0] == '\0';
    /* A file system path needs room for the terminating NUL. */
    if (length + !abstract > sizeof un->sun_path || (!abstract && memchr(path, '\0', length)))
        return -IOE_INVAL;
    memset(address, 0, sizeof *address);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, length);
    address->length = (io_socklen)(offsetof(struct sockaddr_un, sun_path) + length + !abstract);
    return 0;
}

static void address_split_unix(const io_address *address, io_address_parts *parts) {
    const struct sockaddr_un *un = (const struct sockaddr_un *)&address->storage;
    size_t start = offsetof(struct sockaddr_un, sun_path);
    size_t length = address->length > start ? address->length - start : 0;
    bool abstract = length > 0 && un->sun_path[0] == '\0'; /* the name is all `length` bytes */
    parts->path = un->sun_path;
    parts->path_length = abstract ? length : strnlen(un->sun_path, length);
}

#endif

void io_address_split(const io_address *address, io_address_parts *parts) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)&address->storage;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->storage;
    memset(parts, 0, sizeof *parts);
    parts->path = "";
    if (address->length == 0)
        return;
    parts->family = address->storage.ss_family;
    if (parts->family == AF_INET) {
        inet_ntop(AF_INET, &in->sin_addr, parts->host, sizeof parts->host);
        parts->port = ntohs(in->sin_port);
    } else if (parts->family == AF_INET6) {
        inet_ntop(AF_INET6, &in6->sin6_addr, parts->host, sizeof parts->host);
        parts->port = ntohs(in6->sin6_port);
        parts->flow_info = ntohl(in6->sin6_flowinfo);
        parts->scope_id = in6->sin6_scope_id;
    } else if (parts->family == AF_UNIX) {
        address_split_unix(address, parts);
    }
}

void io_address_text(const io_address *address, char *text, size_t size) {
    io_address_parts parts;
    io_address_split(address, &parts);
    if (parts.family == AF_INET)
        snprintf(text, size, "%s:%u", parts.host, parts.port);
    else if (parts.family == AF_INET6)
        snprintf(text, size, "[%s]:%u", parts.host, parts.port);
    else if (parts.path_length > 0 && parts.path[0] == '\0')
        snprintf(text, size, "@%.*s", (int)(parts.path_length - 1), parts.path + 1);
    else
        snprintf(text, size, "%.*s", (int)parts.path_length, parts.path);
}
