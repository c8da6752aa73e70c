"""``bench``: compares echo servers of this package and of asyncio loops under the same load."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

from iocpcore._bench.comparison import CELLS, CONTROL, Line, Row, Table, choose_rows, measure
from iocpcore._bench.picture import Panel, draw
from iocpcore._bench.processes import need_descriptors
from iocpcore._bench.results import ratio
from iocpcore._cli import arguments

__all__ = ["Row", "add", "run"]

LOAD_IS_BUSY = 0.9  # of a CPU
FIGURES = (
    ("rate", "messages a second (more is better)", "{:,.0f}"),
    ("cpu_us", "CPU of the server for a message, us (less is better)", "{:.2f}"),
)


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
    """Measure and print everything. Returns 1 if a server failed or answered wrongly, else 0."""
    check_picture(options.picture)
    need_descriptors(options.connections)
    rows, missing = choose_rows()
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}")
    for name in missing:
        print(f"{name} is not installed")
    tables = [Table(cell, [Line(row) for row in rows if row.takes_part(cell)]) for cell in CELLS]
    plan = [(line, table.cell) for table in tables for line in table.lines]
    count = len(plan) * options.repeats
    print(
        f"{options.connections} connections, {count} samples of {options.seconds:g} s: "
        f"about {count * (options.seconds + 0.7):.0f} s",
        flush=True,
    )
    for _ in range(options.repeats):
        for line, cell in plan:
            measure(line, cell, options.connections, options.seconds)
    for table in tables:
        print_table(table)
    if draw_picture(tables, options.picture):
        print(f"\npicture: {options.picture}")
    else:
        print("\nno picture, as matplotlib is not installed")
    return 1 if any(line.failure for line, _ in plan) else 0


def check_picture(path: Path) -> None:
    """Check the path before anything is measured. Raises ValueError."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--picture must end with .png, .svg or .pdf, not {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"--picture: there is no folder {str(path.parent)!r}")


def print_table(table: Table) -> None:
    print(f"\n{table.cell.title}")
    print(
        f"  {'':<22}{'messages/s':>12}{'CPU a message':>16}{'of ' + CONTROL + chr(39) + 's':>14}"
        f"{'99 % within':>14}{'load CPU':>10}"
    )
    control = table.control("cpu_us")
    busy = False
    for line in table.lines:
        name = line.row.name
        if line.failure:
            print(f"  {name:<22}failed: {line.failure}")
            continue
        rate, cpu, p99, load = (
            line.middle(key) or 0.0 for key in ("rate", "cpu_us", "p99_ms", "load_cpu")
        )
        busy = busy or load > LOAD_IS_BUSY
        share = ratio(cpu, control)
        compared = "-" if share is None else f"{share:.2f}"
        print(
            f"  {name:<22}{rate:>12,.0f}{cpu:>13.2f} us{compared:>14}{p99:>11.1f} ms{load:>10.0%}"
        )
    if busy:
        print("  where the load's CPU is near 100 %, the server could do more messages than that")


def draw_picture(tables: list[Table], path: Path) -> bool:
    """Draw all figures into a file. Returns False if matplotlib is not installed."""
    panels = [
        Panel(f"{table.cell.title}\n{title}", table.lines, key, form.format)
        for table in tables
        for key, title, form in FIGURES
    ]
    height = 0.35 * max(len(table.lines) for table in tables) + 1.1
    return draw(panels, len(FIGURES), (6, height), [path])
