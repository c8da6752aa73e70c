"""Datagram sockets and ports that no fixture manages."""

from __future__ import annotations

from typing import Any

import iocpcore
from iocpcore import Datagram

from support.system import wait_until


def own_datagram(port: iocpcore.CompletionPort, **options: Any) -> Datagram:
    """Create a Datagram that the test must close itself."""
    if port.backend != "sim":
        options["local_address"] = ("127.0.0.1", 0)
    return Datagram(completion_port=port, **options)


def drain(port: iocpcore.CompletionPort) -> None:
    """Process completions until nothing is in flight. No thread may run the port."""
    wait_until(lambda: not port.in_flight or port.get(0), "the end of all operations")
