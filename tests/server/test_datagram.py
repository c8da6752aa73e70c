"""Datagram: UDP endpoints."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Iterator

import pytest
from iocpcore import Datagram, _runtime
from support.child import run
from support.events import Events
from support.streams import socket_of
from support.system import LIMIT, LINUX, scaled, wait_until

LOOPBACK = ("127.0.0.1", 0)


@pytest.fixture
def default_port() -> Iterator[None]:
    """Tests that use the process's own port leave none behind."""
    yield
    _runtime.stop_default()


def echo(endpoint: Datagram, data: bytes, address: object) -> None:
    endpoint.send_to(data, address)


def test_there_and_back(endpoint):
    events = Events()
    server = endpoint(on_datagram=echo)
    client = endpoint(on_datagram=lambda _, data, address: events.add((data, address)))
    for data in (b"hello", b"", bytes(1000)):
        assert client.send_to(data, server.sockname)
        assert events.wait() == [(data, server.sockname)]
        events = Events()
    # An answer may come before the port has told that what it answers was sent.
    wait_until(lambda: client.stats()["sent"] == 3, "the end of the last send")
    stats = client.stats()
    assert stats["received"] == 3
    assert stats["bytes_received"] == stats["bytes_sent"] == 1005
    assert client.pending_bytes == 0


def test_a_handler(endpoint):
    class Handler:
        def __init__(self) -> None:
            self.events = Events()

        def on_datagram(self, endpoint: Datagram, data: bytes, address: object) -> None:
            self.events.add((endpoint, data))

    handler = Handler()
    server = endpoint(handler=handler, context="mine")
    endpoint().send_to(bytearray(b"x"), server.sockname)
    assert handler.events.wait() == [(server, b"x")]
    assert server.context == "mine"


def test_order_and_no_overlap(endpoint):
    """Of one endpoint, with more than one thread that could call it."""
    events = Events()
    busy = threading.Lock()

    def on_datagram(_: Datagram, data: bytes, address: object) -> None:
        events.add(int(data) if busy.acquire(blocking=False) else "overlap")
        busy.release()

    server = endpoint(on_datagram=on_datagram)
    client = endpoint()
    count = scaled(2000, 200)
    for number in range(count):
        client.send_to(b"%d" % number, server.sockname)
        if number % 50 == 49:
            events.wait(number + 1)  # the system would drop what does not fit its buffer
    assert events.wait(count) == list(range(count))


def test_a_callback_that_raises(endpoint, unraisable):
    events = Events()

    def on_datagram(_: Datagram, data: bytes, address: object) -> None:
        events.add(data)
        raise ArithmeticError(data)

    server = endpoint(on_datagram=on_datagram)
    client = endpoint()
    client.send_to(b"1", server.sockname)
    client.send_to(b"2", server.sockname)
    assert events.wait(2) == [b"1", b"2"]
    wait_until(lambda: len(unraisable) == 2, "what was raised")
    assert all(type(error) is ArithmeticError for error in unraisable)


def test_a_callback_that_raises_with_on_error(endpoint):
    events = Events()

    def on_datagram(_: Datagram, data: bytes, address: object) -> None:
        raise ArithmeticError(data)

    server = endpoint(
        on_datagram=on_datagram, on_error=lambda one, error: events.add((one, type(error)))
    )
    client = endpoint()
    client.send_to(b"1", server.sockname)
    client.send_to(b"2", server.sockname)
    assert events.wait(2) == [(server, ArithmeticError)] * 2


def test_close_from_a_callback(endpoint):
    closed = threading.Event()

    def on_datagram(one: Datagram, data: bytes, address: object) -> None:
        one.close()
        closed.set()

    server = endpoint(on_datagram=on_datagram)
    client = endpoint()
    client.send_to(b"1", server.sockname)
    assert closed.wait(LIMIT)
    assert server.closed
    assert server.send_to(b"2", client.sockname) is False
    assert server.stats()["dropped"] == 1
    server.close()


