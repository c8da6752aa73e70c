"""Handles of one port, with peers, so that one test body works on every backend.

They are sockets and files of the system, or simulated ones.
"""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from typing import Any

import iocpcore

from support import sim
from support.system import LIMIT, POLLIN, POLLOUT, wait_ready

LOOPBACK = "127.0.0.1"


def tcp_pair(host: str = LOOPBACK) -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        one = socket.socket(family)
        one.settimeout(LIMIT)
        one.connect(listener.getsockname())
        other = listener.accept()[0]
    one.settimeout(None)
    for sock in (one, other):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def reset(sock: socket.socket) -> None:
    """Close a TCP socket so that the other side sees a reset instead of the end of the stream."""
    layout = "hh" if os.name == "nt" else "ii"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(layout, 1, 0))
    sock.close()


class SystemPeer:
    """The other end of a handle: a plain socket that is not on a port."""

    def __init__(self, net: Net, sock: socket.socket) -> None:
        self.net = net
        self.sock = sock
        sock.setblocking(False)

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        deadline = time.monotonic() + LIMIT
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                self.net.pump()
                wait_ready(self.sock, POLLOUT, 0.01)
                assert time.monotonic() < deadline, "the port does not receive"

    def recv_some(self, nbytes: int) -> bytes:
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                return self.sock.recv(nbytes)
            except BlockingIOError:
                self.net.pump()
                wait_ready(self.sock, POLLIN, 0.01)
                assert time.monotonic() < deadline, "the port does not send"

    def recv(self, nbytes: int) -> bytes:
        """Receive exactly this many bytes, or fewer at the end of the stream."""
        parts = []
        while nbytes:
            part = self.recv_some(min(nbytes, 1 << 20))
            if not part:
                break
            parts.append(part)
            nbytes -= len(part)
        return b"".join(parts)

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        reset(self.sock)

    def close(self) -> None:
        self.sock.close()


class SimPeer:
    """The other end of a simulated handle: a simulated socket on the same port."""

    def __init__(self, net: Net, handle: int) -> None:
        self.net = net
        self.handle = handle

    def send(self, data: bytes) -> None:
        assert self.net.result(self.net.port.send(self.handle, data)) == len(data)

    def recv_some(self, nbytes: int) -> bytes:
        return self.net.result(self.net.port.recv(self.handle, nbytes))

    recv = SystemPeer.recv

    def end(self) -> None:
        self.close()

    def close(self) -> None:
        self.net.close(self.handle)


