"""The command line: ``python -m iocpcore info`` and ``python -m iocpcore echo``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from iocpcore import __version__
from iocpcore.cli import echo, info


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "info":
            return info.run()
        return echo.run(options.host, options.port, options.workers, options.backend)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"iocpcore: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m iocpcore",
        description="Completion ports for Python: IOCP on Windows, io_uring and epoll on Linux.",
    )
    parser.add_argument("--version", action="version", version=f"iocpcore {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    commands.add_parser("info", help="which backends work here, and why others do not")
    server = commands.add_parser(
        "echo",
        help="a TCP server that sends back what it receives, until Ctrl-C",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    server.add_argument("--host", default="127.0.0.1", help="name or address to listen on")
    server.add_argument("--port", default=9000, type=_port, help="0: any free one")
    server.add_argument("--workers", default=_default_workers(), type=_workers, help="threads")
    server.add_argument("--backend", help="the best that works here, unless named")
    return parser


def _default_workers() -> int:
    """As many as run at once; and one more where they run in parallel, for one that blocks."""
    parallel = not getattr(sys, "_is_gil_enabled", lambda: True)()
    return (os.cpu_count() or 1) + 1 if parallel else 1


def _port(text: str) -> int:
    number = _number(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, not {text}")
    return number


def _workers(text: str) -> int:
    number = _number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
