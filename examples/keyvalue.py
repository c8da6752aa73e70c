r"""A key-value server whose writes are on disk before they are confirmed.

Requests and answers are messages behind their length in 4 bytes:

    set KEY VALUE       ok
    get KEY             value VALUE, or: none
    delete KEY          ok, or: none

    python examples/keyvalue.py
    printf '\0\0\0\013set a hello\0\0\0\005get a' | nc -N 127.0.0.1 9002

Reading is a look into a dict, and is answered at once. Writing waits for the disk, so it is given
to another thread, by offload(). serial=True holds further requests of that connection until it is
done: answers stay in order. Other connections go on meanwhile.
"""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path
from typing import BinaryIO

from iocpcore import Connection, LengthPrefixed, Server

FRAMING = LengthPrefixed(4, max_size=1 << 20)


class Store:
    """A dict, and a journal of what has changed it: framed like the requests themselves."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._values: dict[bytes, bytes] = {}
        self._journal: BinaryIO = open(path, "a+b")  # noqa: SIM115 - until the end
        self._journal.seek(0)
        requests, used = FRAMING.decode(self._journal.read())
        self._journal.truncate(used)  # a crash may have left half of one
        for request in requests:
            self._apply(request)

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def change(self, request: bytes) -> bytes:
        """Blocks until it is on disk; the answer."""
        with self._lock:
            self._journal.write(FRAMING.encode(request))
            self._journal.flush()
            os.fsync(self._journal.fileno())
            return self._apply(request)

    def close(self) -> None:
        with self._lock:
            self._journal.close()

    def _apply(self, request: bytes) -> bytes:
        verb, key, *value = request.split(b" ", 2)
        if verb == b"set":
            self._values[key] = value[0]
            return b"ok"
        return b"none" if self._values.pop(key, None) is None else b"ok"


class KeyValue:
    def __init__(self, store: Store) -> None:
        self._store = store

    def on_message(self, conn: Connection, request: bytes) -> None:
        match request.split(b" ", 2):
            case [b"get", key]:
                value = self._store.get(key)
                conn.send_message(b"none" if value is None else b"value " + value)
            case [b"set", key, _] | [b"delete", key] if key:
                change = self._store.change
                conn.offload(change, request, then=Connection.send_message, serial=True)
            case _:
                conn.send_message(b"error: set KEY VALUE, get KEY or delete KEY")


def main() -> None:
    parser = argparse.ArgumentParser(description="A key-value server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9002)
    parser.add_argument("--journal", type=Path, default=Path("keyvalue.journal"))
    options = parser.parse_args()

    store = Store(options.journal)
    server = Server(KeyValue(store), framing=FRAMING)
    host, port = server.listen(options.host, options.port)[:2]
    print(f"listening on {host}:{port}", flush=True)
    try:
        server.serve_forever()
    finally:
        store.close()


if __name__ == "__main__":
    main()
