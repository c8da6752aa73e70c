/* test_framing.c: a stream yields the same messages however the network has split it.
 *
 * A receiver like that of a connection gets pieces in memory blocks of exactly their size, so that
 * a sanitizer detects every read beyond the end. The expected messages are those that were put into
 * the stream, or the result of a naive search. */
#include "test.h"

#include "net/framing.h"

#define STREAM_MAX 600

/* ---- a receiver ------------------------------------------------------------------------------ */

/* Bytes with their length; of messages: each with its size in two bytes before it. */
typedef struct text {
    char bytes[2 * STREAM_MAX];
    size_t length;
} text;

static void put(text *to, const char *bytes, size_t length) {
    CHECK(to->length + length <= sizeof to->bytes);
    memcpy(to->bytes + to->length, bytes, length);
    to->length += length;
}

static void put_message(text *messages, const char *bytes, size_t size) {
    char prefix[2] = {(char)(size >> 8), (char)(size & 0xff)};
    put(messages, prefix, 2);
    put(messages, bytes, size);
}

typedef struct receiver {
    const io_framing *framing;
    char *held;
    size_t held_length;
    text messages;
    int error;
    size_t error_size;
} receiver;

static char *copy_of(const char *bytes, size_t length) {
    char *copy = malloc(length ? length : 1);
    CHECK(copy != NULL);
    memcpy(copy, bytes, length);
    return copy;
}

static void hold(receiver *self, const char *bytes, size_t length) {
    char *held = malloc(self->held_length + length + 1);
    CHECK(held != NULL);
    if (self->held_length > 0)
        memcpy(held, self->held, self->held_length);
    memcpy(held + self->held_length, bytes, length);
    free(self->held);
    self->held_length += length;
    self->held = copy_of(held, self->held_length);
    free(held);
}

static void drop(receiver *self) {
    free(self->held);
    self->held = NULL;
    self->held_length = 0;
}

static void check_frame(const io_framing *framing, const io_frame *frame) {
    CHECK(frame->size <= frame->total && frame->start <= frame->total - frame->size);
    if (framing->kind != IO_FRAMING_DELIMITER)
        CHECK_INT(frame->start + frame->size, frame->total);
    else
        CHECK_INT(frame->total - frame->size, framing->keep ? 0 : framing->delimiter_length);
}

/* Returns how many bytes of the piece went to what is held. */
static size_t join(receiver *self, const char *piece, size_t length) {
    bool complete = true;
    size_t wanted = 12345;
    io_frame frame;
    int64_t taken = io_framing_join(self->framing, self->held, self->held_length, piece, length,
                                    &complete, &wanted);
    if (taken < 0) {
        self->error = (int)taken;
        self->error_size = wanted;
        CHECK(!complete);
        return length;
    }
    CHECK((size_t)taken <= length && (complete || (size_t)taken == length));
    hold(self, piece, (size_t)taken);
    if (!complete) {
        CHECK(wanted == 0 || wanted > self->held_length);
        return length;
    }
    CHECK_INT(wanted, self->held_length);
    io_framing_whole(self->framing, self->held, self->held_length, &frame);
    CHECK_INT(frame.total, self->held_length);
    check_frame(self->framing, &frame);
    put_message(&self->messages, self->held + frame.start, frame.size);
    drop(self);
    return (size_t)taken;
}

static void feed(receiver *self, const char *bytes, size_t length) {
    if (self->error)
        return;
    char *piece = copy_of(bytes, length);
    size_t at = self->held != NULL ? join(self, piece, length) : 0;
    io_frame frame;
    int answer = 0;
    while (!self->error && self->held == NULL && at < length) {
        char *rest = copy_of(piece + at, length - at);
        answer = io_framing_next(self->framing, rest, length - at, &frame);
        if (answer > 0) {
            CHECK(frame.total <= length - at);
            check_frame(self->framing, &frame);
            put_message(&self->messages, rest + frame.start, frame.size);
            at += frame.total;
        } else if (answer == 0) {
            hold(self, rest, length - at);
        } else {
            self->error = answer;
            self->error_size = frame.size;
        }
        free(rest);
    }
    free(piece);
    size_t around = IO_FRAME_HEADER_MAX + IO_DELIMITER_MAX;
    CHECK(self->held_length < self->framing->max_size + around);
}

