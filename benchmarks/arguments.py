"""The command line, and what is wrong with it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from iocpcore._cli.arguments import seconds, whole


class UsageError(Exception):
    """What was asked for cannot be done; the text says why, in one sentence."""


class Parser(argparse.ArgumentParser):
    """Its errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def arguments() -> argparse.Namespace:
    """Raises UsageError."""
    parser = Parser(
        prog="python -m benchmarks",
        description="Servers side by side, in one run, under one load.",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="few cells and rows, under 3 minutes")
    parser.add_argument("--list", action="store_true", help="names the cells and rows, and ends")
    parser.add_argument(
        "--cells", metavar="A,B", help="those of these names, which may have * and ?"
    )
    parser.add_argument(
        "--rows", metavar="A,B", help="those of these names, which may have * and ?"
    )
    parser.add_argument("--repeats", type=whole(1), help="samples of each row (5; quick: 1)")
    parser.add_argument("--seconds", type=seconds, help="measured per sample (3; quick: 0.7)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(".benchmarks"),
        metavar="FOLDER",
        help="for results, programs and a file of 1 GiB (%(default)s)",
    )
    parser.add_argument("--python", default=sys.executable, help="runs the servers")
    parser.add_argument(
        "--free-threaded", metavar="PYTHON", help="a free-threaded build, for the scaling cells"
    )
    parser.add_argument(
        "--windows", metavar="ABI", help="that Windows Python (cp313), under Wine, instead"
    )
    parser.add_argument("--cc", default="cc", help="builds the C programs (%(default)s)")
    return parser.parse_args()
