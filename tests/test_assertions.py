"""Assertions are in debug and sanitizer builds, and cost a release nothing."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "iocp_ext"
COMPILER = shutil.which("cc") or shutil.which("gcc")

pytestmark = [
    pytest.mark.skipif(not SOURCE.exists(), reason="only the package is here, without its sources"),
    pytest.mark.skipif(sys.platform == "win32", reason="asks the compiler of Linux"),
]

RELEASE: dict[str, str] = {}
DEBUG = {"IOCPCORE_DEBUG": "1"}
SANITIZED = {"IOCPCORE_SANITIZE": "address,undefined"}

SWITCHES = ("IOCPCORE_DEBUG", "IOCPCORE_SANITIZE", "IOCPCORE_WERROR")


def compile_with(environment, source, target, monkeypatch):
    """Compiles a file with the flags that setup.py has for it; the compiler's outcome."""
    if COMPILER is None:
        pytest.skip("no C compiler here")
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    flags, _ = runpy.run_path(str(ROOT / "setup.py"))["unix_flags"]()
    command = [COMPILER, "-O2", *flags, "-D_GNU_SOURCE", f"-I{SOURCE}", "-c", source, "-o", target]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["assert", "lock_owner", "op", "handle_queue", "lane"])
@pytest.mark.parametrize(
    ("environment", "asserts"),
    [(RELEASE, False), (DEBUG, True), (SANITIZED, True)],
    ids=["release", "debug", "sanitized"],
)
def test_which_builds_assert(environment, asserts, name, tmp_path, monkeypatch):
    target = tmp_path / "object.o"
    done = compile_with(environment, SOURCE / "core" / f"{name}.c", target, monkeypatch)
    assert done.returncode == 0, done.stderr
    symbols = target.read_bytes()
    assert (b"io_assert_failed" in symbols) is asserts
    if not asserts:
        assert b"io_lock_taken" not in symbols
        assert b"io_no_lock_is_mine" not in symbols


SIZES = """
#include "core/io.h"
_Static_assert(sizeof(io_lock) == 4, "of which there is one in every connection");
_Static_assert(sizeof(io_mutex) == sizeof(pthread_mutex_t), "nothing beside the system's own");
int count;
void count_up(void);
void count_up(void) {
    int unused = 1;
    io_assert(++count == unused);
}
"""


def test_a_release_pays_nothing(tmp_path, monkeypatch):
    """No byte in a lock, no warning, and no evaluation of what is asserted."""
    source = tmp_path / "sizes.c"
    source.write_text(SIZES)
    target = tmp_path / "sizes.o"
    done = compile_with({"IOCPCORE_WERROR": "1"}, source, target, monkeypatch)
    assert done.returncode == 0, done.stderr
    script = f"""
import ctypes
library = ctypes.CDLL({str(tmp_path / "sizes.so")!r})
library.count_up()
assert ctypes.c_int.in_dll(library, "count").value == 0
"""
    link = [COMPILER, "-shared", "-fPIC", "-fvisibility=default", "-D_GNU_SOURCE", f"-I{SOURCE}"]
    subprocess.run([*link, str(source), "-o", str(tmp_path / "sizes.so")], check=True)
    subprocess.run([sys.executable, "-c", script], check=True)


def test_debug_builds_of_windows_assert(monkeypatch):
    monkeypatch.delenv("IOCPCORE_DEBUG", raising=False)
    setup = ROOT / "setup.py"
    assert "/DIOCPCORE_DEBUG" not in runpy.run_path(str(setup))["msvc_flags"]()[0]
    monkeypatch.setenv("IOCPCORE_DEBUG", "1")
    project = runpy.run_path(str(setup))
    assert "/DIOCPCORE_DEBUG" in project["msvc_flags"]()[0]
    assert project["DEBUG"]  # mingw's:
    assert "-DIOCPCORE_DEBUG" in project["DEBUG_FLAGS"]
