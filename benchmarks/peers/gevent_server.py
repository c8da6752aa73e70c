"""Servers on gevent: `python -m benchmarks.peers.gevent_server`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gevent
import gevent.ssl
from gevent.server import DatagramServer, StreamServer

from benchmarks import serving


def echo(sock: Any, options: Any) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


def framed(sock: Any, options: Any) -> None:
    with sock.makefile("rb") as file:
        while len(header := file.read(4)) == 4:
            message = file.read(int.from_bytes(header, "big"))
            sock.sendall(len(message).to_bytes(4, "big") + message)


def lines(sock: Any, options: Any) -> None:
    with sock.makefile("rb") as file:
        for line in file:
            sock.sendall(line)


def visit(sock: Any, options: Any) -> None:
    sock.sendall(sock.recv(65536))


def block(sock: Any, options: Any) -> None:
    while data := sock.recv(65536):
        if data[0] == serving.MARK:
            serving.sleep()
        sock.sendall(data)


def bulk(sock: Any, options: Any) -> None:
    block, left = serving.block(256 * 1024), options.bytes
    while left:
        piece = block[:left]
        left -= len(piece)
        sock.sendall(piece)


def file(sock: Any, options: Any) -> None:
    with Path(options.file).open("rb") as source:
        sock.sendfile(source)


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


class Datagrams(DatagramServer):
    def handle(self, data: bytes, address: Any) -> None:
        self.sendto(data, address)


def main() -> None:
    options = serving.arguments(dict(KINDS))

    def serve(sock: Any, address: Any) -> None:
        try:
            KINDS[options.kind](sock, options)
        except ConnectionError:
            pass

    server: Any
    if options.kind == "datagram":
        server = Datagrams(("127.0.0.1", 0))
    else:
        context = serving.tls(options, gevent.ssl.SSLContext)
        secure = {"ssl_context": context} if context else {}
        server = StreamServer(("127.0.0.1", 0), serve, backlog=1024, **secure)
    server.start()
    serving.listening((server.server_host, server.server_port), gevent.get_hub().loop)
    server.serve_forever()


if __name__ == "__main__":
    main()
