"""Captures what the package writes to its log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Lines(logging.Handler):
    """Records each line with its time by the given clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.lines: list[tuple[float, str]] = []
        self._now = now

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((self._now(), record.getMessage()))

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.lines]


@contextmanager
def log_lines(now: Callable[[], float] = lambda: 0.0) -> Iterator[Lines]:
    handler = Lines(now)
    logger = logging.getLogger("iocpcore")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
