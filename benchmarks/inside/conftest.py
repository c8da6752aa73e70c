"""The backends, and how often everything is timed. See docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import iocpcore
import pytest

ROUNDS = 200
WARMUP_ROUNDS = 10


@pytest.fixture(params=[name for name in iocpcore.backends() if name != "sim"])
def backend(request: pytest.FixtureRequest) -> str:
    reason = iocpcore.backends()[request.param]
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.fixture
def port(backend: str) -> Iterator[iocpcore.CompletionPort]:
    with iocpcore.CompletionPort(1, backend=backend) as port:
        yield port


@pytest.fixture
def measure(benchmark: Any) -> Callable[..., Any]:
    """Times a function that does something BATCH times. `setup` and `teardown` are not timed."""
    # The number of rounds is fixed: what pytest-benchmark would choose depends on the clock, and
    # the one used here is slower than the real one.
    return partial(benchmark.pedantic, rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS)
