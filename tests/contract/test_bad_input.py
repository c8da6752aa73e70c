"""Bad arguments: each raises an error that names the argument, submits nothing, and the port goes
on. What only the operating system can refuse is the operation's result instead."""

from __future__ import annotations

import errno
import io
import math
import os
import socket
import sys

import iocpcore
import pytest
from support.system import LIMIT, POLLIN, WINDOWS

pytestmark = pytest.mark.system

HUGE = 1 << 31  # one more than a transfer may have
TOO_LARGE = 10**400  # for a float
ADDRESS = ("127.0.0.1", 9)


class Things:
    """A handle of each type, all of one port."""

    def __init__(self, port, net) -> None:
        self.port = port
        self.sock, self.peer = net.pair()
        self.udp, self.address = net.datagram()
        self.listener, _ = net.listener()
        self.file = net.file(b"0123456789")
        self.closed = socket.socket()
        self.closed.close()
        self.closed_file = net.file()
        self.closed_file.close()
        self.unused = net.stream()


@pytest.fixture
def things(port, net):
    return Things(port, net)


def noncontiguous():
    return memoryview(bytearray(20))[::2]


def released():
    view = memoryview(bytearray(10))
    view.release()
    return view


class Slotted:
    """Without weak references."""

    __slots__ = ("file",)

    def __init__(self, file):
        self.file = file

    def fileno(self):
        return self.file.fileno()


class Huge:
    """A buffer of 2 GiB that takes no memory to speak of."""

    def __enter__(self):
        import mmap

        self.map = mmap.mmap(-1, HUGE)
        return self.map

    def __exit__(self, *_):
        self.map.close()


# What is wrong, the call with it, the error, and the word that its message must have.
def case(name, call, error, word):
    return pytest.param(call, error, word, id=name)


HANDLES = [
    case(f"{method}: {what}", call, error, "closed|sock|file|listener|handle")
    for method, make in {
        "associate": lambda t, h: t.port.associate(h),
        "recv": lambda t, h: t.port.recv(h, 1),
        "recv_into": lambda t, h: t.port.recv_into(h, bytearray(1)),
        "send": lambda t, h: t.port.send(h, b"x"),
        "accept": lambda t, h: t.port.accept(h),
        "connect": lambda t, h: t.port.connect(h, ADDRESS),
        "recv_from": lambda t, h: t.port.recv_from(h, 1),
        "send_to": lambda t, h: t.port.send_to(h, b"x", ADDRESS),
        "send_file": lambda t, h: t.port.send_file(h, t.file),
        "send_file file": lambda t, h: t.port.send_file(t.sock, h),
        "read": lambda t, h: t.port.read(h, 1, 0),
        "read_into": lambda t, h: t.port.read_into(h, bytearray(1), 0),
        "write": lambda t, h: t.port.write(h, b"x", 0),
        "sync": lambda t, h: t.port.sync(h),
        "poll": lambda t, h: t.port.poll(h, POLLIN),
        "close_handle": lambda t, h: t.port.close_handle(h),
    }.items()
    for what, call, error in (
        ("None", lambda t, make=make: make(t, None), TypeError),
        ("a string", lambda t, make=make: make(t, "socket"), TypeError),
        ("a float", lambda t, make=make: make(t, 1.5), TypeError),
        ("a bool", lambda t, make=make: make(t, True), TypeError),
        ("a plain object", lambda t, make=make: make(t, object()), TypeError),
        (
            "a file without a descriptor",
            lambda t, make=make: make(t, io.BytesIO()),
            (TypeError, ValueError),
        ),
        ("a negative number", lambda t, make=make: make(t, -1), ValueError),
        ("a closed socket", lambda t, make=make: make(t, t.closed), ValueError),
        ("a closed file", lambda t, make=make: make(t, t.closed_file), ValueError),
    )
    if not (method == "close_handle" and "closed" in what)
]

