"""Connection groups for clients. Clients with equal callbacks and options share one group.

A program with many client connections opens most of them in one place, with the same callbacks.
Sharing a group makes such a connection as cheap as one of a server.

A group is dropped when it has no connections and no attempt that may still add one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MethodType
from typing import Any

from iocpcore import _core
from iocpcore._core import ConnectionGroup
from iocpcore._runtime import Runtime


class ClientGroup:
    """A group of clients. It is a member of its runtime while it is in use."""

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
        """Undo acquire_group(). The caller must not add connections to the group after this."""
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
    """Return the group with this key, or a new one; always a new one if the key is None.

    The caller must call release() on it.
    """
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
    """A key for an object, or for a method of an object. Unique while the object exists."""
    if isinstance(value, MethodType):
        return id(value.__self__), id(value.__func__)
    return id(value)


def key_of(callbacks: Mapping[str, Callable[..., Any]], *others: Hashable) -> Hashable:
    """A key for groups. It stays unique because the group keeps the callbacks alive."""
    return tuple((name, identity(value)) for name, value in sorted(callbacks.items())), others
