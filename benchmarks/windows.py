"""Windows Pythons under Wine, as servers; the load comes from Linux, to the same loopback.

It uses what tests/windows provides (its README says how to get it). Nearly every call of a Windows
program asks Wine's server process, so that is pinned to the servers' core, and its processor time
counts with theirs.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

from benchmarks.arguments import UsageError
from benchmarks.process import ROOT, StartError, pin

CACHE = Path(os.environ.get("IOCPCORE_CACHE") or Path.home() / ".cache" / "iocpcore") / "win"
PEERS = ["winloop", "twisted", "twisted-iocpsupport", "pywin32"]
TRACED = "IOCPCORE_TRACED_PREFIX"
TRACED_SECONDS = 120.0
# The thread and the name of a request; the answer to it begins with "name() =".
REQUEST = re.compile(r"([0-9a-f]{4}): ([a-z_]\w*)\((?!\) =)")
# pywin32 finds itself by a .pth file, which Python reads only in places for packages.
SITE = "import os, site\n\nsite.addsitedir(os.path.dirname(__file__))\n"


def check_abi(abi: str) -> None:
    """Raises UsageError unless tests/windows knows it."""
    layout = runpy.run_path(str(ROOT / "tests" / "windows" / "layout.py"))
    known = sorted([*layout["ABIS"], *layout["EXTRA_ABIS"]])
    if abi not in known:
        raise UsageError(f"--windows {abi}: it must be one of {', '.join(known)}")


def windows_path(path: Path) -> str:
    return str(PureWindowsPath("Z:\\", *path.resolve().parts[1:]))


def install_peers(abi: str, folder: Path) -> None:
    """What cannot be installed is missing in the table, and said so."""
    version = f"{abi[2]}.{abi[3:].rstrip('t')}"
    shutil.rmtree(folder, ignore_errors=True)
    for package in PEERS:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"),
                *("--target", str(folder), "--platform", "win_amd64", "--only-binary=:all:"),
                *("--python-version", version, "--implementation", "cp", "--abi", abi),
                *("--abi", "none", "--abi", "abi3", package),
            ],
            check=False,
        )
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)


@contextmanager
def wine_server(prefix: Path, cores: set[int], *options: str, **streams: Any) -> Iterator[int]:
    """A fresh prefix and its server, whose process id it gives."""
    shutil.rmtree(prefix, ignore_errors=True)
    shutil.copytree(CACHE / "prefix", prefix, symlinks=True)
    server = subprocess.Popen(
        [str(CACHE / "wine-10" / "wineserver"), "--foreground", "--persistent", *options],
        env={**os.environ, "WINEPREFIX": str(prefix)},
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: pin(cores),
        **streams,
    )
    try:
        yield server.pid
    finally:
        server.terminate()
        server.wait()


@contextmanager
def wine(abi: str, folder: Path, cores: set[int]) -> Iterator[tuple[str, int]]:
    """A command that is this Python, and the process of Wine's server."""
    prefix, built, peers = folder / "prefix", folder / "built", folder / "peers"
    build = [sys.executable, "tests/windows/build.py", "--into", str(built), abi]
    if not (CACHE / "prefix").is_dir():
        raise UsageError(f"--windows {abi}: tests/windows/setup.sh has to be run first")
    if subprocess.run(build, cwd=ROOT, check=False).returncode:
        raise UsageError(f"--windows {abi}: {' '.join(build[1:])} failed")
    install_peers(abi, peers)
    command = folder / "python"
    paths = ";".join([windows_path(peers), windows_path(built / abi)])
    command.write_text(
        f"#!/bin/sh\nexport WINEPREFIX=${{{TRACED}:-{shlex.quote(str(prefix))}}} "
        f"PYTHONPATH={shlex.quote(paths)}\n"
        f'exec {shlex.quote(str(CACHE / "wpy"))} {abi} "$@"\n'
    )
    command.chmod(0o755)
    with wine_server(prefix, cores) as pid:
        yield str(command), pid


def requests(command: list[str], folder: Path, cores: set[int]) -> tuple[int, str]:
    """How often those threads of this program that send ask Wine's server for something, and what
    it prints. (Wine has services of its own, which ask the same server.)"""
    prefix, trace = folder / "traced", folder / "trace"
    with (
        trace.open("wb") as written,
        wine_server(prefix, cores, "--debug=1", stdout=written, stderr=written),
        (folder / "printed").open("w+") as printed,
    ):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, TRACED: str(prefix)},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            check=False,
            timeout=TRACED_SECONDS,
            preexec_fn=lambda: pin(cores),
        )
        printed.seek(0)
        lines = printed.read().strip().splitlines() or [""]
    if done.returncode:
        raise StartError(lines[-1])
    with trace.open(errors="replace") as found:
        asked = [match.groups() for line in found if (match := REQUEST.match(line))]
    senders = {thread for thread, name in asked if name == "send_socket"}
    return sum(thread in senders for thread, _ in asked), lines[0]
