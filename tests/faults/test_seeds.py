"""A port that does random things while the simulated kernel misbehaves, against a small model.

What must hold whatever goes wrong: every operation is handed out exactly once, with a result, an
error or cancelled; streams deliver what was sent, in order; posts come in order; in the end nothing
is in flight. A failing seed is named by its test and repeats the run.
"""

from __future__ import annotations

import errno
import random
from collections import deque

import iocpcore
import pytest
from support import child, sim

SEEDS = 25
STEPS = 3000


class Stream:
    """One direction of a connected pair: what was sent, and what came out."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.sent: list[tuple[bytes, iocpcore.Operation]] = []
        self.received = bytearray()

    def check(self) -> None:
        """The received bytes are the sends in order; of one that failed, some beginning."""
        text = bytes(self.received)
        places = {0}
        for data, op in self.sent:
            following = set()
            for place in places:
                rest = text[place : place + len(data)]
                same = next((i for i, byte in enumerate(rest) if byte != data[i]), len(rest))
                if place + same == len(text):
                    return
                if op.done and op.error is None:
                    if same == len(data):
                        following.add(place + same)
                else:
                    following.update(range(place, place + same + 1))
            places = following
        assert len(text) in places, f"{len(text)} bytes that nobody sent so"


class Chaos:
    def __init__(self, seed: int, *, faults: bool = True) -> None:
        self.random = random.Random(seed)
        self.port = iocpcore.CompletionPort(backend="sim")
        sim.configure(self.port, seed=seed, faults=faults)
        self.in_flight: dict[int, iocpcore.Operation] = {}
        self.stream_of: dict[int, Stream] = {}
        self.streams: list[Stream] = []
        self.handles: list[int] = []
        for _ in range(4):
            self.add_pair()
        self.listener, self.address = sim.listener(self.port)
        self.datagram, self.datagram_address = sim.datagram(self.port)
        self.file = sim.file(self.port, bytes(5000))
        self.posted = 0
        self.posts_seen = 0
        self.submitted = 0
        self.ended = 0

    def add_pair(self) -> None:
        one, other = sim.pair(self.port)
        self.handles += [one, other]
        self.streams += [Stream(one, other), Stream(other, one)]

    def keep(self, op: iocpcore.Operation) -> iocpcore.Operation:
        assert not op.done or op.kind == "post"
        self.in_flight[id(op)] = op
        self.submitted += 1
        return op

    def submit(self) -> None:
        port, choose = self.port, self.random
        handle = choose.choice(self.handles)
        kind = choose.randrange(14)
        if kind < 3:
            op = self.keep(port.recv(handle, choose.randrange(1, 2000)))
            self.stream_of[id(op)] = next(s for s in self.streams if s.target == handle)
        elif kind < 6:
            data = choose.randbytes(choose.randrange(1, 2000))
            stream = next(s for s in self.streams if s.source == handle)
            parts: object = data
            if choose.random() < 0.3:
                cut = choose.randrange(len(data))
                parts = [data[:cut], bytearray(data[cut:])]
            stream.sent.append((data, self.keep(port.send(handle, parts))))
        elif kind == 6:
            self.keep(port.recv_into(self.datagram, bytearray(10)))  # not a stream: it fails
        elif kind == 7:
            self.keep(port.poll(handle, choose.choice([1, 2, 3])))
        elif kind == 8:
            self.keep(port.accept(self.listener))
        elif kind == 9:
            self.keep(port.connect(sim.socket(port), self.address))
        elif kind == 10:
            self.keep(port.timer(choose.random() / 50))
        elif kind == 11:
            self.keep(
                choose.choice(
                    [
                        lambda: port.send_to(self.datagram, b"datagram", self.datagram_address),
                        lambda: port.recv_from(self.datagram, 100),
                    ]
                )()
            )
        elif kind == 12:
            offset = choose.randrange(6000)
            self.keep(
                choose.choice(
                    [
                        lambda: port.read(self.file, 700, offset),
                        lambda: port.read_into(self.file, bytearray(70), offset),
                        lambda: port.write(self.file, bytes(70), offset),
                        lambda: port.sync(self.file),
                    ]
                )()
            )
        else:
            port.post(self.posted)
            self.posted += 1
            self.submitted += 1

    def take(self, op: iocpcore.Operation) -> None:
        assert op.done
        self.ended += 1
        if op.kind == "post":
            assert op.result() == self.posts_seen
            self.posts_seen += 1
            return
        assert self.in_flight.pop(id(op)) is op, "handed out twice"
        if op.error is not None:
            assert op.cancelled == (op.error.errno == errno.ECANCELED)
            with pytest.raises(type(op.error)):
                op.result()
            return
        result = op.result()
        if op.kind == "recv":
            self.stream_of.pop(id(op)).received += result
        elif op.kind == "poll":
            assert result in (1, 2, 3)
        elif op.kind in ("connect", "timer", "sync"):
            assert result is None
        elif op.kind == "accept":
            handle, address = result
            assert address[0] == "127.0.0.1"
            sim.close(self.port, handle)

    def step(self) -> None:
        what = self.random.randrange(10)
        if what < 5 and len(self.in_flight) < 300:
            self.submit()
        elif what < 6 and self.in_flight:
            op = self.random.choice(list(self.in_flight.values()))
            op.cancel()
        elif what < 8:
            for op in self.port.get_many(self.random.randrange(1, 20), 0.001):
                self.take(op)
        else:
            op = self.port.get(0)
            if op is not None:
                self.take(op)

    def check(self) -> None:
        assert self.port.in_flight == self.submitted - self.ended
        for stream in self.streams:
            stream.check()

    def end_by_cancelling(self) -> None:
        for op in list(self.in_flight.values()):
            op.cancel()
        waited = 0
        while self.in_flight or self.posts_seen < self.posted:
            for op in self.port.get_many(64, 1):
                self.take(op)
            waited += 1
            assert waited < 10000, f"never ended: {list(self.in_flight.values())}"
        self.check()
        assert sim.stats(self.port)["in_flight"] == 0

    def close(self) -> None:
        left = list(self.in_flight.values())
        self.port.close()
        for op in left:
            assert op.done
        self.in_flight.clear()
        self.stream_of.clear()
        for stream in self.streams:
            stream.check()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_everything_ends_once(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(STEPS):
        chaos.step()
    chaos.check()
    if seed % 2:
        chaos.end_by_cancelling()
    chaos.close()


def test_without_faults() -> None:
    chaos = Chaos(0, faults=False)
    for _ in range(STEPS):
        chaos.step()
    chaos.end_by_cancelling()
    assert not any(
        sim.stats(chaos.port)[name] for name in ("errors", "refusals", "retries", "at_once")
    )
    chaos.close()


def test_a_seed_repeats_its_run() -> None:
    def run() -> list[tuple[str, object]]:
        chaos = Chaos(11)
        seen: deque[tuple[str, object]] = deque()
        for _ in range(1000):
            before = len(chaos.in_flight), chaos.ended
            chaos.step()
            seen.append((str(before), str(sim.stats(chaos.port))))
        chaos.close()
        return list(seen)

    assert run() == run()


STUCK = """
import warnings
import iocpcore
from support import sim

port = iocpcore.CompletionPort()
one, _ = sim.pair(port)
sim.configure(port, stuck=True)
op = port.recv(one, 10)
assert op.cancel()
assert port.get(1) is None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    port.close(timeout=0.05)
assert [w.category for w in caught] == [ResourceWarning], caught
assert op.done and op.cancelled
print(caught[0].message)
"""


def test_a_stuck_operation_is_leaked() -> None:
    """On purpose, with a warning; in a process of its own, which ends well all the same."""
    done = child.run(STUCK, "sim")
    assert done.returncode == 0, done.stderr
    assert "1" in done.stdout


def test_faults_need_a_simulated_port() -> None:
    real = next(name for name, why in iocpcore.backends().items() if why is None and name != "sim")
    with iocpcore.CompletionPort(backend=real) as port:
        for function in (sim.pair, sim.listener, sim.configure):
            with pytest.raises(ValueError, match="port"):
                function(port)
    with pytest.raises(ValueError, match="closed"):
        sim.pair(port)
    with pytest.raises(TypeError, match="port"):
        sim.pair(3)
    with iocpcore.CompletionPort(backend="sim") as port, pytest.raises(OSError, match="sim"):
        sim.close(port, 77)
