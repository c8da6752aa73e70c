"""Posts, and the waking of those who wait."""

from __future__ import annotations

import threading

import pytest
from support.system import LIMIT, scaled, wait_until


def test_a_post(port):
    value, key = object(), object()
    assert port.post(value, key) is None
    assert port.in_flight == 1
    op = port.get(LIMIT)
    assert op.result() is value
    assert op.key is key
    assert (op.kind, op.handle, op.done, op.cancelled, op.error) == (
        "post",
        None,
        True,
        False,
        None,
    )
    assert port.in_flight == 0


def test_defaults_and_keywords(port):
    port.post()
    port.post(key=1)
    port.post(value=2)
    ops = [port.get(LIMIT) for _ in range(3)]
    assert [(op.result(), op.key) for op in ops] == [(None, None), (None, 1), (2, None)]


def test_in_order(port):
    for number in range(1000):
        port.post(number)
    got = []
    while len(got) < 1000:
        got += [op.result() for op in port.get_many(100, LIMIT)]
    assert got == list(range(1000))


def test_in_order_with_waits_between(port):
    for number in range(100):
        port.post(2 * number)
        port.post(2 * number + 1)
        assert port.get(LIMIT).result() == 2 * number
        assert port.get(LIMIT).result() == 2 * number + 1


@pytest.mark.system
def test_a_post_wakes_a_get(port):
    taken = []
    waits = port.stats()["waits"]
    waiter = threading.Thread(target=lambda: taken.append(port.get()))
    waiter.start()
    wait_until(lambda: port.stats()["waits"] > waits, "a wait")
    port.post("wake up")
    waiter.join(LIMIT)
    assert [op.result() for op in taken] == ["wake up"]


@pytest.mark.system
def test_each_post_wakes_one_of_many(port):
    """Eight threads wait, eight posts come, none sleeps on."""
    taken = []
    threads = [threading.Thread(target=lambda: taken.append(port.get(LIMIT))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(8):
        port.post(number)
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(op.result() for op in taken) == list(range(8))


@pytest.mark.system
def test_a_getter_that_takes_one_leaves_the_rest_to_others(port):
    """One wake may bring many completions: the next waiter must get its turn at once."""
    taken = []
    waits = port.stats()["waits"]
    threads = [threading.Thread(target=lambda: taken.append(port.get(LIMIT))) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: port.stats()["waits"] > waits, "a wait")
    for number in range(4):
        port.post(number)
    for thread in threads:
        thread.join(LIMIT)
    assert len(taken) == 4
    assert None not in taken


@pytest.mark.system
@pytest.mark.stress
def test_no_wake_is_lost(make_port):
    """Two threads answer each other: a single lost wake stops the game."""
    rounds = scaled(3000)
    ping, pong = make_port(), make_port()
    seen = []

    def answer() -> None:
        for _ in range(rounds):
            op = ping.get(LIMIT)
            if op is None:
                return
            seen.append(op.result())
            pong.post(op.result())

    thread = threading.Thread(target=answer)
    thread.start()
    for number in range(rounds):
        ping.post(number)
        op = pong.get(LIMIT)
        assert op is not None, f"a wake was lost in round {number}"
        assert op.result() == number
    thread.join(LIMIT)
    assert seen == list(range(rounds))


@pytest.mark.system
@pytest.mark.stress
def test_no_wake_is_lost_with_others_waiting(port):
    """The same on one port, among four threads that wait: posts of keys, answered by events."""
    rounds = scaled(1000)
    answered = threading.Semaphore(0)

    def answer() -> None:
        while (op := port.get(LIMIT)) is not None and op.result() is not None:
            answered.release()

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(rounds):
        port.post(number)
        if number % 3 == 0:
            port.post(number)
            assert answered.acquire(timeout=LIMIT), f"a wake was lost in round {number}"
        assert answered.acquire(timeout=LIMIT), f"a wake was lost in round {number}"
    for _ in threads:
        port.post(None)
    for thread in threads:
        thread.join(LIMIT)


@pytest.mark.system
def test_a_post_from_a_thread_that_is_gone(port):
    thread = threading.Thread(target=lambda: port.post("from beyond"))
    thread.start()
    thread.join(LIMIT)
    assert port.get(LIMIT).result() == "from beyond"


@pytest.mark.system
def test_socket_work_of_a_thread_that_is_gone(port, net):
    """The kernel may cancel what an ended thread has asked for: nobody notices."""
    a, peer = net.pair()
    listener, address = net.listener()
    ops = []
    thread = threading.Thread(
        target=lambda: ops.extend([port.recv(a, 10), port.accept(listener), port.timer(0.01)])
    )
    thread.start()
    thread.join(LIMIT)
    net.finish(ops[2])
    net.pump(0)
    peer.send(b"still there")
    net.dial(address)
    assert net.result(ops[0]) == b"still ther"
    net.taken(net.result(ops[1])[0])
    assert net.result(port.recv(a, 10)) == b"e"


@pytest.mark.system
def test_a_connect_of_a_thread_that_is_gone(port, net):
    address = net.silent_address()
    if address is None:
        pytest.skip("every address answers at once here")
    ops = []
    sock = net.stream()
    thread = threading.Thread(target=lambda: ops.append(port.connect(sock, address)))
    thread.start()
    thread.join(LIMIT)
    net.pump(0.05)
    assert not ops[0].done
    ops[0].cancel()
    net.finish(ops[0])
    assert ops[0].cancelled
