"""The example in README.md does what it says."""

from __future__ import annotations

import re
import socket
import threading
import time
from pathlib import Path

import pytest
from support import child
from support.system import LIMIT

README = Path(__file__).resolve().parents[1] / "README.md"
SIZE = 8 << 20

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not README.exists(), reason="only the package is here, without its README"),
]


def examples(port_number: int) -> list[str]:
    """The server, its client, and the port."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 3
    assert [block.count("9000") for block in blocks] == [1, 1, 1]
    return [block.replace("9000", str(port_number)) for block in blocks]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def connect(port_number: int) -> socket.socket:
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port_number), timeout=LIMIT)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.01)


def test_the_server_and_its_client(backend):
    port_number = free_port()
    server, client, _ = examples(port_number)
    with child.start("-c", server, IOCPCORE_BACKEND=backend) as process:
        try:
            connect(port_number).close()
            child.check(client, backend, output="b'HELLO'")
        finally:
            process.kill()


def test_the_port_echoes_everything(backend):
    """Also what it has received when the client says that nothing more will come."""
    data = bytes(range(256)) * (SIZE // 256)
    port_number = free_port()
    with child.start("-c", examples(port_number)[2], IOCPCORE_BACKEND=backend) as process:
        try:
            with connect(port_number) as sock:

                def send() -> None:
                    sock.sendall(data)
                    sock.shutdown(socket.SHUT_WR)

                sender = threading.Thread(target=send)
                sender.start()
                received = bytearray()
                while part := sock.recv(1 << 16):
                    received += part
                sender.join(LIMIT)
            assert len(received) == SIZE
            assert received == data
            with connect(port_number) as sock:  # and the next one
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
        finally:
            process.kill()
