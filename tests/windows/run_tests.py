"""Build the extension and run the tests on Windows Pythons under Wine; use it through ./run."""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TextIO

import wine
from build import build
from layout import (
    ABIS,
    CHECKOUT,
    RUNS,
    WIN,
    WINE,
    CommandFailed,
    check_abis,
    die,
    say,
    windows_path,
)

# What is run unless tests are named, as far as it exists.
TESTS = (
    *("tests/contract", "tests/server", "tests/unit", "tests/aio", "tests/faults"),
    *("tests/test_cli.py", "tests/test_exit.py"),
)
SMOKE = "@tests/smoke.txt"
ENVIRONMENT_TESTS = "tests/windows/test_environment.py"
# Windows wants to be told of every accepted and connected socket; Wine only says that it was.
CONTEXTS = "tests/windows/contexts.py"
CONNECTIONS = 5
CONTEXT_OPTIONS = ("SO_UPDATE_ACCEPT_CONTEXT", "SO_UPDATE_CONNECT_CONTEXT")
CONTEXT_LIMIT_S = 60.0
BACKENDS = "iocp,sim"

# How much of the output of an ABI that failed is shown when several run side by side.
SHOWN_LINES = 400


@dataclass(frozen=True)
class Options:
    abis: list[str]
    cpus: list[int | None]  # one lane each; None: a lane that may use all of them
    limit_s: float
    smoke: bool
    outcomes: Path | None
    pytest: list[str]


@dataclass
class Verdict:
    """How the tests of one ABI ended."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    trouble: str = ""

    @property
    def is_good(self) -> bool:
        return self.passed > 0 and not self.failed and not self.trouble

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return f"{counts} ({self.trouble})" if self.trouble else counts


class Lane:
    """Runs one ABI after the other, in a Wine prefix of its own, all of it on one CPU.

    A prefix has one server, which its processes ask for nearly everything. Waking a thread on
    another CPU costs many times what the answer does, so a lane with server and clients on one
    CPU is fastest, and two lanes had better not share a server.
    """

    def __init__(self, folder: Path, cpu: int | None) -> None:
        self._prefix = folder
        self._pin = [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
        self._environment = {**wine.environment(folder), "WINCPU": ""}
        wine.clone_prefix(folder)
        # It stays while no process needs it, between two ABIs, but not long after a killed run.
        # It inherits no pipe, which would seem open for as long as it lives.
        subprocess.run(
            [*self._pin, WINE / "wineserver", "--persistent=60"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )

    def close(self) -> None:
        wine.stop_server(self._prefix)

    def python(
        self,
        abi: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        output: TextIO | None,
        limit_s: float,
    ) -> int | None:
        """Run a Windows Python in the checkout: its exit code, or None if the limit passed."""
        with subprocess.Popen(
            [*self._pin, WIN / "wpy", abi, *arguments],
            cwd=CHECKOUT,
            env=self._environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
        ) as process:
            try:
                return process.wait(limit_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                if process.poll() is None:
                    # Its children too: nothing else lives in this prefix.
                    self.close()
                    process.kill()


class Tester:
    """The tests of one ABI on a lane, within the time limit."""

    def __init__(self, folder: Path, lane: Lane, abi: str, options: Options) -> None:
        self._report = folder / f"{abi}.xml"
        self._lane = lane
        self._abi = abi
        self._options = options
        self._deadline = time.monotonic() + options.limit_s
        self._environment = {
            "PYTHONPATH": windows_path(folder / "builds" / abi),
            "IOCPCORE_EXPECT_ABI": abi,
        }
        self._outcome = options.outcomes / f"{abi}.json" if options.outcomes else None

    def run(self, output: TextIO | None) -> Verdict:
        words = self._options.pytest
        if not words:
            # Without our conftest.py, which needs the extension.
            environment = self._pytest(["--noconftest", ENVIRONMENT_TESTS], output)
            if not environment.is_good:
                return Verdict(trouble=f"the Windows environment is broken: {environment}")
            trouble = self._contexts()
            if trouble:
                return Verdict(trouble=trouble)
            # A choice of tests need not touch every backend.
            self._environment["IOCPCORE_EXPECT_BACKENDS"] = BACKENDS
        if self._outcome:
            self._outcome.parent.mkdir(parents=True, exist_ok=True)
            self._outcome.unlink(missing_ok=True)
            self._environment["IOCPCORE_TEST_OUTCOME"] = windows_path(self._outcome)
        if self._options.smoke:
            words = [SMOKE, *words]
        elif not any((CHECKOUT / word.partition("::")[0]).exists() for word in words):
            words = [name for name in TESTS if (CHECKOUT / name).exists()] + words
        return self._pytest(words, output)

    def _contexts(self) -> str:
        """What is wrong with the contexts of accepted and connected sockets, or nothing."""
        trace = self._report.with_suffix(".trace")
        environment = self._environment | {"WINEDEBUG": "+winsock"}
        with trace.open("w") as output:
            code = self._lane.python(
                self._abi, [CONTEXTS, str(CONNECTIONS)], environment, output, CONTEXT_LIMIT_S
            )
        if code != 0:
            return f"{CONTEXTS} ended with exit code {code}"
        said = trace.read_text(errors="replace")
        counts = {option: said.count(f"Ignoring {option}") for option in CONTEXT_OPTIONS}
        if set(counts.values()) == {CONNECTIONS}:
            return ""
        return f"of {CONNECTIONS} connections: {counts}"

    def _pytest(self, words: Sequence[str], output: TextIO | None) -> Verdict:
        self._report.unlink(missing_ok=True)
        arguments = [
            *("-X", "faulthandler", "-m", "pytest", "-p", "no:cacheprovider"),
            *(f"--junitxml={windows_path(self._report)}", *words),
        ]
        left_s = max(self._deadline - time.monotonic(), 1.0)
        code = self._lane.python(self._abi, arguments, self._environment, output, left_s)
        verdict = self._read_report()
        if code is None:
            return Verdict(trouble=f"not done within {self._options.limit_s:.0f} s")
        if verdict is None:
            return Verdict(trouble=f"Python ended with exit code {code} and without a report")
        if not verdict.passed + verdict.failed:
            verdict.trouble = "no test was run"
        elif code != 0 and not verdict.failed:
            verdict.trouble = f"pytest ended with exit code {code}"
        return verdict

    def _read_report(self) -> Verdict | None:
        """The counts of pytest's report; None if Python did not live to write it."""
        if not self._report.exists():
            return None
        suites = list(ET.parse(self._report).getroot().iter("testsuite"))
        tests, failures, errors, skipped = (
            sum(int(suite.get(name, "0")) for suite in suites)
            for name in ("tests", "failures", "errors", "skipped")
        )
        failed = failures + errors
        return Verdict(tests - failed - skipped, failed, skipped)


