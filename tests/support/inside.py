"""What tests of behaviour do that a user cannot. Only here do they touch what is private."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from iocpcore import Datagram, Server, _log, _runtime
from iocpcore._sockets import AcceptingListener


def stop_default_port() -> int:
    """That of clients without a port, which otherwise lives as long as its process."""
    return _runtime.stop_default()


def accept_without_workers(server: Server) -> None:
    """Its port is run by the test, in its own thread."""
    server._listeners.begin()


def listen_on(server: Server, handle: int, address: Any) -> None:
    """A listener of the simulated network, whose faults have been set."""
    listener = server._group.listen(handle, socket.AF_INET)
    server._listeners.add([AcceptingListener(listener, address)])


def set_log_interval(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """How long the log keeps quiet about what happens again."""
    monkeypatch.setattr(_log, "INTERVAL", seconds)


def end_log(endpoint: Datagram) -> None:
    """It says how many lines it kept back, and its timer is cancelled."""
    endpoint._runtime.log.close()
