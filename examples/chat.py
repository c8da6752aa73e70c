"""A chat server: lines of text, and what one says everybody hears.

    python examples/chat.py
    nc 127.0.0.1 9001          # in two other terminals (or telnet); the first line is your name

Framing cuts the stream into lines, so a callback gets a whole one. Callbacks of different
connections may run at the same time: what they share is under a lock.
"""

from __future__ import annotations

import argparse
import threading

from iocpcore import Connection, Delimited, Server

LONGEST = 1000  # bytes of a line that somebody says


def tell(conn: Connection, text: str) -> None:
    """Not send_message(): what is told, with a name before it, may be longer than what is said."""
    conn.send(f"{text}\n".encode())


class Room:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[Connection, str] = {}

    def on_connect(self, conn: Connection) -> None:
        tell(conn, "What is your name?")

    def on_message(self, conn: Connection, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        name = self._names.get(conn)
        if name is None:
            self._enter(conn, text)
        elif text == "/who":
            with self._lock:
                names = ", ".join(self._names.values())
            tell(conn, names)
        elif text == "/quit":
            conn.close()
        elif text:
            self._tell(f"{name}: {text}", but=conn)

    def on_close(self, conn: Connection, error: BaseException | None) -> None:
        with self._lock:
            name = self._names.pop(conn, None)
        if name is not None:
            self._tell(f"* {name} has left")

    def _enter(self, conn: Connection, name: str) -> None:
        with self._lock:
            accepted = bool(name) and name not in self._names.values()
            if accepted:
                self._names[conn] = name
        if accepted:
            self._tell(f"* {name} is here")
        else:
            tell(conn, "Another name, please.")

    def _tell(self, text: str, but: Connection | None = None) -> None:
        """To one that is gone meanwhile, send() returns False. That hurts nobody."""
        with self._lock:
            members = list(self._names)
        for member in members:
            if member is not but:
                tell(member, text)


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001)
    options = parser.parse_args()

    server = Server(Room(), framing=Delimited(b"\n", max_size=LONGEST), idle_timeout=3600)
    host, port = server.listen(options.host, options.port)[:2]
    print(f"listening on {host}:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
