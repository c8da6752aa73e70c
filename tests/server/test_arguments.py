"""Bad arguments of servers, clients and endpoints: the error names the argument."""

from __future__ import annotations

import functools
import socket
import ssl
import sys

import iocpcore
import pytest
from iocpcore import Datagram, Server, connect, connect_nowait


def plain(*args: object) -> None:
    pass


async def coroutine(*args: object) -> None:
    pass


async def generator(*args: object):
    yield


class AsyncCallable:
    async def __call__(self, *args: object) -> None:
        pass


class AsyncMethod:
    async def on_data(self, conn: object, data: bytes) -> None:
        pass


NAMES = ["on_connect", "on_data", "on_message", "on_eof", "on_drain", "on_close", "on_error"]


def make_server(**options: object) -> None:
    Server(**options).stop()


def make_client(**options: object) -> None:
    connect("127.0.0.1", 1, **options)


def make_client_nowait(**options: object) -> None:
    connect_nowait("127.0.0.1", 1, **options)


makers = pytest.mark.parametrize("make", [make_server, make_client, make_client_nowait])


@makers
@pytest.mark.parametrize("name", NAMES)
def test_async_callbacks(make, name):
    for function in (
        coroutine,
        generator,
        AsyncCallable(),
        functools.partial(coroutine, 1),
        functools.partial(functools.partial(AsyncCallable(), 1), 2),
    ):
        with pytest.raises(TypeError, match=f"{name} must be a plain function"):
            make(**{name: function})


@makers
def test_async_methods(make):
    with pytest.raises(TypeError, match="on_data must be a plain function"):
        make(handler=AsyncMethod())


@makers
@pytest.mark.parametrize("name", NAMES)
def test_callbacks_that_cannot_be_called(make, name):
    with pytest.raises(TypeError, match=f"{name} must be callable, not int"):
        make(**{name: 5})


@makers
def test_handlers(make):
    class Handler:
        def on_data(self, conn: object, data: bytes) -> None:
            pass

    with pytest.raises(TypeError, match="handler must be an object, not the class Handler"):
        make(handler=Handler)
    with pytest.raises(ValueError, match="handler must have one of the methods"):
        make(handler=object())


@makers
def test_framing_and_callbacks_fit(make):
    frames = iocpcore.LengthPrefixed()
    with pytest.raises(ValueError, match="framing is needed with on_message"):
        make(on_message=plain)
    with pytest.raises(ValueError, match="on_message is needed with framing"):
        make(framing=frames)
    with pytest.raises(ValueError, match="on_data cannot be used with framing"):
        make(framing=frames, on_message=plain, on_data=plain)
    with pytest.raises(TypeError, match="framing must be LengthPrefixed"):
        make(framing=5, on_message=plain)
    with pytest.raises(TypeError, match="framing must be an instance: LengthPrefixed"):
        make(framing=iocpcore.LengthPrefixed, on_message=plain)
    with pytest.raises(TypeError, match="framing must be a plain function"):
        make(framing=coroutine, on_message=plain)


COMMON = [
    ("write_high", -1, ValueError),
    ("write_high", 1.5, TypeError),
    ("write_high", True, TypeError),
    ("write_low", 300_000, ValueError),
    ("write_low", None, TypeError),
    ("max_write_buffer", 0, ValueError),
    ("read_size", 0, ValueError),
    ("read_size", 65537, ValueError),
    ("read_size", 2**30, ValueError),
    ("read_size", "64k", TypeError),
    ("idle_timeout", 0, ValueError),
    ("idle_timeout", -1.0, ValueError),
    ("idle_timeout", float("nan"), ValueError),
    ("idle_timeout", float("inf"), ValueError),
    ("idle_timeout", "5", TypeError),
    ("keepalive", 60, TypeError),
    ("executor", 4, TypeError),
    ("ssl", 5, TypeError),
]


@makers
@pytest.mark.parametrize(("name", "value", "kind"), COMMON)
def test_common_options(make, name, value, kind):
    with pytest.raises(kind, match=name):
        make(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("workers", 0, ValueError),
        ("workers", 1.0, TypeError),
        ("workers", True, TypeError),
        ("concurrency", 0, ValueError),
        ("concurrency", "2", TypeError),
        ("max_connections", 0, ValueError),
        ("max_connections", 2.5, TypeError),
        ("max_connections_per_address", 0, ValueError),
        ("handshake_timeout", 0, ValueError),
        ("handshake_timeout", "10", TypeError),
        ("proxy_protocol", ["nonsense"], ValueError),
        ("backend", "kqueue", ValueError),
    ],
)
def test_server_options(name, value, kind):
    with pytest.raises(kind, match=name if name != "proxy_protocol" else "nonsense"):
        Server(**{name: value})


