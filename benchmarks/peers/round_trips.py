"""Echo round trips within one asyncio loop: `python -m benchmarks.peers.round_trips LOOP COUNT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from benchmarks import serving
from benchmarks.peers import loops
from benchmarks.peers.protocol import Echo

DATA = bytes(64)


class Client(asyncio.Protocol):
    """Asks again for every answer, so many times."""

    def __init__(self, count: int, done: asyncio.Future[None]) -> None:
        self.left = count
        self.done = done

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(DATA)

    def data_received(self, data: bytes) -> None:
        self.left -= 1
        if self.left:
            self.transport.write(DATA)
        else:
            self.done.set_result(None)


async def main(count: int) -> None:
    loop = asyncio.get_running_loop()
    print(serving.described(loop))
    listener, address = serving.listener()
    await loop.create_server(Echo, sock=listener)
    done = loop.create_future()
    await loop.create_connection(lambda: Client(count, done), *address)
    await done


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loops.factory(sys.argv[1])) as runner:
        runner.run(main(int(sys.argv[2])))
