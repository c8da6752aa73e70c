"""Files that are sent: what cannot be is told at once, and nothing else is hurt."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import iocpcore
import pytest
from support import certificates
from support.events import Events
from support.system import WINDOWS, descriptors, wait_until

ASKED = 1000

pytestmark = pytest.mark.system


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def ends(request, make_server, dial) -> tuple[Any, Events]:
    """A server's connection, and what its peer is sent."""
    received, connected = Events(), Events()
    server = make_server(
        on_connect=connected.add,
        ssl=certificates.server_context() if request.param else None,
    )
    options: dict[str, Any] = {"on_data": lambda conn, data: received.add(data)}
    if request.param:
        options.update(ssl=certificates.client_context(), server_hostname="localhost")
    dial(server, **options)
    return connected.wait()[0], received


class Unsendable:
    """Makes what is no file to send; it is closed afterwards."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.path = folder / "file"
        self.path.write_bytes(b"content")
        self._stack = stack

    def _descriptor(self, path: Path, flags: int) -> int:
        number = os.open(path, flags)
        self._stack.callback(os.close, number)
        return number

    def directory(self) -> Any:
        if WINDOWS:
            import _winapi

            backup_semantics = 0x02000000  # what opens a directory
            handle = _winapi.CreateFile(
                str(self.path.parent),
                _winapi.GENERIC_READ,
                0,
                _winapi.NULL,
                _winapi.OPEN_EXISTING,
                backup_semantics,
                _winapi.NULL,
            )
            self._stack.callback(_winapi.CloseHandle, handle)
            return handle
        return self._descriptor(self.path.parent, os.O_RDONLY)

    def pipe(self) -> Any:
        ends = os.pipe()
        for number in ends:
            self._stack.callback(os.close, number)
        return self._stack.enter_context(os.fdopen(os.dup(ends[0]), "rb"))

    def write_only(self) -> Any:
        return self._stack.enter_context(open(self.path, "ab"))

    def sock(self) -> Any:
        return self._stack.enter_context(socket.socket())

    def path_only(self) -> Any:
        return self._descriptor(self.path, os.O_PATH)

    def closed(self) -> Any:
        file = open(self.path, "rb")  # noqa: SIM115
        number = file.fileno()
        file.close()
        return number


@pytest.fixture
def unsendable(tmp_path: Path, ends_at_zero: None) -> Iterator[Unsendable]:
    with ExitStack() as stack:
        yield Unsendable(tmp_path, stack)


@pytest.mark.parametrize("offset", [7, 8, 1 << 40, 1 << 62, (1 << 63) - 1])
def test_behind_the_end(ends, tmp_path, offset):
    """There is nothing, wherever that is."""
    conn, received = ends
    path = tmp_path / "file"
    path.write_bytes(b"content")
    conn.send(b"before ")
    with open(path, "rb") as file:
        conn.send_file(file, offset)
    conn.send(b"after")
    wait_until(lambda: b"".join(received.items) == b"before after", "what was sent")


POSIX = pytest.mark.skipif(WINDOWS, reason="there is no such descriptor")


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("directory", errno.EISDIR),
        ("pipe", errno.ESPIPE),
        ("write_only", errno.EBADF),
        pytest.param("sock", errno.ESPIPE, marks=POSIX),
        pytest.param("path_only", errno.EBADF, marks=POSIX),
        pytest.param("closed", errno.EBADF, marks=POSIX),
    ],
)
@pytest.mark.parametrize("count", [None, 0, 5])
def test_it_is_told_at_once(ends, unsendable, kind, number, count):
    conn, received = ends
    file = getattr(unsendable, kind)()
    assert conn.send(b"before ")
    with pytest.raises(OSError, match="send_file") as caught:
        conn.send_file(file, 0, count)
    assert caught.value.errno == number
    assert caught.value.filename == getattr(file, "name", file)
    assert isinstance(caught.value, IsADirectoryError) == (kind == "directory")
    with open(unsendable.path, "rb") as good:
        assert conn.send_file(good)
    assert conn.send(b" after")
    wait_until(lambda: b"".join(received.items) == b"before content after", "all of it")


@pytest.mark.found_in_use
@pytest.mark.system
def test_files_that_nobody_reads(make_server, plain):
    """Each that waits holds a descriptor: so few wait, and the peer's other requests do, too."""
    asked = []
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 26)

        def on_message(conn, message):
            asked.append(message)
            conn.send_file(file)

        server = make_server(on_message=on_message, framing=iocpcore.FixedSize(1))
        before = len(descriptors())
        sock = plain(server)
        sock.sendall(bytes(ASKED))
        while not asked:
            assert sock.recv(1 << 16)
        sock.recv(1 << 16)
        assert 1 <= len(asked) < 50
        assert len(descriptors()) - before < 60
        (conn,) = server.connections
        conn.abort()