def test_an_address_is_needed(endpoint):
    with pytest.raises(ValueError, match="address is needed"):
        endpoint().send_to(b"x")


@pytest.mark.system
def test_an_address_must_be_numeric(endpoint):
    with pytest.raises(ValueError, match="localhost"):
        endpoint().send_to(b"x", ("localhost", 5))


@pytest.mark.system
def test_a_remote_address(endpoint):
    events = Events()
    server = endpoint(on_datagram=echo)
    client = endpoint(remote_address=server.sockname, on_datagram=events.recorder("got"))
    stranger = endpoint()
    stranger.send_to(b"not for you", client.sockname)
    assert client.send_to(b"hello")
    assert events.wait() == [("got", b"hello", server.sockname)]
    assert client.remote_address == server.sockname


@pytest.mark.system
def test_a_name_as_remote_address(endpoint, localhost):
    server = endpoint(on_datagram=echo)
    client = endpoint(remote_address=(localhost, server.sockname[1]), local_address=LOOPBACK)
    assert client.remote_address == server.sockname


@pytest.mark.system
def test_nobody_there(endpoint):
    """What ICMP says is told, and nothing ends: not the one that asked, nor the port."""
    events, errors = Events(), Events()
    with socket.socket(type=socket.SOCK_DGRAM) as dead:
        dead.bind(LOOPBACK)
        address = dead.getsockname()
    client = endpoint(
        remote_address=address,
        on_datagram=events.recorder("got"),
        on_error=lambda _, error: errors.add(error),
    )
    for count in range(1, 20):
        client.send_to(b"anybody?")
        if LINUX:
            errors.wait(count)
    assert all(isinstance(error, ConnectionError) for error in errors.items)
    assert all(f" 127.0.0.1:{address[1]}: " in str(error) for error in errors.items)
    server = endpoint(local_address=address, on_datagram=echo)
    wait_until(
        lambda: client.send_to(b"now?") and (len(events) or not threading.Event().wait(0.01)),
        "an answer",
    )
    assert server.stats()["received"] > 0


@pytest.mark.system
def test_too_large(endpoint):
    """That is the system's to say."""
    events, errors = Events(), Events()
    server = endpoint(on_datagram=echo)
    client = endpoint(
        on_datagram=events.recorder("got"), on_error=lambda _, error: errors.add(error)
    )
    client.send_to(bytes(70_000), server.sockname)
    assert isinstance(errors.wait()[0], OSError)
    assert errors.items[0].errno in (errno.EMSGSIZE, getattr(errno, "WSAEMSGSIZE", None))
    client.send_to(b"small", server.sockname)
    assert events.wait() == [("got", b"small", server.sockname)]
    assert client.stats()["errors"] == 1


@pytest.mark.system
def test_what_is_too_long_is_cut_off(endpoint):
    events = Events()
    server = endpoint(on_datagram=events.recorder("got"), max_size=10)
    client = endpoint()
    client.send_to(bytes(11), server.sockname)
    client.send_to(b"next", server.sockname)
    events.wait(2)
    assert [event[1] for event in events.items] == [bytes(10), b"next"]


@pytest.mark.system
def test_failures_in_a_row(endpoint):
    """A receive that fails for ever does not keep a worker busy; it pauses, longer and longer."""
    server = endpoint()
    no_memory = OSError(errno.ENOMEM, "no memory")
    for failures, expected in enumerate((0.02, 0.04, 0.08), 1):
        server._not_received(no_memory, failures)
        assert server._pause == pytest.approx(expected)
    for failures in range(4, 24):
        server._not_received(no_memory, failures)
    assert server._pause == 1.0
    server._not_received(no_memory, 1)  # something was received meanwhile
    assert server._pause == pytest.approx(0.02)
    server.close()


@pytest.mark.system
def test_a_socket_of_ones_own(endpoint):
    events = Events()
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(LOOPBACK)
    server = endpoint(sock=sock, on_datagram=events.recorder("got"))
    assert sock.fileno() == -1
    client = endpoint()
    client.send_to(b"x", server.sockname)
    assert events.wait() == [("got", b"x", client.sockname)]


