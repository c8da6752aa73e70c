"""Connections of clients that have everything in common share one group.

A program with many connections makes most of them in one place, with the same callbacks. Each then
costs no more than a connection of a server does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MethodType
from typing import Any

from iocpcore import _core
from iocpcore._core import ConnectionGroup
from iocpcore._runtime import Runtime


class ClientGroup:
    """A group of clients, as a member of its runtime for as long as anybody needs it."""

    def __init__(self, runtime: Runtime, key: Hashable, options: Mapping[str, Any]) -> None:
        self._runtime = runtime
        self._key = key
        self._users = 0  # attempts that may still make a connection of this group
        self.group: ConnectionGroup = _core.ConnectionGroup(
            runtime.port, on_empty=self._on_empty, reads_on=True, **options
        )

    @property
    def count(self) -> int:
        return self.group.count

    def shutdown(self) -> None:
        self.group.shutdown()

    def abort(self) -> int:
        return self.group.abort()

    def release(self) -> None:
        """Undoes acquire_group(): the caller makes no other connection through it."""
        with self._runtime.guard():
            self._users -= 1
            self._drop_if_unused()

    def _on_empty(self) -> None:
        with self._runtime.guard():
            self._drop_if_unused()

    def _drop_if_unused(self) -> None:
        if self._users == 0 and self.group.count == 0:
            if self._runtime.client_groups.get(self._key) is self:
                del self._runtime.client_groups[self._key]
            self._runtime.remove(self)


def acquire_group(
    runtime: Runtime, key: Hashable | None, options: Mapping[str, Any]
) -> ClientGroup:
    """The group of this key, or a new one; give it back by release(). None: always a new one."""
    with runtime.guard():
        group = None if key is None else runtime.client_groups.get(key)
        if not isinstance(group, ClientGroup):
            group = ClientGroup(runtime, key, options)
            runtime.add(group)
            if key is not None:
                runtime.client_groups[key] = group
        group._users += 1
        return group


def identity(value: Any) -> Hashable:
    """Equal for what is the same object, or the same method of one, as long as that exists."""
    if isinstance(value, MethodType):
        return id(value.__self__), id(value.__func__)
    return id(value)


def key_of(callbacks: Mapping[str, Callable[..., Any]], *others: Hashable) -> Hashable:
    """The group keeps the callbacks, so that no other object gets their identities meanwhile."""
    return tuple((name, identity(value)) for name, value in sorted(callbacks.items())), others
