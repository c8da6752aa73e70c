"""Servers over TCP and TLS: `python -m benchmarks.servers.stream`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import iocpcore

from benchmarks import serving

WRITE_HIGH = 256 * 1024


def echo(conn: Any, data: bytes) -> None:
    conn.send(data)


def echo_message(conn: Any, message: bytes) -> None:
    conn.send_message(message)


def visit(conn: Any, data: bytes) -> None:
    conn.send(data)
    conn.close()


def block(conn: Any, data: bytes) -> None:
    if data[0] == serving.MARK:
        serving.sleep()
    conn.send(data)


def worker(microseconds: int) -> Callable[[Any, bytes], None]:
    work = serving.work(microseconds)

    def working(conn: Any, data: bytes) -> None:
        work()
        conn.send(data)

    return working


class Bulk:
    """Sends as much as is wanted, a few pieces whenever little is pending."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.block = serving.block(256 * 1024)

    def on_connect(self, conn: Any) -> None:
        conn.context = self.count
        self.on_drain(conn)

    def on_drain(self, conn: Any) -> None:
        # Not above this there would be no on_drain to go on with.
        while conn.context and conn.pending_bytes <= WRITE_HIGH:
            piece = self.block[: conn.context]
            conn.context -= len(piece)
            conn.send(piece)
        if not conn.context:
            conn.close()


class File:
    """Sends a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_connect(self, conn: Any) -> None:
        with open(self.path, "rb") as file:
            conn.send_file(file)
        conn.close()


KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "echo": lambda options: {"on_data": echo},
    "framed": lambda options: {"on_message": echo_message, "framing": iocpcore.LengthPrefixed(4)},
    "lines": lambda options: {"on_message": echo_message, "framing": iocpcore.Delimited(b"\n")},
    "visit": lambda options: {"on_data": visit},
    "block": lambda options: {"on_data": block},
    "work": lambda options: {"on_data": worker(options.work_us)},
    "bulk": lambda options: {"handler": Bulk(options.bytes)},
    "file": lambda options: {"handler": File(options.file)},
}


def main() -> None:
    options = serving.arguments(dict(KINDS), "--backend", "--workers", "--concurrency")
    server = iocpcore.Server(
        **KINDS[options.kind](options),
        ssl=serving.tls(options),
        backend=options.backend,
        write_high=WRITE_HIGH,
        workers=int(options.workers),
        concurrency=int(options.concurrency) if options.concurrency else None,
    )
    address = server.listen("127.0.0.1", 0)
    serving.listening(address[:2], f"iocpcore.Server, {server.completion_port.backend}")
    server.serve_forever()


if __name__ == "__main__":
    main()
