"""The rows of the table: the servers, and how each is started."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from benchmarks import reading
from benchmarks.arguments import UsageError
from benchmarks.build import Programs
from benchmarks.cells import Cell

# What asyncio itself does: other rows are compared with it.
CONTROLS = ("asyncio-protocol", "asyncio-threads", "proactor-protocol")
READS = frozenset({"reads-cached", "reads-direct"})
# What comes in frames is the same to a server that gives back every byte.
RAW = frozenset({"echo", "framed", "lines"})
STREAM = RAW | {"visit", "block", "bulk", "file", "tls"}
TRIPS = frozenset({"round-trips"})
FIO = "fio"  # the one thing needed that is not a package
IMPORT_SECONDS = 60.0
OURS = ("epoll", "io_uring")


@dataclass(frozen=True)
class Row:
    """A server. `module` is a script of ours, or `program` one in C."""

    name: str
    kinds: frozenset[str]
    module: str = ""
    program: str = ""
    arguments: tuple[str, ...] = ()
    needs: str = ""  # a package, or FIO
    quick: bool = False
    python: str = ""  # filled in by variants()

    @property
    def limit(self) -> bool:
        return bool(self.program)

    @property
    def ours(self) -> bool:
        return self.needs == "iocpcore"

    @property
    def control(self) -> bool:
        return self.name in CONTROLS


@dataclass(frozen=True)
class Things:
    """What servers are started with."""

    programs: Programs
    file: Path
    certificate: Path


def loop_rows(name: str, lacks: frozenset[str] = frozenset(), quick: bool = False) -> list[Row]:
    """An asyncio loop, with both of asyncio's ways to write a server."""
    needs = "" if name in ("asyncio", "proactor") else name
    loop = ("--loop", name)
    kinds = STREAM - lacks
    more = frozenset({"work", "datagram"}) - lacks
    protocol, streams = "benchmarks.peers.protocol", "benchmarks.peers.streams"
    return [
        Row(f"{name}-protocol", kinds | more, protocol, "", loop, needs, quick),
        Row(f"{name}-streams", kinds, streams, "", loop, needs),
    ]


def our_rows(backend: str) -> list[Row]:
    """One name for the modules that do the different kinds."""
    stream, reads = "benchmarks.servers.stream", "benchmarks.servers.reads"
    datagram = "benchmarks.servers.datagram"
    name, chosen = f"iocpcore-{backend}", ("--backend", backend)
    return [
        Row(name, STREAM | {"work"}, stream, "", chosen, "iocpcore", quick=True),
        Row(name, frozenset({"datagram"}), datagram, "", chosen, "iocpcore"),
        Row(name, READS, reads, "", (backend,), "iocpcore"),
    ]


def library(name: str, lacks: frozenset[str] = frozenset()) -> Row:
    kinds = (STREAM | {"datagram"}) - lacks
    return Row(name, kinds, f"benchmarks.peers.{name}_server", needs=name)


ROWS = [
    Row("c-epoll", RAW | {"visit"}, program="epoll", quick=True),
    Row("c-io_uring", RAW | {"visit"}, program="uring", quick=True),
    Row("c-blocking", frozenset({"bulk", "file"}), program="bulk"),
    Row("c-recvfrom", frozenset({"datagram"}), program="datagram"),
    Row("c-io_uring", READS, program="reads"),
    Row("fio-io_uring", READS, "benchmarks.peers.fio", "", ("io_uring",), FIO),
    *loop_rows("asyncio", quick=True),
    *loop_rows("uvloop", lacks=frozenset({"file"}), quick=True),
    *loop_rows("rloop", lacks=frozenset({"file", "tls", "datagram"})),
    library("gevent"),
    library("twisted", lacks=frozenset({"tls"})),
    library("trio"),
    Row("asyncio-threads", READS, "benchmarks.peers.reads", "", ("threads",)),
    Row(
        "aiofiles",
        frozenset({"reads-cached"}),
        "benchmarks.peers.reads",
        "",
        ("aiofiles",),
        "aiofiles",
    ),
    *(row for backend in OURS for row in our_rows(backend)),
]

