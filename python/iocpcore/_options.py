"""The options of servers, clients and datagram sockets: callbacks, limits, socket options.

Each option is defined once, here. The C tables in ``py/server/group_options.h`` use the same names.
A test compares the two, and also the docstrings and docs/server.md.
"""

from __future__ import annotations

import functools
import inspect
import socket
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypedDict, get_args

from iocpcore import _validate
from iocpcore._core import Connection, Delimited, FixedSize, LengthPrefixed
from iocpcore.framing import Framer

if TYPE_CHECKING:
    from iocpcore._core import Listener
    from iocpcore._stage import StageFactory

# ---- callbacks ----------------------------------------------------------------------------------

OnConnect: TypeAlias = Callable[[Connection], object]
OnData: TypeAlias = Callable[[Connection, bytes], object]
OnMessage: TypeAlias = Callable[[Connection, bytes], object]
OnEof: TypeAlias = Callable[[Connection], object]
OnDrain: TypeAlias = Callable[[Connection], object]
OnClose: TypeAlias = Callable[[Connection, BaseException | None], object]
OnError: TypeAlias = Callable[[Connection, BaseException], object]

BuiltInFraming: TypeAlias = LengthPrefixed | Delimited | FixedSize
Framing: TypeAlias = BuiltInFraming | Callable[[], Framer]


class Callbacks(TypedDict, total=False):
    """The callbacks of a connection."""

    on_connect: OnConnect | None
    on_data: OnData | None
    on_message: OnMessage | None
    on_eof: OnEof | None
    on_drain: OnDrain | None
    # The first argument is None if connect_nowait() failed.
    on_close: Callable[[Any, BaseException | None], object] | None
    on_error: OnError | None


CONNECTION_CALLBACKS = tuple(Callbacks.__annotations__)
DATAGRAM_CALLBACKS = ("on_datagram", "on_error")


def collect(
    handler: object | None,
    given: Mapping[str, Any],
    names: tuple[str, ...] = CONNECTION_CALLBACKS,
) -> dict[str, Callable[..., Any]]:
    """Collect the callbacks: those in `given`, else the handler's methods.

    Raises TypeError for a callback that is not callable or is a coroutine function, ValueError for
    a handler that has none of the methods.
    """
    if isinstance(handler, type):
        raise TypeError(f"handler must be an object, not the class {handler.__name__} itself")
    found = {name: getattr(handler, name, None) for name in names} if handler is not None else {}
    if handler is not None and not any(value is not None for value in found.values()):
        raise ValueError(f"handler must have one of the methods {', '.join(names)}")
    found.update({name: given[name] for name in names if given.get(name) is not None})
    callbacks = {name: value for name, value in found.items() if value is not None}
    for name, value in callbacks.items():
        check_function(name, value)
    return callbacks


