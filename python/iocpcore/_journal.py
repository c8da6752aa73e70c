"""What a server writes to the log "iocpcore": what happens to it, and not to whom it serves."""

from __future__ import annotations

import logging
import threading
import time

from iocpcore._core import Connection, Listener
from iocpcore.proxy_protocol import ProxyProtocolError

logger = logging.getLogger("iocpcore")

INTERVAL = 10.0  # seconds between lines about addresses that are refused: they may be a flood


class Journal:
    """The callbacks of a service that nobody but the log is told of. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refusals = 0
        self._last = -INTERVAL

    def on_failed(self, conn: Connection, error: BaseException) -> None:
        """TLS, or the time limit for it. (A PROXY header that is wrong has its own line.)"""
        if not isinstance(error, ProxyProtocolError):
            logger.info("connection from %s not established: %s", shown(conn.peername), error)

    def on_accept_error(self, listener: Listener, error: BaseException | None) -> None:
        """Once when accepting fails for want of something, and once when it goes on."""
        if error is None:
            logger.warning("accepting connections goes on")
        else:
            logger.warning("accepting connections pauses: %s", error)

    def on_refused(self, address: object) -> None:
        """One more connection than max_connections_per_address."""
        now = time.monotonic()
        with self._lock:
            self._refusals += 1
            if now - self._last < INTERVAL:
                return
            self._last = now
            refusals, self._refusals = self._refusals, 0
        host = address[0] if isinstance(address, tuple) else address
        logger.warning("too many connections from %s: %d refused", host, refusals)


def shown(address: object) -> str:
    """An address as people write it."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address) if address else "a local process"
