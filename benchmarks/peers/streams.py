"""Servers as asyncio streams, on any asyncio loop: `python -m benchmarks.peers.streams`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from benchmarks import serving
from benchmarks.peers import loops


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, options: Any) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def framed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, options: Any) -> None:
    while True:
        header = await reader.readexactly(4)
        message = await reader.readexactly(int.from_bytes(header, "big"))
        writer.write(len(message).to_bytes(4, "big") + message)
        await writer.drain()


async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, options: Any) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()


async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, options: Any) -> None:
    writer.write(await reader.read(65536))
    await writer.drain()


async def block(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, options: Any) -> None:
    while data := await reader.read(65536):
        if data[0] == serving.MARK:
            serving.sleep()
        writer.write(data)
        await writer.drain()


async def bulk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, options: Any) -> None:
    block, left = serving.block(256 * 1024), options.bytes
    while left:
        piece = block[:left]
        left -= len(piece)
        writer.write(piece)
        await writer.drain()


async def file(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, options: Any) -> None:
    with Path(options.file).open("rb") as source:
        await asyncio.get_running_loop().sendfile(writer.transport, source)


KINDS = {
    "echo": echo,
    "framed": framed,
    "lines": lines,
    "visit": visit,
    "block": block,
    "bulk": bulk,
    "file": file,
}


async def main(options: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await KINDS[options.kind](reader, writer, options)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listener, address = serving.listener()
    await asyncio.start_server(serve, sock=listener, backlog=1024, ssl=serving.tls(options))
    serving.listening(address, asyncio.get_running_loop())
    await asyncio.Event().wait()


if __name__ == "__main__":
    given = serving.arguments(dict(KINDS), "--loop")
    with asyncio.Runner(loop_factory=loops.factory(given.loop)) as runner:
        runner.run(main(given))
