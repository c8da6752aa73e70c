/* framing.c: where the messages of a byte stream begin and end.
 *
 * There are three kinds of framing: a length in a header, a trailing delimiter, and a fixed size.
 * Input is not trusted: a length is compared with the limit before anything is added to it. Each
 * byte is searched for a delimiter only once, however the stream is split. */
#include "net/framing.h"

#include "core/assert.h"

#include <string.h>

#define NOWHERE SIZE_MAX

static size_t framing_smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* ---- a length in front ----------------------------------------------------------------------- */

static uint64_t framing_header_value(const io_framing *framing, const char *header) {
    const unsigned char *bytes = (const unsigned char *)header;
    uint64_t value = 0;
    if (framing->little_endian) {
        for (size_t i = framing->header_size; i-- > 0;)
            value = value << 8 | bytes[i];
    } else {
        for (size_t i = 0; i < framing->header_size; i++)
            value = value << 8 | bytes[i];
    }
    return value;
}

/* Computes the size of the message behind a header, without the header. */
static int framing_message_size(const io_framing *framing, const char *header, size_t *size) {
    uint64_t value = framing_header_value(framing, header);
    uint64_t included = framing->includes_header ? framing->header_size : 0;
    int error = value < included ? -IOE_INVAL : 0;
    if (error == 0) {
        value -= included;
        error = value > framing->max_size ? -IOE_MSGSIZE : 0;
    }
    *size = value < SIZE_MAX ? (size_t)value : SIZE_MAX;
    return error;
}

static int framing_next_by_length(const io_framing *framing, const char *data, size_t length,
                                  io_frame *frame) {
    size_t header_size = framing->header_size;
    if (length < header_size)
        return 0;
    int error = framing_message_size(framing, data, &frame->size);
    if (error)
        return error;
    frame->start = header_size;
    frame->total = header_size + frame->size;
    return length >= frame->total;
}

static int64_t framing_join_by_length(const io_framing *framing, const char *held,
                                      size_t held_length, const char *more, size_t more_length,
                                      bool *complete, size_t *wanted) {
    char header[IO_FRAME_HEADER_MAX];
    size_t header_size = framing->header_size;
    size_t from_held = framing_smaller(held_length, header_size);
    size_t from_more = header_size - from_held;
    if (more_length < from_more)
        return (int64_t)more_length;
    memcpy(header, held, from_held);
    memcpy(header + from_held, more, from_more);
    int error = framing_message_size(framing, header, wanted);
    if (error)
        return error;
    *wanted += header_size;
    size_t missing = *wanted - held_length;
    *complete = more_length >= missing;
    return (int64_t)framing_smaller(more_length, missing);
}

static int framing_wrap_by_length(const io_framing *framing, size_t size, char *header) {
    size_t header_size = framing->header_size;
    if (size > framing->max_size)
        return -IOE_MSGSIZE;
    uint64_t value = (uint64_t)size + (framing->includes_header ? header_size : 0);
    if (header_size < sizeof value && value >> (8 * header_size) != 0)
        return -IOE_MSGSIZE;
    for (size_t i = 0; i < header_size; i++) {
        header[framing->little_endian ? i : header_size - 1 - i] = (char)(value & 0xff);
        value >>= 8;
    }
    return 0;
}

/* ---- a delimiter behind ---------------------------------------------------------------------- */

/* Returns where the first delimiter begins. Searches for the delimiter's last byte: it ("\n") is at
 * least as rare in messages as the first one. */
static size_t framing_find(const io_framing *framing, const char *data, size_t length) {
    io_assert(framing->delimiter_length >= 1 && framing->delimiter_length <= IO_DELIMITER_MAX);
    size_t before = (size_t)framing->delimiter_length - 1;
    for (size_t at = before; at < length;) {
        const char *last = memchr(data + at, framing->delimiter[before], length - at);
        if (last == NULL)
            return NOWHERE;
        at = (size_t)(last - data);
        if (memcmp(data + at - before, framing->delimiter, before) == 0)
            return at - before;
        at++;
    }
    return NOWHERE;
}

/* The bytes around the border of two pieces of a stream: at most delimiter_length - 1 from each
 * side, too few to contain a delimiter alone. */
typedef struct border_bytes {
    char bytes[2 * (IO_DELIMITER_MAX - 1)];
    size_t first, length; /* bytes from the first piece, and in all */
} border_bytes;

static void framing_border_of(const io_framing *framing, const char *first, size_t first_length,
                              const char *second, size_t second_length, border_bytes *border) {
    size_t most = (size_t)framing->delimiter_length - 1;
    size_t from_second = framing_smaller(second_length, most);
    border->first = framing_smaller(first_length, most);
    border->length = border->first + from_second;
    memcpy(border->bytes, first + (first_length - border->first), border->first);
    memcpy(border->bytes + border->first, second, from_second);
}

/* More than max_size bytes have arrived without a delimiter. Returns whether they end with the
 * beginning of a delimiter that starts within the limit. `tail` is their end, long enough for the
 * beginning of any delimiter. */
static bool framing_may_end(const io_framing *framing, size_t come, const char *tail,
                            size_t tail_length) {
    size_t most = framing_smaller(tail_length, (size_t)framing->delimiter_length - 1);
    io_assert(come > framing->max_size);
    for (size_t part = come - framing->max_size; part <= most; part++)
        if (memcmp(tail + (tail_length - part), framing->delimiter, part) == 0)
            return true;
    return false;
}

