"""Memory that is missing at one moment: the call raises MemoryError, and nothing is lost by it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from support.memory import refused
from support.system import LIMIT

MOMENTS = range(40)  # which allocation of the call is refused


def call(moment: int, function: Callable[..., Any], *args: Any) -> Any:
    """Its answer; None if it has raised MemoryError."""
    try:
        with refused(moment):
            return function(*args)
    except MemoryError:
        return None


@pytest.mark.parametrize("moment", MOMENTS)
def test_get_many(port, moment):
    for value in range(3):
        port.post(value)
    ops = call(moment, port.get_many, 8, 0)
    if ops is None:
        ops = port.get_many(8, 0)
    assert [op.result() for op in ops] == [0, 1, 2]


@pytest.mark.system
@pytest.mark.parametrize("moment", MOMENTS)
def test_accepted_socket(port, moment):
    """result() may be asked again, and then there is the socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        op = port.accept(listener)
        with socket.create_connection(listener.getsockname(), LIMIT) as client:
            assert port.get(LIMIT) is op
            found = call(moment, op.result)
            sock = (found or op.result())[0]
            client.sendall(b"x")
            sock.setblocking(True)
            sock.settimeout(LIMIT)
            assert sock.recv(1) == b"x"
            sock.close()
        port.dissociate(listener)


def test_the_moments_are_refused(port):
    """Some of them are: otherwise nothing is tried here."""
    assert any(call(moment, port.stats) is None for moment in MOMENTS)