/* The stream in pieces that end at `cuts`, which are in order. */
static void receive(receiver *self, const io_framing *framing, const text *stream,
                    const size_t *cuts, size_t cut_count) {
    size_t at = 0;
    memset(self, 0, sizeof *self);
    self->framing = framing;
    for (size_t i = 0; i <= cut_count; i++) {
        size_t end = i < cut_count ? cuts[i] : stream->length;
        feed(self, stream->bytes + at, end - at);
        at = end;
    }
}

static void expect(receiver *self, const text *messages, int error) {
    CHECK_INT(self->error, error);
    if (self->framing->kind == IO_FRAMING_DELIMITER)
        CHECK_INT(self->error_size, 0); /* nobody knows how large it would have been */
    CHECK_INT(self->messages.length, messages->length);
    CHECK(memcmp(self->messages.bytes, messages->bytes, messages->length) == 0);
    drop(self);
}

/* In one piece, byte by byte, and cut at every place and every two places. */
static void expect_however_cut(const io_framing *framing, const text *stream, const text *messages,
                               int error) {
    static size_t each[STREAM_MAX];
    receiver self;
    CHECK(stream->length <= STREAM_MAX);
    for (size_t i = 0; i < stream->length; i++)
        each[i] = i;
    receive(&self, framing, stream, each, stream->length);
    expect(&self, messages, error);
    for (size_t i = 0; i <= stream->length; i++) {
        for (size_t j = i; j <= stream->length; j++) {
            size_t cuts[2] = {i, j};
            receive(&self, framing, stream, cuts, 2);
            expect(&self, messages, error);
        }
    }
}

/* ---- framings -------------------------------------------------------------------------------- */

static io_framing by_length(int header_size, bool little_endian, bool includes, size_t max_size) {
    return (io_framing){.kind = IO_FRAMING_LENGTH,
                        .header_size = (uint8_t)header_size,
                        .little_endian = little_endian,
                        .includes_header = includes,
                        .max_size = max_size};
}

static io_framing by_delimiter(const char *delimiter, bool keep, size_t max_size) {
    io_framing framing = {.kind = IO_FRAMING_DELIMITER, .keep = keep, .max_size = max_size};
    framing.delimiter_length = (uint8_t)strlen(delimiter);
    memcpy(framing.delimiter, delimiter, framing.delimiter_length);
    return framing;
}

static io_framing by_size(size_t size) {
    return (io_framing){.kind = IO_FRAMING_FIXED, .max_size = size};
}

static void put_number(text *stream, const io_framing *framing, uint64_t number) {
    char header[8];
    for (int i = 0; i < framing->header_size; i++) {
        int shift = 8 * (framing->little_endian ? i : framing->header_size - 1 - i);
        header[i] = (char)(number >> shift & 0xff);
    }
    put(stream, header, framing->header_size);
}

/* The same frame twice: as it should be, and as io_framing_wrap says. */
static void put_frame(text *stream, const io_framing *framing, const char *bytes, size_t size) {
    char header[IO_FRAME_HEADER_MAX];
    size_t header_size, trailer_size, begin = stream->length;
    text wrapped = {.length = 0};
    if (framing->kind == IO_FRAMING_LENGTH)
        put_number(stream, framing, size + (framing->includes_header ? framing->header_size : 0u));
    put(stream, bytes, size);
    put(stream, framing->delimiter, framing->delimiter_length);
    CHECK_INT(io_framing_wrap(framing, bytes, size, header, &header_size, &trailer_size), 0);
    put(&wrapped, header, header_size);
    put(&wrapped, bytes, size);
    put(&wrapped, framing->delimiter, trailer_size);
    CHECK_INT(wrapped.length, stream->length - begin);
    CHECK(memcmp(wrapped.bytes, stream->bytes + begin, wrapped.length) == 0);
}

