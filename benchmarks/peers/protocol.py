"""Servers as asyncio Protocols, on any asyncio loop: `python -m benchmarks.peers.protocol`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import serving
from benchmarks.peers import loops


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Visit(Echo):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


class Block(Echo):
    def data_received(self, data: bytes) -> None:
        if data[0] == serving.MARK:
            serving.sleep()
        self.transport.write(data)


class Framed(Echo):
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        begin = 0
        while len(self.buffer) - begin >= 4:
            end = begin + 4 + int.from_bytes(self.buffer[begin : begin + 4], "big")
            if len(self.buffer) < end:
                break
            self.message_received(bytes(self.buffer[begin + 4 : end]))
            begin = end
        del self.buffer[:begin]

    def message_received(self, message: bytes) -> None:
        self.transport.write(len(message).to_bytes(4, "big") + message)


class Lines(Framed):
    def data_received(self, data: bytes) -> None:
        self.buffer += data
        *lines, rest = self.buffer.split(b"\n")
        self.buffer = rest
        for line in lines:
            self.message_received(bytes(line))

    def message_received(self, message: bytes) -> None:
        self.transport.write(message + b"\n")


class Work(Echo):
    def __init__(self, work: Any) -> None:
        self.work = work

    def data_received(self, data: bytes) -> None:
        self.work()
        self.transport.write(data)


class Bulk(asyncio.Protocol):
    def __init__(self, count: int) -> None:
        self.left = count
        self.block = serving.block(256 * 1024)
        self.paused = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send_some()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.send_some()

    def send_some(self) -> None:
        while self.left and not self.paused:
            piece = self.block[: self.left]
            self.left -= len(piece)
            self.transport.write(piece)
        if not self.left:
            self.transport.close()


class File(asyncio.Protocol):
    def __init__(self, path: str) -> None:
        self.path = path

    def connection_made(self, transport: Any) -> None:
        self.task = asyncio.get_running_loop().create_task(self.send(transport))

    async def send(self, transport: Any) -> None:
        with Path(self.path).open("rb") as file:
            await asyncio.get_running_loop().sendfile(transport, file)
        transport.close()


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


KINDS = {
    "echo": Echo,
    "framed": Framed,
    "lines": Lines,
    "visit": Visit,
    "block": Block,
    "work": Work,
    "bulk": Bulk,
    "file": File,
    "datagram": Datagrams,
}


def protocol_factory(options: Any) -> Callable[[], Any]:
    """Makes the protocols of this server's connections."""
    kind = KINDS[options.kind]
    if kind is Work:
        return partial(Work, serving.work(options.work_us))
    if kind is Bulk:
        return partial(Bulk, options.bytes)
    if kind is File:
        return partial(File, options.file)
    return kind


async def main(options: Any) -> None:
    loop = asyncio.get_running_loop()
    protocol = protocol_factory(options)
    if options.kind == "datagram":
        transport, _ = await loop.create_datagram_endpoint(protocol, ("127.0.0.1", 0))
        serving.listening(transport.get_extra_info("sockname"), loop)
        await asyncio.Event().wait()
    listener, address = serving.listener()
    await loop.create_server(protocol, sock=listener, backlog=1024, ssl=serving.tls(options))
    serving.listening(address, loop)
    await asyncio.Event().wait()


if __name__ == "__main__":
    given = serving.arguments(dict(KINDS), "--loop")
    with asyncio.Runner(loop_factory=loops.factory(given.loop)) as runner:
        runner.run(main(given))
