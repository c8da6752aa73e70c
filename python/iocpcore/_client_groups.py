"""Connections of clients that have everything in common share one C service.

A program with many connections makes most of them in one place, with the same callbacks. Each then
costs no more than a connection of a server does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MethodType
from typing import Any

from iocpcore import _core
from iocpcore._core import Service
from iocpcore._runtime import Engine


class Kind:
    """A service of clients, as a member of its engine for as long as anybody needs it."""

    def __init__(self, engine: Engine, key: Hashable, options: Mapping[str, Any]) -> None:
        self._engine = engine
        self._key = key
        self._users = 0  # attempts that may still make a connection of this kind
        self.service: Service = _core.Service(
            engine.port, on_empty=self._on_empty, reads_on=True, **options
        )

    @property
    def count(self) -> int:
        return self.service.count

    def shutdown(self) -> None:
        self.service.shutdown()

    def abort(self) -> int:
        return self.service.abort()

    def release(self) -> None:
        """Of what take() gave: no other connection is made through it."""
        with self._engine.guard():
            self._users -= 1
            self._drop_if_unused()

    def _on_empty(self) -> None:
        with self._engine.guard():
            self._drop_if_unused()

    def _drop_if_unused(self) -> None:
        if self._users == 0 and self.service.count == 0:
            if self._engine.kinds.get(self._key) is self:
                del self._engine.kinds[self._key]
            self._engine.remove(self)


def take(engine: Engine, key: Hashable | None, options: Mapping[str, Any]) -> Kind:
    """The kind of this key, or a new one, to be given back by release(). None: always a new one."""
    with engine.guard():
        kind = None if key is None else engine.kinds.get(key)
        if not isinstance(kind, Kind):
            kind = Kind(engine, key, options)
            engine.add(kind)
            if key is not None:
                engine.kinds[key] = kind
        kind._users += 1
        return kind


def identity(value: Any) -> Hashable:
    """Equal for what is the same object, or the same method of one, as long as that exists."""
    if isinstance(value, MethodType):
        return id(value.__self__), id(value.__func__)
    return id(value)


def key_of(callbacks: Mapping[str, Callable[..., Any]], *others: Hashable) -> Hashable:
    """The kind keeps the callbacks, so that no other object gets their identities meanwhile."""
    return tuple((name, identity(value)) for name, value in sorted(callbacks.items())), others
