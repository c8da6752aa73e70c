"""The part of Datagram that is in C: batches, sends that wait, references, addresses."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import iocpcore
import pytest
from iocpcore import Datagram
from support import child
from support.events import Events
from support.system import LIMIT, LINUX, scaled, wait_until


def own_datagram(port: iocpcore.CompletionPort, **options: Any) -> Datagram:
    """One that no fixture knows."""
    if port.backend != "sim":
        options["local_address"] = ("127.0.0.1", 0)
    return Datagram(completion_port=port, **options)


# ---- what arrives -------------------------------------------------------------------------------


def test_several_at_once_in_order(endpoint):
    """More than one wake-up hands on, while the system holds them."""
    events, go_on = Events(), threading.Event()

    def on_datagram(_: Datagram, data: bytes, address: object) -> None:
        go_on.wait(LIMIT)
        events.add(int(data))

    server = endpoint(on_datagram=on_datagram)
    client = endpoint()
    for number in range(50):
        assert client.send_to(b"%d" % number, server.sockname)
    wait_until(lambda: client.stats()["sent"] == 50, "the sends")
    go_on.set()
    assert events.wait(50) == list(range(50))


def test_others_get_their_turn(make_port, workers):
    """One worker, and an endpoint whose callback always brings the next datagram."""
    port = make_port(1)
    done, seen = threading.Event(), Events()

    def on_datagram(one: Datagram, data: bytes, address: object) -> None:
        if not seen.items:
            port.post(callback=lambda _: done.set())
            seen.add("first")
        if not done.is_set():
            one.send_to(data, one.sockname)

    with workers(port, 1), own_datagram(port, on_datagram=on_datagram) as one:
        one.send_to(b"again", one.sockname)
        assert done.wait(LIMIT)
        one.close()
        wait_until(lambda: port.in_flight == 0, "the end of all operations")


def test_nothing_begins_after_close(endpoint, port):
    """Not what has arrived before, and is in the same batch."""
    events, arrived = Events(), threading.Event()

    def on_datagram(one: Datagram, data: bytes, address: object) -> None:
        arrived.wait(LIMIT)
        events.add(data)
        one.close()

    server = endpoint(on_datagram=on_datagram)
    client = endpoint()
    for _ in range(5):
        assert client.send_to(b"x", server.sockname)
    wait_until(lambda: client.stats()["sent"] == 5, "the sends")
    arrived.set()
    wait_until(lambda: server.closed, "the callback")
    client.close()
    wait_until(lambda: port.in_flight == 0, "the end of all operations")
    assert events.items == [b"x"]
    assert server.stats()["received"] == 1
    assert server.fileno() == client.fileno() == -1


def test_closed_by_another_callback(make_port):
    """Its datagram has been taken from the system, and waits to be handed on."""
    port = make_port(1)
    seen: list[Datagram] = []

    def on_datagram(one: Datagram, data: bytes, address: object) -> None:
        seen.append(one)
        both[one is both[0]].close()

    both = [own_datagram(port, on_datagram=on_datagram) for _ in range(2)]
    with own_datagram(port) as client:
        for one in both:
            client.send_to(b"x", one.sockname)
        wait_until(lambda: port.get(0) or seen, "one of two datagrams")
    seen[0].close()
    drain(port)
    assert len(seen) == 1
    assert sorted(one.stats()["received"] for one in both) == [0, 1]


def test_stop_from_a_callback(make_port):
    """run() returns, whatever else has arrived; that is handed on by whoever is next."""
    port = make_port(1)
    events = Events()

    def on_datagram(one: Datagram, data: bytes, address: object) -> None:
        events.add(data)
        port.stop()

    with own_datagram(port, on_datagram=on_datagram) as one:
        for data in (b"1", b"2", b"3"):
            one.send_to(data, one.sockname)
        port.run()
        assert events.items == [b"1"]
        wait_until(lambda: port.get(0) or len(events) == 3, "the others")
    assert events.items == [b"1", b"2", b"3"]
    drain(port)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_leaves_run(make_port, kind):
    """The endpoint goes on with whoever is next in run()."""
    port = make_port(1)
    events = Events()

    def on_datagram(one: Datagram, data: bytes, address: object) -> None:
        events.add(data)
        if len(events) == 1:
            raise kind
        port.stop()

    with own_datagram(port, on_datagram=on_datagram) as one:
        one.send_to(b"1", one.sockname)
        one.send_to(b"2", one.sockname)
        with pytest.raises(kind):
            port.run()
        port.run()
        assert events.items == [b"1", b"2"]
        assert one.stats()["errors"] == 0
    drain(port)


def test_other_exceptions_that_are_not_errors(endpoint, unraisable):
    """They are no business of on_error."""

    def on_datagram(*_: object) -> None:
        raise GeneratorExit

    server = endpoint(on_datagram=on_datagram, on_error=lambda *_: pytest.fail("on_error"))
    endpoint().send_to(b"x", server.sockname)
    wait_until(lambda: unraisable, "what was raised")
    assert [type(error) for error in unraisable] == [GeneratorExit]


def test_an_on_error_that_raises(endpoint, unraisable):
    def on_datagram(_: Datagram, data: bytes, address: object) -> None:
        raise ArithmeticError

    def on_error(_: Datagram, error: BaseException) -> None:
        raise LookupError

    server = endpoint(on_datagram=on_datagram, on_error=on_error)
    client = endpoint()
    for count in (1, 2):
        client.send_to(b"x", server.sockname)
        wait_until(lambda count=count: len(unraisable) == count, "what was raised")
    assert [type(error) for error in unraisable] == [LookupError] * 2
    assert server.stats()["errors"] == 2


def test_a_getter_serves_it(make_port):
    """As it serves connections; what it is given are operations only."""
    port = make_port(1)
    events = Events()

    def on_datagram(one: Datagram, data: bytes, address: object) -> None:
        events.add(data)
        port.post("end")

    with own_datagram(port, on_datagram=on_datagram) as one:
        one.send_to(b"x", one.sockname)
        operation = port.get(LIMIT)
        assert operation is not None
        assert operation.result() == "end"
        assert events.items == [b"x"]
    drain(port)


# ---- addresses ----------------------------------------------------------------------------------


@pytest.mark.system
def test_many_peers(endpoint):
    """More than are remembered: each is told its own address, in any order."""
    server = endpoint(
        on_datagram=lambda one, data, address: one.send_to(repr(address).encode(), address)
    )
    events = Events()
    clients = [
        endpoint(on_datagram=lambda one, data, _: events.add((one.sockname, data.decode())))
        for _ in range(scaled(200, 100))
    ]
    expected = []
    for client in [*clients, *reversed(clients)]:
        client.send_to(b"who am I?", server.sockname)
        expected.append((client.sockname, repr(client.sockname)))
        events.wait(len(expected))
    assert events.items == expected


@pytest.mark.system
def test_an_address_of_before(endpoint):
    """Answers go to whom they are addressed, whoever has written since."""
    seen: list[Any] = []

    def on_datagram(one: Datagram, data: bytes, address: object) -> None:
        seen.append(address)
        one.send_to(data, seen[0])

    events = Events()
    server = endpoint(on_datagram=on_datagram)
    first, second = (
        endpoint(on_datagram=lambda one, data, _: events.add((one, data))) for _ in range(2)
    )
    for number, client in enumerate((first, second, first, second), 1):
        client.send_to(b"%d" % number, server.sockname)
        events.wait(number)
    assert events.items == [(first, b"%d" % number) for number in range(1, 5)]
    first.send_to(b"5", server.sockname)
    first.send_to(b"6", server.sockname)
    events.wait(6)
    assert seen[4] is seen[5]  # and costs nothing


# ---- sends that wait ----------------------------------------------------------------------------


@pytest.fixture
def waiting(port: iocpcore.CompletionPort, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes an endpoint that nobody runs, one of whose sends waits; the address, and the other end.

    Linux' UDP never has to wait on loopback, but a unix socket does when nobody reads.
    """
    opened: list[Any] = []

    def make(**options: Any) -> tuple[Datagram, Any, Any]:
        if port.backend in ("io_uring", "epoll"):
            reader, writer = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
            reader.bind(str(tmp_path / "reader"))
            reader.settimeout(LIMIT)
            address = reader.getsockname()
            writer.connect(address)
            one = Datagram(sock=writer, completion_port=port, **options)
        else:
            reader = own_datagram(port)
            address = reader.sockname
            one = own_datagram(port, **options)
        opened.extend((one, reader))
        while not one.pending_bytes:
            assert one.send_to(bytes(20), address)
        assert one.pending_bytes == 20
        return one, address, reader

    yield make
    for one in opened:
        one.close()
    drain(port)


