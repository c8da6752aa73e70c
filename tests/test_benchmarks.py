"""The benchmarks run. What they find is not judged here; they just must not rot."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize(
    "options",
    [
        ["--rows", "no-such-*"],
        ["--rows", "c-epoll,no-such-row"],
        ["--cells", "no-such-cell"],
        ["--repeats", "0"],
        ["--repeats", "two"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--windows", "cp310"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_said_in_one_line(options, tmp_path):
    pytest.importorskip("resource", reason="python -m benchmarks runs on Linux only")
    result = run("benchmarks", "--output", str(tmp_path / "results"), *options)
    assert result.returncode == 2, result.stdout
    assert re.fullmatch(r"benchmarks: .+\n", result.stdout)
    assert options[-1].rpartition(",")[2] in result.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("option", ["--python", "--free-threaded", "--cc"])
def test_a_program_that_is_not_there(option, tmp_path):
    pytest.importorskip("resource", reason="python -m benchmarks runs on Linux only")
    missing = str(tmp_path / "missing")
    result = run("benchmarks", "--output", str(tmp_path / "results"), option, missing)
    assert result.returncode == 2, result.stdout
    message, where = re.fullmatch(r"benchmarks: (\S+) (\S+): .+\n", result.stdout).groups()
    assert (message, where) == (option, missing)


def test_results_that_cannot_be_written(tmp_path):
    pytest.importorskip("resource", reason="python -m benchmarks runs on Linux only")
    file = tmp_path / "file"
    file.touch()
    result = run("benchmarks", "--output", str(file / "results"))
    assert result.returncode == 2, result.stdout
    assert re.fullmatch(r"benchmarks: --output \S+: .+\n", result.stdout)