def run_all(folder: Path, options: Options) -> dict[str, Verdict]:
    """Test each ABI on the first lane that is free."""
    waiting = deque(options.abis)
    finished: SimpleQueue[tuple[str, Verdict]] = SimpleQueue()

    def work(lane: Lane) -> None:
        while True:
            try:
                abi = waiting.popleft()
            except IndexError:
                return
            try:
                verdict = test_one(folder, lane, abi, options)
            except Exception as problem:
                verdict = Verdict(trouble=f"{type(problem).__name__}: {problem}")
            finished.put((abi, verdict))

    with ExitStack() as stack:
        lanes: list[Lane] = []
        for cpu, _ in zip(options.cpus, options.abis, strict=False):
            lanes.append(Lane(folder / f"prefix-{len(lanes)}", cpu))
            stack.callback(lanes[-1].close)
        # If this thread is interrupted, nothing new must start while the lanes close.
        stack.callback(waiting.clear)
        for lane in lanes:
            # A daemon: it must not keep an interrupted run from ending.
            Thread(target=work, args=(lane,), daemon=True).start()
        return dict(finished.get() for _ in options.abis)


def test_one(folder: Path, lane: Lane, abi: str, options: Options) -> Verdict:
    start = time.monotonic()
    tester = Tester(folder, lane, abi, options)
    if len(options.abis) == 1:
        return tester.run(None)
    log = folder / f"{abi}.log"
    with log.open("w") as output:
        verdict = tester.run(output)
    lines = [f"==== {abi}: {verdict} in {time.monotonic() - start:.0f} s"]
    if not verdict.is_good:
        lines[:0] = [f"==== {abi}", *log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]]
    say("\n".join(lines))
    return verdict


@contextmanager
def run_folder() -> Iterator[Path]:
    """A new folder for one run, which goes with it; what killed runs left goes too."""
    RUNS.mkdir(parents=True, exist_ok=True)
    for old in RUNS.iterdir():
        with ExitStack() as stack:
            try:
                lock = stack.enter_context((old / ".lock").open())
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # in use, or just being made
            remove(old)
    folder = Path(tempfile.mkdtemp(dir=RUNS))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a run's folder, what still runs in it, and the byte code of what was built in it."""
    for prefix in folder.glob("prefix-*"):
        wine.stop_server(prefix)
    for tree in (WIN / "pycache").glob("*"):
        shutil.rmtree(tree / folder.relative_to("/"), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def parse(words: list[str]) -> Options:
    parser = argparse.ArgumentParser(
        usage="run [ABI...] [--limit S] [--smoke] [--outcomes FOLDER] [PYTEST ARGUMENTS...]",
        description=f"Test the extension under Wine on Windows Pythons: {', '.join(ABIS)}.",
        epilog=f"Everything else goes to pytest; without any, it runs {' '.join(TESTS)}.",
        allow_abbrev=False,
    )
    parser.add_argument("--limit", type=float, default=900, help="seconds for each ABI (900)")
    parser.add_argument("--smoke", action="store_true", help="only what tests/smoke.txt lists")
    parser.add_argument("--outcomes", type=Path, help="folder for ABI.json, see support/outcome.py")
    options, rest = parser.parse_known_args(words)
    abis = list(takewhile(re.compile(r"cp3\d+t?").fullmatch, rest))
    check_abis(abis)
    return Options(
        abis=abis or list(ABIS),
        cpus=lanes_wanted(),
        limit_s=options.limit,
        smoke=options.smoke,
        outcomes=options.outcomes,
        pytest=rest[len(abis) :],
    )


def lanes_wanted() -> list[int | None]:
    """WINCPU: the CPUs to pin lanes to ("0,1"), "free" for one unpinned lane; default: all."""
    wanted = os.environ.get("WINCPU", "")
    if wanted == "free":
        return [None]
    if not re.fullmatch(r"(\d+(,\d+)*)?", wanted):
        die(f'WINCPU must be "free" or CPU numbers such as 0,1, not {wanted!r}')
    return [int(n) for n in wanted.split(",")] if wanted else list(os.sched_getaffinity(0))


def main() -> None:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with run_folder() as folder:
        try:
            build(options.abis, folder / "builds")
            verdicts = run_all(folder, options)
        except CommandFailed as failure:
            die(str(failure))
    for abi in options.abis:
        say(f"windows {abi}: {verdicts[abi]}")
    sys.exit(0 if all(verdict.is_good for verdict in verdicts.values()) else 1)


if __name__ == "__main__":
    main()
