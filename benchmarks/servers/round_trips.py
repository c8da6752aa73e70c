"""Echo round trips within one port: `python -m benchmarks.servers.round_trips COUNT`."""

from __future__ import annotations

import sys
import threading
from typing import Any

import iocpcore

from benchmarks import serving

DATA = bytes(64)


class Client:
    """Asks again for every answer, so many times."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.done = threading.Event()

    def on_connect(self, conn: Any) -> None:
        conn.send(DATA)

    def on_data(self, conn: Any, data: bytes) -> None:
        self.left -= 1
        if self.left:
            conn.send(DATA)
        else:
            self.done.set()


def echo(conn: Any, data: bytes) -> None:
    conn.send(data)


def main() -> None:
    client = Client(int(sys.argv[1]))
    with iocpcore.Server(on_data=echo, workers=1) as server:
        address = server.listen("127.0.0.1", 0)
        print(serving.described(f"iocpcore.Server, {server.completion_port.backend}"))
        iocpcore.connect(*address[:2], handler=client, completion_port=server.completion_port)
        client.done.wait()


if __name__ == "__main__":
    main()