/* What the receiver is given. */
static void put_received(text *messages, const io_framing *framing, const char *bytes,
                         size_t size) {
    text message = {.length = 0};
    put(&message, bytes, size);
    if (framing->keep)
        put(&message, framing->delimiter, framing->delimiter_length);
    put_message(messages, message.bytes, message.length);
}

static int wrap(const io_framing *framing, const char *message, size_t size) {
    char header[IO_FRAME_HEADER_MAX], *copy = copy_of(message, size);
    size_t header_size, trailer_size;
    int error = io_framing_wrap(framing, copy, size, header, &header_size, &trailer_size);
    free(copy);
    return error;
}

/* ---- a length in front ----------------------------------------------------------------------- */

static void lengths_however_cut(void) {
    static const char *const parts[] = {"", "a", "", "bcdefgh", "0123456789"};
    for (int kind = 0; kind < 8 * 4; kind++) {
        io_framing framing = by_length(1 + kind / 4, kind & 1, kind & 2, 10);
        text stream = {.length = 0}, messages = {.length = 0};
        for (size_t i = 0; i < COUNT_OF(parts); i++) {
            put_frame(&stream, &framing, parts[i], strlen(parts[i]));
            put_message(&messages, parts[i], strlen(parts[i]));
        }
        expect_however_cut(&framing, &stream, &messages, 0);
        put_number(&stream, &framing, 10); /* and the beginning of another */
        put(&stream, "x", 1);
        expect_however_cut(&framing, &stream, &messages, 0);
    }
}

static void expect_length(const io_framing *framing, uint64_t number, int error, uint64_t size) {
    text stream = {.length = 0}, messages = {.length = 0};
    receiver self;
    put_frame(&stream, framing, "good", 4);
    put_message(&messages, "good", 4);
    put_number(&stream, framing, number); /* its last byte must tell, no more is needed */
    expect_however_cut(framing, &stream, &messages, error);
    for (size_t cut = 0; cut < stream.length; cut++) {
        receive(&self, framing, &stream, &cut, 1);
        CHECK_INT(self.error_size, error ? size : 0);
        expect(&self, &messages, error);
    }
    stream.length--;
    expect_however_cut(framing, &stream, &messages, 0);
}

static void length_limits(void) {
    for (int kind = 0; kind < 8 * 4; kind++) {
        int header_size = 1 + kind / 4;
        io_framing framing = by_length(header_size, kind & 1, kind & 2, 100);
        unsigned own = framing.includes_header ? framing.header_size : 0;
        expect_length(&framing, 100 + own, 0, 0);
        expect_length(&framing, 101 + own, -IOE_MSGSIZE, 101);
        uint64_t most = UINT64_MAX >> (64 - 8 * header_size);
        expect_length(&framing, most, -IOE_MSGSIZE, most - own);
        for (unsigned number = 0; number < own; number++)
            expect_length(&framing, number, -IOE_INVAL, number);
    }
}

static void lengths_beyond_all_memory(void) {
    static const uint64_t numbers[] = {UINT64_MAX,
                                       UINT64_MAX - 1,
                                       UINT64_MAX - 7,
                                       UINT64_MAX - 8,
                                       UINT64_MAX - 12,
                                       UINT64_C(1) << 63,
                                       (UINT64_C(1) << 63) - 1,
                                       UINT64_C(1) << 32,
                                       (UINT64_C(1) << 32) + 5};
    for (int kind = 0; kind < 4; kind++) {
        io_framing framing = by_length(8, kind & 1, kind & 2, IO_LENGTH_MAX);
        for (size_t i = 0; i < COUNT_OF(numbers); i++) {
            uint64_t size = numbers[i] - (framing.includes_header ? 8 : 0);
            expect_length(&framing, numbers[i], -IOE_MSGSIZE, size < SIZE_MAX ? size : SIZE_MAX);
        }
    }
}

