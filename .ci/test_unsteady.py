""".ci/unsteady repeats a test that failed, and only if that may have been chance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

UNSTEADY = Path(__file__).resolve().with_name("unsteady")
TESTS = UNSTEADY.parents[1] / "tests"
LIMIT_S = 60

# A session of its own: its failures are not ours.
CONFTEST = """
from pathlib import Path
from support import outcome

def pytest_configure(config):
    config.addinivalue_line("markers", "found_in_use")
    missing = lambda: ["sim"] if Path("sim-is-missing").exists() else []
    config.pluginmanager.register(outcome.Recorder(Path(outcome.TARGET), missing))
"""

HEAD = """
import ctypes, os, pytest, subprocess, sys, time
from pathlib import Path
from support import child, outcome

def fails_at_first(times):
    path = Path(__file__).with_suffix(".calls")
    calls = path.read_text() if path.exists() else ""
    path.write_text(calls + ".")
    assert len(calls) >= times

def test_good():
    pass

@pytest.mark.skip
def test_skipped():
    pass
"""


class Check:
    """A run of some tests, and what .ci/unsteady makes of it."""

    def __init__(self, folder: Path, code: str) -> None:
        self.folder = folder
        self.listed = folder / "unsteady.txt"
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "pytest.ini").write_text("[pytest]\ntimeout = 60\ntimeout_method = thread\n")
        (folder / "test_it.py").write_text(HEAD + code)
        outcome = folder / "outcome.json"
        command = [
            *("env", f"IOCPCORE_TEST_OUTCOME={outcome}", f"PYTHONPATH={TESTS}"),
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"),
        ]
        self.status = self._run(*command)[0]
        self.final, self.said = self._run(
            sys.executable, str(UNSTEADY), str(self.listed), str(outcome), *command
        )

    def _run(self, *command: str) -> tuple[int, str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=LIMIT_S,
            check=False,
        )
        return done.returncode, done.stdout

    @property
    def unsteady(self) -> list[str]:
        return self.listed.read_text().splitlines() if self.listed.exists() else []

    @property
    def count(self) -> str:
        return self.said.splitlines()[-1]

    @property
    def repeats(self) -> int:
        return self.said.count("== repeating ")


@pytest.fixture
def check(tmp_path):
    return lambda code: Check(tmp_path, code)


@pytest.mark.parametrize("times", [1, 2])
def test_one_that_passes_when_repeated(check, times):
    """Named as unsteady, and counted among those that passed."""
    done = check(f"@pytest.mark.parametrize('x', ['a b'])\ndef test_it(x): fails_at_first({times})")
    assert (done.status, done.final) == (1, 0), done.said
    assert done.unsteady == ["test_it.py::test_it[a b]"]
    assert done.count == "2 passed, 0 failed, 1 skipped"
    assert done.repeats == times


def test_one_that_always_fails(check):
    done = check("def test_it(): fails_at_first(3)")
    assert (done.status, done.final) == (1, 1), done.said
    assert done.unsteady == []
    assert done.count == "1 passed, 1 failed, 1 skipped"
    assert done.repeats == 2


def test_an_error_of_the_fixtures(check):
    """A test that leaves something behind fails, though its own function has passed."""
    code = (
        "@pytest.fixture\ndef left():\n    yield\n    fails_at_first(1)\n"
        "def test_it(left): assert True\n"
    )
    done = check(code)
    assert (done.status, done.final) == (1, 0), done.said
    assert done.unsteady == ["test_it.py::test_it"]
    assert done.count == "2 passed, 0 failed, 1 skipped"


FINAL = {
    "found in use": "@pytest.mark.found_in_use\ndef test_it(): fails_at_first(1)",
    "a child that crashed": (
        "def test_it():\n"
        "    fails_at_first(1) if Path(__file__).with_suffix('.calls').exists() else None\n"
        "    Path(__file__).with_suffix('.calls').touch()\n"
        "    child.run('import os; os.abort()', 'sim')"
    ),
    "a child that hung": (
        "def test_it(): subprocess.run([sys.executable, '-c', 'input()'], "
        "stdin=subprocess.PIPE and os.pipe()[0], timeout=0.1)"
    ),
    "a wait to the limit": (
        "def test_it(monkeypatch):\n"
        "    monkeypatch.setattr(outcome, 'LIMIT', 0.2)\n"
        "    time.sleep(0.3)\n"
        "    fails_at_first(1)"
    ),
}


@pytest.mark.parametrize("code", FINAL.values(), ids=FINAL)
def test_one_that_is_final(check, code):
    done = check(code)
    assert (done.status, done.final) == (1, 1), done.said
    assert (done.unsteady, done.repeats) == ([], 0)
    assert done.count == "1 passed, 1 failed, 1 skipped"


IRREGULAR = {
    "a crash": "def test_it(): ctypes.string_at(0)",
    "a hang": "@pytest.mark.timeout(0.2)\ndef test_it(): time.sleep(60)",
    "an error of collection": "import nothing_of_this_name",
    "no test": "pytest.skip(allow_module_level=True)",
}


@pytest.mark.parametrize("code", IRREGULAR.values(), ids=IRREGULAR)
def test_a_run_without_an_end(check, code):
    """Nothing is known of the tests that would have come."""
    done = check(code)
    assert done.status != 0
    assert done.final != 0, done.said
    assert (done.unsteady, done.repeats) == ([], 0)


def test_a_crash_when_repeated(check):
    code = (
        "def test_it():\n"
        "    if (path := Path(__file__).with_suffix('.calls')).exists(): ctypes.string_at(0)\n"
        "    path.touch()\n"
        "    assert False"
    )
    done = check(code)
    assert (done.status, done.final) == (1, 1), done.said
    assert (done.unsteady, done.repeats) == ([], 1)


@pytest.mark.parametrize("count", [3, 4])
def test_many(check, count):
    """Four that fail in one row are no chance."""
    code = (
        f"@pytest.mark.parametrize('x', range({count}))\n"
        "def test_it(x):\n"
        "    path = Path(__file__).with_suffix(f'.{x}')\n"
        "    if not path.exists():\n"
        "        path.touch()\n"
        "        assert False"
    )
    done = check(code)
    assert done.final == (count > 3), done.said
    assert len(done.unsteady) == done.repeats == (3 if count == 3 else 0)


def test_a_run_that_fails_without_a_failed_test(check):
    """As one in which an expected backend is missing."""
    done = check("")
    assert (done.status, done.final) == (0, 1), done.said


def test_an_expected_backend_is_missing(check):
    """However the tests fare that failed in addition."""
    done = check("def test_it():\n    Path('sim-is-missing').touch()\n    fails_at_first(1)")
    assert (done.status, done.final) == (1, 1), done.said
    assert (done.unsteady, done.repeats) == ([], 0)
    assert "no test ran on sim" in done.said
