"""The cells of the table: what is asked of every server."""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from benchmarks import serving
from benchmarks.arguments import UsageError

GIB = 1 << 30
FILE_BYTES = GIB


@dataclass(frozen=True)
class Figure:
    """What a cell is mainly about: a key of its samples."""

    key: str
    unit: str
    title: str
    factor: float = 1.0  # from the sample's unit to this one


CPU = Figure("cpu_us", "µs", "server CPU per message")
CPU_TRANSFER = Figure("cpu_us", "s", "server CPU per GiB", 1e-6)
CPU_READ = Figure("cpu_us", "µs", "CPU per read")
P99 = Figure("p99_us", "ms", "p99 of the other connections", 1e-3)
RATE = Figure("rate", "/s", "messages per second")
REQUESTS = Figure("requests_each", "per round trip", "requests to wineserver")
MEMORY = Figure("bytes_each", "bytes", "memory per idle connection")


@dataclass(frozen=True)
class Cell:
    """One load, for the rows whose servers can do it."""

    name: str
    title: str
    kind: str  # of the servers
    load: tuple[str, ...]  # further arguments of the load generator
    figure: Figure = CPU
    server: tuple[str, ...] = ()  # further arguments of all Python servers
    receives: int = 1024  # bytes that come at once, for the limit's buffers
    method: str = "load"  # of measure.py
    pinned: bool = True
    quick: bool = False
    bytes: int = 0  # of one bulk transfer
    workers: tuple[int, ...] = (1,)  # of our servers; none: they take no such argument
    ours: tuple[str, ...] = ()  # further arguments of our servers; {workers} is their number
    interpreters: bool = False  # rows with each of them
    windows: bool = False  # for Windows servers only


def echo(size: str, size_bytes: int, connections: int, quick: bool) -> Cell:
    plural = "connection" if connections == 1 else "connections"
    return Cell(
        f"echo-{size.replace(' ', '')}-x{connections}",
        f"echo, {size}, {connections} {plural}",
        "echo",
        ("--size", str(size_bytes), "--connections", str(connections)),
        receives=size_bytes,
        quick=quick,
    )


def framed(depth: int) -> Cell:
    return Cell(
        f"framed-depth{depth}",
        f"length-prefixed messages of 128 B, 100 connections, depth {depth}",
        "framed",
        ("--size", "128", "--connections", "100", "--framing", "length", "--depth", str(depth)),
        receives=132 * depth,
        quick=depth > 1,
    )


def work(microseconds: int) -> Cell:
    return Cell(
        f"work-{microseconds}us",
        f"echo, 64 B, 32 connections, {microseconds} µs of Python work per message, not pinned",
        "work",
        ("--size", "64", "--connections", "32"),
        figure=RATE,
        server=("--work-us", str(microseconds)),
        pinned=False,
        workers=(1, 2, 4),
        interpreters=True,
    )


def parallel() -> Cell:
    """As many callbacks at once as there are workers: by default one worker is a spare."""
    return replace(
        work(50),
        name="parallel-50us",
        title="echo, 64 B, 32 connections, 50 µs of Python work, concurrency = workers, not pinned",
        workers=(1, 2),
        ours=("--concurrency", "{workers}"),
    )


def reads(cache: str, title: str) -> Cell:
    return Cell(
        f"reads-{cache}",
        f"random reads of 4 KiB {title}, depth 32",
        f"reads-{cache}",
        (),
        figure=CPU_READ,
        method="alone",
        workers=(),
    )


def most_connections() -> int:
    """What the load generator and the server may open, a few less."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 64


CELLS = [
    echo("1 KiB", 1024, 1, quick=True),
    echo("1 KiB", 1024, 10, quick=False),
    replace(echo("1 KiB", 1024, 16, quick=True), figure=RATE, windows=True),
    echo("1 KiB", 1024, 100, quick=True),
    echo("1 KiB", 1024, 1000, quick=False),
    echo("64 KiB", 65536, 10, quick=True),
    framed(1),
    framed(16),
    Cell(
        "lines-depth16",
        "lines of 64 B, 100 connections, depth 16",
        "lines",
        ("--size", "63", "--connections", "100", "--framing", "lf", "--depth", "16"),
        receives=64 * 16,
        quick=True,
    ),
    Cell(
        "visit",
        "connect, 1 KiB request, response, close; 32 at once",
        "visit",
        ("--mode", "visit", "--size", "1024", "--connections", "32"),
        quick=True,
    ),
    Cell(
        "idle-10000",
        "10,000 idle connections that have had one echo",
        "echo",
        ("--mode", "idle", "--connections", "10000", "--size", "64"),
        figure=MEMORY,
        method="idle",
    ),
    Cell(
        "idle-most",
        "as many idle connections as descriptors allow",
        "echo",
        ("--mode", "idle", "--connections", str(most_connections()), "--size", "64"),
        figure=MEMORY,
        method="idle",
    ),
    Cell(
        "block",
        "echo, 1 KiB, 100 connections, beside one whose callback blocks for 1 s",
        "block",
        ("--size", "1024", "--connections", "100"),
        figure=P99,
        workers=(2,),
        ours=("--concurrency", "1"),
        method="block",
        quick=True,
    ),
    *(work(microseconds) for microseconds in (0, 10, 50)),
    parallel(),
    Cell(
        "bulk",
        "sending 1 GiB from memory",
        "bulk",
        ("--mode", "bulk"),
        figure=CPU_TRANSFER,
        bytes=GIB,
    ),
    Cell(
        "file",
        "sending a file of 1 GiB",
        "file",
        ("--mode", "bulk"),
        figure=CPU_TRANSFER,
        bytes=FILE_BYTES,
    ),
    Cell(
        "tls",
        "TLS echo, 1 KiB, 100 connections",
        "tls",
        ("--size", "1024", "--connections", "100"),
    ),
    Cell(
        "datagram",
        "UDP echo, 1 KiB, 32 sockets, depth 2",
        "datagram",
        ("--mode", "datagram", "--size", "1024", "--connections", "32", "--depth", "2"),
        workers=(),
    ),
    Cell(
        "round-trips",
        "echo, 64 B, client and server in one loop or port",
        "round-trips",
        (),
        figure=REQUESTS,
        method="requests",
        quick=True,
        workers=(),
        windows=True,
    ),
    reads("cached", "from the page cache"),
    reads("direct", "past the page cache"),
]


def named(patterns: list[str]) -> list[Cell]:
    """The cells that any of the patterns matches. Raises UsageError for one that matches none."""
    for pattern in patterns:
        if not any(fnmatch(cell.name, pattern) for cell in CELLS):
            raise UsageError(f"there is no cell {pattern}")
    return [cell for cell in CELLS if any(fnmatch(cell.name, pattern) for pattern in patterns)]


def make_file(path: Path) -> None:
    """The file that is sent, unless it is there."""
    if not path.exists() or path.stat().st_size != FILE_BYTES:
        piece = serving.block(1 << 20)
        with path.open("wb") as file:
            for _ in range(FILE_BYTES // len(piece)):
                file.write(piece)
