/* token.h: a pointer and a generation in one integer that the kernel carries.
 *
 * User-space pointers need 47 bits. The upper 16 bits carry the low 16 bits of the generation. The
 * target of a token must stay allocated as long as the token may come back, so only objects in
 * slabs and slots have tokens. */
#ifndef IOCPCORE_TOKEN_H
#define IOCPCORE_TOKEN_H

#include "core/assert.h"
#include "core/platform.h"

enum { IO_TOKEN_POINTER_BITS = 48 };

static inline uint64_t io_token(const void *pointer, uint32_t generation) {
    uint64_t address = (uint64_t)(uintptr_t)pointer;
    io_assert(address != 0 && address >> IO_TOKEN_POINTER_BITS == 0);
    return address | (uint64_t)generation << IO_TOKEN_POINTER_BITS;
}

static inline void *io_token_pointer(uint64_t token) {
    return (void *)(uintptr_t)(token & ((UINT64_C(1) << IO_TOKEN_POINTER_BITS) - 1));
}

/* Returns true if the token was made for this generation of its target. */
static inline bool io_token_is_of(uint64_t token, uint32_t generation) {
    return (uint16_t)generation == (uint16_t)(token >> IO_TOKEN_POINTER_BITS);
}

#endif