static void small_maximum_and_included_header(void) {
    io_framing framing = by_length(8, false, true, 2);
    text stream = {.length = 0}, none = {.length = 0};
    put_number(&stream, &framing, 5); /* larger than max_size, but what is wrong is another thing */
    expect_however_cut(&framing, &stream, &none, -IOE_INVAL);
}

static void length_wraps(void) {
    static char message[70000];
    for (int kind = 0; kind < 8; kind++) {
        int header_size = 1 + kind / 4;
        io_framing framing = by_length(header_size, kind & 1, kind & 2, IO_LENGTH_MAX);
        size_t own = framing.includes_header ? framing.header_size : 0;
        size_t most = (header_size == 1 ? 255 : 65535) - own;
        CHECK_INT(wrap(&framing, message, most), 0);
        CHECK_INT(wrap(&framing, message, most + 1), -IOE_MSGSIZE);
    }
    io_framing framing = by_length(4, false, false, 65536);
    CHECK_INT(wrap(&framing, message, 65536), 0);
    CHECK_INT(wrap(&framing, message, 65537), -IOE_MSGSIZE);
}

static void length_hints(void) {
    io_framing framing = by_length(4, false, false, 1000);
    bool complete;
    size_t wanted;
    CHECK_INT(io_framing_join(&framing, "\0", 1, "\0\0", 2, &complete, &wanted), 2);
    CHECK(!complete && wanted == 0); /* not known yet */
    CHECK_INT(io_framing_join(&framing, "\0", 1, "\0\1\2abc", 6, &complete, &wanted), 6);
    CHECK(!complete && wanted == 4 + 258);
    CHECK_INT(io_framing_join(&framing, "\0\0\1\2x", 5, "", 0, &complete, &wanted), 0);
    CHECK(!complete && wanted == 4 + 258);
    CHECK_INT(io_framing_join(&framing, "\0\0\0", 3, "\0\0\0", 3, &complete, &wanted), 1);
    CHECK(complete && wanted == 4); /* empty: its header is all of it */
}

/* ---- a delimiter behind ---------------------------------------------------------------------- */

static void delimiters_however_cut(void) {
    static const char *const delimiters[] = {
        "\n", "\r\n", "aab", "aa", "aba", "abab", "0123456789abcdef"};
    static const char *const parts[] = {"x", "", "", "\r", "a line", "0123456789abcde", "bb", "\r"};
    for (size_t d = 0; d < COUNT_OF(delimiters) * 2; d++) {
        io_framing framing = by_delimiter(delimiters[d / 2], d % 2, 15);
        text stream = {.length = 0}, messages = {.length = 0};
        for (size_t i = 0; i < COUNT_OF(parts); i++) {
            if (wrap(&framing, parts[i], strlen(parts[i])) != 0)
                continue;
            put_frame(&stream, &framing, parts[i], strlen(parts[i]));
            put_received(&messages, &framing, parts[i], strlen(parts[i]));
        }
        expect_however_cut(&framing, &stream, &messages, 0);
        put(&stream, framing.delimiter, framing.delimiter_length - 1u);
        expect_however_cut(&framing, &stream, &messages, 0);
    }
}

static void overlap(void) {
    io_framing framing = by_delimiter("aab", false, 10);
    text stream = {.length = 0}, messages = {.length = 0};
    put(&stream,
        "aaab"
        "aaaab"
        "aab"
        "aacaab"
        "aabaa",
        23);
    put_message(&messages, "a", 1);
    put_message(&messages, "aa", 2);
    put_message(&messages, "", 0);
    put_message(&messages, "aac", 3);
    put_message(&messages, "", 0);
    expect_however_cut(&framing, &stream, &messages, 0);
}

