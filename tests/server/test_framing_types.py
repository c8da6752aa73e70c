"""LengthPrefixed, Delimited and FixedSize by themselves: arguments, encode and decode."""

from __future__ import annotations

import array
import copy
import gc
import pickle
import struct
import sys
import threading

import iocpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iocpcore import Delimited, FixedSize, FramingError, LengthPrefixed

EXAMPLES = [
    LengthPrefixed(),
    LengthPrefixed(1, "little", 7, True),
    LengthPrefixed(size=3, max_size=2**31 - 1),
    Delimited(b"\r\n"),
    Delimited(b"'\0\"", keep=True),
    Delimited(b"0123456789abcdef", 1),
    FixedSize(1),
    FixedSize(size=2**31 - 1),
]
each = pytest.mark.parametrize("framing", EXAMPLES, ids=repr)

# ---- arguments ----------------------------------------------------------------------------------


def test_length_prefixed_attributes():
    framing = LengthPrefixed()
    assert (framing.size, framing.byteorder, framing.max_size) == (4, "big", 16 << 20)
    assert framing.includes_header is False
    framing = LengthPrefixed(2, "little", 100, includes_header=True)
    assert (framing.size, framing.byteorder, framing.max_size) == (2, "little", 100)
    assert framing.includes_header is True


def test_delimited_attributes():
    framing = Delimited(b"\n")
    assert (framing.delimiter, framing.max_size, framing.keep) == (b"\n", 65536, False)
    framing = Delimited(delimiter=bytearray(b"ab"), max_size=9, keep=True)
    assert (framing.delimiter, framing.max_size, framing.keep) == (b"ab", 9, True)
    assert type(framing.delimiter) is bytes


def test_fixed_size_attributes():
    assert FixedSize(10).size == 10