def check_function(name: str, value: Any) -> None:
    """Raises TypeError unless the value is callable and not async."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    if _is_async(value):
        raise TypeError(f"{name} must be a plain function, not an async one: nobody would await it")


def check_framing(callbacks: Mapping[str, Any], framing: Framing | None) -> None:
    """Raises TypeError or ValueError if the framing and the callbacks do not match."""
    if framing is None:
        if "on_message" in callbacks:
            raise ValueError("framing is needed with on_message")
        return
    if isinstance(framing, type) and issubclass(framing, BuiltInFraming):
        raise TypeError(f"framing must be an instance: {framing.__name__}(...)")
    if not isinstance(framing, BuiltInFraming):
        if not callable(framing):
            names = ", ".join(one.__name__ for one in get_args(BuiltInFraming))
            raise TypeError(
                f"framing must be {names} or a callable that returns a Framer, "
                f"not {type(framing).__name__}"
            )
        check_function("framing", framing)
    if "on_data" in callbacks:
        raise ValueError("on_data cannot be used with framing: messages go to on_message")
    if "on_message" not in callbacks:
        raise ValueError("on_message is needed with framing")


def check_executor(executor: Executor | None) -> None:
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}"
        )


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    candidates = [function]
    if not isinstance(function, type):
        candidates.append(getattr(type(function), "__call__", None))  # noqa: B004
    return any(
        inspect.iscoroutinefunction(item) or inspect.isasyncgenfunction(item) for item in candidates
    )


# ---- limits and socket options ------------------------------------------------------------------

Check: TypeAlias = Callable[[str, Any], Any]


def _option(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


def _whole(least: int, most: int = 2**63 - 1) -> Check:
    return lambda name, value: _validate.whole(name, value, least, most)


def _whole_or_none(least: int, most: int = 2**63 - 1) -> Check:
    return lambda name, value: None if value is None else _validate.whole(name, value, least, most)


@dataclass(frozen=True)
class _Options:
    def updated(self, given: Mapping[str, Any]) -> Self:
        """Return a copy with the given values. Raises TypeError or ValueError naming the option.

        Other names in `given` are ignored.
        """
        checked = {
            option.name: option.metadata["check"](option.name, given[option.name])
            for option in fields(self)
            if option.name in given
        }
        return replace(self, **checked) if checked else self


@dataclass(frozen=True)
class Limits(_Options):
    """The limits of a server's or a client's connections, with the defaults of a server."""

    write_high: int = _option(262144, _whole(0))
    write_low: int = _option(65536, _whole(0))
    max_write_buffer: int = _option(16777216, _whole(1))
    read_size: int = _option(65536, _whole(1, 65536))
    idle_timeout: float | None = _option(None, _validate.seconds)
    max_connections: int | None = _option(None, _whole_or_none(1))
    max_connections_per_address: int | None = _option(None, _whole_or_none(1))
    handshake_timeout: float | None = _option(10.0, _validate.seconds)

    def __post_init__(self) -> None:
        if self.write_low > self.write_high:
            raise ValueError("write_low must not be above write_high")


@dataclass(frozen=True)
class DatagramLimits(_Options):
    """The limits of a datagram socket."""

    # The largest datagram, apart from IPv6 jumbograms.
    max_size: int = _option(65535, _whole(1, 65535))
    max_write_buffer: int = _option(1048576, _whole(1))


@dataclass(frozen=True)
class SocketOptions(_Options):
    """The options that are set on sockets of the system."""

    keepalive: bool = _option(True, _validate.flag)
    backlog: int | None = _option(None, _whole_or_none(1, 2**31 - 1))
    reuse_port: bool = _option(False, _validate.flag)
    broadcast: bool = _option(False, _validate.flag)

    def apply_before_bind(self, sock: socket.socket) -> None:
        """Set reuse_port. Raises ValueError where the system does not support it."""
        if self.reuse_port:
            if sys.platform == "win32" or not hasattr(socket, "SO_REUSEPORT"):
                raise ValueError("reuse_port is not possible here")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def apply(self, sock: socket.socket) -> None:
        """Set the other options. On Linux, accepted sockets inherit them from the listener."""
        if sock.type == socket.SOCK_DGRAM:
            if self.broadcast:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        elif sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(self.keepalive))
            with suppress(OSError):  # a stream protocol other than TCP may not have it
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# ---- what a group is made of --------------------------------------------------------------------


class GroupCallbacks(Callbacks, total=False):
    """All callbacks of a group, including those that only the package uses."""

    on_failed: Callable[[Connection, BaseException], object] | None
    on_empty: Callable[[], object] | None
    on_accept_error: Callable[[Listener, BaseException], object] | None
    on_refused: Callable[[Any], object] | None
    on_lost: Callable[[Any, BaseException], object] | None


class ClientLimits(TypedDict, total=False):
    """The limits that connect() accepts."""

    idle_timeout: float | None
    write_high: int
    write_low: int
    max_write_buffer: int
    read_size: int


class GroupLimits(TypedDict):
    """The limits of a group. All of them must be given."""

    idle_timeout: float | None
    handshake_timeout: float | None
    write_high: int
    write_low: int
    max_write_buffer: int
    max_connections: int | None
    max_connections_per_address: int | None
    read_size: int
    reads_on: bool


class GroupOptions(GroupCallbacks, GroupLimits, total=False):
    """The keyword arguments of _core.ConnectionGroup."""

    framing: Framing | None
    stage: StageFactory | None
    executor: Callable[[], Executor] | None
