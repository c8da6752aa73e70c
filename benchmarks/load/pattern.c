/* pattern.c: what is sent, and whether it came back.
 *
 * Messages are letters, so that no frame's end and no mark occurs inside one, from a generator with
 * a fixed start: every run sends the same. Nothing is copied or made while the load runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

enum { RING_BYTES = 256 * 1024, RING_MESSAGES_MIN = 4, RING_MESSAGES_MAX = 64 };

static const size_t frame_bytes[] = {
    [FRAMING_NONE] = 0, [FRAMING_LENGTH] = 4, [FRAMING_LF] = 1, [FRAMING_CRLF] = 2};

static unsigned char letter(void) {
    static uint32_t state = 0x2545f491;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return (unsigned char)('a' + (state >> 8) % 26);
}

static void make_message(unsigned char *out, const struct settings *settings) {
    if (settings->framing == FRAMING_LENGTH) {
        for (int shift = 24; shift >= 0; shift -= 8)
            *out++ = (unsigned char)(settings->size >> shift);
    }
    for (size_t i = 0; i < settings->size; i++)
        out[i] = letter();
    if (settings->marked)
        out[0] = '!';
    out += settings->size;
    if (settings->framing == FRAMING_CRLF)
        *out++ = '\r';
    if (settings->framing == FRAMING_CRLF || settings->framing == FRAMING_LF)
        *out++ = '\n';
}

void pattern_init(struct pattern *pattern, const struct settings *settings) {
    size_t count;
    pattern->wire = settings->size + frame_bytes[settings->framing];
    count = RING_BYTES / pattern->wire;
    if (count > RING_MESSAGES_MAX)
        count = RING_MESSAGES_MAX;
    if (count < RING_MESSAGES_MIN)
        count = RING_MESSAGES_MIN;
    if (count < settings->depth)
        count = settings->depth;
    pattern->bytes = count * pattern->wire;
    pattern->ring = checked_calloc(2, pattern->bytes);
    for (size_t i = 0; i < count; i++)
        make_message(pattern->ring + i * pattern->wire, settings);
    memcpy(pattern->ring + pattern->bytes, pattern->ring, pattern->bytes);
}

const unsigned char *pattern_at(const struct pattern *pattern, size_t start, uint64_t position) {
    return pattern->ring + (size_t)((start * pattern->wire + position) % pattern->bytes);
}

bool pattern_matches(const struct pattern *pattern, size_t start, uint64_t position,
                     const unsigned char *data, size_t bytes) {
    while (bytes) {
        size_t piece = bytes < pattern->bytes ? bytes : pattern->bytes;
        if (memcmp(data, pattern_at(pattern, start, position), piece) != 0)
            return false;
        position += piece;
        data += piece;
        bytes -= piece;
    }
    return true;
}