/* `stream` begins with a message that is too large, and that is known with its last byte. */
static void expect_too_large(const char *delimiter, const char *bytes) {
    io_framing framing = by_delimiter(delimiter, false, 4);
    text stream = {.length = 0}, none = {.length = 0};
    put(&stream, bytes, strlen(bytes));
    expect_however_cut(&framing, &stream, &none, -IOE_MSGSIZE);
    stream.length--;
    expect_however_cut(&framing, &stream, &none, 0);
}

static void delimiter_limits(void) {
    expect_too_large("\n", "abcde");
    expect_too_large("\r\n", "abcde");
    expect_too_large("\r\n", "abcd\r\r"); /* the first one could have been the beginning */
    expect_too_large("\r\n", "abcd\rx");
    expect_too_large("aab", "xxxxaaa"); /* "aab" from the second on would be too late */
    expect_too_large("aab", "xxxaaaa");
    expect_too_large("abab", "xxxabaa");
    io_framing framing = by_delimiter("\r\n", false, 4);
    text stream = {.length = 0}, messages = {.length = 0};
    put(&stream, "abcd\r\n\n\r\r\r\r\n", 12);
    put_message(&messages, "abcd", 4);
    put_message(&messages, "\n\r\r\r", 4);
    expect_however_cut(&framing, &stream, &messages, 0);
    put(&stream, "abcde\r\n", 7);
    expect_however_cut(&framing, &stream, &messages, -IOE_MSGSIZE);
}

/* Tries every place at which the delimiter could begin. 1, 0 or an error as io_framing_next. */
static int search(const io_framing *framing, const char *data, size_t length, size_t *size) {
    bool possible = false;
    for (*size = 0; *size <= framing->max_size && *size <= length; ++*size) {
        size_t there = length - *size, all = framing->delimiter_length;
        size_t part = there < all ? there : all;
        if (memcmp(data + *size, framing->delimiter, part) != 0)
            continue;
        if (part == all)
            return 1;
        possible = true;
    }
    return possible ? 0 : -IOE_MSGSIZE;
}

static void random_text(test_random *random, text *to, size_t length) {
    to->length = length;
    for (size_t i = 0; i < length; i++)
        to->bytes[i] = (char)('a' + test_below(random, 2));
}

static io_framing random_framing(test_random *random) {
    char delimiter[IO_DELIMITER_MAX + 1] = {0};
    size_t length = 1 + test_below(random, test_below(random, 8) ? 4 : IO_DELIMITER_MAX);
    for (size_t i = 0; i < length; i++)
        delimiter[i] = (char)('a' + test_below(random, 2));
    return by_delimiter(delimiter, test_below(random, 2), 1 + test_below(random, 30));
}

static void random_streams(void) {
    test_random random = {7};
    for (uint64_t round = 0; round < test_scaled(100000); round++) {
        io_framing framing = random_framing(&random);
        text stream, messages = {.length = 0};
        size_t size, at = 0, cuts[STREAM_MAX], cut_count = 0;
        int answer;
        random_text(&random, &stream, test_below(&random, 120));
        while ((answer = search(&framing, stream.bytes + at, stream.length - at, &size)) > 0) {
            put_received(&messages, &framing, stream.bytes + at, size);
            at += size + framing.delimiter_length;
        }
        size_t step = 1 + test_below(&random, 40);
        for (size_t cut = 0; cut < stream.length; cut += test_below(&random, step + 1) + (step < 2))
            if (cut_count < STREAM_MAX)
                cuts[cut_count++] = cut;
        receiver self;
        receive(&self, &framing, &stream, cuts, cut_count);
        expect(&self, &messages, answer);
    }
}

