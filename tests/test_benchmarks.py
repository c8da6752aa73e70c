"""The benchmarks run. What they find is not judged here; they just must not rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import child
from support.system import LIMIT

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").exists(), reason="only the package is here, without its benchmarks"
)


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *args],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env=child.environment(),
        timeout=LIMIT,
        check=False,
    )


def test_inside():
    """Each of them once, untimed."""
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")
    options = ["--benchmark-disable", f"--timeout={LIMIT / 2}", "-q", "-p", "no:cacheprovider"]
    result = run("pytest", "benchmarks/inside", *options)
    assert result.returncode == 0, result.stdout


def test_side_by_side():
    pytest.importorskip("resource", reason="python -m benchmarks runs on Linux only")
    result = run("benchmarks", "--list")
    assert result.returncode == 0, result.stdout
    names = result.stdout.split()
    for name in ("echo-1KiB-x100", "asyncio-protocol", "iocpcore-epoll"):
        assert name in names
