"""Datagrams that no fixture knows, and ports that nobody runs."""

from __future__ import annotations

from typing import Any

import iocpcore
from iocpcore import Datagram

from support.system import wait_until


def own_datagram(port: iocpcore.CompletionPort, **options: Any) -> Datagram:
    """One that no fixture knows."""
    if port.backend != "sim":
        options["local_address"] = ("127.0.0.1", 0)
    return Datagram(completion_port=port, **options)


def drain(port: iocpcore.CompletionPort) -> None:
    """Of a port that nobody runs, and that has no Operations."""
    wait_until(lambda: not port.in_flight or port.get(0), "the end of all operations")
