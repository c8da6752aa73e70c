"""What twisted_server.py serves. A reactor is installed before this is imported."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.protocols.basic import FileSender, Int32StringReceiver, LineOnlyReceiver
from zope.interface import implementer

from benchmarks import serving


class Echo(Protocol):
    transport: Any

    def connectionMade(self) -> None:  # noqa: N802
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.transport.write(data)


class Visit(Echo):
    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.transport.write(data)
        self.transport.loseConnection()


class Block(Echo):
    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if data[0] == serving.MARK:
            serving.sleep()
        self.transport.write(data)


class Framed(Int32StringReceiver):
    transport: Any

    def connectionMade(self) -> None:  # noqa: N802
        self.transport.setTcpNoDelay(True)

    def stringReceived(self, string: bytes) -> None:  # noqa: N802
        self.sendString(string)


class Lines(LineOnlyReceiver):
    transport: Any
    delimiter = b"\n"

    def connectionMade(self) -> None:  # noqa: N802
        self.transport.setTcpNoDelay(True)

    def lineReceived(self, line: bytes) -> None:  # noqa: N802
        self.sendLine(line)


@implementer(IPushProducer)
class Bulk(Protocol):
    transport: Any

    def __init__(self, count: int) -> None:
        self.left = count
        self.block = serving.block(256 * 1024)
        self.paused = False

    def connectionMade(self) -> None:  # noqa: N802
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:  # noqa: N802
        self.paused = True

    def stopProducing(self) -> None:  # noqa: N802
        self.left = 0

    def resumeProducing(self) -> None:  # noqa: N802
        self.paused = False
        while self.left and not self.paused:
            piece = self.block[: self.left]
            self.left -= len(piece)
            self.transport.write(piece)
        if not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()


class File(Protocol):
    transport: Any

    def __init__(self, path: str) -> None:
        self.path = path

    def connectionMade(self) -> None:  # noqa: N802
        self.file = Path(self.path).open("rb")  # noqa: SIM115
        sender: Any = FileSender()
        sender.beginFileTransfer(self.file, self.transport).addBoth(self.sent)

    def sent(self, last: object) -> None:
        self.file.close()
        self.transport.loseConnection()


class Datagrams(DatagramProtocol):
    transport: Any

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802
        self.transport.write(datagram, addr)


KINDS = {"echo": Echo, "framed": Framed, "lines": Lines, "visit": Visit, "block": Block}


def factory(options: Any) -> Any:
    made: Any = Factory()
    if options.kind == "bulk":
        protocol: Any = partial(Bulk, options.bytes)
    elif options.kind == "file":
        protocol = partial(File, options.file)
    else:
        protocol = KINDS[options.kind]
    made.buildProtocol = lambda address: protocol()
    made.noisy = False
    return made