@pytest.mark.system
def test_sockets_that_will_not_do(port):
    with socket.socket() as sock, pytest.raises(ValueError, match="sock must be a datagram"):
        Datagram(sock=sock, completion_port=port)
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="alone"):
        Datagram(sock=sock, broadcast=True, completion_port=port)


@pytest.mark.system
def test_an_address_that_is_taken(endpoint, port):
    one = endpoint()
    with pytest.raises(OSError, match=f"bind to 127.0.0.1 port {one.sockname[1]}"):
        endpoint(local_address=one.sockname)


@pytest.mark.system
@pytest.mark.parametrize("broadcast", [True, False])
def test_broadcast(endpoint, broadcast):
    with socket_of(endpoint(broadcast=broadcast)) as sock:
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)) == broadcast


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="reuse_port is for Linux")
def test_reuse_port(endpoint):
    one = endpoint(reuse_port=True)
    endpoint(local_address=one.sockname, reuse_port=True)


@pytest.mark.system
def test_ipv6(endpoint):
    events = Events()
    try:
        server = endpoint(local_address=("::1", 0), on_datagram=echo)
    except OSError:
        pytest.skip("no IPv6 here")
    client = endpoint(remote_address=server.sockname[:2], on_datagram=events.recorder("got"))
    client.send_to(b"six")
    assert events.wait()[0][1] == b"six"


@pytest.mark.system
def test_a_closed_port(make_port):
    port = make_port()
    one = Datagram(completion_port=port, local_address=LOOPBACK)
    port.close()
    assert one.send_to(b"x", ("127.0.0.1", 9)) is False
    one.close()
    with pytest.raises(ValueError, match="completion_port is closed"):
        Datagram(completion_port=port)


def test_the_port_of_the_process(default_port):
    events = Events()
    with (
        Datagram(local_address=LOOPBACK, on_datagram=echo) as server,
        Datagram(local_address=LOOPBACK, on_datagram=events.recorder("got")) as client,
    ):
        client.send_to(b"x", server.sockname)
        events.wait()
    assert server.closed


def test_serve_forever_outside_the_main_thread(endpoint):
    server = endpoint()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.close()
    thread.join(LIMIT)
    assert not thread.is_alive()
    server.serve_forever()  # returns at once


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="Windows has no signals to send to oneself")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_serve_forever_and_signals(backend, name):
    child = run(
        f"""
        import os, signal, threading, time, iocpcore
        before = signal.getsignal(signal.{name})
        def end():
            while signal.getsignal(signal.{name}) is before:
                time.sleep(0.001)
            one.send_to(b"end", one.sockname)
        def on_datagram(endpoint, data, address):
            os.kill(os.getpid(), signal.{name})
        with iocpcore.Datagram(on_datagram=on_datagram, local_address=("127.0.0.1", 0)) as one:
            threading.Thread(target=end).start()
            one.serve_forever()
        assert signal.getsignal(signal.{name}) is before
        print("ended")
        """,
        backend,
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "ended\n", "")


@pytest.mark.system
def test_exit_without_close(backend):
    """Nothing is said, nothing hangs."""
    child = run(
        """
        import iocpcore
        one = iocpcore.Datagram(on_datagram=print, local_address=("127.0.0.1", 0))
        """,
        backend,
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")


@pytest.mark.system
@pytest.mark.skipif(not LINUX, reason="elsewhere nobody is told that nobody listens")
def test_many_errors_and_the_log(endpoint, caplog):
    """They are DEBUG, and yet no more of them are written than of others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    with caplog.at_level(logging.DEBUG, "iocpcore"):
        sender = endpoint(remote_address=address)
        wait_until(lambda: sender.send_to(b"x") and sender.stats()["errors"] > 20, "errors")
        sender._runtime.log.close()  # whose timer would outlive the endpoint
    messages = [record.getMessage() for record in caplog.records if record.name == "iocpcore"]
    assert "refused" in messages[0]
    assert len(messages) == 2
    assert "more until the end" in messages[1]
