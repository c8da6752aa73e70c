"""What callbacks report, so that a test can wait for it."""

from __future__ import annotations

import threading
import time
from typing import Any

from support.system import LIMIT


class Events:
    """A list that many threads append to, and that can be waited on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Any] = []

    def add(self, item: Any) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def recorder(self, name: str) -> Any:
        """A callback that adds (name, *its arguments without the first)."""
        return lambda first, *rest: self.add((name, *rest))

    def __len__(self) -> int:
        with self._changed:
            return len(self._items)

    @property
    def items(self) -> list[Any]:
        with self._changed:
            return list(self._items)

    def wait(self, count: int = 1, limit: float = LIMIT) -> list[Any]:
        """All of them, when there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._items) >= count, limit), (
                f"{count} events were expected, {len(self._items)} came: {self._items[:20]}"
            )
            return list(self._items)

    def wait_for(self, item: Any, limit: float = LIMIT) -> None:
        """Until this one is among them."""
        deadline = time.monotonic() + limit
        with self._changed:
            while item not in self._items:
                left = deadline - time.monotonic()
                assert left > 0, f"{item!r} was expected, these came: {self._items[:20]}"
                self._changed.wait(left)