/* A message may be sent if the receiver would find just it. */
static void random_wraps(void) {
    test_random random = {8};
    uint64_t sent = 0;
    for (uint64_t round = 0; round < test_scaled(200000); round++) {
        io_framing framing = random_framing(&random);
        text message, stream;
        size_t size, content;
        random_text(&random, &message, test_below(&random, 36));
        stream = message;
        content = message.length;
        size_t length = framing.delimiter_length;
        bool has_it = content >= length &&
                      memcmp(message.bytes + content - length, framing.delimiter, length) == 0;
        if (framing.keep && has_it)
            content -= length;
        else
            put(&stream, framing.delimiter, length);
        bool good = search(&framing, stream.bytes, stream.length, &size) == 1 && size == content;
        int error = wrap(&framing, message.bytes, message.length);
        CHECK_INT(error == 0, good);
        if (content <= framing.max_size)
            CHECK(error == 0 || error == -IOE_INVAL);
        sent += good;
    }
    CHECK(sent > 0);
}

static void delimiter_wraps(void) {
    io_framing framing = by_delimiter("\r\n\r\n", false, 10);
    CHECK_INT(wrap(&framing, "a\r\nb", 4), 0);
    CHECK_INT(wrap(&framing, "", 0), 0);
    CHECK_INT(wrap(&framing, "a\r\n\r\nb", 6), -IOE_INVAL);
    CHECK_INT(wrap(&framing, "a\r\n\r\n", 5), -IOE_INVAL);
    CHECK_INT(wrap(&framing, "a\r\n", 3), -IOE_INVAL); /* would end two bytes early */
    CHECK_INT(wrap(&framing, "0123456789", 10), 0);
    CHECK_INT(wrap(&framing, "0123456789a", 11), -IOE_MSGSIZE);
    framing.keep = true;
    CHECK_INT(wrap(&framing, "0123456789\r\n\r\n", 14), 0);
    CHECK_INT(wrap(&framing, "0123456789a\r\n\r\n", 15), -IOE_MSGSIZE);
    CHECK_INT(wrap(&framing, "a\r\n\r\n\r\n", 7), -IOE_INVAL);
}

/* Ends within the test's time limit only if what is held is not searched again. */
static void byte_by_byte(void) {
    size_t length = (size_t)test_scaled(8000000);
    io_framing framing = by_delimiter("\r\n", false, length);
    char *stream = malloc(length + 2);
    bool complete = false;
    size_t wanted;
    CHECK(stream != NULL);
    memset(stream, '\r', length);
    memcpy(stream + length, "\r\n", 2);
    for (size_t held = 1; held < length + 2; held++) {
        CHECK(!complete);
        CHECK_INT(io_framing_join(&framing, stream, held, stream + held, 1, &complete, &wanted), 1);
    }
    CHECK(complete);
    free(stream);
}

/* ---- one size for all ------------------------------------------------------------------------ */

static void fixed_sizes(void) {
    text stream = {.length = 0};
    put(&stream, "abcdefghijklmnopqrst", 20);
    for (size_t size = 1; size <= 21; size++) {
        io_framing framing = by_size(size);
        text messages = {.length = 0};
        for (size_t at = 0; at + size <= stream.length; at += size)
            put_message(&messages, stream.bytes + at, size);
        expect_however_cut(&framing, &stream, &messages, 0);
        CHECK_INT(wrap(&framing, stream.bytes, size), 0);
        CHECK_INT(wrap(&framing, stream.bytes, size - 1), -IOE_MSGSIZE);
        CHECK_INT(wrap(&framing, stream.bytes, size + 1), -IOE_MSGSIZE);
    }
}

int main(int argc, char **argv) {
    static const test_case tests[] = {
        TEST(lengths_however_cut),
        TEST(length_limits),
        TEST(lengths_beyond_all_memory),
        TEST(small_maximum_and_included_header),
        TEST(length_wraps),
        TEST(length_hints),
        TEST(delimiters_however_cut),
        TEST(overlap),
        TEST(delimiter_limits),
        TEST(random_streams),
        TEST(random_wraps),
        TEST(delimiter_wraps),
        TEST(byte_by_byte),
        TEST(fixed_sizes),
    };
    return test_main(argc, argv, tests, COUNT_OF(tests));
}
