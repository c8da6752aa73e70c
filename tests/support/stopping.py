"""How long stop() may take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from support.system import SLOWNESS

PROMISED = 1.0  # seconds that stop() may take beyond its time limit
SLACK = 1.5 if SLOWNESS == 1 else 4.0  # tolerance for a busy or stalled machine


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds + SLACK, f"it took {took:.2f} s, not {seconds}"
