"""What arrives at a Datagram, and in which order its callbacks come; what its sends may be."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from iocpcore import Datagram
from support.datagrams import drain, own_datagram
from support.events import Events
from support.system import LIMIT, scaled, wait_until

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


# ---- what may be sent ----------------------------------------------------------------------------


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
