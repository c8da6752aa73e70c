"""Memory that is missing at one moment. What imports this is skipped where that cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

testcapi = pytest.importorskip("_testcapi", reason="this Python has no _testcapi")


@contextmanager
def refused(moment: int) -> Iterator[None]:
    """The allocation of this number, from here on, and no other."""
    testcapi.set_nomemory(moment, moment + 1)
    try:
        yield
    finally:
        testcapi.remove_mem_hooks()