SIZES = [
    case(f"{method}: nbytes={size!r}", call, error, "nbytes")
    for method, make in {
        "recv": lambda t, n: t.port.recv(t.sock, n),
        "recv_from": lambda t, n: t.port.recv_from(t.udp, n),
        "read": lambda t, n: t.port.read(t.file, n, 0),
    }.items()
    for size, error in (
        (0, ValueError),
        (-1, ValueError),
        (HUGE, ValueError),
        (1 << 70, ValueError),
        (-1 << 70, ValueError),
        (1.0, TypeError),
        ("1", TypeError),
        (None, TypeError),
    )
    for call in [lambda t, make=make, size=size: make(t, size)]
]

OFFSETS = [
    case(f"{method}: offset={offset!r}", call, error, "offset")
    for method, make in {
        "read": lambda t, n: t.port.read(t.file, 1, n),
        "read_into": lambda t, n: t.port.read_into(t.file, bytearray(1), n),
        "write": lambda t, n: t.port.write(t.file, b"x", n),
        "send_file": lambda t, n: t.port.send_file(t.sock, t.file, n),
    }.items()
    for offset, error in (
        (-1, ValueError),
        (1 << 63, ValueError),
        (1 << 70, ValueError),
        (0.5, TypeError),
        ("0", TypeError),
        (None, TypeError),
    )
    for call in [lambda t, make=make, offset=offset: make(t, offset)]
]

BUFFERS = [
    *(
        case(f"{method}: {what}", call, error, "buffer")
        for method, make in {
            "recv_into": lambda t, b: t.port.recv_into(t.sock, b),
            "read_into": lambda t, b: t.port.read_into(t.file, b, 0),
        }.items()
        for what, value, error in (
            ("read-only", lambda: b"constant", (TypeError, ValueError, BufferError)),
            ("no buffer", lambda: [1, 2], TypeError),
            ("a string", lambda: "text", TypeError),
            ("an integer", lambda: 10, TypeError),
            ("None", lambda: None, TypeError),
            ("empty", bytearray, ValueError),
            ("released", released, ValueError),
            ("not contiguous", noncontiguous, (TypeError, ValueError, BufferError)),
        )
        for call in [lambda t, make=make, value=value: make(t, value())]
    ),
    *(
        case(f"{method}: {what}", call, error, "data")
        for method, make in {
            "send": lambda t, b: t.port.send(t.sock, b),
            "send_to": lambda t, b: t.port.send_to(t.udp, b, t.address),
            "write": lambda t, b: t.port.write(t.file, b, 0),
        }.items()
        for what, value, error in (
            ("a string", lambda: "text", TypeError),
            ("an integer", lambda: 10, TypeError),
            ("None", lambda: None, TypeError),
            ("a list of strings", lambda: [b"x", "text"], TypeError),
            ("a list of integers", lambda: [1, 2, 3], TypeError),
            ("released", released, ValueError),
            ("not contiguous", noncontiguous, (TypeError, ValueError, BufferError)),
            (
                "one not contiguous",
                lambda: [b"x", noncontiguous()],
                (TypeError, ValueError, BufferError),
            ),
        )
        for call in [lambda t, make=make, value=value: make(t, value())]
    ),
]

BUFFERS.append(
    case(
        "send: one released",
        lambda t: t.port.send(t.sock, [b"x", released()]),
        ValueError,
        r"data\[1\]",
    )
)

HOSTS = [
    ("a name", ("localhost", 80), ValueError),
    ("no host", ("", 80), ValueError),
    ("half an address", ("127.0.0", 80), ValueError),
    ("a zero byte", ("127.0.0.1\0", 80), ValueError),
    ("half a character", ("\ud800", 80), ValueError),
    ("port too large", ("127.0.0.1", 65536), (ValueError, OverflowError)),
    ("port negative", ("127.0.0.1", -1), (ValueError, OverflowError)),
    ("port a string", ("127.0.0.1", "80"), TypeError),
    ("no port", ("127.0.0.1",), (TypeError, ValueError)),
    ("too long", ("127.0.0.1", 80, 0, 0, 0), (TypeError, ValueError)),
    ("of another family", ("::1", 80), ValueError),
    ("bytes as host", (b"127.0.0.1", 80), TypeError),
    ("None", None, TypeError),
    ("an integer", 80, TypeError),
    ("a list", [1, 2], TypeError),
]