def drain(port: iocpcore.CompletionPort) -> None:
    """Of a port that nobody runs, and that has no Operations."""
    wait_until(lambda: not port.in_flight or port.get(0), "the end of all operations")


def test_the_write_buffer(waiting):
    """One datagram is always taken, however large the limit says it is."""
    one, address, _ = waiting(max_write_buffer=10)
    before = one.stats()
    assert one.send_to(b"x", address) is False
    assert one.send_to(b"", address) is False
    assert one.stats() == {**before, "dropped": 2}


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="elsewhere UDP does not wait long enough to be seen")
def test_what_waits_keeps_the_order(waiting, port):
    """What is sent behind it waits too, even if there is room by then."""
    one, address, reader = waiting()
    sent = one.stats()["sent"]
    data = bytearray(b"a view")
    assert one.send_to(b"second", address)
    assert one.send_to(memoryview(data)[2:], address)
    assert one.pending_bytes == 20 + 6 + 4
    for _ in range(sent):
        assert reader.recv(100) == bytes(20)
    assert one.send_to(b"last", address)
    assert one.pending_bytes == 20 + 6 + 4 + 4
    wait_until(lambda: port.get(0) or not one.pending_bytes, "the sends")
    assert [reader.recv(100) for _ in range(4)] == [bytes(20), b"second", b"view", b"last"]
    stats = one.stats()
    assert stats["sent"] == sent + 4
    assert stats["bytes_sent"] == 20 * (sent + 1) + 14
    data.clear()  # it is not held any more
    assert one.send_to(b"at once again", address)
    assert one.pending_bytes == 0


