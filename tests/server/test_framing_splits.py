"""However a stream is cut into pieces, the messages are the same; what is no message ends its
connection, after the good ones before it."""

from __future__ import annotations

import contextlib
import itertools
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import iocpcore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from iocpcore import Connection, Delimited, FixedSize, Framer, FramingError, LengthPrefixed
from support.events import Events
from support.system import LIMIT, SLOWNESS, wait_until


class Lines:
    """A Framer in Python: a byte of length, then the message."""

    MOST = 200

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        self.rest += data
        messages = []
        while self.rest and len(self.rest) > self.rest[0]:
            size = self.rest[0]
            if size > self.MOST:
                raise FramingError(f"a message of {size} bytes")
            messages.append(self.rest[1 : size + 1])
            self.rest = self.rest[size + 1 :]
        return messages

    def encode(self, message: bytes) -> bytes:
        return bytes([len(message)]) + message


MESSAGES = [b"", b"a", b"bc" * 9, b"", b"d" * 50, b"e"]
FIXED = [bytes([number]) * 7 for number in range(8)]
FRAMINGS: dict[str, tuple[Any, list[bytes]]] = {
    "prefix 4": (LengthPrefixed(4, max_size=200), MESSAGES),
    "prefix 2 little": (LengthPrefixed(2, "little", max_size=200), MESSAGES),
    "prefix 1 with header": (LengthPrefixed(1, max_size=200, includes_header=True), MESSAGES),
    "lines": (Delimited(b"\r\n", max_size=200), MESSAGES),
    "lines, kept": (Delimited(b"\n", max_size=200, keep=True), [m + b"\n" for m in MESSAGES]),
    "doubled": (Delimited(b"--\n--", max_size=200), [b"a-", b"x--\na", b"", b"-\n-", b"y"]),
    "fixed": (FixedSize(7), FIXED),
    "framer": (Lines, MESSAGES),
}
# Too long, or not possible at all; and what is unfinished does not matter then.
BAD = {
    "prefix 4": struct.pack(">I", 201),
    "prefix 2 little": struct.pack("<H", 300),
    "prefix 1 with header": b"\0",
    "lines": b"x" * 203,
    "framer": bytes([201]) * 202,
}


def encode(framing: Any, messages: list[bytes]) -> bytes:
    encoder = Lines() if framing is Lines else framing
    if isinstance(framing, Delimited) and framing.keep:
        return b"".join(messages)
    return b"".join(encoder.encode(message) for message in messages)


class Receiver:
    """A server that keeps the messages of each connection, and a stream to it that is sent in
    pieces: each is received before the next is sent."""

    def __init__(self, make_server: Callable[..., Any], dial: Callable[..., Any], framing: Any):
        self.events = Events()
        self.messages: list[bytes] = []
        self.conn: Connection | None = None
        self.pausing = False
        self.server = make_server(
            framing=framing,
            handshake_timeout=None,
            on_connect=self._on_connect,
            on_message=self._on_message,
            on_error=lambda conn, error: self.events.add(("error", error)),
            on_close=lambda conn, error: self.events.add(("close", error)),
        )
        self._dial = dial

    def _on_connect(self, conn: Connection) -> None:
        self.conn = conn
        self.events.add("connected")

    def _on_message(self, conn: Connection, message: bytes) -> None:
        self.messages.append(message)
        if self.pausing:
            conn.pause_receiving()
            conn.call_later(0, conn.resume_receiving)

    @contextlib.contextmanager
    def stream(self) -> Iterator[Callable[[bytes], None]]:
        """Sends a piece, and waits until it is there."""
        self.events, self.messages = Events(), []
        client = self._dial(self.server)
        self.events.wait()
        conn, self.conn = self.conn, None
        assert conn is not None
        sent = 0

        def send(piece: bytes) -> None:
            nonlocal sent
            client.send(piece)
            sent += len(piece)
            if not self.pausing:
                wait_until(lambda: conn.bytes_received >= sent or conn.closing, "the piece")

        yield send
        client.close()
        wait_until(lambda: len(self.events) > 1, "the end")

    def receive(self, pieces: list[bytes]) -> list[bytes]:
        with self.stream() as send:
            for piece in filter(None, pieces):
                send(piece)
        assert self.events.items[1:] == [("close", None)]
        return self.messages


@pytest.fixture
def receiver(make_server, dial) -> Callable[[Any], Receiver]:
    """The one of this test and framing."""
    made: dict[Any, Receiver] = {}

    def get(framing: Any) -> Receiver:
        if framing not in made:
            made[framing] = Receiver(make_server, dial, framing)
        return made[framing]

    return get


@pytest.mark.parametrize("name", FRAMINGS)
def test_at_every_boundary(receiver, backend, name):
    framing, messages = FRAMINGS[name]
    stream = encode(framing, messages)
    there = receiver(framing)
    # The others get some of them: the cutting is the same code.
    step = 1 if backend == "sim" else 9 * SLOWNESS
    for place in range(0, len(stream) + 1, step):
        assert there.receive([stream[:place], stream[place:]]) == messages
    assert there.receive([stream[i : i + 1] for i in range(len(stream))]) == messages


