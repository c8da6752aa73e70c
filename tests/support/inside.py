"""Access to private parts of the package. Tests of behaviour use these only through here."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from iocpcore import Datagram, Server, _log, _runtime
from iocpcore._sockets import AcceptingListener


def stop_default_port() -> int:
    """Stop the default port of clients, which otherwise lives as long as the process."""
    return _runtime.stop_default()


def accept_without_workers(server: Server) -> None:
    """Start accepting without start(): the test itself runs the server's port."""
    server._listeners.begin()


def listen_on(server: Server, handle: int, address: Any) -> None:
    """Add a simulated listener, whose faults the test has configured."""
    listener = server._group.listen(handle, socket.AF_INET)
    server._listeners.add([AcceptingListener(listener, address)])


def set_log_interval(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set how long the log suppresses repeated events."""
    monkeypatch.setattr(_log, "INTERVAL", seconds)


def end_log(endpoint: Datagram) -> None:
    """Close the log: it writes how many lines it left out, and cancels its timers."""
    endpoint._runtime.log.close()
