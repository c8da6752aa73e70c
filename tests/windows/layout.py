"""Where everything lies, and what the other scripts of this folder share."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import NoReturn

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]

CACHE = Path(os.environ.get("IOCPCORE_CACHE") or Path.home() / ".cache" / "iocpcore").resolve()
WIN = CACHE / "win"
WINE = WIN / "wine-10"
PREFIX = WIN / "prefix"
PYTHONS = WIN / "pythons"
SPECS = WIN / "ucrt.specs"
DOWNLOADS = WIN / "downloads"
RUNS = WIN / "runs"
BUILDS = WIN / "builds"

ABIS = ("cp311", "cp312", "cp313", "cp314", "cp314t")
# Installable and testable by name, but not part of the default row.
EXTRA_ABIS = ("cp313t",)

GCC = "x86_64-w64-mingw32-gcc"
# _WIN32_WINNT: Windows 10, the oldest system that the package supports. ANSI_STDIO: GCC shall
# check formats by the standard (%zu), not by what the old CRT knew. And it warns falsely
# (-Warray-bounds) about the access to the thread block that free-threaded Py_DECREF inlines.
COMPILE_FLAGS = (
    *(f"-specs={SPECS}", "-D_UCRT", "-D_WIN32_WINNT=0x0A00", "-D__USE_MINGW_ANSI_STDIO=1"),
    *("-O2", "-g", "-Wall", "-Wno-array-bounds"),
)
FREE_THREADED_FLAG = "-DPy_GIL_DISABLED=1"
LIBRARIES = ("-static-libgcc", "-lws2_32", "-lmswsock", "-lntdll")


class CommandFailed(Exception):
    """A command ended with an error; the message holds what it said."""


def die(message: str) -> NoReturn:
    sys.exit(f"tests/windows: {message}")


def say(message: str) -> None:
    print(message, flush=True)


def minor_of(abi: str) -> str:
    """cp314t -> 3.14"""
    return f"3.{abi.removeprefix('cp3').rstrip('t')}"


def is_free_threaded(abi: str) -> bool:
    return abi.endswith("t")


def python_home(abi: str) -> Path:
    return PYTHONS / abi


def python_dll(abi: str) -> Path:
    return python_home(abi) / f"python{abi.removeprefix('cp')}.dll"


def windows_path(path: Path) -> str:
    """The path as a Windows program sees it: Wine maps drive Z: to the root."""
    return str(PureWindowsPath("Z:\\", *path.absolute().parts[1:]))


def check_abis(abis: Sequence[str]) -> None:
    unknown = [abi for abi in abis if abi not in ABIS + EXTRA_ABIS]
    if unknown:
        die(f"unknown ABI {', '.join(unknown)}; known: {', '.join(ABIS + EXTRA_ABIS)}")


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command quietly; if it fails, raise CommandFailed."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        called = " ".join(map(str, command))
        raise CommandFailed(f"{called}\n{done.stdout}{done.stderr}exit code {done.returncode}")


def run_with_retries(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a command that needs the network: two more tries, as mirrors have bad moments."""
    for pause in (5, 20):
        try:
            return run(*command, cwd=cwd)
        except CommandFailed as failure:
            say(f"{failure}\ntrying again in {pause} s")
        time.sleep(pause)
    run(*command, cwd=cwd)


def write_script(path: Path, text: str) -> None:
    """Replace an executable script in one step: another process may be running the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(0o755)
    temporary.replace(path)


def is_complete(folder: Path, recipe: str) -> bool:
    stamp = folder / ".complete"
    return stamp.is_file() and stamp.read_text() == recipe


def mark_complete(folder: Path, recipe: str) -> None:
    (folder / ".complete").write_text(recipe)


def digest(*parts: bytes | str) -> str:
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()[:32]
