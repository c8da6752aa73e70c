"""Receiving and sending on streams: buffers, order, large amounts, the end, resets."""

from __future__ import annotations

import array
import errno
import socket
import threading

import pytest
from support.net import SystemPeer, tcp_pair
from support.system import LIMIT, scaled, wait_until


def test_at_most_nbytes(port, net):
    a, peer = net.pair()
    peer.send(b"0123456789")
    assert net.result(port.recv(a, 4)) == b"0123"
    assert net.result(port.recv(a, 100)) == b"456789"


def test_recv_into(port, net):
    a, peer = net.pair()
    buffer = bytearray(b"----------")
    op = port.recv_into(a, memoryview(buffer)[2:8])
    peer.send(b"abc")
    assert net.result(op) == 3
    assert buffer == b"--abc-----"


def test_recv_into_an_array(port, net):
    a, peer = net.pair()
    numbers = array.array("i", [0, 0])
    op = port.recv_into(a, numbers)
    peer.send(array.array("i", [7, -8]).tobytes())
    assert net.result(op) == 8
    assert numbers.tolist() == [7, -8]


def test_a_buffer_is_exported_until_the_operation_is_done(port, net):
    """The kernel writes into it: it must not move."""
    a, peer = net.pair()
    buffer = bytearray(10)
    op = port.recv_into(a, buffer)
    with pytest.raises(BufferError):
        buffer.extend(b"more")
    peer.send(b"x")
    net.finish(op)
    buffer.extend(b"more")
    source = bytearray(b"to be sent")
    send = port.send(a, source)
    with pytest.raises(BufferError):
        source.clear()
    net.finish(send)
    source.clear()
    pieces = [bytearray(b"one"), bytearray(b"two")]
    gather = port.send(a, pieces)
    with pytest.raises(BufferError):
        pieces[1].clear()
    net.finish(gather)
    pieces[1].clear()
    assert peer.recv(16) == b"to be sentonetwo"


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, lambda data: array.array("b", data)]
)
def test_what_can_be_sent(port, net, kind):
    a, peer = net.pair()
    assert net.result(port.send(a, kind(b"some bytes"))) == 10
    assert peer.recv(10) == b"some bytes"


def test_a_gathered_send(port, net):
    a, peer = net.pair()
    parts = [b"one ", bytearray(b"two "), b"", memoryview(b"-three-")[1:6], b" four"]
    whole = b"one two three four"
    assert net.result(port.send(a, parts)) == len(whole)
    assert net.result(port.send(a, tuple(parts))) == len(whole)
    assert peer.recv(2 * len(whole)) == whole * 2


def test_a_gathered_send_of_many_parts(port, net):
    """More than a kernel takes in one call."""
    a, peer = net.pair()
    parts = [b"%07d " % number for number in range(3000)]
    op = port.send(a, parts)
    assert peer.recv(24000) == b"".join(parts)
    assert net.result(op) == 24000


def test_an_empty_send(port, net):
    a, peer = net.pair()
    assert net.result(port.send(a, b"")) == 0
    assert net.result(port.send(a, [])) == 0
    assert net.result(port.send(a, [b"", b""])) == 0
    assert net.result(port.send(a, b"x")) == 1
    assert peer.recv(1) == b"x"


def test_receives_complete_in_order(port, net):
    a, peer = net.pair()
    ops = [port.recv(a, 3) for _ in range(10)]
    peer.send(b"aaabbbcccdddeeefffggghhhiiijjj")
    net.finish(*ops)
    assert b"".join(op.result() for op in ops) == b"aaabbbcccdddeeefffggghhhiiijjj"
    assert ops[0].result() == b"aaa"


def test_receives_are_handed_out_in_order(port, net):
    a, peer = net.pair()
    ops = [port.recv(a, 1) for _ in range(50)]
    peer.send(bytes(range(50)))
    taken = net.take(50)
    assert taken == ops
    assert [op.result()[0] for op in taken] == list(range(50))


def test_sends_complete_in_order(port, net):
    a, peer = net.pair()
    ops = [port.send(a, b"%04d" % number) for number in range(500)]
    assert peer.recv(2000) == b"".join(b"%04d" % number for number in range(500))
    net.finish(*ops)
    assert [op.result() for op in ops] == [4] * 500


def test_both_directions_at_once(port, net):
    """A receive that waits does not hold up sends."""
    a, peer = net.pair()
    receive = port.recv(a, 10)
    for _ in range(20):
        assert net.result(port.send(a, b"ping")) == 4
        assert peer.recv(4) == b"ping"
    assert not receive.done
    peer.send(b"pong")
    assert net.result(receive) == b"pong"


@pytest.mark.system
def test_a_large_send_to_a_slow_reader(port, net):
    """64 MiB through a small window: all of it, in order, one completion."""
    count = scaled(1 << 24)
    data = array.array("I", range(count)).tobytes()
    a, peer = net.pair()
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    op = port.send(a, data)
    after = port.send(a, b"the next one")
    received = bytearray()
    while len(received) < len(data):
        part = peer.recv_some(1 << 18)
        assert part
        received += part
        net.pump()
    assert received[: len(data)] == data
    assert net.result(op) == len(data)
    assert bytes(received[len(data) :]) + peer.recv(12 - len(received) + len(data)) == (
        b"the next one"
    )
    assert net.result(after) == 12