def test_unknown_options():
    with pytest.raises(TypeError, match="on_datta"):
        Server(on_datta=plain)
    with pytest.raises(TypeError, match=r"connect\(\) got an unexpected keyword argument 'port_'"):
        connect("127.0.0.1", 1, port_=5)
    with pytest.raises(TypeError, match=r"connect_nowait\(\) got .* 'workers'"):
        connect_nowait("127.0.0.1", 1, workers=5)


@pytest.mark.parametrize("call", [connect, connect_nowait])
@pytest.mark.parametrize(
    ("host", "port", "options", "kind", "words"),
    [
        ("", 80, {}, ValueError, "host must not be empty"),
        (None, 80, {}, TypeError, "host must be a str"),
        (b"127.0.0.1", 80, {}, TypeError, "host must be a str"),
        ("127.0.0.1", None, {}, TypeError, "port must be given"),
        ("127.0.0.1", 65536, {}, ValueError, "port must be 0 to 65535"),
        ("127.0.0.1", "http", {}, TypeError, "port must be an int"),
        ("127.0.0.1", 80, {"timeout": 0}, ValueError, "timeout"),
        ("127.0.0.1", 80, {"timeout": "1"}, TypeError, "timeout"),
        ("127.0.0.1", 80, {"server_hostname": "x"}, ValueError, "server_hostname"),
        ("127.0.0.1", 80, {"local_address": "127.0.0.1"}, TypeError, "local_address"),
        ("127.0.0.1", 80, {"local_address": ("localhost", 0)}, ValueError, "local_address"),
        ("127.0.0.1", 80, {"completion_port": 5}, TypeError, "completion_port"),
    ],
)
def test_connect_arguments(call, host, port, options, kind, words):
    with pytest.raises(kind, match=words):
        call(host, port, **options)


def test_contexts_for_the_wrong_side():
    with pytest.raises(ValueError, match=r"server|client"):  # 3.11: an ssl.SSLError, but for us
        Server(ssl=ssl.create_default_context())
    with pytest.raises(ValueError, match=r"server|client"):
        connect("127.0.0.1", 1, ssl=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"on_datagram": coroutine}, TypeError, "on_datagram must be a plain function"),
        ({"on_error": 5}, TypeError, "on_error must be callable"),
        ({"handler": object()}, ValueError, "handler must have"),
        ({"max_size": 0}, ValueError, "max_size"),
        ({"max_size": 65536}, ValueError, "max_size"),
        ({"max_write_buffer": 0}, ValueError, "max_write_buffer"),
        ({"reuse_port": 1}, TypeError, "reuse_port"),
        ({"broadcast": 1}, TypeError, "broadcast"),
        ({"local_address": ("localhost", 0)}, ValueError, "local_address"),
        ({"local_address": 5}, TypeError, "local_address"),
        ({"remote_address": 5}, TypeError, "remote_address"),
        ({"remote_address": ("::1", 5), "local_address": ("127.0.0.1", 0)}, ValueError, "family"),
        ({"completion_port": 5}, TypeError, "completion_port"),
    ],
)
def test_datagram_arguments(options, kind, words):
    with pytest.raises(kind, match=words):
        Datagram(**options)


@pytest.mark.found_in_use
def test_local_address_with_a_port_out_of_range():
    """The system's resolver takes such a number modulo 65,536."""
    for function in (
        lambda: iocpcore.Datagram(local_address=("127.0.0.1", 70000)),
        lambda: iocpcore.connect("127.0.0.1", 1, local_address=("127.0.0.1", 70000)),
    ):
        with pytest.raises(ValueError, match="port must be 0 to 65535"):
            function()


@pytest.mark.found_in_use
def test_errors_say_what_and_where(make_server):
    with pytest.raises(TypeError, match="sock must be a socket"):
        iocpcore.Datagram(sock="x")  # type: ignore[arg-type]
    if hasattr(socket, "AF_UNIX") and sys.platform != "win32":
        server = iocpcore.Server()
        try:
            with pytest.raises(OSError, match=r"listen on .*path too long") as caught:
                server.listen("/tmp/" + "x" * 200)
            assert caught.value.errno
        finally:
            server.stop(0)