@pytest.mark.parametrize("name", FRAMINGS)
def test_with_pauses(receiver, name):
    """pause_receiving() in on_message holds the others of the same piece, and loses none."""
    framing, messages = FRAMINGS[name]
    stream = encode(framing, messages * 3)
    there = receiver(framing)
    there.pausing = True
    for size in (1, 7, 64, len(stream)):
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert there.receive(pieces) == messages * 3


@pytest.mark.parametrize("name", FRAMINGS)
@settings(
    max_examples=max(5, 25 // SLOWNESS),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_split(receiver, name, data):
    framing, _ = FRAMINGS[name]
    sizes = st.just(7) if name == "fixed" else st.integers(0, 190)
    letters = data.draw(st.lists(st.tuples(sizes, st.sampled_from(b"abc-")), max_size=12))
    messages = [bytes([letter]) * size for size, letter in letters]
    if name == "doubled":  # a delimiter may not be in a message, nor begin in it
        messages = [message.replace(b"-", b"a") for message in messages]
    if name == "lines, kept":
        messages = [message + b"\n" for message in messages]
    stream = encode(framing, messages)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    cuts = [0, *places, len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(cuts)]
    assert receiver(framing).receive(pieces) == messages


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_message(receiver, name, split):
    """The good ones come, then on_error, then on_close; of a large stream nothing is kept."""
    framing, messages = FRAMINGS[name]
    if framing is Lines and not split:
        messages = []  # a framer that raises gives none
    there = receiver(framing)
    stream = encode(framing, messages) + BAD[name]
    with there.stream() as send:
        if split:
            for place in range(0, len(stream), 3):
                send(stream[place : place + 3])
        else:
            send(stream)
        found = there.events.wait(3)
    assert there.messages == messages
    assert [event[0] for event in found[1:]] == ["error", "close"]
    assert isinstance(found[1][1], FramingError)
    assert found[1][1] is found[2][1]


@pytest.mark.parametrize("name", [name for name in FRAMINGS if name != "framer"])
def test_an_end_within_a_message(receiver, name):
    """It is told, and not lost in silence."""
    framing, messages = FRAMINGS[name]
    there, part = receiver(framing), framing.encode(messages[-1])[:-1]
    with there.stream() as send:
        send(encode(framing, messages) + part)
    found = there.events.wait(3)
    assert there.messages == messages
    assert [event[0] for event in found[1:]] == ["error", "close"]
    assert isinstance(found[1][1], FramingError)
    assert f"after {len(part)} bytes" in str(found[1][1])


def test_only_that_connection(receiver):
    framing, messages = FRAMINGS["prefix 4"]
    there = receiver(framing)
    stream = encode(framing, messages)
    with there.stream() as good:
        good(stream[:10])
        before = there.messages
        with there.stream() as bad:
            bad(BAD["prefix 4"])
            there.events.wait(3)
        there.messages = before
        good(stream[10:])
        wait_until(lambda: there.messages == messages, "the rest")


@pytest.mark.system
@pytest.mark.parametrize("name", ["prefix 4", "lines"])
def test_nothing_is_kept_past_the_limit(make_server, plain, name):
    """A message that is announced as long, or never ends, costs no more than its limit."""
    errors, taken = Events(), []
    framing = {
        "prefix 4": LengthPrefixed(4, max_size=1000),
        "lines": Delimited(b"\r\n", max_size=1000),
    }[name]

    def on_error(conn: Connection, error: BaseException) -> None:
        taken.append(conn.bytes_received)
        errors.add(error)

    server = make_server(framing=framing, on_message=print, on_error=on_error, read_size=4096)
    sock = plain(server)
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            sock.sendall(b"\xff" * 1000)
    assert isinstance(errors.wait(1, LIMIT)[0], FramingError)
    assert taken[0] <= 3 * 4096


def test_a_framer_that_raises_anything(make_server, dial):
    class Broken:
        def feed(self, data: bytes) -> list[bytes]:
            raise ZeroDivisionError

        encode = staticmethod(bytes)

    events = Events()
    server = make_server(
        framing=Broken,
        on_message=print,
        on_error=events.recorder("error"),
        on_close=events.recorder("close"),
    )
    dial(server).send(b"x")
    found = events.wait(2)
    assert [event[0] for event in found] == ["error", "close"]
    assert isinstance(found[0][1], ZeroDivisionError)


def test_that_framings_are_what_they_say():
    """The streams above are what the framings themselves make of them."""
    for framing, messages in FRAMINGS.values():
        if framing is not Lines:
            assert framing.decode(encode(framing, messages)) == (
                messages,
                len(encode(framing, messages)),
            )
    assert iocpcore.FramingError is FramingError


class Words(Framer):
    def feed(self, data):
        for word in data.split():
            if word == b"bad":
                raise FramingError("a bad word")
            yield word

    def encode(self, message):
        return message + b" "


@pytest.mark.found_in_use
@pytest.mark.system
def test_messages_before_a_bad_one(make_server, plain):
    """Also of a framer that is a generator."""
    said = []
    closed = threading.Event()
    server = make_server(
        on_message=lambda conn, message: said.append(message),
        on_error=lambda conn, error: said.append(type(error)),
        on_close=lambda conn, error: closed.set(),
        framing=Words,
    )
    plain(server).sendall(b"one two bad three")
    assert closed.wait(LIMIT)
    assert said == [b"one", b"two", FramingError]
