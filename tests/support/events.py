"""Events that callbacks record and tests wait for."""

from __future__ import annotations

import threading
import time
from typing import Any

from support.system import LIMIT


class Events:
    """A list that any thread may append to and wait on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Any] = []

    def add(self, item: Any) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def recorder(self, name: str) -> Any:
        """Return a callback that adds (name, *arguments), without its first argument."""
        return lambda first, *rest: self.add((name, *rest))

    def __len__(self) -> int:
        with self._changed:
            return len(self._items)

    @property
    def items(self) -> list[Any]:
        with self._changed:
            return list(self._items)

    def wait(self, count: int = 1, limit: float = LIMIT) -> list[Any]:
        """Wait until there are at least `count` events. Returns all of them."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._items) >= count, limit), (
                f"{count} events were expected, {len(self._items)} came: {self._items[:20]}"
            )
            return list(self._items)

    def wait_for(self, item: Any, limit: float = LIMIT) -> None:
        """Wait until this event is among them."""
        deadline = time.monotonic() + limit
        with self._changed:
            while item not in self._items:
                left = deadline - time.monotonic()
                assert left > 0, f"{item!r} was expected, these came: {self._items[:20]}"
                self._changed.wait(left)
