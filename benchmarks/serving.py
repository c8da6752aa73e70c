"""What every server script shares: its arguments, and the lines that it prints first."""

from __future__ import annotations

import argparse
import socket
import ssl
import sys
import time
from collections.abc import Callable

MARK = b"!"[0]
BLOCK_SECONDS = 1.0


def block(size: int) -> bytes:
    """What bulk servers send over and over: 8-byte numbers counting up, 64 KiB before 0 again."""
    return b"".join(number.to_bytes(8, "big") for number in range(8192)) * (size // 65536)


def arguments(kinds: dict[str, object], *extra: str) -> argparse.Namespace:
    """Those of a server of one of the kinds; `extra` are further options with a value."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("kind", choices=list(kinds))
    parser.add_argument("--bytes", type=int, default=0, help="of one bulk transfer")
    parser.add_argument("--file", help="the file to send")
    parser.add_argument("--certificate", help="PEM with the key; the server speaks TLS")
    parser.add_argument("--work-us", type=int, default=0, help="Python work for each message")
    for name in extra:
        parser.add_argument(name)
    return parser.parse_args()


def sleep() -> None:
    """What a callback that blocks does."""
    time.sleep(BLOCK_SECONDS)


def listener() -> tuple[socket.socket, tuple[str, int]]:
    """A bound socket and its address, asked before a loop takes the socket: rloop's server, asked
    for its sockets, closes them."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound, bound.getsockname()


def listening(address: tuple[str, int], runs_on: object) -> None:
    """Prints where the server listens, and then what really runs it."""
    print(f"listening on {address[0]}:{address[1]}", flush=True)
    print("runs on", described(runs_on), flush=True)


def described(runs_on: object) -> str:
    """A loop by its class, and the interpreter."""
    kind = runs_on if isinstance(runs_on, str) else qualified(type(runs_on))
    gil = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else ", no GIL"
    return f"{kind}, Python {sys.version.split()[0]}{gil}"


def qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def tls(
    options: argparse.Namespace, kind: type[ssl.SSLContext] = ssl.SSLContext
) -> ssl.SSLContext | None:
    if options.certificate is None:
        return None
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate)
    return context


def spin(rounds: int) -> int:
    """Work that needs the interpreter and touches nothing shared."""
    total = 0
    for number in range(rounds):
        total += number & 7
    return total


def work(microseconds: int) -> Callable[[], object]:
    """A function that computes for so long. It counts rounds, not time, because waiting for the
    interpreter is not work."""
    if not microseconds:
        return lambda: None
    rounds = 10_000
    best = min(timed(rounds) for _ in range(20))
    needed = max(1, int(rounds * microseconds * 1e-6 / best))
    return lambda: spin(needed)


def timed(rounds: int) -> float:
    begun = time.perf_counter()
    spin(rounds)
    return time.perf_counter() - begun
