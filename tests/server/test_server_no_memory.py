"""Memory that is missing at one moment costs one client at most: not its place, nor the end of the
server, nor what protects the others."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext, suppress

import pytest
from iocpcore import Connection, Server
from support import inside
from support.memory import refused
from support.system import LIMIT

MOMENTS = range(60)  # which allocation is refused, while the last client goes


@pytest.fixture
def server(make_server, unraisable):
    """It takes one client of an address, and is run by serve(), in the test's own thread."""
    server = make_server(on_data=Connection.send, max_connections_per_address=1, start=False)
    inside.accept_without_workers(server)
    return server


def serve(server: Server, connections: int, moment: int | None = None) -> None:
    """Until there are so many; one allocation of each turn is refused."""
    deadline = time.monotonic() + LIMIT
    while server.stats()["connections"] != connections:
        assert time.monotonic() < deadline
        with suppress(MemoryError), nullcontext() if moment is None else refused(moment):
            server.completion_port.get(0.01)


@pytest.mark.system
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_last_client_goes(server, plain, moment):
    """Its place is free again, and nothing that stop() needs is held for ever."""
    client = plain(server)
    serve(server, 1)
    client.close()
    serve(server, 0, moment)
    plain(server)
    serve(server, 1)
    assert server.stats()["refused"] == 0
    stopping = threading.Thread(target=server.stop, args=(0,))
    stopping.start()
    stopping.join(LIMIT)
    assert not stopping.is_alive()