ADDRESSES = [
    case(f"{method}: {what}", call, error, "address|host|port")
    for method, make in {
        "connect": lambda t, a: t.port.connect(t.unused, a),
        "send_to": lambda t, a: t.port.send_to(t.udp, b"x", a),
    }.items()
    for what, value, error in HOSTS
    for call in [lambda t, make=make, value=value: make(t, value)]
]

TIMES = [
    *(
        case(f"timer: {value!r:.20}", call, error, "seconds")
        for value, error in (
            (-1, ValueError),
            (-0.001, ValueError),
            (math.nan, ValueError),
            (-math.inf, ValueError),
            (TOO_LARGE, ValueError),
            ("1", TypeError),
            (None, TypeError),
        )
        for call in [lambda t, value=value: t.port.timer(value)]
    ),
    *(
        case(f"{method}: timeout={value!r:.20}", call, error, "timeout")
        for method in ("get", "get_many", "close")
        for value, error in (
            (-1, ValueError),
            (-0.001, ValueError),
            (math.nan, ValueError),
            (TOO_LARGE, ValueError),
            ("1", TypeError),
        )
        for call in [lambda t, method=method, v=value: getattr(t.port, method)(timeout=v)]
    ),
    *(
        case(f"get_many: maximum={value!r}", call, error, "maximum")
        for value, error in ((0, ValueError), (-1, ValueError), ("1", TypeError), (1.5, TypeError))
        for call in [lambda t, value=value: t.port.get_many(value, 0)]
    ),
]

OTHERS = [
    case(
        "send_file: count=-1",
        lambda t: t.port.send_file(t.sock, t.file, 0, -1),
        ValueError,
        "count",
    ),
    case(
        "send_file: count='1'",
        lambda t: t.port.send_file(t.sock, t.file, 0, "1"),
        TypeError,
        "count",
    ),
    case("poll: no events", lambda t: t.port.poll(t.sock, 0), ValueError, "events"),
    case("poll: unknown events", lambda t: t.port.poll(t.sock, 1 << 20), ValueError, "events"),
    case("poll: negative", lambda t: t.port.poll(t.sock, -1), ValueError, "events"),
    case("poll: None", lambda t: t.port.poll(t.sock, None), TypeError, "events"),
    case("callback", lambda t: t.port.recv(t.sock, 1, callback=1), TypeError, "callback"),
    case("timer callback", lambda t: t.port.timer(0, callback="f"), TypeError, "callback"),
    case("dissociate: unknown", lambda t: t.port.dissociate(t.unused), ValueError, "handle"),
    case("no such keyword", lambda t: t.port.recv(t.sock, 1, size=2), TypeError, "size"),
    case("too few", lambda t: t.port.recv(t.sock), TypeError, "recv|nbytes|argument"),
    case("too many", lambda t: t.port.recv(t.sock, 1, None, 4, 5), TypeError, "recv|argument"),
    case("sync: slots", lambda t: t.port.sync(Slotted(t.file)), TypeError, "file.*weak"),
    case(
        "associate: slots", lambda t: t.port.associate(Slotted(t.file)), TypeError, "handle.*weak"
    ),
    case(
        "what a file may be",
        lambda t: t.port.sync(None),
        TypeError,
        "file must be a file object or an integer handle, not NoneType",
    ),
    case(
        "what a socket may be",
        lambda t: t.port.recv(None, 1),
        TypeError,
        "sock must be a socket or an integer handle, not NoneType",
    ),
    case("a socket as file", lambda t: t.port.read(t.sock, 1, 0), (ValueError, TypeError), "file"),
    case("a file as socket", lambda t: t.port.recv(t.file, 1), (ValueError, TypeError), "sock"),
]


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [*HANDLES, *SIZES, *OFFSETS, *BUFFERS, *ADDRESSES, *TIMES, *OTHERS],
)
def test_bad_arguments(port, net, things, call, error, word):
    submitted = port.stats()["submitted"]
    with pytest.raises(error, match=f"(?i){word}"):
        call(things)
    assert port.in_flight == 0
    assert port.stats()["submitted"] == submitted
    op = port.recv(things.sock, 10)
    things.peer.send(b"goes on")
    assert net.result(op) == b"goes on"


