"""Which function is called for what: the callbacks of servers, connections and datagrams."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeAlias

from iocpcore import _validate
from iocpcore._core import Connection, Delimited, FixedSize, LengthPrefixed
from iocpcore.framing import Framer

OnConnect: TypeAlias = Callable[[Connection], object]
OnData: TypeAlias = Callable[[Connection, bytes], object]
OnMessage: TypeAlias = Callable[[Connection, bytes], object]
OnEof: TypeAlias = Callable[[Connection], object]
OnDrain: TypeAlias = Callable[[Connection], object]
OnClose: TypeAlias = Callable[[Connection, BaseException | None], object]
OnError: TypeAlias = Callable[[Connection, BaseException], object]

Framing: TypeAlias = LengthPrefixed | Delimited | FixedSize | Callable[[], Framer]

CONNECTION = (
    "on_connect",
    "on_data",
    "on_message",
    "on_eof",
    "on_drain",
    "on_close",
    "on_error",
)


def collect(
    handler: object | None, given: Mapping[str, Any], names: tuple[str, ...] = CONNECTION
) -> dict[str, Callable[..., Any]]:
    """The callbacks that there are: the handler's methods, unless `given` has another.

    Raises TypeError for what cannot be called or is a coroutine function, ValueError for a handler
    that has none of the methods.
    """
    if isinstance(handler, type):
        raise TypeError(f"handler must be an object, not the class {handler.__name__} itself")
    found = {name: getattr(handler, name, None) for name in names} if handler is not None else {}
    if handler is not None and not any(value is not None for value in found.values()):
        raise ValueError(f"handler must have one of the methods {', '.join(names)}")
    found.update({name: given[name] for name in names if given.get(name) is not None})
    callbacks = {name: value for name, value in found.items() if value is not None}
    for name, value in callbacks.items():
        check(name, value)
    return callbacks


def check(name: str, value: Any) -> None:
    """Raises TypeError unless it is a plain function, or behaves like one."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    if _is_async(value):
        raise TypeError(f"{name} must be a plain function, not an async one: nobody would await it")


def check_framing(callbacks: Mapping[str, Any], framing: Framing | None) -> None:
    """Raises TypeError or ValueError if the framing and the callbacks do not fit together."""
    if framing is None:
        if "on_message" in callbacks:
            raise ValueError("framing is needed with on_message")
        return
    if isinstance(framing, type) and issubclass(framing, LengthPrefixed | Delimited | FixedSize):
        raise TypeError(f"framing must be an instance: {framing.__name__}(...)")
    if not isinstance(framing, LengthPrefixed | Delimited | FixedSize):
        if not callable(framing):
            raise TypeError(
                "framing must be LengthPrefixed, Delimited, FixedSize or a callable that returns "
                f"a Framer, not {type(framing).__name__}"
            )
        check("framing", framing)
    if "on_data" in callbacks:
        raise ValueError("on_data cannot be used with framing: messages go to on_message")
    if "on_message" not in callbacks:
        raise ValueError("on_message is needed with framing")


def limits(given: Mapping[str, Any]) -> dict[str, Any]:
    """What servers and clients have in common, as the C group takes it.

    Raises TypeError or ValueError that names the argument.
    """
    checked: dict[str, Any] = {
        name: _validate.whole(name, given[name], least, most)
        for name, least, most in (
            ("write_high", 0, 2**63 - 1),
            ("write_low", 0, 2**63 - 1),
            ("max_write_buffer", 1, 2**63 - 1),
            ("read_size", 1, 65536),
        )
    }
    if checked["write_low"] > checked["write_high"]:
        raise ValueError("write_low must not be above write_high")
    checked["idle_timeout"] = _validate.seconds("idle_timeout", given["idle_timeout"])
    return checked


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
