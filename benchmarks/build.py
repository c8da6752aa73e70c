"""Builds the C programs: the load generator and the servers that are the limit."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arguments import UsageError

HERE = Path(__file__).resolve().parent
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Wconversion"]
WITH_TLS = (["-DWITH_TLS"], ["-lssl", "-lcrypto"])
WITHOUT_TLS: tuple[list[str], list[str]] = ([], [])

LIMITS = {
    "epoll": ["epoll.c"],
    "uring": ["uring.c", "ring.c"],
    "bulk": ["bulk.c"],
    "datagram": ["datagram.c"],
    "reads": ["reads.c", "ring.c"],
}


@dataclass(frozen=True)
class Programs:
    """Where they are, and whether the load generator speaks TLS."""

    folder: Path
    tls: bool

    def path(self, name: str) -> str:
        return str(self.folder / name)


def build(folder: Path, compiler: str) -> Programs:
    """Builds everything into the folder. It takes two seconds, so nothing is kept from before.

    Raises UsageError if the compiler cannot, which has said why.
    """
    load = sorted((HERE / "load").glob("*.c"))
    tls = compiled(compiler, load, folder / "load", WITH_TLS, check=False)
    if not tls:
        compiled(compiler, load, folder / "load", WITHOUT_TLS)
    for name, sources in LIMITS.items():
        paths = [HERE / "limit" / source for source in [*sources, "listen.c"]]
        compiled(compiler, paths, folder / name, WITHOUT_TLS)
    return Programs(folder, tls)


def compiled(
    compiler: str,
    sources: list[Path],
    target: Path,
    extra: tuple[list[str], list[str]],
    check: bool = True,
) -> bool:
    defines, libraries = extra
    command = [compiler, *FLAGS, *defines, "-o", str(target), *map(str, sources), *libraries]
    try:
        done = subprocess.run(command, check=False, capture_output=not check)
    except OSError as error:
        raise UsageError(f"--cc {compiler}: {error.strerror}") from None
    if check and done.returncode:
        raise UsageError(f"--cc {compiler}: it failed to build {target.name}")
    return done.returncode == 0
