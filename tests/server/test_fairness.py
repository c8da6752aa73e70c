"""A server that always has something to do leaves its turns to the other threads."""

from __future__ import annotations

import itertools
import time

import iocpcore
import pytest
from iocpcore import Connection
from support.system import scaled

CONNECTIONS = 100
MESSAGE = bytes(100)
MESSAGES = 150_000
MANY = 10_000  # what is served while another thread waits for its turn; a tenth of that is usual


def begin(conn: Connection) -> None:
    conn.send(MESSAGE)


@pytest.mark.found_in_use
@pytest.mark.parametrize("workers", [1, 2])
def test_the_main_thread_has_its_turns(make_server, backend, workers):
    """Both ends send back what they get, without any Python code, so that completions wait
    whenever a worker looks. What is served in long turns is a small part of all."""
    if backend == "sim":
        pytest.skip("it serves many within the few milliseconds that a turn may take")
    server = make_server(on_data=Connection.send, workers=workers, concurrency=1)
    host, number = server.addresses[0][:2]
    port = server.completion_port
    for _ in range(CONNECTIONS):
        iocpcore.connect_nowait(
            host, number, on_connect=begin, on_data=Connection.send, completion_port=port
        )

    def count() -> int:
        return server.stats()["bytes_received"] // len(MESSAGE)

    served = [count()]
    while served[-1] - served[0] < scaled(MESSAGES):
        time.sleep(0.001)  # a turn: it lets go of the interpreter, and wants it back
        served.append(count())
    long = [b - a for a, b in itertools.pairwise(served) if b - a > MANY]
    assert sum(long) < (served[-1] - served[0]) / 4, long
