"""send_file: a file, or a part of one, onto a stream."""

from __future__ import annotations

import random

import pytest
from support.system import scaled

DATA = random.Random(2).randbytes(100_000)


def test_whole(port, net):
    a, peer = net.pair()
    op = port.send_file(a, net.file(DATA))
    assert peer.recv(len(DATA)) == DATA
    assert net.result(op) == len(DATA)


def test_from_an_offset(port, net):
    a, peer = net.pair()
    op = port.send_file(a, net.file(DATA), 90_000)
    assert peer.recv(10_000) == DATA[90_000:]
    assert net.result(op) == 10_000


def test_a_part(port, net):
    a, peer = net.pair()
    op = port.send_file(a, net.file(DATA), offset=1000, count=5000)
    assert peer.recv(5000) == DATA[1000:6000]
    assert net.result(op) == 5000


def test_more_than_there_is(port, net):
    """The result tells how much went; what follows is not mixed up."""
    a, peer = net.pair()
    file = net.file(b"short")
    op = port.send_file(a, file, 0, 1000)
    after = port.send(a, b"!")
    assert peer.recv(6) == b"short!"
    assert net.result(op) == 5
    net.finish(after)


def test_nothing(port, net):
    a, peer = net.pair()
    file = net.file(b"data")
    assert net.result(port.send_file(a, file, 4)) == 0
    assert net.result(port.send_file(a, file, 100)) == 0
    assert net.result(port.send_file(a, file, 0, 0)) == 0
    assert net.result(port.send_file(a, net.file())) == 0
    assert net.result(port.send(a, b"x")) == 1
    assert peer.recv(1) == b"x"


def test_in_order_with_sends(port, net):
    a, peer = net.pair()
    file = net.file(DATA)
    ops = [
        port.send(a, b"head "),
        port.send_file(a, file, 0, 50_000),
        port.send(a, [b" middle", b" "]),
        port.send_file(a, file, 50_000),
        port.send(a, b" tail"),
    ]
    whole = b"head " + DATA[:50_000] + b" middle " + DATA[50_000:] + b" tail"
    assert peer.recv(len(whole)) == whole
    net.finish(*ops)
    assert [op.result() for op in ops] == [5, 50_000, 8, 50_000, 5]


@pytest.mark.system
def test_a_large_file(port, net):
    size = scaled(64 << 20)
    block = random.Random(3).randbytes(1 << 16)
    file = net.file()
    for _ in range(size >> 16):
        file.write(block)
    size = size >> 16 << 16
    a, peer = net.pair()
    op = port.send_file(a, file)
    for _ in range(size >> 16):
        assert peer.recv(1 << 16) == block
    assert net.result(op) == size


@pytest.mark.system
def test_beyond_4_gib(port, net):
    file = net.file()
    offset = (5 << 30) + 7
    file.seek(offset)
    file.write(b"at the end")
    a, peer = net.pair()
    op = port.send_file(a, file, offset - 3)
    assert peer.recv(13) == b"\0\0\0at the end"
    assert net.result(op) == 13
    # A count that no transfer could have, of a file that has less.
    op = port.send_file(a, file, offset, 1 << 40)
    assert peer.recv(10) == b"at the end"
    assert net.result(op) == 10


@pytest.mark.system
def test_a_reader_that_goes(port, net):
    a, peer = net.pair()
    file = net.file(bytes(1 << 24))
    op = port.send_file(a, file)
    peer.recv(1000)
    peer.reset()
    assert isinstance(net.error(op), ConnectionError)
    assert "send_file" in str(op.error)


def test_the_file_serves_others_meanwhile(port, net):
    file = net.file(DATA)
    pairs = [net.pair() for _ in range(5)]
    sends = [port.send_file(a, file, 1000 * n, 1000) for n, (a, _) in enumerate(pairs)]
    read = port.read(file, 10, 0)
    for number, (_, peer) in enumerate(pairs):
        assert peer.recv(1000) == DATA[1000 * number : 1000 * (number + 1)]
    net.finish(read, *sends)
    assert read.result() == DATA[:10]