WINDOWS_ROWS = [
    *loop_rows("proactor", quick=True),
    *loop_rows("winloop", lacks=frozenset({"file"}), quick=True),
    replace(
        library("twisted", lacks=frozenset({"tls"})),
        name="twisted-iocp",
        arguments=("--reactor", "iocpreactor"),
        needs="twisted.internet.iocpreactor",
    ),
    *our_rows("iocp"),
    *(
        Row(f"{loop}-protocol", TRIPS, "benchmarks.peers.round_trips", "", (loop,), needs, True)
        for loop, needs in (("proactor", ""), ("winloop", "winloop"))
    ),
    Row("iocpcore-iocp", TRIPS, "benchmarks.servers.round_trips", needs="iocpcore", quick=True),
]


def named(patterns: list[str], every: list[Row]) -> list[Row]:
    """Those that any of the patterns matches. Raises UsageError for one that matches none."""
    for pattern in patterns:
        if not any(fnmatch(row.name, pattern) for row in every):
            raise UsageError(f"there is no row {pattern}")
    return [row for row in every if any(fnmatch(row.name, pattern) for pattern in patterns)]


def variants(row: Row, cell: Cell, pythons: dict[str, str]) -> list[Row]:
    """The row as it runs in this cell: with each interpreter and number of workers of the cell."""
    if cell.kind not in row.kinds:
        return []
    if row.limit:
        return [row]
    chosen = pythons if cell.interpreters else {"": pythons[""]}
    rows = [
        replace(row, name=row.name + suffix, python=python) for suffix, python in chosen.items()
    ]
    if not row.ours or not cell.workers:
        return rows
    return [
        replace(
            each,
            name=each.name + (f"-w{workers}" if len(cell.workers) > 1 else ""),
            arguments=(
                *each.arguments,
                *("--workers", str(workers)),
                *(argument.format(workers=workers) for argument in cell.ours),
            ),
        )
        for each in rows
        for workers in cell.workers
    ]


def command(row: Row, cell: Cell, things: Things, seconds: float) -> list[str]:
    """What starts this row's server for this cell."""
    if row.limit:
        arguments = limit_arguments(row, cell, things, seconds)
        return [things.programs.path(row.program), *arguments]
    start = [row.python, "-m", row.module, *row.arguments]
    if cell.kind == "round-trips":
        return start
    if cell.kind in READS:
        return [*start, str(things.file), str(seconds), cache_use(cell)]
    arguments = ["echo" if cell.kind == "tls" else cell.kind, *cell.server]
    if cell.kind == "tls":
        arguments += ["--certificate", str(things.certificate)]
    if cell.kind == "file":
        arguments += ["--file", str(things.file)]
    if cell.bytes:
        arguments += ["--bytes", str(cell.bytes)]
    return [*start, *arguments]


def limit_arguments(row: Row, cell: Cell, things: Things, seconds: float) -> list[str]:
    if row.program == "bulk":
        return ["file", str(things.file)] if cell.kind == "file" else ["send", str(cell.bytes)]
    if row.program == "datagram":
        return []
    if row.program == "reads":
        numbers = [str(seconds), str(reading.DEPTH), str(reading.BYTES)]
        return [str(things.file), *numbers, cache_use(cell)]
    kind = "visit" if cell.kind == "visit" else "echo"
    return [kind, str(buffer_size(cell.receives))] if row.program == "uring" else [kind]


def cache_use(cell: Cell) -> str:
    return cell.kind.removeprefix("reads-")


def buffer_size(receives: int) -> int:
    """The next power of two of what comes at once, from 2 KiB to 64 KiB."""
    return min(65536, max(2048, 1 << (receives - 1).bit_length()))


@cache
def missing(python: str, package: str) -> str:
    """Why this interpreter cannot import the package, or an empty text. What it says goes to a
    file: under Wine processes that outlive it would hold a pipe open."""
    if not package:
        return ""
    if package == FIO:
        return "" if shutil.which(package) else "it is not installed"
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            [python, "-c", f"import {package}"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            check=False,
            timeout=IMPORT_SECONDS,
        )
        said.seek(0)
        lines = said.read().strip().splitlines()
    return (lines or ["failed"])[-1] if done.returncode else ""
