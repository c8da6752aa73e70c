"""Child processes, for tests of interpreter exit, fork and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import iocpcore

from support.system import LIMIT

# Exit codes of crashed processes. On Windows: access violation, illegal instruction, stack
# overflow, heap corruption, abort().
CRASHES = {0xC0000005, 0xC000001D, 0xC00000FD, 0xC0000374, 0xC0000409}
CRASHES |= {
    -getattr(signal, name)
    for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")
    if hasattr(signal, name)
}

PACKAGES = str(Path(iocpcore.__file__).resolve().parents[1])
TESTS = str(Path(__file__).resolve().parents[1])


class Crashed(AssertionError):
    """A child process crashed."""


def environment(**extra: str) -> dict[str, str]:
    """Our environment, with the paths of the package that this process uses and of `support`."""
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
    """Run the code with this default backend. A child that exceeds the limit is killed."""
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
    """Run the code, and check its exit code and everything it prints."""
    child = run(code, backend)
    said = (child.returncode, child.stdout.strip(), child.stderr.strip())
    assert said == (exit_code, output, errors), said
