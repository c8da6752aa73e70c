"""``info``: what works on this machine."""

from __future__ import annotations

import argparse
import platform
import sys
from typing import Any

from iocpcore import CompletionPort, __version__, backends


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "info", help="which backends work here, and why others do not"
    )
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print versions and backends; the exit code, 1 if no backend works."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"iocpcore {__version__}")
    print(
        f"{platform.python_implementation()} {platform.python_version()} "
        f"{'with' if gil else 'without'} the GIL, on {platform.platform()}"
    )
    default, problem = _default_backend()
    print("backends:")
    for name, reason in backends().items():
        state = "works" if reason is None else f"does not work here: {reason}"
        print(f"  {name:<9}{state}{' (default)' if name == default else ''}")
    if problem is not None:
        print(problem)
    return 0 if problem is None else 1


def _default_backend() -> tuple[str | None, str | None]:
    """The name of the backend that a port gets, or why there is none."""
    try:
        with CompletionPort() as port:
            return port.backend, None
    except (OSError, RuntimeError, ValueError) as error:
        return None, f"no port can be opened: {error}"