BAD = [
    (lambda: LengthPrefixed(0), ValueError, "size must be 1 to 8"),
    (lambda: LengthPrefixed(9), ValueError, "size must be 1 to 8"),
    (lambda: LengthPrefixed(-1 << 70), ValueError, "size must be 1 to 8"),
    (lambda: LengthPrefixed("4"), TypeError, "size must be an integer, not str"),
    (lambda: LengthPrefixed(4.0), TypeError, "size must be an integer, not float"),
    (lambda: LengthPrefixed(byteorder="middle"), ValueError, "byteorder must be .*'middle'"),
    (lambda: LengthPrefixed(byteorder=b"big"), TypeError, "byteorder must be a str, not bytes"),
    (lambda: LengthPrefixed(byteorder=None), TypeError, "byteorder must be a str"),
    (lambda: LengthPrefixed(max_size=0), ValueError, "max_size must be 1 to 2147483647"),
    (lambda: LengthPrefixed(max_size=1 << 31), ValueError, "max_size must be 1 to 2147483647"),
    (lambda: LengthPrefixed(max_size=None), TypeError, "max_size must be an integer"),
    (lambda: LengthPrefixed(includes_header=1), TypeError, "includes_header must be a bool, not"),
    (lambda: LengthPrefixed(length=4), TypeError, "length"),
    (lambda: Delimited(), TypeError, "delimiter"),
    (lambda: Delimited("\n"), TypeError, "delimiter must be a bytes-like object, not str"),
    (lambda: Delimited(b""), ValueError, "delimiter must have 1 to 16 bytes, not 0"),
    (lambda: Delimited(b"x" * 17), ValueError, "delimiter must have 1 to 16 bytes, not 17"),
    (lambda: Delimited(memoryview(b"abcd")[::2]), ValueError, "delimiter must be contiguous"),
    (lambda: Delimited(b"\n", max_size=-5), ValueError, "max_size must be 1 to"),
    (lambda: Delimited(b"\n", max_size="5"), TypeError, "max_size must be an integer"),
    (lambda: Delimited(b"\n", keep=None), TypeError, "keep must be a bool, not NoneType"),
    (lambda: FixedSize(), TypeError, "size"),
    (lambda: FixedSize(0), ValueError, "size must be 1 to 2147483647"),
    (lambda: FixedSize(1 << 31), ValueError, "size must be 1 to 2147483647"),
    (lambda: FixedSize(b"1"), TypeError, "size must be an integer, not bytes"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


# ---- objects ------------------------------------------------------------------------------------


@each
def test_repr_is_how_to_make_it(framing):
    again = eval(repr(framing), {"iocpcore": iocpcore})
    assert again == framing
    assert repr(again) == repr(framing)


@each
def test_equality_and_hash(framing):
    for other in EXAMPLES:
        assert (framing == other) is (framing is other)
        assert (framing != other) is (framing is not other)
    again = eval(repr(framing))
    assert again is not framing
    assert again == framing
    assert hash(again) == hash(framing)
    assert {framing: 1}[again] == 1
    assert framing != 1
    with pytest.raises(TypeError):
        framing < again  # noqa: B015


@each
def test_copies(framing):
    assert copy.copy(framing) == framing
    assert copy.deepcopy(framing) == framing
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(framing, protocol)) == framing


@each
def test_nothing_can_be_changed(framing):
    for name in ("size", "max_size", "delimiter", "keep", "other"):
        with pytest.raises(AttributeError):
            setattr(framing, name, 1)
    with pytest.raises(TypeError):
        type(framing).encode = None
    with pytest.raises(TypeError):
        type("Derived", (type(framing),), {})


def test_they_have_documentation():
    for kind in (LengthPrefixed, Delimited, FixedSize):
        assert kind.__module__ == "iocpcore"
        for thing in (kind, kind.encode, kind.decode):
            assert thing.__doc__
            assert thing.__text_signature__


# ---- encode -------------------------------------------------------------------------------------


def test_encode_with_a_length():
    assert LengthPrefixed().encode(b"abc") == b"\0\0\0\3abc"
    assert LengthPrefixed(byteorder="little").encode(b"abc") == b"\3\0\0\0abc"
    assert LengthPrefixed(2, includes_header=True).encode(b"abc") == b"\0\5abc"
    assert LengthPrefixed(8, "little").encode(b"") == bytes(8)
    assert LengthPrefixed(3).encode(bytes(0x012345)) == b"\1\x23\x45" + bytes(0x012345)
    assert LengthPrefixed(1).encode(bytes(255)) == b"\xff" + bytes(255)


def test_encode_with_a_delimiter():
    assert Delimited(b"\r\n").encode(b"abc") == b"abc\r\n"
    assert Delimited(b"\r\n").encode(b"") == b"\r\n"
    assert Delimited(b"\r\n").encode(b"a\rb\nc\r") == b"a\rb\nc\r\r\n"


def test_what_was_received_with_its_delimiter_can_be_sent():
    framing = Delimited(b"\r\n", max_size=3, keep=True)
    assert framing.encode(b"abc") == b"abc\r\n"
    assert framing.encode(b"abc\r\n") == b"abc\r\n"
    assert framing.decode(b"abc\r\n") == ([b"abc\r\n"], 5)


def test_encode_with_a_fixed_size():
    assert FixedSize(3).encode(b"abc") == b"abc"


REFUSED = [
    (LengthPrefixed(max_size=65536), 70000, "message of 70000 bytes is larger than max_size 65536"),
    (LengthPrefixed(1), 256, "message of 256 bytes is too large for a length of size 1"),
    (
        LengthPrefixed(1, includes_header=True),
        255,
        "message of 255 bytes is too large for a length of size 1",
    ),
    (Delimited(b"\n", max_size=4), 5, "message of 5 bytes is larger than max_size 4"),
    (FixedSize(4), 3, "message of 3 bytes instead of 4"),
    (FixedSize(4), 5, "message of 5 bytes instead of 4"),
]


@pytest.mark.parametrize(("framing", "size", "text"), REFUSED)
def test_encode_refuses_a_size(framing, size, text):
    with pytest.raises(FramingError) as caught:
        framing.encode(bytes(size))
    assert str(caught.value) == text


def test_encode_refuses_a_delimiter():
    framing = Delimited(b"\r\n\r\n")
    for message in (b"a\r\n\r\nb", b"a\r\n\r\n", b"a\r\n"):  # the last one would end too early
        with pytest.raises(FramingError, match=r"message contains its delimiter b'\\r\\n"):
            framing.encode(message)


def test_a_framing_error_is_a_value_error():
    assert issubclass(FramingError, ValueError)
    assert iocpcore.errors.FramingError is FramingError


BYTES_LIKE = [
    b"abcd",
    bytearray(b"abcd"),
    memoryview(b"abcd"),
    memoryview(b"xabcdx")[1:5],
    array.array("H", b"abcd"),
]


@pytest.mark.parametrize("data", BYTES_LIKE, ids=repr)
def test_every_buffer_is_taken(data):
    assert FixedSize(4).encode(data) == b"abcd"
    assert FixedSize(2).decode(data) == ([b"ab", b"cd"], 4)


@each
def test_wrong_buffers(framing):
    released = memoryview(bytearray(8))
    released.release()
    for method, name in ((framing.encode, "message"), (framing.decode, "data")):
        for wrong in ("text", 5, None, [b"x"]):
            with pytest.raises(TypeError, match=f"{name} must be a bytes-like object, not "):
                method(wrong)
        with pytest.raises(ValueError, match=f"{name} must be contiguous"):
            method(memoryview(bytearray(8))[::2])
        with pytest.raises(ValueError, match="released"):
            method(released)


# ---- decode -------------------------------------------------------------------------------------


@each
def test_decode_of_nothing(framing):
    assert framing.decode(b"") == ([], 0)
    assert framing.decode(bytearray()) == ([], 0)


def test_decode_leaves_the_beginning_of_a_message():
    assert LengthPrefixed(2).decode(b"\0\1a\0\0\0\2b") == ([b"a", b""], 5)
    assert Delimited(b"\r\n").decode(b"a\r\n\r\nbc\r") == ([b"a", b""], 5)
    assert FixedSize(3).decode(b"abcdefgh") == ([b"abc", b"def"], 6)


BROKEN = [
    (
        LengthPrefixed(max_size=65536),
        struct.pack(">I", 70000),
        "message of 70000 bytes is larger than max_size 65536",
    ),
    (
        LengthPrefixed(2, "little", 300, True),
        struct.pack("<H", 303),
        "message of 301 bytes is larger than max_size 300",
    ),
    (
        LengthPrefixed(includes_header=True),
        struct.pack(">I", 3),
        "length 3 is smaller than its own size 4, which it includes",
    ),
    (
        Delimited(b"\r\n", max_size=3),
        b"abcd",
        "message is larger than max_size 3, and no delimiter has come",
    ),
]


@pytest.mark.parametrize(("framing", "data", "text"), BROKEN)
def test_decode_of_what_is_wrong(framing, data, text):
    """As soon as it is known, and not before what came before it was returned."""
    assert framing.decode(data[:-1]) == ([], 0)
    for wrong in (data, data + bytes(100)):
        with pytest.raises(FramingError) as caught:
            framing.decode(wrong)
        assert str(caught.value) == text
    good = framing.encode(b"one") + framing.encode(b"")
    assert framing.decode(good + data) == ([b"one", b""], len(good))


@pytest.mark.skipif(sys.maxsize < 2**32, reason="sizes have 32 bits here")
def test_lengths_of_64_bits():
    for length in (2**64 - 1, 2**63, 2**32):
        with pytest.raises(FramingError, match=f"message of {length} bytes is larger"):
            LengthPrefixed(8).decode(struct.pack(">Q", length))


def framings() -> st.SearchStrategy:
    sizes = st.integers(64, 2**31 - 1)
    orders = st.sampled_from(["big", "little"])
    delimiters = st.one_of(st.binary(min_size=1, max_size=16), st.text("ab", min_size=1))
    return st.one_of(
        st.builds(LengthPrefixed, st.integers(1, 8), orders, sizes, st.booleans()),
        st.builds(
            Delimited,
            delimiters.map(lambda d: d.encode()[:16] if isinstance(d, str) else d),
            sizes,
            st.booleans(),
        ),
        st.builds(FixedSize, st.integers(1, 20)),
    )


@given(framings(), st.lists(st.text("abc", max_size=60).map(str.encode)), st.data())
def test_messages_are_the_same_at_any_split(framing, candidates, data):
    stream = b""
    messages = []
    for candidate in candidates:
        try:
            stream += framing.encode(candidate)
        except FramingError:
            continue
        kept = framing.delimiter if getattr(framing, "keep", False) else b""
        messages.append(candidate.removesuffix(kept) + kept)
    cuts = data.draw(st.lists(st.integers(0, len(stream))))
    received, held, at = [], b"", 0
    for cut in [*sorted(cuts), len(stream)]:
        held += stream[at:cut]
        at = cut
        found, taken = framing.decode(held)
        assert framing.decode(held[taken:]) == ([], 0)
        received += found
        held = held[taken:]
    assert received == messages
    assert held == b""


@given(framings(), st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_decoded_alike_at_any_split(framing, stream, cut):
    def ends(*pieces: bytes) -> tuple[list[bytes], bytes | str]:
        received, held = [], b""
        for piece in pieces:
            held += piece
            taken = 1
            while taken:
                try:
                    found, taken = framing.decode(held)
                except FramingError as error:
                    return received, str(error)
                received += found
                held = held[taken:]
        return received, held

    assert ends(stream[:cut], stream[cut:]) == ends(stream)


# ---- threads and memory -------------------------------------------------------------------------


def test_threads_share_them():
    framings = [LengthPrefixed(2), Delimited(b"\r\n"), FixedSize(5)]
    failed = []

    def work() -> None:
        for _ in range(300):
            for framing in framings:
                data = framing.encode(b"12345") * 20
                if framing.decode(data) != ([b"12345"] * 20, len(data)):
                    failed.append(framing)
                hash(framing), repr(framing), framing == framings[0]

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_nothing_is_leaked():
    def use() -> None:
        for framing in EXAMPLES:
            again = copy.copy(framing)
            hash(again), again == framing, repr(again), pickle.dumps(again)
            for call in (framing.encode, framing.decode):
                for data in (b"x", bytes(70000), b"\r\n\r\n", b"\xff" * 8, "no"):
                    try:
                        call(data)
                    except (TypeError, ValueError):
                        pass
        for call, error, _ in BAD:
            with pytest.raises(error):
                call()

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    for _ in range(3):
        use()
    before, types = blocks(), sys.getrefcount(LengthPrefixed)
    for _ in range(10):
        use()
    assert blocks() - before < 100
    assert sys.getrefcount(LengthPrefixed) - types < 10


# ---- framings of one's own ----------------------------------------------------------------------


def test_the_protocol_can_be_derived_from():
    class Upper(iocpcore.Framer):
        def feed(self, data):
            return [data.lower()]

        def encode(self, message):
            return message.upper()

    assert Upper().feed(b"A") == [b"a"]
    assert Upper().encode(b"a") == b"A"
    with pytest.raises(TypeError):
        iocpcore.Framer()
