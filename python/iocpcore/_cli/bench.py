"""``bench``: echo servers of this package and on asyncio's loops, under one load, side by side.

A process of its own for each server and each load, on different CPUs if there are two. What is
measured best is the CPU time of the server: that of the load, which is Python too, is not in it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import queue
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iocpcore import backends
from iocpcore._cli import arguments
from iocpcore._cli.picture import draw
from iocpcore._cli.processes import (
    ANSWER_LIMIT,
    CONNECT_LIMIT,
    PATIENCE,
    Child,
    need_descriptors,
)
from iocpcore._sockets import is_simulated

CONTROL = "asyncio"  # what the others are compared with
LOAD_IS_BUSY = 0.9  # of a CPU


@dataclass(frozen=True)
class Cell:
    """One kind of load."""

    title: str
    framing: str
    size: int
    depth: int


CELLS = (
    Cell("echo: 1024 bytes, one at a time on each connection", "none", 1024, 1),
    Cell("messages: 128 bytes behind their length, 16 under way", "length", 128, 16),
)


@dataclass(frozen=True)
class Sample:
    rate: float  # messages a second
    cpu: float  # microseconds of the server's process for one message
    p99: float  # milliseconds
    load_cpu: float  # of one CPU


@dataclass
class Row:
    """One server."""

    name: str
    kind: str
    gather: bool = False  # asyncio again, with answers gathered by hand
    samples: dict[Cell, list[Sample]] = field(default_factory=dict)
    trouble: dict[Cell, str] = field(default_factory=dict)

    def takes_part(self, cell: Cell) -> bool:
        return cell.framing != "none" or not self.gather

    @property
    def ours(self) -> bool:
        return self.name.startswith("iocpcore")

    def middle(self, cell: Cell, name: str) -> float | None:
        found = [getattr(sample, name) for sample in self.samples.get(cell, [])]
        return statistics.median(found) if found else None


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="echo servers of this package and of asyncio, compared; under half a minute",
        description="Echo servers of this package and on asyncio's loops (uvloop or winloop too, "
        "if installed) under one load: throughput, and CPU of the server for one message.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--seconds", type=arguments.seconds, default=1.5, help="for each sample (%(default)g)"
    )
    parser.add_argument(
        "--repeats",
        type=arguments.whole(1, 1000),
        default=1,
        help="samples of each server, of which the median is shown (%(default)s)",
    )
    parser.add_argument(
        "--connections", type=arguments.whole(1, 50000), default=100, help="(%(default)s)"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path("iocpcore-bench.png"),
        metavar="FILE",
        help="drawn if matplotlib is installed; .png, .svg or .pdf (%(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Measure and show everything; the exit code, 1 if a server failed or answered wrongly."""
    check_picture(options.picture)
    need_descriptors(options.connections)
    rows, missing = choose_rows()
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}")
    for name in missing:
        print(f"{name} is not installed")
    plan = [(row, cell) for cell in CELLS for row in rows if row.takes_part(cell)]
    count = len(plan) * options.repeats
    print(
        f"{options.connections} connections, {count} samples of {options.seconds:g} s: "
        f"about {count * (options.seconds + 0.7):.0f} s",
        flush=True,
    )
    for _ in range(options.repeats):
        for row, cell in plan:
            measure(row, cell, options)
    for cell in CELLS:
        print_table(cell, [row for row in rows if row.takes_part(cell)])
    if draw(rows, CELLS, options.picture):
        print(f"\npicture: {options.picture}")
    else:
        print("\nno picture, as matplotlib is not installed")
    return 1 if any(row.trouble for row in rows) else 0


def check_picture(path: Path) -> None:
    """Before anything is measured."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--picture must end with .png, .svg or .pdf, not {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"--picture: there is no folder {str(path.parent)!r}")


def choose_rows() -> tuple[list[Row], list[str]]:
    """The servers, and what could not be compared with."""
    rows = [
        Row(f"iocpcore, {name}", name)
        for name, reason in backends().items()
        if reason is None and not is_simulated(name)
    ]
    rows.append(Row(CONTROL, CONTROL))
    rows.append(Row(f"{CONTROL}, one write", CONTROL, gather=True))
    fast = "winloop" if sys.platform == "win32" else "uvloop"
    if importlib.util.find_spec(fast) is None:
        return rows, [fast]
    rows.append(Row(fast, fast))
    return rows, []


def measure(row: Row, cell: Cell, options: argparse.Namespace) -> None:
    """One sample, or why there is none."""
    server_cpu, load_cpu = two_cpus()
    limit = CONNECT_LIMIT + options.seconds + ANSWER_LIMIT + PATIENCE
    try:
        with Child(
            "iocpcore._cli.bench_server",
            *(row.kind, "--framing", cell.framing, *(["--gather"] if row.gather else [])),
            cpu=server_cpu,
        ) as server:
            begin = server.event(PATIENCE)
            with Child(
                "iocpcore._cli.load",
                *("127.0.0.1", begin["port"], "--connections", options.connections),
                *("--seconds", options.seconds, "--interval", options.seconds),
                *("--framing", cell.framing, "--size", cell.size, "--depth", cell.depth),
                cpu=load_cpu,
            ) as load:
                end = load.event(limit)
                while end["event"] != "end":
                    end = load.event(limit)
            server.end()
            cpu = server.event(PATIENCE)["cpu"] - begin["cpu"]
    except (RuntimeError, OSError) as error:
        row.trouble[cell] = str(error)
        return
    except queue.Empty:
        row.trouble[cell] = "it did not come to an end"
        return
    if end["lost"] or end["wrong"] or not end["answered"]:
        row.trouble[cell] = f"answers lost: {end['lost']}, wrong: {end['wrong']}"
        return
    row.samples.setdefault(cell, []).append(
        Sample(
            rate=end["answered"] / end["seconds"],
            cpu=cpu / end["answered"] * 1e6,
            p99=end["p99"],
            load_cpu=end["load_cpu"],
        )
    )


def two_cpus() -> tuple[int | None, int | None]:
    """For the server and for the load; None where that cannot be chosen, or there is only one."""
    if sys.platform == "win32" or not hasattr(os, "sched_getaffinity"):
        return None, None
    cpus = sorted(os.sched_getaffinity(0))
    return (cpus[0], cpus[-1]) if len(cpus) > 1 else (None, None)


def print_table(cell: Cell, rows: list[Row]) -> None:
    print(f"\n{cell.title}")
    print(
        f"  {'':<22}{'messages/s':>12}{'CPU a message':>16}{'of ' + CONTROL + chr(39) + 's':>14}"
        f"{'99 % within':>14}{'load CPU':>10}"
    )
    control = next(row.middle(cell, "cpu") for row in rows if row.kind == CONTROL)
    busy = False
    for row in rows:
        if cell in row.trouble:
            print(f"  {row.name:<22}failed: {row.trouble[cell]}")
            continue
        rate, cpu, p99, load = (
            row.middle(cell, name) or 0.0 for name in ("rate", "cpu", "p99", "load_cpu")
        )
        busy = busy or load > LOAD_IS_BUSY
        share = f"{cpu / control:.2f}" if control else "-"
        print(
            f"  {row.name:<22}{rate:>12,.0f}{cpu:>13.2f} us{share:>14}{p99:>11.1f} ms{load:>10.0%}"
        )
    if busy:
        print("  where the load's CPU is near 100 %, the server could do more messages than that")
