"""Argument types with clear error messages, and arguments that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number within these limits."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
        if number < least or (most is not None and number > most):
            limits = f"at least {least}" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"must be {limits}, not {text}")
        return number

    return parse


def seconds(text: str) -> float:
    """A time above 0."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return number


def add_address(parser: argparse.ArgumentParser, port: int) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="name or address to listen on (%(default)s)"
    )
    parser.add_argument(
        "--port", default=port, type=whole(0, 65535), help="0: any free one (%(default)s)"
    )


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the options of every server."""
    parser.add_argument(
        "--workers",
        type=whole(1, 4096),
        help="threads (1; without the GIL one more than there are CPUs)",
    )
    parser.add_argument("--backend", help="the best that works here, unless named: see info")