def test_close_drops_what_waits(waiting, port):
    errors = Events()
    one, address, _ = waiting(on_error=lambda _, error: errors.add(error))
    one.close()
    assert one.send_to(b"x", address) is False
    wait_until(lambda: port.get(0) or not one.pending_bytes, "the end of the sends")
    assert not errors.items


def test_a_port_that_is_closed_with_sends(waiting, port):
    """They end with it, and tell nobody; the endpoint is still to be closed."""
    one, address, _ = waiting()
    port.close()
    assert one.send_to(b"x", address) is False
    assert not one.closed
    one.close()
    assert one.closed
    assert one.fileno() == -1


@pytest.mark.system
def test_errors_are_not_told_by_send_to(make_port, workers):
    """They wait for somebody who runs the port, and count as pending until then."""
    port = make_port(1)
    errors = Events()
    with own_datagram(
        port, on_error=lambda _, error: errors.add((error, threading.get_ident()))
    ) as one:
        assert one.send_to(bytes(70_000), one.sockname)
        assert one.pending_bytes == 70_000
        assert not errors.items
        with workers(port, 1) as threads:
            ((error, thread),) = errors.wait()
            assert thread == threads[0].ident
            assert one.pending_bytes == 0
            one.close()
            wait_until(lambda: port.in_flight == 0, "the end of all operations")
    assert error.errno in (errno.EMSGSIZE, getattr(errno, "WSAEMSGSIZE", None))
    assert str(error.strerror).startswith(f"send_to 127.0.0.1:{one.sockname[1]}: ")


def test_arguments_of_send_to(endpoint):
    one = endpoint()
    for data in ("text", [b"x"], None, 5):
        with pytest.raises(TypeError, match="data must be a bytes-like object"):
            one.send_to(data, one.sockname)
    with pytest.raises(ValueError, match="data must be contiguous"):
        one.send_to(memoryview(b"abcdef")[::2], one.sockname)
    for address in ("127.0.0.1", ("127.0.0.1",), ("127.0.0.1", "5"), 5):
        with pytest.raises(TypeError, match="address"):
            one.send_to(b"x", address)
    with pytest.raises(ValueError, match="address: port"):
        one.send_to(b"x", ("127.0.0.1", 70000))
    assert one.stats()["sent"] == one.stats()["errors"] == one.pending_bytes == 0


@pytest.mark.stress
def test_many_threads(port, workers):
    """That send, while others close; endpoint after endpoint."""
    target = own_datagram(port)

    def send(one: Datagram, begun: threading.Event) -> None:
        for _ in range(100):
            one.send_to(b"x", target.sockname)
            begun.set()

    with workers(port, 2):
        for _ in range(scaled(30, 5)):
            one, begun = own_datagram(port), threading.Event()
            threads = [threading.Thread(target=send, args=(one, begun)) for _ in range(3)]
            for thread in threads:
                thread.start()
            assert begun.wait(LIMIT)
            one.close()
            for thread in threads:
                thread.join(LIMIT)
        target.close()
        wait_until(lambda: port.in_flight == 0, "the end of all operations")


