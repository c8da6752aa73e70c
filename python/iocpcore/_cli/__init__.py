"""The command line: ``python -m iocpcore`` with info, echo, demo or bench."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from iocpcore import __version__
from iocpcore._cli import bench, demo, echo, info


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130  # as shells do after Ctrl-C
    except BrokenPipeError:  # the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
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
    for command in (info, echo, demo, bench):
        command.add(commands)
    return parser
