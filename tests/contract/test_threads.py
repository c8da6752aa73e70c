"""Every method from several threads at once, for as long as a test may last."""

from __future__ import annotations

import random
import threading

import pytest
from support.net import tcp_pair
from support.system import LIMIT, POLLIN, POLLOUT, scaled

pytestmark = [pytest.mark.system, pytest.mark.stress]


class Team:
    """Threads whose exceptions are those of the test."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, function, *args) -> None:
        def work() -> None:
            try:
                function(*args)
            except BaseException as error:
                self.errors.append(error)

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(LIMIT)
        assert not any(thread.is_alive() for thread in self.threads), "a thread hangs"
        errors, self.errors = self.errors, []
        if errors:
            raise errors[0]


class Taker:
    """Takes completions until it has seen the end, and counts each."""

    def __init__(self, port) -> None:
        self.port = port
        self.lock = threading.Lock()
        self.counts: dict[int, int] = {}
        self.ops = []

    def take(self) -> None:
        while True:
            ops = self.port.get_many(16, LIMIT)
            assert ops, "nothing came any more"
            ends = sum(op.kind == "post" and op.result() == "end" for op in ops)
            with self.lock:
                self.ops += ops
                for op in ops:
                    self.counts[id(op)] = self.counts.get(id(op), 0) + 1
            if ends:
                for _ in range(ends - 1):
                    self.port.post("end")
                return

    def end(self, getters: int) -> None:
        for _ in range(getters):
            self.port.post("end")

    def check(self, ops) -> None:
        assert set(self.counts.values()) <= {1}
        for op in ops:
            assert op.done, op
            assert self.counts.get(id(op)) == 1, op


def test_hammer(port):
    """Submit, cancel, get, close handles, ask for figures: four threads submit, three take."""
    taker = Taker(port)
    team, getters = Team(), Team()
    ops = []

    def submit(seed: int) -> None:
        source = random.Random(seed)
        mine = []
        pairs = []
        for _ in range(scaled(400, 30)):
            if not pairs or source.random() < 0.05:
                pairs.append(tcp_pair())
            a, b = source.choice(pairs)
            what = source.randrange(9)
            if what == 0:
                mine.append(port.recv(a, 10))
            elif what == 1:
                mine.append(port.recv_into(b, bytearray(10)))
            elif what == 2:
                mine.append(port.send(a, b"x" * source.randrange(100)))
            elif what == 3:
                mine.append(port.send(b, [b"y", b"z"]))
            elif what == 4:
                mine.append(port.timer(source.random() * 0.01))
            elif what == 5:
                port.post(seed, seed)
            elif what == 6:
                mine.append(port.poll(a, source.choice([POLLIN, POLLOUT])))
            elif what == 7:
                port.stats()
            elif mine:
                source.choice(mine).cancel()
            if source.random() < 0.02:
                for sock in pairs.pop(source.randrange(len(pairs))):
                    port.close_handle(sock)
        for pair in pairs:
            for sock in pair:
                port.close_handle(sock)
        ops.extend(mine)

    for _ in range(3):
        getters.start(taker.take)
    for seed in range(4):
        team.start(submit, seed)
    team.join()
    taker.end(3)
    getters.join()
    # What completed after the getters had their end.
    while port.in_flight:
        op = port.get(LIMIT)
        assert op
        taker.ops.append(op)
        taker.counts[id(op)] = taker.counts.get(id(op), 0) + 1
    taker.check(ops)


def test_several_threads_on_one_socket(port, net):
    """Receives of four threads, sends of four others: every byte once."""
    a, b = map(net.keep, tcp_pair())
    rounds = scaled(200, 20)
    taker = Taker(port)
    team, getters = Team(), Team()
    receives, sends = [], []
    for _ in range(2):
        getters.start(taker.take)
    for _ in range(4):
        team.start(lambda: receives.extend([port.recv(a, 1) for _ in range(rounds)]))
        team.start(lambda: sends.extend([port.send(b, b"x") for _ in range(rounds)]))
    team.join()
    while not all(op.done for op in [*receives, *sends]):
        threading.Event().wait(0.001)
    taker.end(2)
    getters.join()
    assert b"".join(op.result() for op in receives) == b"x" * (4 * rounds)
    taker.check([*receives, *sends])


def test_cancel_against_close_handle(port):
    for _ in range(scaled(100, 10)):
        a, b = tcp_pair()
        ops = [port.recv(a, 10) for _ in range(4)]
        team = Team()
        team.start(lambda ops=ops: [op.cancel() for op in ops])
        team.start(port.close_handle, a)
        team.start(b.close)
        taken = []
        while len(taken) < 4:
            got = port.get_many(4, LIMIT)
            assert got
            taken += got
        team.join()
        assert {id(op) for op in taken} == {id(op) for op in ops}
    assert port.in_flight == 0


def test_ports_of_their_own(backend, make_port):
    """Each thread opens, uses and closes ports."""
    import iocpcore

    def use() -> None:
        for _ in range(scaled(20, 3)):
            with iocpcore.CompletionPort(backend=backend) as port:
                a, b = tcp_pair()
                op = port.recv(a, 10)
                port.send(b, b"x")
                while not op.done:
                    assert port.get(LIMIT)
                port.recv(a, 10)
                a.close()
                b.close()

    team = Team()
    for _ in range(4):
        team.start(use)
    team.join()


def test_close_against_everything(make_port):
    """The port goes away under threads that submit, cancel and wait."""
    for round_ in range(scaled(20, 3)):
        port = make_port()
        team = Team()
        ready = threading.Semaphore(0)

        def use(seed: int, port=port, ready=ready) -> None:
            source = random.Random(seed)
            a, b = tcp_pair()
            ops = []
            ready.release()
            try:
                while True:
                    ops.append(port.recv(a, 10))
                    ops.append(port.timer(source.random()))
                    port.send(b, b"x")
                    source.choice(ops).cancel()
                    port.get(0.001)
            except ValueError as error:
                assert str(error) == "port is closed"  # noqa: PT017
            a.close()
            b.close()

        for seed in range(3):
            team.start(use, round_ * 10 + seed)
        for _ in range(3):
            assert ready.acquire(timeout=LIMIT)
        threading.Event().wait(0.01)
        port.close()
        team.join()


def test_one_operation_asked_by_many(port, net):
    """Reading and setting attributes of an operation while it ends."""
    for _ in range(scaled(50, 5)):
        a, peer = net.pair()
        op = port.recv(a, 10)
        begun = threading.Barrier(4)

        def ask(op=op, begun=begun) -> None:
            begun.wait(LIMIT)
            for _ in range(100):
                if op.done:
                    assert op.result() == b"x"
                    assert op.error is None
                assert op.cancelled is False
                assert op.kind == "recv"
                repr(op)

        team = Team()
        for _ in range(3):
            team.start(ask)
        begun.wait(LIMIT)
        peer.send(b"x")
        net.finish(op)
        team.join()