@pytest.mark.system
def test_a_large_receive(port, net):
    a, peer = net.pair()
    data = bytes(range(256)) * 4096 * 4
    buffer = bytearray(len(data))
    position = 0
    sender = threading.Thread(target=lambda: [peer.sock.setblocking(True), peer.sock.sendall(data)])
    sender.start()
    while position < len(data):
        count = net.result(port.recv_into(a, memoryview(buffer)[position:]))
        assert count
        position += count
    sender.join(LIMIT)
    assert buffer == data


@pytest.mark.system
@pytest.mark.stress
def test_concurrent_senders_interleave_whole(port, net):
    """Four threads send on one socket: no message is torn, each thread's are in its order."""
    a, peer = net.pair()
    rounds, size = scaled(60, 5), 50_000
    ops = []

    def send(name: int) -> None:
        for number in range(rounds):
            head = bytes([name]) + number.to_bytes(4, "big")
            ops.append(port.send(a, [head, bytes([name]) * size]))

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    expected = [0] * 4
    for _ in range(4 * rounds):
        message = peer.recv(size + 5)
        name, number = message[0], int.from_bytes(message[1:5], "big")
        assert number == expected[name]
        expected[name] += 1
        assert message.count(name, 5) == size
    for thread in threads:
        thread.join(LIMIT)
    net.finish(*ops)
    assert {op.result() for op in ops} == {size + 5}


def test_the_end_of_the_stream(port, net):
    a, peer = net.pair()
    peer.send(b"last words")
    peer.end()
    assert net.result(port.recv(a, 4)) == b"last"
    assert net.result(port.recv(a, 100)) == b" words"
    assert net.result(port.recv(a, 100)) == b""
    assert net.result(port.recv_into(a, bytearray(4))) == 0


def test_the_end_reaches_waiting_receives(port, net):
    a, peer = net.pair()
    ops = [port.recv(a, 10) for _ in range(3)]
    peer.end()
    assert [net.result(op) for op in ops] == [b"", b"", b""]


@pytest.mark.system
def test_half_closed(port, net):
    """After the peer's end its other direction is still there."""
    a, peer = net.pair()
    peer.end()
    assert net.result(port.recv(a, 10)) == b""
    assert net.result(port.send(a, b"answer")) == 6
    assert peer.recv(6) == b"answer"
    a.shutdown(socket.SHUT_WR)
    assert peer.recv(1) == b""


@pytest.mark.system
def test_a_reset(port, net):
    a, peer = net.pair()
    waiting = port.recv(a, 10)
    net.pump()
    peer.reset()
    error = net.error(waiting)
    assert type(error) is ConnectionResetError
    assert error.errno == errno.ECONNRESET
    assert "recv" in str(error)
    with pytest.raises(ConnectionResetError):
        waiting.result()
    assert not waiting.cancelled


@pytest.mark.system
def test_a_send_after_a_reset(port, net):
    a, peer = net.pair()
    peer.reset()
    errors = []
    for _ in range(100):
        op = port.send(a, b"x" * 1000)
        net.finish(op)
        if op.error is not None:
            errors.append(op.error)
            break
    assert errors
    assert isinstance(errors[0], (ConnectionResetError, BrokenPipeError, ConnectionAbortedError))


@pytest.mark.system
@pytest.mark.parametrize("ended", [False, True], ids=["open", "ended"])
@pytest.mark.parametrize("way", ["reset", "close"])
def test_a_blocked_send_ends_with_the_reset(port, net, way, ended):
    """Also if the peer's end has come before, and no receive can tell of the reset. To close with
    unread input is one, too."""
    a, peer = net.pair()
    net.fill(a)
    op = port.send(a, bytes(1 << 20))
    if ended:
        peer.end()
        assert net.result(port.recv(a, 10)) == b""
    net.pump()
    assert not op.done
    getattr(peer, way)()
    assert isinstance(net.error(op), ConnectionError)


@pytest.mark.system
def test_not_connected(port, net):
    sock = net.stream()
    error = net.error(port.send(sock, b"x"))
    assert isinstance(error, OSError)
    error = net.error(port.recv(sock, 1))
    assert isinstance(error, OSError)


@pytest.mark.system
def test_no_sigpipe_and_no_delay(port, net):
    """A send to a peer that has gone fails; it does not end the process."""
    a, peer = net.pair()
    peer.close()
    wait_until(lambda: net.error(port.send(a, b"x")) is not None, "an error of send")


@pytest.mark.system
def test_ipv6(port, net):
    try:
        a, b = tcp_pair("::1")
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    net.keep(a)
    peer = SystemPeer(net, net.keep(b))
    op = port.recv(a, 10)
    peer.send(b"six")
    assert net.result(op) == b"six"


@pytest.mark.system
def test_a_socketpair(port, net):
    a, b = map(net.keep, socket.socketpair())
    peer = SystemPeer(net, b)
    op = port.recv(a, 10)
    peer.send(b"pair")
    assert net.result(op) == b"pair"
    assert net.result(port.send(a, [b"p", b"q"])) == 2
    assert peer.recv(2) == b"pq"


def test_traffic_between_two_handles_of_one_port(port, net):
    a, peer = net.pair()
    b = peer.handle if net.simulated else peer.sock
    for number in range(50):
        receive = port.recv(b, 100)
        send = port.send(a, b"%d" % number)
        net.finish(receive, send)
        assert receive.result() == b"%d" % number
