"""Waking another thread and being woken by it: a figure is that of both."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import iocpcore
import pytest

from benchmarks.inside.driving import BATCH, MESSAGE, Served, group, receive

pytestmark = group("waking")


class Echoing(Served):
    def on_data(self, conn: iocpcore.Connection, data: bytes) -> None:
        conn.send(data)


@contextmanager
def thread(target: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    running = threading.Thread(target=target)
    running.start()
    try:
        yield
    finally:
        end()
        running.join()


@pytest.fixture
def answers(backend: str) -> Iterator[iocpcore.CompletionPort]:
    """Where this thread waits for the other one."""
    with iocpcore.CompletionPort(1, backend=backend) as port:
        yield port


def test_queues_alone(measure):
    """What Python's own threads take: not a limit, but something to compare with."""
    questions: queue.SimpleQueue[object] = queue.SimpleQueue()
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()

    def answer():
        while questions.get() is not None:
            answers.put(True)

    def ask():
        for _ in range(BATCH):
            questions.put(True)
            answers.get()

    with thread(answer, lambda: questions.put(None)):
        measure(ask)


def test_post_to_a_thread_in_get(port, answers, measure):
    def answer():
        while port.get().result() is not None:
            answers.post()

    def ask():
        for _ in range(BATCH):
            port.post(True)
            answers.get()

    with thread(answer, port.post):
        measure(ask)


def test_post_to_a_thread_in_run(port, answers, measure):
    def answer(op: iocpcore.Operation) -> None:
        answers.post()

    def ask():
        for _ in range(BATCH):
            port.post(callback=answer)
            answers.get()

    with thread(port.run, port.stop):
        measure(ask)


def test_message_to_a_server(backend, measure):
    """A client that waits in recv(), and a worker that waits for it."""
    with Echoing(backend) as served:
        (peer,) = served.peers
        served.server.start()

        def ask():
            for _ in range(BATCH):
                peer.send(MESSAGE)
                receive(peer, 1)

        measure(ask)
