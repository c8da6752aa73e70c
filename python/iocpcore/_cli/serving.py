"""Opens and describes the servers of echo and demo."""

from __future__ import annotations

from typing import Any

from iocpcore import Server
from iocpcore._log import shown
from iocpcore._sockets import is_simulated
from iocpcore._workers import thread_counts


def open_server(host: str, port: int, **options: Any) -> Server:
    """Open a listening server. Raises ValueError for the simulated backend."""
    server = Server(**options)
    try:
        if is_simulated(server.completion_port.backend):
            raise ValueError("the backend 'sim' has no sockets of the system to serve")
        if "/" in host:
            raise ValueError(f"--host {host}: must be a name or an address, not a path")
        server.listen(host, port)
    except BaseException:
        server.stop()
        raise
    return server


def description(server: Server, workers: int | None, *more: str) -> str:
    """One line that says where and how the server listens."""
    facts = [server.completion_port.backend, f"workers: {thread_counts(workers, None)[0]}", *more]
    addresses = " and ".join(shown(address) for address in server.addresses)
    return f"listening on {addresses} ({', '.join(facts)})"
