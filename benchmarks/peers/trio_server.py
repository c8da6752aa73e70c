"""Servers on trio: `python -m benchmarks.peers.trio_server`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from benchmarks import serving


async def echo(stream: Any, options: Any) -> None:
    async for data in stream:
        await stream.send_all(data)


async def framed(stream: Any, options: Any) -> None:
    buffer = bytearray()
    async for data in stream:
        buffer += data
        begin = 0
        while len(buffer) - begin >= 4:
            end = begin + 4 + int.from_bytes(buffer[begin : begin + 4], "big")
            if len(buffer) < end:
                break
            message = bytes(buffer[begin + 4 : end])
            await stream.send_all(len(message).to_bytes(4, "big") + message)
            begin = end
        del buffer[:begin]


async def lines(stream: Any, options: Any) -> None:
    buffer = bytearray()
    async for data in stream:
        buffer += data
        *whole, buffer = buffer.split(b"\n")
        for line in whole:
            await stream.send_all(line + b"\n")


async def visit(stream: Any, options: Any) -> None:
    await stream.send_all(await stream.receive_some())


async def block(stream: Any, options: Any) -> None:
    async for data in stream:
        if data[0] == serving.MARK:
            serving.sleep()
        await stream.send_all(data)


async def bulk(stream: Any, options: Any) -> None:
    block, left = serving.block(256 * 1024), options.bytes
    while left:
        piece = block[:left]
        left -= len(piece)
        await stream.send_all(piece)


async def file(stream: Any, options: Any) -> None:
    async with await trio.open_file(Path(options.file), "rb") as source:
        while data := await source.read(1 << 20):
            await stream.send_all(data)


async def datagrams() -> None:
    sock = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))
    serving.listening(sock.getsockname(), loop_name())
    while True:
        data, address = await sock.recvfrom(65536)
        await sock.sendto(data, address)


KINDS: dict[str, Any] = {
    "echo": echo,
    "framed": framed,
    "lines": lines,
    "visit": visit,
    "block": block,
    "bulk": bulk,
    "file": file,
    "datagram": None,
}


def loop_name() -> str:
    return f"trio, {trio.lowlevel.current_statistics().io_statistics.backend}"


async def main(options: Any) -> None:
    async def serve(stream: Any) -> None:
        try:
            await KINDS[options.kind](stream, options)
        except trio.BrokenResourceError:
            pass
        finally:
            await stream.aclose()

    if options.kind == "datagram":
        await datagrams()
    context = serving.tls(options)
    listeners: Any = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
    address = listeners[0].socket.getsockname()
    if context:
        listeners = [trio.SSLListener(listener, context) for listener in listeners]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        serving.listening(address, loop_name())


if __name__ == "__main__":
    trio.run(main, serving.arguments(dict(KINDS)))
