"""Writes the outcome of a test run, for `.ci/unsteady`, which repeats failed tests.

A crash, or a test that waited for a whole time limit, counts as a failure even if the next run
passes. So does the failure of a test for a fault that was found in use. Only other failures are
repeated.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support.system import LIMIT

# Removed from the environment, so that a pytest started by a test does not overwrite the file.
TARGET = os.environ.pop("IOCPCORE_TEST_OUTCOME", "")

CRASH = re.compile(
    r"Fatal Python error|Segmentation fault|Assertion [`'].*' failed|Assertion failed: "
    r"|AddressSanitizer|ThreadSanitizer|runtime error: |child\.Crashed"
)


class Recorder:
    """Writes the outcome of a session that has run to its end."""

    def __init__(self, target: Path, missing_backends: Callable[[], list[str]]) -> None:
        self._target = target
        self._missing_backends = missing_backends
        self._passed: set[str] = set()
        self._skipped: set[str] = set()
        self._failures: dict[str, str] = {}  # node id: why it must not be repeated, or ""
        self._found_in_use: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._found_in_use = {
            item.nodeid for item in items if item.get_closest_marker("found_in_use")
        }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid
        if report.failed:
            self._failures[name] = self._failures.get(name) or self._final(report)
        elif report.skipped:
            self._skipped.add(name)
        elif report.when == "call":
            self._passed.add(name)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        if missing := self._missing_backends():
            self._failures["expected backends"] = f"no test ran on {', '.join(missing)}"
        outcome = {
            "passed": len(self._passed - self._failures.keys()),
            "skipped": len(self._skipped - self._failures.keys()),
            "failures": self._failures,
        }
        self._target.write_text(json.dumps(outcome), encoding="utf-8")

    def _final(self, report: pytest.TestReport) -> str:
        if report.nodeid in self._found_in_use:
            return "the test of a fault that was found in use"
        if report.duration >= LIMIT or "TimeoutExpired" in report.longreprtext:
            return "it hung"
        said = [report.longreprtext, *(text for _, text in report.sections)]
        return "it crashed" if any(map(CRASH.search, said)) else ""
