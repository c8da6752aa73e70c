"""What peers bring about is not logged as often as they like, nor as they write it."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import iocpcore
import pytest
from support import inside
from support.callbacks import echo
from support.certificates import server_context
from support.events import Events
from support.log import Lines, log_lines
from support.system import LIMIT, wait_until


@pytest.fixture
def warnings() -> Iterator[Lines]:
    with log_lines() as lines:
        yield lines


def ended(dial: Any, server: iocpcore.Server, data: bytes) -> None:
    end = threading.Event()
    dial(server, on_close=lambda conn, error: end.set()).send(data)
    assert end.wait(LIMIT)


def v2_unix(path: bytes) -> bytes:
    """A PROXY header that tells of a client at a unix socket."""
    addresses = path.ljust(108, b"\0") + bytes(108)
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x31" + len(addresses).to_bytes(2, "big") + addresses


@pytest.mark.parametrize("trusted", [["0.0.0.0/0"], []])
def test_a_flood_of_headers(make_server, dial, warnings, trusted):
    """By a peer that is not trusted, and by one that is: the first is in the log, and at the end
    how many there were."""
    server = make_server(proxy_protocol=trusted, handshake_timeout=None)
    for _ in range(30):
        ended(dial, server, b"PROXY nonsense\r\n")
    if server.completion_port.backend != "sim":  # where time flies
        assert len(warnings.texts) == 1
    assert warnings.texts[0].startswith("connection from ")
    server.stop()
    if server.completion_port.backend != "sim":
        assert len(warnings.texts) == 2
        assert "29 more until the end" in warnings.texts[1]


def test_a_path_in_a_header(make_server, dial, warnings):
    """It may contain anything; TLS behind it is refused, and the log names the path."""
    server = make_server(proxy_protocol=["0.0.0.0/0"], ssl=server_context(), handshake_timeout=None)
    logging.getLogger("iocpcore").setLevel(logging.INFO)
    try:
        ended(dial, server, v2_unix(b"/x\n\x1b[2Jroot") + b"this is not TLS")
        wait_until(lambda: warnings.texts, "the line")
    finally:
        logging.getLogger("iocpcore").setLevel(logging.NOTSET)
    assert r"/x\n\x1b[2Jroot" in warnings.texts[0]
    assert all(text.isprintable() for text in warnings.texts)


def test_a_flood_of_failed_attempts(client_port, backend, warnings):
    """Of connect_nowait() whose failure nobody else is told."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
        attempts = [
            iocpcore.connect_nowait(*address, completion_port=client_port()) for _ in range(20)
        ]
        wait_until(lambda: all(attempt.done for attempt in attempts), "all refusals")
    wait_until(lambda: warnings.texts, "a line")
    if backend != "sim":
        assert len(warnings.texts) == 1


@pytest.mark.system  # the time of sim flies between two connections
def test_the_last_line_comes_by_itself(make_server, dial, warnings, monkeypatch):
    """Though nothing happens any more, and without another thread."""
    inside.set_log_interval(monkeypatch, 0.3)
    server = make_server(proxy_protocol=["0.0.0.0/0"], handshake_timeout=None)
    before = threading.active_count()
    for _ in range(30):
        ended(dial, server, b"PROXY nonsense\r\n")
    assert threading.active_count() <= before + 2  # those of the client's port
    wait_until(lambda: any("no more" in text for text in warnings.texts), "the last line")
    (last,) = [text for text in warnings.texts if "no more" in text]
    assert "30 in all" in last
    wait_until(lambda: server.stats()["port_in_flight"] == 1, "the end of the timer")


def test_no_timer_without_events(make_server, dial, monkeypatch):
    inside.set_log_interval(monkeypatch, 3600)  # so that its end is not waited for
    closed = Events()
    server = make_server(on_data=echo, on_close=closed.recorder("close"), handshake_timeout=None)
    before = server.completion_port.in_flight  # what listens
    dial(server).close()
    closed.wait()
    wait_until(lambda: server.completion_port.in_flight == before, "the end of everything else")
