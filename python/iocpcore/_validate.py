"""Argument checks. Every error names the argument."""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex


def whole(name: str, value: SupportsIndex, least: int = 0, most: int = 2**63 - 1) -> int:
    """An integer from `least` to `most`. Raises TypeError or ValueError."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None
    if not least <= number <= most:
        limits = f"{least} to {most}" if most < 2**63 - 1 else f"at least {least}"
        raise ValueError(f"{name} must be {limits}, not {number}")
    return number


def count(name: str, value: int | None) -> int:
    """A limit on a number of things. None (no limit) becomes 0."""
    return 0 if value is None else whole(name, value, 1)


def seconds(name: str, value: float | None) -> float | None:
    """A finite time above 0, or None."""
    if value is None:
        return None
    number = duration(name, value)
    if number == 0 or math.isinf(number):
        raise ValueError(f"{name} must be above 0 and finite, or None; not {value!r}")
    return number


def duration(name: str, value: float) -> float:
    """A time of 0 or more. Infinity is allowed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
    return float(value)


def flag(name: str, value: bool) -> bool:
    """True or False. Other truthy or falsy values are rejected."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__}")
    return value


def port_number(value: SupportsIndex | None) -> int:
    """A TCP or UDP port number."""
    if value is None:
        raise TypeError("port must be given with a host")
    return whole("port", value, 0, 65535)
