"""An echo server of bench as a process: with this package, or with an asyncio event loop."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from iocpcore import Connection, LengthPrefixed, Server
from iocpcore._bench.processes import report, watch_stdin

LOOPS = ("asyncio", "uvloop", "winloop")
HOST = "127.0.0.1"
HEADER = 4  # bytes


class Echo(asyncio.Protocol):
    """Sends everything back as it arrives."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoMessages(Echo):
    """Sends each complete message back with its own write."""

    def __init__(self) -> None:
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        begin = 0
        while len(buffer) - begin >= HEADER:
            end = begin + HEADER + int.from_bytes(buffer[begin : begin + HEADER], "big")
            if end > len(buffer):
                break
            self.message_received(buffer[begin + HEADER : end])
            begin = end
        self._buffer = buffer[begin:]

    def message_received(self, message: bytes) -> None:
        self.transport.write(len(message).to_bytes(HEADER, "big") + message)


class GatherMessages(EchoMessages):
    """Sends all complete messages of one receive back in one write."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(b"".join(self._answers))
        self._answers.clear()

    def message_received(self, message: bytes) -> None:
        self._answers += (len(message).to_bytes(HEADER, "big"), message)


def serve_asyncio(loop_name: str, protocol: type[Echo]) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if loop_name != "asyncio":
        factory = importlib.import_module(loop_name).new_event_loop

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, HOST, 0)
        ended = asyncio.Event()
        watch_stdin(lambda: loop.call_soon_threadsafe(ended.set))
        report(port=server.sockets[0].getsockname()[1], cpu=time.process_time())
        await ended.wait()
        report(cpu=time.process_time())
        server.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve())


def serve_iocpcore(backend: str, framed: bool) -> None:
    if framed:
        server = Server(
            on_message=Connection.send_message,
            framing=LengthPrefixed(HEADER),
            workers=1,
            backend=backend,
        )
    else:
        server = Server(on_data=Connection.send, workers=1, backend=backend)
    address = server.listen(HOST, 0)
    watch_stdin(server.stop)
    report(port=address[1], cpu=time.process_time())
    server.serve_forever()
    report(cpu=time.process_time())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m iocpcore._bench.server")
    parser.add_argument("kind", help=f"{', '.join(LOOPS)}, or a backend of this package")
    parser.add_argument("--framing", choices=["none", "length"], default="none")
    parser.add_argument("--gather", action="store_true", help="one write for each receive")
    options = parser.parse_args()
    framed = options.framing == "length"
    if options.kind in LOOPS:
        framings = GatherMessages if options.gather else EchoMessages
        serve_asyncio(options.kind, framings if framed else Echo)
    else:
        serve_iocpcore(options.kind, framed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
