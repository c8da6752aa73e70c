"""``echo``: a TCP server that sends back what it receives.

Each connection is a circle of two operations: when a receive is done its bytes are sent, and when
that send is done the next receive is submitted. So a connection never has more than one piece of
data in flight, and a client that does not read holds up nobody but itself.
"""

from __future__ import annotations

import signal
import socket
import threading
from dataclasses import dataclass

from iocpcore import CompletionPort, Operation

ACCEPTS = 16  # armed at once
PIECE = 65536  # bytes of one receive
PAUSE = 0.05  # seconds between accepts while there are no descriptors left, or the like
CLOSE_LIMIT = 0.5  # seconds


class Server:
    """A listening socket, the port that serves it, and what came of it."""

    def __init__(self, host: str, port_number: int, workers: int, backend: str | None) -> None:
        family, address = _resolve(host, port_number)
        self.port = CompletionPort(backend=backend)
        self.workers = workers
        self.connections: set[Connection] = set()
        self.lock = threading.Lock()  # the two below
        self.served = 0
        self.bytes = 0
        try:
            if self.port.backend == "sim":
                raise ValueError("the backend 'sim' has no sockets of the system to serve")
            self.listener = _listen(family, address)
        except (OSError, ValueError):
            self.port.close()
            raise
        self.address: tuple[str, int] = self.listener.getsockname()[:2]

    def serve(self) -> None:
        """Serve until the port is stopped; this thread is one of the workers."""
        for _ in range(ACCEPTS):
            self.accept()
        others = [
            threading.Thread(target=self.port.run, name=f"echo-{number}")
            for number in range(1, self.workers)
        ]
        for thread in others:
            thread.start()
        try:
            self.port.run()
        finally:
            self.port.stop()
            for thread in others:
                thread.join()
            self.close()

    def close(self) -> None:
        self.port.close(CLOSE_LIMIT)
        self.listener.close()
        for connection in list(self.connections):
            connection.sock.close()
            self.forget(connection)

    def accept(self, _: Operation | None = None) -> None:
        self.port.accept(self.listener, callback=self.accepted)

    def accepted(self, op: Operation) -> None:
        try:
            sock, _ = op.result()
        except OSError:
            self.port.timer(PAUSE, callback=self.accept)
            return
        self.accept()
        connection = Connection(self, sock)
        self.connections.add(connection)
        connection.receive()

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        with self.lock:
            self.served += 1
            self.bytes += connection.bytes


@dataclass(eq=False, slots=True)
class Connection:
    """One client."""

    server: Server
    sock: socket.socket
    bytes: int = 0

    def receive(self) -> None:
        self.server.port.recv(self.sock, PIECE, callback=self.received)

    def received(self, op: Operation) -> None:
        data = b"" if op.error else op.result()
        if data:
            self.server.port.send(self.sock, data, callback=self.sent)
        else:
            self.close()

    def sent(self, op: Operation) -> None:
        if op.error:
            self.close()
        else:
            self.bytes += op.result()
            self.receive()

    def close(self) -> None:
        self.server.port.close_handle(self.sock)
        self.server.forget(self)


def run(host: str, port_number: int, workers: int, backend: str | None) -> int:
    """Serve until Ctrl-C or SIGTERM; the exit code."""
    server = Server(host, port_number, workers, backend)
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: server.port.stop())
    host, port_number = server.address
    shown = f"[{host}]" if ":" in host else host
    print(f"listening on {shown}:{port_number}", end=" ")
    print(f"({server.port.backend}, workers: {workers}); Ctrl-C ends it", flush=True)
    server.serve()
    print(f"served {server.served} connections, {server.bytes} bytes")
    return 0


def _resolve(host: str, port_number: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port_number, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"host {host!r}: {error}") from error
    family, _, _, _, address = found[0]
    return family, (str(address[0]), port_number)


def _listen(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # what reuse means on Windows is another thing
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise OSError(f"listen on {address[0]}:{address[1]}: {error}") from error
    return listener
