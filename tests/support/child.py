"""Tests that need a process of their own: exit, fork, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import iocpcore

from support.system import LIMIT

# Exit codes of processes that did not end by their own will. Windows: access violation, illegal
# instruction, stack overflow, heap corruption, abort().
CRASHES = {0xC0000005, 0xC000001D, 0xC00000FD, 0xC0000374, 0xC0000409}
CRASHES |= {
    -getattr(signal, name)
    for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")
    if hasattr(signal, name)
}

PACKAGES = str(Path(iocpcore.__file__).resolve().parents[1])
TESTS = str(Path(__file__).resolve().parents[1])


class Crashed(AssertionError):
    """A child did not end by its own will."""


def environment(**extra: str) -> dict[str, str]:
    """Ours, with the package where this process found it, and `support`."""
    path = os.pathsep.join(filter(None, [PACKAGES, TESTS, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **extra}


def start(*args: str, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(**extra),
    )


def run(code: str, backend: str, limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
    """Runs the code with the backend as the default one. Killed at the limit: it hung."""
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env=environment(IOCPCORE_BACKEND=backend),
        timeout=limit,
        check=False,
    )
    if child.returncode in CRASHES:
        raise Crashed(f"exit code {child.returncode}", child.stdout, child.stderr)
    return child


def check(code: str, backend: str, exit_code: int = 0, output: str = "", errors: str = "") -> None:
    """The same, with the exit code and everything it prints."""
    child = run(code, backend)
    said = (child.returncode, child.stdout.strip(), child.stderr.strip())
    assert said == (exit_code, output, errors)
