"""A peer that has ended its stream and does not read: what waits for room waits, and costs nothing.
The kernel tells of such an end again and again to whoever asks in the wrong way."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from selectors import EVENT_READ, EVENT_WRITE

import pytest
from support.net import SystemPeer, tcp_pair
from support.system import LINUX, scaled

pytestmark = pytest.mark.found_in_use

DATA = b"." * 500_000
BUFFER = 1 << 16  # of a fixed size: else the system enlarges it as it sees fit
QUIET_SECONDS = 1.0
FULL_ROUNDS = 3


def kernel_workers() -> set[str]:
    """Threads on which the kernel finishes what blocks. It keeps one of them for the next time."""
    found = set()
    for task in os.listdir("/proc/self/task") if LINUX else []:
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                if file.read().startswith("iou-wrk"):
                    found.add(task)
        except OSError:
            continue  # it has ended
    return found


def half_closed(net, count):
    """So many sockets that take nothing more, their peers, and how much is in between. The peers
    have ended their streams."""
    socks, peers = [], []
    for _ in range(count):
        sock, other = tcp_pair()
        socks.append(net.keep(sock))
        peers.append(SystemPeer(net, net.keep(other)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        sock.setblocking(False)
        peers[-1].end()
    sent = [0] * count
    full = 0
    while full < FULL_ROUNDS:  # what is on its way makes room once more
        before = sum(sent)
        for number, sock in enumerate(socks):
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent[number] += sock.send(bytes(1 << 16))
        full = full + 1 if sum(sent) == before else 0
        time.sleep(0.1)
    return list(zip(socks, peers, sent, strict=True))


@pytest.mark.system
def test_a_poll_for_room(port, net):
    """It waits for room, and not for the end of the stream."""
    [(sock, peer, sent)] = half_closed(net, 1)
    room = port.poll(sock, EVENT_WRITE)
    net.pump(0.2)
    assert not room.done
    assert len(peer.recv(sent)) == sent
    assert net.result(room) == EVENT_WRITE


@pytest.mark.system
def test_polls_for_the_end(port, net):
    """They report what was asked for: that there is something to read, and no room. (Nothing is
    read here, as Wine does not deliver the rest behind a poll or select() that has told an end.)"""
    [(sock, _, _)] = half_closed(net, 1)
    room = port.poll(sock, EVENT_WRITE)
    assert net.result(port.poll(sock, EVENT_READ)) == EVENT_READ
    assert net.result(port.poll(sock, EVENT_READ | EVENT_WRITE)) == EVENT_READ
    net.pump(0.2)
    assert not room.done
    room.cancel()
    net.finish(room)
    assert room.cancelled


@pytest.mark.system
@pytest.mark.parametrize("kind", ["send", "send_file"])
def test_what_is_sent_arrives(port, net, kind):
    [(sock, peer, sent)] = half_closed(net, 1)
    op = port.send(sock, DATA) if kind == "send" else port.send_file(sock, net.file(DATA))
    net.pump(0.2)
    assert not op.done
    assert len(peer.recv(sent)) == sent
    assert peer.recv(len(DATA)) == DATA
    assert net.result(op) == len(DATA)


@pytest.mark.system
@pytest.mark.stress
def test_many(port, net):
    """Sends, files and polls; whoever waits for them sleeps, in no thread of the kernel's either.
    When the peers read, everything arrives."""
    workers = kernel_workers()
    file = net.file(DATA)
    held = half_closed(net, scaled(1000, 30))
    sends, polls = [], []
    for number, (sock, _, _) in enumerate(held):
        polls.append(port.poll(sock, EVENT_WRITE))
        sends.append(port.send_file(sock, file) if number % 3 == 0 else port.send(sock, DATA))
    net.pump(0.2)
    before, asked = time.process_time(), port.stats()["waits"]
    deadline = time.monotonic() + QUIET_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        net.pump(left)
    # A busy loop takes all of the second, and asks hundreds of thousands of times.
    assert time.process_time() - before < QUIET_SECONDS / 2
    assert port.stats()["waits"] - asked < 10_000
    assert kernel_workers() <= workers
    assert not any(op.done for op in sends)
    for _, peer, sent in held:
        assert len(peer.recv(sent)) == sent
        assert peer.recv(len(DATA)) == DATA
    net.finish(*sends, *polls)
    assert {op.result() for op in sends} == {len(DATA)}
    assert {op.result() for op in polls} == {EVENT_WRITE}


@pytest.mark.system
def test_a_pipe_that_is_full(port, net):
    """It, too, is polled for room, and for no more."""
    if not LINUX:
        pytest.skip("pipes are polled on Linux only")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    written = 0
    try:
        while True:
            written += os.write(writer, bytes(4096))
    except BlockingIOError:
        pass
    room = port.poll(writer, EVENT_WRITE)
    net.pump(0.1)
    assert not room.done
    while written:
        written -= len(os.read(reader, written))
    assert net.result(room) == EVENT_WRITE
    port.dissociate(writer)
    os.close(writer)
    os.close(reader)