# ---- its life -----------------------------------------------------------------------------------


def test_nobody_refers_to_it(port, workers):
    """As long as it receives, it is there; once it is closed, nothing keeps it."""
    events = Events()
    options = {"on_datagram": lambda one, data, _: (one.close(), events.add(one.sockname))}
    reference = weakref.ref(own_datagram(port, **options))
    gc.collect()
    sockname = reference().sockname
    with workers(port, 1), own_datagram(port) as client:
        client.send_to(b"x", sockname)
        assert events.wait() == [sockname]
        client.close()
        wait_until(lambda: port.in_flight == 0, "the end of all operations")
    del client
    gc.collect()
    assert reference() is None


def test_dropped_with_its_port_and_never_closed(make_port):
    """Its descriptor is closed all the same."""
    port = make_port(1)
    one = own_datagram(port)
    references = [weakref.ref(one), weakref.ref(port)]
    port.close()
    del one
    gc.collect()
    assert references[0]() is None


class Counting(Datagram):
    """A subclass with something of its own."""

    def __init__(self, port: iocpcore.CompletionPort, **options: Any) -> None:
        self.taken = 0
        super().__init__(completion_port=port, **options)

    def send_to(self, data: Any, address: Any = None) -> bool:
        self.taken += 1
        return super().send_to(data, address)


def test_a_subclass(port, workers):
    options = {} if port.backend == "sim" else {"local_address": ("127.0.0.1", 0)}
    events = Events()
    one = Counting(port, on_datagram=lambda *args: events.add(args), **options)
    with workers(port, 1), one:
        one.send_to(b"x", one.sockname)
        assert events.wait() == [(one, b"x", one.sockname)]
        assert one.taken == 1
        one.close()
        wait_until(lambda: port.in_flight == 0, "the end of all operations")


def test_one_that_was_never_opened():
    """A subclass that forgets __init__ has one that is not open, and nothing breaks."""
    one = Datagram.__new__(Datagram)
    with pytest.raises(ValueError, match="address is needed"):
        one.send_to(b"x")
    with pytest.raises(ValueError, match="address"):
        one.send_to(b"x", ("127.0.0.1", 5))
    assert one.fileno() == -1
    assert one.pending_bytes == 0
    one._receive()
    assert one._end()
    assert not one._end()


def test_what_the_kernel_does_not_give_back():
    """It is leaked, with a warning, and never freed: the kernel may still write there."""
    code = """
import gc, warnings, weakref
import iocpcore
from iocpcore import _core

port = iocpcore.CompletionPort()
_core.sim_configure(port, stuck=True)
one = iocpcore.Datagram(completion_port=port)
one.send_to(b"x", one.sockname)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    port.close(timeout=0.1)
assert [warning.category for warning in caught] == [ResourceWarning], caught
assert "2 operations" in str(caught[0].message), caught[0].message
one.close()
reference = weakref.ref(one)
del one
gc.collect()
assert reference() is not None
print("the kernel still has it")
"""
    child.check(code, "sim", output="the kernel still has it")


@pytest.mark.system
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child(backend):
    """Its callback forks: the child leaves run(), and what it has is its parent's."""
    code = """
import os, warnings
import iocpcore

warnings.simplefilter("ignore", DeprecationWarning)
port = iocpcore.CompletionPort()
children = []

def on_datagram(one, data, address):
    if data == b"fork":
        children.append(os.fork())
        if not children[0]:
            try:
                one.send_to(b"x", address)
            except RuntimeError as error:
                assert "parent" in str(error), error
                one.close()
                return
            os._exit(1)
    else:
        port.stop()

one = iocpcore.Datagram(
    completion_port=port, on_datagram=on_datagram, local_address=("127.0.0.1", 0)
)
for data in (b"fork", b"end"):
    one.send_to(data, one.sockname)
try:
    port.run()
except RuntimeError as error:
    assert not children[0] and "parent" in str(error), error
    os._exit(0)
pid, status = os.waitpid(children[0], 0)
assert os.waitstatus_to_exitcode(status) == 0, status
one.close()
port.close()
print("the parent goes on")
"""
    child.check(code, backend, output="the parent goes on")
