"""Makes one memory allocation fail. A module that imports this is skipped without _testcapi."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

testcapi = pytest.importorskip("_testcapi", reason="this Python has no _testcapi")


@contextmanager
def refused(moment: int) -> Iterator[None]:
    """Make one allocation fail: the one with this number, counted from here."""
    testcapi.set_nomemory(moment, moment + 1)
    try:
        yield
    finally:
        testcapi.remove_mem_hooks()
