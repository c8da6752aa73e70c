"""``info``: prints which backends work on this machine."""

from __future__ import annotations

import argparse
import platform
import sys
from typing import Any

from iocpcore import CompletionPort, __version__, backends
from iocpcore._runtime import open_port


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "info", help="which backends work here, and why others do not"
    )
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print versions and backends. Returns 1 if no backend works, else 0."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"iocpcore {__version__}")
    print(
        f"{platform.python_implementation()} {platform.python_version()} "
        f"{'with' if gil else 'without'} the GIL, on {platform.platform()}"
    )
    defaults, problem = _default_backends()
    print("backends:")
    for name, reason in backends().items():
        state = "works" if reason is None else f"does not work here: {reason}"
        chosen = " and ".join(what for what, default in defaults.items() if default == name)
        print(f"  {name:<9}{state}{chosen and f' (default of {chosen})'}")
    if problem is not None:
        print(problem)
    return 0 if problem is None else 1


def _default_backends() -> tuple[dict[str, str], str | None]:
    """The default backends, and the error if a port cannot be opened."""
    try:
        with CompletionPort() as port, open_port(1) as of_server:
            return {"CompletionPort": port.backend, "Server": of_server.backend}, None
    except (OSError, RuntimeError, ValueError) as error:
        return {}, f"no port can be opened: {error}"
