/* hosts.c: connections counted by address, for max_connections_per_address.
 *
 * A count that is never taken back locks its address out in the end. So removing needs no memory
 * and cannot fail: the counter of an address is found once, and its connections keep a pointer to
 * it.
 *
 * The counters form a digital search tree. A node at depth n has one child for each value of the
 * n-th bit, and everything below a child agrees with it in that bit. The depth is bounded by the
 * length of a key: peers can choose their addresses, but they cannot make a search slow. The bits
 * that differ most, at the end of an address, come first. */
#include "net/hosts.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES = 17 }; /* a family byte, and an IPv6 address or a zero-padded IPv4 one */

struct io_host {
    io_host *child[2];
    size_t count;
    uint8_t key[KEY_BYTES];
};

#ifndef _WIN32
#include <netinet/in.h>
#endif

/* Returns false if the address is not counted. */
static bool hosts_key_of(const io_address *peer, uint8_t key[KEY_BYTES]) {
    memset(key, 0, KEY_BYTES);
    if (peer->length <= 0)
        return false;
    if (peer->storage.ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&peer->storage;
        memcpy(key + 1, &six->sin6_addr, 16);
        key[0] = 1;
        return true;
    }
    if (peer->storage.ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)&peer->storage;
        memcpy(key + 13, &four->sin_addr, 4);
        return true;
    }
    return false;
}

static int hosts_bit_of(const uint8_t key[KEY_BYTES], int depth) {
    io_assert(depth < KEY_BYTES * 8);
    return key[KEY_BYTES - 1 - depth / 8] >> depth % 8 & 1;
}

/* Returns where the pointer to this key's node is, or belongs. */
static io_host **hosts_place_of(io_hosts *self, const uint8_t key[KEY_BYTES]) {
    io_host **place = &self->root;
    for (int depth = 0; *place != NULL && memcmp((*place)->key, key, KEY_BYTES) != 0; depth++)
        place = &(*place)->child[hosts_bit_of(key, depth)];
    return place;
}

int io_hosts_add(io_hosts *self, const io_address *peer, size_t most, io_host **host) {
    uint8_t key[KEY_BYTES];
    *host = NULL;
    if (!hosts_key_of(peer, key))
        return 1;
    io_host **place = hosts_place_of(self, key);
    if (*place != NULL && (*place)->count >= most)
        return 0;
    if (*place == NULL) {
        *place = calloc(1, sizeof **place);
        if (*place == NULL)
            return -IOE_NOMEM;
        memcpy((*place)->key, key, KEY_BYTES);
    }
    (*place)->count++;
    *host = *place;
    return 1;
}

/* Removes a leaf from the subtree of this node, and returns it; it may be the node itself. The leaf
 * can replace the node: both agree in all bits up to the node's depth. */
static io_host *hosts_take_leaf(io_host **place) {
    while ((*place)->child[0] != NULL || (*place)->child[1] != NULL)
        place = &(*place)->child[(*place)->child[0] == NULL];
    io_host *leaf = *place;
    *place = NULL;
    return leaf;
}

void io_hosts_remove(io_hosts *self, io_host *host) {
    if (host == NULL)
        return;
    io_assert(host->count > 0);
    if (--host->count > 0)
        return;
    io_host **place = hosts_place_of(self, host->key);
    io_assert(*place == host);
    io_host *leaf = hosts_take_leaf(place);
    if (leaf != host) {
        memcpy(leaf->child, host->child, sizeof leaf->child);
        *place = leaf;
    }
    free(host);
}
