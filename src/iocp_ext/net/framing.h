/* framing.h: where the messages of a byte stream begin and end.
 *
 * Pure functions over memory of the caller: nothing is allocated, kept or copied here, so any
 * number of threads may use one io_framing. A receiver asks io_framing_next for one message after
 * another in what it has received; what is left at the end, the beginning of a message, it holds
 * back and continues with io_framing_join when more arrives. No pointer may be NULL. */
#ifndef IOCPCORE_NET_FRAMING_H
#define IOCPCORE_NET_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

#define IO_FRAME_HEADER_MAX 8
#define IO_DELIMITER_MAX 16

typedef enum io_framing_kind {
    IO_FRAMING_LENGTH,    /* a header tells the size */
    IO_FRAMING_DELIMITER, /* a message ends where the delimiter begins */
    IO_FRAMING_FIXED,     /* all have the same size */
} io_framing_kind;

typedef struct io_framing {
    uint8_t kind;        /* io_framing_kind */
    uint8_t header_size; /* 1 to IO_FRAME_HEADER_MAX bytes */
    bool little_endian;
    bool includes_header;     /* the number in the header counts the header too */
    bool keep;                /* the delimiter stays part of the message */
    uint8_t delimiter_length; /* 1 to IO_DELIMITER_MAX bytes */
    char delimiter[IO_DELIMITER_MAX];
    size_t max_size; /* of a message without header and delimiter, 1 to IO_LENGTH_MAX bytes; of
                        IO_FRAMING_FIXED its size */
} io_framing;

typedef struct io_frame {
    size_t start, size; /* the message is data[start, start + size) */
    size_t total;       /* bytes of the frame, header and delimiter included */
} io_frame;

/* A message begins at data[0]. 1: it is complete, and *frame tells where it is. 0: not yet.
 * -IOE_MSGSIZE: it is too large, which is told as soon as it can be known: when the header is
 * complete, or when so many bytes have come that no delimiter can begin in time any more.
 * -IOE_INVAL: malformed, a length that is smaller than the header it includes.
 * After an error frame->size is the number it is about (the message's size; for -IOE_INVAL the
 * length as it stands in the header; 0 if there is none), for the text of an exception. */
int io_framing_next(const io_framing *framing, const char *data, size_t length, io_frame *frame);

/* `held` is the beginning of a message (io_framing_next or this has answered that it is not
 * complete), `more` is what arrived after it. Returns how many bytes of `more` belong to the same
 * message: all of them while it is not complete, and never more than up to its end, so that `held`
 * and those bytes are exactly one frame when *complete. Negative: an error as above.
 * *wanted is how many bytes the frame has in all, 0 if that is not known yet; after an error it
 * is what frame->size is above. Costs time for `more` only, however much is held. */
int64_t io_framing_join(const io_framing *framing, const char *held, size_t held_length,
                        const char *more, size_t more_length, bool *complete, size_t *wanted);

/* The frame that `data` is exactly the whole of, as when io_framing_join has completed it. */
void io_framing_whole(const io_framing *framing, const char *data, size_t length, io_frame *frame);

/* What goes around a message that is sent: `header_size` bytes of `header` before it, and the first
 * `trailer_size` bytes of framing->delimiter behind it. With `keep` a message may end with the
 * delimiter already, as it does when it was received; then nothing goes behind it.
 * 0, or -IOE_MSGSIZE: larger than max_size or than the header can tell, or not of the fixed size;
 * -IOE_INVAL: the receiver would see a delimiter before the message's end. */
int io_framing_wrap(const io_framing *framing, const char *message, size_t size,
                    char header[IO_FRAME_HEADER_MAX], size_t *header_size, size_t *trailer_size);

#endif
