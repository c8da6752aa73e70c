"""Windows Pythons under Wine, as servers; the load comes from Linux, to the same loopback.

It uses what tests/windows provides (its README says how to get it). Nearly every call of a Windows
program asks Wine's server process, so that is pinned to the servers' core, and its processor time
counts with theirs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from benchmarks.process import ROOT, pin

CACHE = Path(os.environ.get("IOCPCORE_CACHE") or Path.home() / ".cache" / "iocpcore") / "win"
PEERS = ["winloop", "twisted", "twisted-iocpsupport", "pywin32"]
# pywin32 finds itself by a .pth file, which Python reads only in places for packages.
SITE = "import os, site\n\nsite.addsitedir(os.path.dirname(__file__))\n"


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
def wine(abi: str, folder: Path, cores: set[int]) -> Iterator[tuple[str, int]]:
    """A command that is this Python, and the process of Wine's server."""
    prefix, built, peers = folder / "prefix", folder / "built", folder / "peers"
    build = [sys.executable, "tests/windows/build.py", "--into", str(built), abi]
    subprocess.run(build, cwd=ROOT, check=True)
    install_peers(abi, peers)
    shutil.rmtree(prefix, ignore_errors=True)
    shutil.copytree(CACHE / "prefix", prefix, symlinks=True)
    command = folder / "python"
    paths = ";".join([windows_path(peers), windows_path(built / abi)])
    command.write_text(
        f"#!/bin/sh\nexport WINEPREFIX={shlex.quote(str(prefix))} "
        f"PYTHONPATH={shlex.quote(paths)}\n"
        f'exec {shlex.quote(str(CACHE / "wpy"))} {abi} "$@"\n'
    )
    command.chmod(0o755)
    server = subprocess.Popen(
        [str(CACHE / "wine-10" / "wineserver"), "--foreground", "--persistent"],
        env={**os.environ, "WINEPREFIX": str(prefix)},
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: pin(cores),
    )
    try:
        yield str(command), server.pid
    finally:
        server.terminate()
        server.wait()
