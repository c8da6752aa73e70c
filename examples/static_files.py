"""A web server for the files of a folder. It needs h11, which knows HTTP and nothing else.

    python -m pip install h11
    python examples/static_files.py docs
    curl http://127.0.0.1:9004/port.md

A connection feeds its h11 with what it receives, and sends what that makes of the answer. Files go
from the disk to the socket by the kernel (send_file), and never through Python.
"""

from __future__ import annotations

import argparse
import mimetypes
import os
import sys
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from iocpcore import Connection, Server

try:
    import h11
except ImportError:
    sys.exit("static_files.py needs h11: python -m pip install h11")


class Body:
    """A whole file, as h11 takes it: it only wants to know how long it is."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._size


class Website:
    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def on_connect(self, conn: Connection) -> None:
        conn.context = h11.Connection(h11.SERVER)

    def on_data(self, conn: Connection, data: bytes) -> None:
        http: h11.Connection = conn.context
        try:
            http.receive_data(data)
            while (event := http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    self._respond(conn, event)
                if http.our_state is h11.DONE and http.their_state is h11.DONE:
                    http.start_next_cycle()  # there may be another request already
        except h11.RemoteProtocolError as error:
            if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                respond(conn, HTTPStatus(error.error_status_hint))
        if http.our_state in (h11.MUST_CLOSE, h11.ERROR):
            conn.close()  # which sends first what there is to send

    def _respond(self, conn: Connection, request: h11.Request) -> None:
        if request.method not in (b"GET", b"HEAD"):
            respond(conn, HTTPStatus.METHOD_NOT_ALLOWED)
            return
        try:
            path = self._find(request.target.decode("ascii"))
            with open(path, "rb") as file:  # send_file() keeps it open for itself
                kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                respond(conn, HTTPStatus.OK, kind, Body(file), request.method == b"GET")
        except (OSError, ValueError):  # ValueError: it cannot be the name of a file
            respond(conn, HTTPStatus.NOT_FOUND, wanted=request.method == b"GET")

    def _find(self, target: str) -> Path:
        """The file that is meant. Raises OSError or ValueError if that is none of the folder's."""
        name = Path(unquote(urlsplit(target).path).lstrip("/"))
        if name.anchor:  # on Windows, a drive or another computer
            raise ValueError("not a relative path")
        path = (self._folder / name).resolve(strict=True)
        path.relative_to(self._folder)  # raises ValueError if it is outside
        return path / "index.html" if path.is_dir() else path


def respond(
    conn: Connection,
    status: HTTPStatus,
    kind: str = "text/plain",
    body: Body | bytes | None = None,
    wanted: bool = True,
) -> None:
    """`wanted`: the body too, and not only what would be said about it."""
    if body is None:
        body = f"{status.value} {status.phrase}\n".encode()
    headers = [
        ("Date", formatdate(usegmt=True)),
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    events: list[h11.Event] = [
        h11.Response(status_code=status, headers=headers, reason=status.phrase)
    ]
    if wanted:
        events.append(h11.Data(data=body))
    for event in [*events, h11.EndOfMessage()]:
        for part in conn.context.send_with_data_passthrough(event) or ():
            if isinstance(part, Body):
                conn.send_file(part.file, 0, len(part))
            else:
                conn.send(part)


def main() -> None:
    parser = argparse.ArgumentParser(description="A web server for the files of a folder.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9004)
    options = parser.parse_args()

    # Each answer that waits holds a file open, and all requests that are read at once are answered:
    # few, so that a client that asks for very many files leaves some to the others.
    server = Server(Website(options.folder), idle_timeout=60, read_size=4096)
    host, port = server.listen(options.host, options.port)[:2]
    print(f"listening on {host}:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
