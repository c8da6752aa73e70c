"""Servers on Twisted: `python -m benchmarks.peers.twisted_server`."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks import serving


def main() -> None:
    options = serving.arguments(dict.fromkeys(KINDS), "--reactor")
    if options.reactor:
        importlib.import_module(f"twisted.internet.{options.reactor}").install()
    from benchmarks.peers import twisted_protocols

    reactor: Any = importlib.import_module("twisted.internet.reactor")

    port: Any
    if options.kind == "datagram":
        port = reactor.listenUDP(0, twisted_protocols.Datagrams(), "127.0.0.1", 65536)
    else:
        factory = twisted_protocols.factory(options)
        port = reactor.listenTCP(0, factory, backlog=1024, interface="127.0.0.1")
    serving.listening((port.getHost().host, port.getHost().port), reactor)
    reactor.run()


KINDS = ["echo", "framed", "lines", "visit", "block", "bulk", "file", "datagram"]


if __name__ == "__main__":
    main()
