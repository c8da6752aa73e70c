"""A model of one port, driven by hypothesis: what it finds it also shrinks.

The model knows of each operation only whether it was handed out, and of one stream its bytes.
"""

from __future__ import annotations

import iocpcore
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import sim


class PortModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.port = iocpcore.CompletionPort(backend="sim")
        self.source, self.target = sim.pair(self.port)
        self.listener, self.address = sim.listener(self.port)
        self.waiting: dict[int, iocpcore.Operation] = {}
        self.sends: list[tuple[bytes, iocpcore.Operation]] = []
        self.received = b""
        self.posts: list[int] = []
        self.next_post = 0

    @initialize(seed=st.integers(0, 2**32), faults=st.booleans())
    def configure(self, seed: int, faults: bool) -> None:
        sim.configure(self.port, seed=seed, faults=faults)

    def submitted(self, op: iocpcore.Operation) -> None:
        assert not op.done
        assert not op.cancelled
        self.waiting[id(op)] = op

    @rule(data=st.binary(min_size=1, max_size=300))
    def send(self, data: bytes) -> None:
        self.sends.append((data, self.port.send(self.source, data)))
        self.submitted(self.sends[-1][1])

    @rule(nbytes=st.integers(1, 500))
    def recv(self, nbytes: int) -> None:
        self.submitted(self.port.recv(self.target, nbytes))

    @rule(size=st.integers(1, 500))
    def recv_from_listener(self, size: int) -> None:
        self.submitted(self.port.recv(self.listener, size))

    @rule()
    def accept(self) -> None:
        self.submitted(self.port.accept(self.listener))

    @rule()
    def connect(self) -> None:
        self.submitted(self.port.connect(sim.socket(self.port), self.address))

    @rule(events=st.sampled_from([1, 2, 3]))
    def poll(self, events: int) -> None:
        self.submitted(self.port.poll(self.target, events))

    @rule(seconds=st.floats(0, 2))
    def timer(self, seconds: float) -> None:
        self.submitted(self.port.timer(seconds))

    @rule()
    def post(self) -> None:
        self.port.post(self.next_post)
        self.posts.append(self.next_post)
        self.next_post += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        op = data.draw(st.sampled_from(list(self.waiting.values())))
        op.cancel()
        assert not op.done  # only handing it out makes it done

    @rule(maximum=st.integers(1, 8), timeout=st.sampled_from([0, 0.001, 1]))
    def get_many(self, maximum: int, timeout: float) -> None:
        taken = self.port.get_many(maximum, timeout)
        assert len(taken) <= maximum
        for op in taken:
            self.take(op)

    def take(self, op: iocpcore.Operation) -> None:
        assert op.done
        if op.kind == "post":
            assert op.result() == self.posts.pop(0)
            return
        assert self.waiting.pop(id(op)) is op
        if op.error is not None:
            return
        if op.kind == "recv":
            self.received += op.result()
        elif op.kind == "accept":
            sim.close(self.port, op.result()[0])

    @invariant()
    def counts_agree(self) -> None:
        assert self.port.in_flight == len(self.waiting) + len(self.posts)

    @invariant()
    def bytes_are_in_order(self) -> None:
        """Exactly what was sent, unless a send may have stopped half way."""
        if all(not op.done or op.error is None for _, op in self.sends):
            assert b"".join(data for data, _ in self.sends).startswith(self.received)

    def teardown(self) -> None:
        left = list(self.waiting.values())
        self.port.close()
        assert all(op.done for op in left)


PortModel.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestPortModel = PortModel.TestCase