needs_room = pytest.mark.skipif(
    WINDOWS or sys.maxsize < 1 << 32, reason="2 GiB of address space are a lot here"
)


@needs_room
@pytest.mark.parametrize(
    ("method", "word"),
    [("send", "data"), ("gather", "data"), ("write", "data"), ("recv_into", "buffer")],
)
def test_2_gib(port, things, method, word):
    def gather(huge):
        with memoryview(huge) as view, view[: HUGE // 2] as half:
            port.send(things.sock, [half, half])

    calls = {
        "send": lambda huge: port.send(things.sock, huge),
        "gather": gather,
        "write": lambda huge: port.write(things.file, huge, 0),
        "recv_into": lambda huge: port.recv_into(things.sock, huge),
    }
    with Huge() as huge, pytest.raises(ValueError, match=word):
        calls[method](huge)
    assert port.in_flight == 0


def test_large_offsets_and_counts_are_fine(port, net, things):
    big = (1 << 63) - 1
    assert net.result(port.send_file(things.sock, things.file, 0, big)) == 10
    assert things.peer.recv(10) == b"0123456789"
    op = port.read(things.file, 10, 1 << 42)
    assert net.result(op) == b""


def test_the_handle_of_another_port(port, make_port, make_net, things):
    other = make_port()
    net = make_net(other)
    a, _ = net.pair()
    other.associate(a)
    with pytest.raises(ValueError, match="port"):
        port.recv(a, 10)
    with pytest.raises(ValueError, match="port"):
        port.associate(a)
    port.associate(things.file)
    with pytest.raises(ValueError, match="port"):
        other.read(things.file, 1, 0)
    other.close()
    if not WINDOWS:
        # A closed port holds nothing any more.
        port.associate(a)


def test_a_number_that_is_no_descriptor(port):
    number = 1 << 20 if not WINDOWS else 0xFFF0
    with pytest.raises((OSError, ValueError)):
        port.recv(number, 10)
    with pytest.raises((OSError, ValueError, OverflowError)):
        port.recv(1 << 80, 10)
    assert port.in_flight == 0


@pytest.mark.skipif(WINDOWS, reason="on Windows a pipe of os.pipe() is not overlapped")
def test_a_pipe_as_file(port):
    """It has no offsets: the same error everywhere, and no waiting for bytes."""
    read, write = os.pipe()
    try:
        try:
            op = port.read(read, 10, 0)
        except (OSError, ValueError):
            pass
        else:
            assert port.get(LIMIT) is op
            assert isinstance(op.error, OSError)
            assert op.error.errno == errno.ESPIPE
            port.dissociate(read)
    finally:
        os.close(read)
        os.close(write)
    assert port.in_flight == 0


def test_opening(backend):
    for concurrency, error in ((-1, ValueError), ("2", TypeError), (1.5, TypeError)):
        with pytest.raises(error, match="concurrency"):
            iocpcore.CompletionPort(concurrency, backend=backend)
    with pytest.raises((ValueError, OverflowError), match="concurrency"):
        iocpcore.CompletionPort(1 << 40, backend=backend)
    with pytest.raises(TypeError):
        iocpcore.CompletionPort(1, backend)
