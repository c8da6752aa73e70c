"""Worker threads by themselves: how many there are, and how each of them ends."""

from __future__ import annotations

from typing import Any, cast

import pytest
from iocpcore import _workers
from support.system import LIMIT


class Port:
    """Its run() ends in these ways, one after another."""

    closed = False

    def __init__(self, *ends: BaseException | None) -> None:
        self._ends = list(ends)

    def run(self) -> None:
        end = self._ends.pop(0)
        if end is not None:
            raise end


def ends_of(port: Port) -> list[BaseException]:
    left: list[BaseException] = []
    team = _workers.Workers(cast(Any, port), 1, left.append, left.append)
    team.start()
    assert team.join(LIMIT)
    return left


@pytest.mark.found_in_use
@pytest.mark.parametrize("end", [OSError(9, "wait"), RuntimeError("odd"), AssertionError()])
def test_no_worker_ends_without_a_word(end):
    """Whatever it is that ends it."""
    assert ends_of(Port(end)) == [end]


@pytest.mark.found_in_use
def test_a_port_that_its_user_ends():
    (left,) = ends_of(Port(ValueError("port is closed")))
    assert isinstance(left, _workers.Closed)
    (left,) = ends_of(Port(None))
    assert isinstance(left, _workers.Stopped)


@pytest.mark.found_in_use
def test_a_worker_goes_on(monkeypatch):
    """After an exit that a callback asked for, and when memory is there again."""
    monkeypatch.setattr(_workers, "PAUSE", 0)
    asked = SystemExit(3)
    first, last = ends_of(Port(MemoryError(), asked, MemoryError(), None))
    assert first is asked
    assert isinstance(last, _workers.Stopped)


def test_defaults_for_workers():
    from iocpcore import _workers

    if _workers.free_threaded():
        cpus = _workers.cpus()
        assert _workers.thread_counts(None, None) == (cpus + 1, cpus)
        assert _workers.thread_counts(2, None) == (2, 1)
        assert _workers.thread_counts(None, 1) == (2, 1)
    else:
        assert _workers.thread_counts(None, None) == (1, 1)
        assert _workers.thread_counts(8, None) == (8, 1)
        assert _workers.thread_counts(None, 1) == (1, 1)
    assert _workers.thread_counts(None, 4) == (5, 4)
    assert _workers.thread_counts(1, None) == (1, 1)
    assert _workers.thread_counts(2, 3) == (2, 3)