class Net:
    def __init__(self, port: iocpcore.CompletionPort) -> None:
        self.port = port
        self.simulated = port.backend == "sim"
        # False while other threads are in run(): they take the completions.
        self.pumping = True
        self._stash: list[iocpcore.Operation] = []
        self._seen: dict[int, iocpcore.Operation] = {}
        self._closers: dict[int, Callable[[], object]] = {}

    # ---- completions

    def _note(self, ops: list[iocpcore.Operation]) -> None:
        """Check that every operation is returned only once, and done."""
        for op in ops:
            assert id(op) not in self._seen, f"{op!r} was handed out twice"
            assert op.done
            self._seen[id(op)] = op

    def pump(self, timeout: float = 0) -> list[iocpcore.Operation]:
        """Process completions, and keep them for take()."""
        if not self.pumping:
            time.sleep(0.001)
            return []
        ops = self.port.get_many(64, timeout)
        self._note(ops)
        self._stash += ops
        return ops

    def take(self, count: int, limit: float = LIMIT) -> list[iocpcore.Operation]:
        """Return the next `count` completions, in order."""
        deadline = time.monotonic() + limit
        while len(self._stash) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not self.pump(left):
                raise AssertionError(
                    f"{count} completions were expected, {len(self._stash)} came: {self._stash}"
                )
        taken, self._stash = self._stash[:count], self._stash[count:]
        return taken

    def finish(self, *ops: iocpcore.Operation, limit: float = LIMIT) -> None:
        """Wait until these operations are done. Other completions are kept for take()."""
        wanted = {id(op) for op in ops}
        deadline = time.monotonic() + limit
        while not all(op.done for op in ops):
            left = deadline - time.monotonic()
            if left <= 0 or not self.pump(left):
                raise AssertionError(f"not done: {[op for op in ops if not op.done]}")
        self._stash = [op for op in self._stash if id(op) not in wanted]

    def result(self, op: iocpcore.Operation, limit: float = LIMIT) -> Any:
        self.finish(op, limit=limit)
        return op.result()

    def error(self, op: iocpcore.Operation) -> BaseException | None:
        self.finish(op)
        return op.error

    def forget(self) -> None:
        """Drop all references to operations."""
        self._seen.clear()
        self._stash.clear()

    @property
    def kept(self) -> int:
        """The number of completions that are ready for take()."""
        return len(self._stash)

    def nothing_more(self) -> None:
        """Check that there are no other completions and nothing is in flight."""
        assert self.pump(0) == []
        assert self._stash == []
        assert self.port.in_flight == 0

    # ---- handles

    def keep(self, item: Any) -> Any:
        """Have this closed at the end of the test. Returns it."""
        self._closers[id(item)] = item.close
        return item

    def disown(self, item: Any) -> None:
        """Undo keep(): the test closes it."""
        self._closers.pop(id(item))

    def _keep_simulated(self, handle: int) -> int:
        def close() -> None:
            try:
                self.port.dissociate(handle)
            except ValueError:
                pass  # it was never associated, or the port is closed
            try:
                sim.close(self.port, handle)
            except ValueError:
                pass  # the port is closed, and its simulated network with it

        self._closers[handle] = close
        return handle

    def close(self, handle: Any) -> None:
        if self.simulated:
            self._closers.pop(handle)()
        else:
            handle.close()

    def pair(self) -> tuple[Any, Any]:
        """A connected stream handle, and its peer."""
        if self.simulated:
            handle, other = sim.pair(self.port)
            return self._keep_simulated(handle), SimPeer(self, self._keep_simulated(other))
        sock, other = tcp_pair()
        return self.keep(sock), SystemPeer(self, self.keep(other))

    def stream(self) -> Any:
        """A stream handle that is not connected."""
        if self.simulated:
            return self._keep_simulated(sim.socket(self.port))
        return self.keep(socket.socket())

    def listener(self, backlog: int = 128) -> tuple[Any, Any]:
        if self.simulated:
            handle, address = sim.listener(self.port)
            return self._keep_simulated(handle), address
        sock = self.keep(socket.socket())
        sock.bind((LOOPBACK, 0))
        sock.listen(backlog)
        return sock, sock.getsockname()

    def dial(self, address: Any) -> Any:
        """Connect a peer to a listener."""
        if self.simulated:
            handle = self.stream()
            self.result(self.port.connect(handle, address))
            return SimPeer(self, handle)
        sock = self.keep(socket.socket())
        sock.settimeout(LIMIT)
        sock.connect(address)
        return SystemPeer(self, sock)

    def taken(self, accepted: Any) -> Any:
        """Have an accepted socket closed at the end of the test. Returns it."""
        return self._keep_simulated(accepted) if self.simulated else self.keep(accepted)

    def datagram(self) -> tuple[Any, Any]:
        """A datagram handle and its address."""
        if self.simulated:
            handle, address = sim.datagram(self.port)
            return self._keep_simulated(handle), address
        sock = self.keep(socket.socket(type=socket.SOCK_DGRAM))
        sock.bind((LOOPBACK, 0))
        return sock, sock.getsockname()

    def file(self, data: bytes = b"") -> Any:
        """A file to read and write, with this content."""
        if self.simulated:
            return self._keep_simulated(sim.file(self.port, data))
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed at the end
        file.write(data)
        return self.keep(file)

    def silent_address(self) -> Any:
        """An address that does not answer, as its listener's queue is full; None if that fails."""
        _, address = self.listener(backlog=0)
        for _ in range(64):
            sock = self.keep(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
            if not wait_ready(sock, POLLOUT, 0.1):
                return address
        return None

    def fill(self, sock: socket.socket) -> int:
        """Send until the system takes no more. Returns the number of bytes sent."""
        sock.setblocking(False)
        # A fixed size turns off the system's automatic growth of the buffer.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        block = bytes(1 << 16)
        total = refused = 0
        for _ in range(4096):
            try:
                total += sock.send(block)
                refused = 0
            except BlockingIOError:
                # Sent data may still be on its way to the peer's buffer, which makes room here.
                refused += 1
                if not wait_ready(sock, POLLOUT, 0.02) and refused >= 3:
                    return total
        raise AssertionError("the socket takes anything")

    def end(self) -> None:
        for closer in reversed(self._closers.values()):
            closer()
        self._closers.clear()
        self.forget()
