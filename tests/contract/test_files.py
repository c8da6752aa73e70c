"""Files: reads and writes at offsets."""

from __future__ import annotations

import os
import random

import pytest
from support.system import WINDOWS, scaled


def test_read(port, net):
    file = net.file(b"0123456789")
    assert net.result(port.read(file, 4, 3)) == b"3456"
    assert net.result(port.read(file, 100, 8)) == b"89"


def test_read_into(port, net):
    file = net.file(b"0123456789")
    buffer = bytearray(b"------")
    op = port.read_into(file, memoryview(buffer)[1:4], 5)
    with pytest.raises(BufferError):
        buffer.clear()
    assert net.result(op) == 3
    assert buffer == b"-567--"


def test_the_end_of_the_file(port, net):
    file = net.file(b"0123456789")
    assert net.result(port.read(file, 10, 10)) == b""
    assert net.result(port.read(file, 10, 1000)) == b""
    assert net.result(port.read_into(file, bytearray(5), 10)) == 0
    assert net.result(port.read(net.file(), 10, 0)) == b""


def test_write(port, net):
    file = net.file(b"0123456789")
    assert net.result(port.write(file, b"abc", 2)) == 3
    assert net.result(port.read(file, 100, 0)) == b"01abc56789"


def test_write_extends(port, net):
    file = net.file(b"01")
    assert net.result(port.write(file, b"23", 2)) == 2
    assert net.result(port.write(file, b"89", 8)) == 2
    assert net.result(port.read(file, 100, 0)) == b"0123\0\0\0\x0089"


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"--abc")[2:]])
def test_what_can_be_written(port, net, data):
    file = net.file()
    assert net.result(port.write(file, data, 0)) == 3
    assert net.result(port.read(file, 100, 0)) == b"abc"


def test_a_gathered_write(port, net):
    file = net.file()
    assert net.result(port.write(file, [b"ab", b"", bytearray(b"cde")], 1)) == 5
    assert net.result(port.read(file, 100, 0)) == b"\0abcde"


def test_an_empty_write(port, net):
    file = net.file(b"there")
    assert net.result(port.write(file, b"", 0)) == 0
    assert net.result(port.read(file, 100, 0)) == b"there"


def test_sync(port, net):
    file = net.file(b"x")
    net.finish(port.write(file, b"yz", 1))
    assert net.result(port.sync(file)) is None
    assert net.result(port.read(file, 10, 0)) == b"xyz"


def test_many_at_once(port, net):
    """They complete in any order, each with its own bytes."""
    count, size = scaled(400, 40), 1000
    blocks = [random.Random(number).randbytes(size) for number in range(count)]
    file = net.file()
    writes = [port.write(file, block, size * number) for number, block in enumerate(blocks)]
    net.finish(*writes)
    assert {op.result() for op in writes} == {size}
    reads = [port.read(file, size, size * number) for number in range(count)]
    buffers = [bytearray(size) for _ in range(count)]
    more = [port.read_into(file, buffer, size * n) for n, buffer in enumerate(buffers)]
    net.finish(*reads, *more)
    assert [op.result() for op in reads] == blocks
    assert [bytes(buffer) for buffer in buffers] == blocks


@pytest.mark.system
def test_beyond_4_gib(port, net):
    file = net.file()
    offset = (5 << 30) + 123
    assert net.result(port.write(file, b"far away", offset)) == 8
    assert os.fstat(file.fileno()).st_size == offset + 8
    assert net.result(port.read(file, 100, offset + 4)) == b"away"
    assert net.result(port.read(file, 4, offset - 4)) == bytes(4)
    assert net.result(port.read(file, 4, 1 << 40)) == b""


@pytest.mark.system
def test_a_large_read_and_write(port, net):
    data = random.Random(1).randbytes(scaled(16 << 20))
    file = net.file()
    assert net.result(port.write(file, data, 10)) == len(data)
    assert net.result(port.read(file, len(data), 10)) == data


@pytest.mark.system
@pytest.mark.parametrize("mode", ["rb", "r+b", "w+b"])
def test_any_file_object(port, net, tmp_path, mode):
    """Buffered ones too: what counts is the descriptor."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with open(path, mode) as file:
        expected = b"" if mode == "w+b" else b"content"
        assert net.result(port.read(file, 100, 0)) == expected


@pytest.mark.system
def test_the_position_of_the_file_stays(port, net):
    file = net.file(b"0123456789")
    if WINDOWS:
        pytest.skip("on Windows an overlapped read moves nothing, and a pool thread may")
    file.seek(3)
    net.finish(port.read(file, 4, 0), port.write(file, b"x", 9))
    assert file.tell() == 3


@pytest.mark.system
def test_a_file_that_may_not_be_written(port, net, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with open(path, "rb") as file:
        error = net.error(port.write(file, b"x", 0))
        assert isinstance(error, OSError)
        assert "write" in str(error)
        assert net.result(port.read(file, 7, 0)) == b"content"


@pytest.mark.system
def test_a_file_that_may_not_be_read(port, net, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        error = net.error(port.read(file, 10, 0))
        assert isinstance(error, OSError)
        assert "read" in str(error)


@pytest.mark.system
def test_two_files_and_a_socket(port, net):
    """What a file does has no part in the order of a socket."""
    one, two = net.file(b"one"), net.file(b"two")
    a, peer = net.pair()
    receive = port.recv(a, 10)
    assert net.result(port.read(one, 10, 0)) == b"one"
    assert net.result(port.read(two, 10, 0)) == b"two"
    peer.send(b"x")
    assert net.result(receive) == b"x"
