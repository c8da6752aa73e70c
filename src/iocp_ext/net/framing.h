/* framing.h: where the messages of a byte stream begin and end.
 *
 * Pure functions over memory of the caller: nothing is allocated, kept or copied here, so any
 * number of threads may use one io_framing. A receiver calls io_framing_next for each message in
 * its input. What is left over is the beginning of a message: the receiver keeps it, and passes it
 * to io_framing_join when more input arrives. No pointer may be NULL. */
#ifndef IOCPCORE_NET_FRAMING_H
#define IOCPCORE_NET_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

#define IO_FRAME_HEADER_MAX 8
#define IO_DELIMITER_MAX 16

typedef enum io_framing_kind {
    IO_FRAMING_LENGTH,    /* a header contains the size */
    IO_FRAMING_DELIMITER, /* a delimiter follows each message */
    IO_FRAMING_FIXED,     /* all messages have the same size */
} io_framing_kind;

typedef struct io_framing {
    uint8_t kind;        /* io_framing_kind */
    uint8_t header_size; /* 1 to IO_FRAME_HEADER_MAX bytes */
    bool little_endian;
    bool includes_header;     /* the size in the header includes the header */
    bool keep;                /* the delimiter stays part of the message */
    uint8_t delimiter_length; /* 1 to IO_DELIMITER_MAX bytes */
    char delimiter[IO_DELIMITER_MAX];
    size_t max_size; /* 1 to IO_LENGTH_MAX bytes, without header and delimiter; the exact size for
                        IO_FRAMING_FIXED */
} io_framing;

typedef struct io_frame {
    size_t start, size; /* the message is data[start, start + size) */
    size_t total;       /* bytes of the whole frame, with header and delimiter */
} io_frame;

/* Looks for the message that begins at data[0]. Returns 1 and fills *frame if it is complete, 0 if
 * it is not complete yet, or an error.
 *
 * -IOE_MSGSIZE: the message is too large. This is reported as early as possible: when the header is
 * complete, or when a delimiter could only begin beyond the limit. -IOE_INVAL: the message is
 * malformed; its length is smaller than the header that it includes.
 *
 * After an error, frame->size is the number for the error text: the size of the message, or for
 * -IOE_INVAL the length found in the header; 0 if there is none. */
int io_framing_next(const io_framing *framing, const char *data, size_t length, io_frame *frame);

/* Continues an incomplete message. `held` is its beginning, which io_framing_next or this function
 * found incomplete; `more` is the input after it. Returns how many bytes of `more` belong to the
 * message: all of them if it is still incomplete, otherwise those up to its end, so that `held` and
 * these bytes are exactly one frame. Returns a negative error as above.
 *
 * *wanted is the size of the whole frame, 0 if not known yet, or after an error the number
 * described for frame->size above. The cost depends on `more` only, not on how much is held. */
int64_t io_framing_join(const io_framing *framing, const char *held, size_t held_length,
                        const char *more, size_t more_length, bool *complete, size_t *wanted);

/* Fills *frame for `data` that is exactly one frame, as completed by io_framing_join. */
void io_framing_whole(const io_framing *framing, const char *data, size_t length, io_frame *frame);

/* Computes what surrounds an outgoing message: `header_size` bytes of `header` before it, and the
 * first `trailer_size` bytes of framing->delimiter after it. With `keep`, a message may already end
 * with the delimiter, as a received one does; then nothing is added.
 *
 * Returns 0 or an error. -IOE_MSGSIZE: larger than max_size or than the header can express, or not
 * of the fixed size. -IOE_INVAL: the receiver would find a delimiter before the end of the
 * message. */
int io_framing_wrap(const io_framing *framing, const char *message, size_t size,
                    char header[IO_FRAME_HEADER_MAX], size_t *header_size, size_t *trailer_size);

#endif