static void framing_delimited(const io_framing *framing, size_t total, io_frame *frame) {
    io_assert(total >= framing->delimiter_length);
    frame->start = 0;
    frame->size = framing->keep ? total : total - framing->delimiter_length;
    frame->total = total;
}

static int framing_next_by_delimiter(const io_framing *framing, const char *data, size_t length,
                                     io_frame *frame) {
    size_t largest = framing->max_size + framing->delimiter_length;
    size_t at = framing_find(framing, data, framing_smaller(length, largest));
    if (at != NOWHERE) {
        framing_delimited(framing, at + framing->delimiter_length, frame);
        return 1;
    }
    frame->size = 0;
    if (length <= framing->max_size || framing_may_end(framing, length, data, length))
        return 0;
    return -IOE_MSGSIZE;
}

static int64_t framing_join_by_delimiter(const io_framing *framing, const char *held,
                                         size_t held_length, const char *more, size_t more_length,
                                         bool *complete, size_t *wanted) {
    size_t largest = framing->max_size + framing->delimiter_length;
    io_assert(held_length < largest); /* otherwise complete, or too large */
    size_t come = held_length + more_length;
    size_t in_time = framing_smaller(more_length, largest - held_length);
    size_t end = 0;
    border_bytes border;
    framing_border_of(framing, held, held_length, more, in_time, &border);
    size_t at = framing_find(framing, border.bytes, border.length);
    if (at != NOWHERE)
        end = at + framing->delimiter_length - border.first;
    else if ((at = framing_find(framing, more, in_time)) != NOWHERE)
        end = at + framing->delimiter_length;
    if (end > 0) {
        *complete = true;
        *wanted = held_length + end;
        return (int64_t)end;
    }
    if (come <= framing->max_size)
        return (int64_t)more_length;
    bool all_of_it = more_length < framing->delimiter_length; /* `border` has all of `more` */
    if (all_of_it ? framing_may_end(framing, come, border.bytes, border.length)
                  : framing_may_end(framing, come, more, more_length))
        return (int64_t)more_length;
    return -IOE_MSGSIZE;
}

static int framing_wrap_by_delimiter(const io_framing *framing, const char *message, size_t size,
                                     size_t *trailer_size) {
    size_t length = framing->delimiter_length;
    size_t at = framing_find(framing, message, size);
    if (framing->keep && at != NOWHERE && at + length == size) {
        *trailer_size = 0;
        return at > framing->max_size ? -IOE_MSGSIZE : 0;
    }
    if (at != NOWHERE)
        return -IOE_INVAL;
    if (size > framing->max_size)
        return -IOE_MSGSIZE;
    /* With "\r\n\r\n", a message ending in "\r\n" would seem to the receiver to end two bytes
     * early. */
    border_bytes border;
    framing_border_of(framing, message, size, framing->delimiter, length - 1, &border);
    *trailer_size = length;
    return framing_find(framing, border.bytes, border.length) == NOWHERE ? 0 : -IOE_INVAL;
}

/* ---- all of them ----------------------------------------------------------------------------- */

int io_framing_next(const io_framing *framing, const char *data, size_t length, io_frame *frame) {
    if (framing->kind == IO_FRAMING_LENGTH)
        return framing_next_by_length(framing, data, length, frame);
    if (framing->kind == IO_FRAMING_DELIMITER)
        return framing_next_by_delimiter(framing, data, length, frame);
    frame->start = 0;
    frame->size = frame->total = framing->max_size;
    return length >= framing->max_size;
}

int64_t io_framing_join(const io_framing *framing, const char *held, size_t held_length,
                        const char *more, size_t more_length, bool *complete, size_t *wanted) {
    *complete = false;
    *wanted = 0;
    if (framing->kind == IO_FRAMING_LENGTH)
        return framing_join_by_length(framing, held, held_length, more, more_length, complete,
                                      wanted);
    if (framing->kind == IO_FRAMING_DELIMITER)
        return framing_join_by_delimiter(framing, held, held_length, more, more_length, complete,
                                         wanted);
    io_assert(framing->kind == IO_FRAMING_FIXED && held_length < framing->max_size);
    size_t missing = framing->max_size - held_length;
    *wanted = framing->max_size;
    *complete = more_length >= missing;
    return (int64_t)framing_smaller(more_length, missing);
}

void io_framing_whole(const io_framing *framing, const char *data, size_t length, io_frame *frame) {
    (void)data; /* the length is enough */
    if (framing->kind == IO_FRAMING_DELIMITER) {
        framing_delimited(framing, length, frame);
        return;
    }
    frame->start = framing->kind == IO_FRAMING_LENGTH ? framing->header_size : 0;
    io_assert(length >= frame->start);
    frame->size = length - frame->start;
    frame->total = length;
}

int io_framing_wrap(const io_framing *framing, const char *message, size_t size,
                    char header[IO_FRAME_HEADER_MAX], size_t *header_size, size_t *trailer_size) {
    *header_size = *trailer_size = 0;
    if (framing->kind == IO_FRAMING_DELIMITER)
        return framing_wrap_by_delimiter(framing, message, size, trailer_size);
    if (framing->kind == IO_FRAMING_FIXED)
        return size == framing->max_size ? 0 : -IOE_MSGSIZE;
    *header_size = framing->header_size;
    return framing_wrap_by_length(framing, size, header);
}
