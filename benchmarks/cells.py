"""The cells of the table: what is asked of every server."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from benchmarks import serving

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
P99 = Figure("p99_us", "ms", "p99 of the other connections", 1e-3)
RATE = Figure("rate", "/s", "messages per second")
MEMORY = Figure("bytes_each", "bytes", "memory per idle connection")


@dataclass(frozen=True)
class Cell:
    """One load, for the rows whose servers can do it."""

    name: str
    title: str
    kind: str  # of the servers
    load: tuple[str, ...]  # further arguments of the load generator
    figure: Figure = CPU
    server: tuple[str, ...] = ()  # further arguments of Python servers
    receives: int = 1024  # bytes that come at once, for the limit's buffers
    method: str = "load"  # of measure.py
    pinned: bool = True
    quick: bool = False
    bytes: int = 0  # of one bulk transfer
    workers: tuple[int, ...] = (1,)  # of our servers


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


CELLS = [
    echo("1 KiB", 1024, 1, quick=True),
    echo("1 KiB", 1024, 10, quick=False),
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
]


def named(patterns: list[str]) -> list[Cell]:
    """The cells that any of the patterns matches; each must match one."""
    for pattern in patterns:
        if not any(fnmatch(cell.name, pattern) for cell in CELLS):
            raise SystemExit(f"benchmarks: there is no cell {pattern}")
    return [cell for cell in CELLS if any(fnmatch(cell.name, pattern) for pattern in patterns)]


def make_file(path: Path) -> None:
    """The file that is sent, unless it is there."""
    if not path.exists() or path.stat().st_size != FILE_BYTES:
        piece = serving.block(1 << 20)
        with path.open("wb") as file:
            for _ in range(FILE_BYTES // len(piece)):
                file.write(piece)
