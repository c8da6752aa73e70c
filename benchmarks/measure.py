"""One sample: a fresh server, one load, and what both say."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from iocpcore._bench.processes import LineProcess
from iocpcore._bench.results import Sample

from benchmarks import serving, windows
from benchmarks.cells import Cell
from benchmarks.process import ROOT, Server, StartError, pin
from benchmarks.rows import Row, Things, command

LOAD_EXTRA_SECONDS = 90.0
SERVER_CORES = {0}
LOAD_CORES = {1}
ROUND_TRIPS = (100, 1100)


class LoadError(Exception):
    """The load generator met errors; the text says which."""


@dataclass(frozen=True)
class Bench:
    """What holds for the whole run."""

    things: Things
    seconds: float
    warmup: float = 0.3
    counted: tuple[int, ...] = ()  # further processes whose time is the servers'


def sample(bench: Bench, row: Row, cell: Cell) -> Sample:
    """Raises StartError or LoadError."""
    cores = SERVER_CORES if cell.pinned else None
    starts = command(row, cell, bench.things, bench.seconds)
    if cell.method == "requests":
        return requests_each(starts, bench.things.file.parent)
    if cell.method == "alone":
        read_through(bench.things.file)
        return alone(starts, cores)
    with Server(starts, cores) as server:
        found = METHODS[cell.method](bench, cell, server)
        found["runs_on"] = server.runs_on
    return found


def start_load(
    bench: Bench, server: Server, arguments: list[str], pinned: bool = True
) -> LineProcess:
    counted = [f"--server={pid}" for pid in (server.process.pid, *bench.counted)]
    return LineProcess(
        [
            bench.things.programs.path("load"),
            *("--seconds", str(bench.seconds), "--warmup", str(bench.warmup)),
            *(*counted, *arguments, server.address),
        ],
        LOAD_CORES if pinned else None,
    )


def finish(bench: Bench, load: LineProcess) -> Sample:
    """Its figures, when it has ended by itself."""
    deadline = time.monotonic() + bench.seconds + LOAD_EXTRA_SECONDS
    lines: list[str] = []
    with load:
        load.end()
        try:
            while line := load.line(deadline - time.monotonic()):
                lines.append(line)
        except queue.Empty:
            raise LoadError("the load did not end") from None
    if not lines:
        raise LoadError("the load generator failed")
    found: Sample = json.loads(lines[-1])
    if found["errors"]:
        raise LoadError(f"{found['errors']} errors, first: {found['first_error']}")
    if found["messages"]:
        found["cpu_us"] = found["server_cpu_seconds"] / found["messages"] * 1e6
    return found


def separate_cores() -> bool:
    return os.sched_getaffinity(0) >= SERVER_CORES | LOAD_CORES


def under_load(bench: Bench, cell: Cell, server: Server) -> Sample:
    arguments = list(cell.load)
    if cell.kind == "tls":
        arguments.append("--tls")
    if cell.bytes:
        arguments += ["--bytes", str(cell.bytes)]
    elif cell.pinned and separate_cores():
        arguments.append("--spin")
    found = finish(bench, start_load(bench, server, arguments, cell.pinned))
    found["pss"] = server.pss()
    return found


def holding_idle(bench: Bench, cell: Cell, server: Server) -> Sample:
    """Memory before and after many connections have had one echo each. A few that come and go
    before that warm the server up."""
    finish(bench, start_load(bench, server, ["--connections", "8", "--seconds", "0.1"]))
    before = server.pss()
    load = start_load(bench, server, list(cell.load))
    ready = next_line(load)
    held = int(ready.removeprefix("ready ")) if ready.startswith("ready ") else 0
    during = server.pss()
    found = finish(bench, load)
    if not held:
        raise LoadError(f"no connections held: {ready!r}")
    return {**found, "pss": during, "held": held, "bytes_each": (during - before) / held}


def next_line(load: LineProcess) -> str:
    try:
        return load.line(LOAD_EXTRA_SECONDS)
    except queue.Empty:
        return ""


def beside_blocked(bench: Bench, cell: Cell, server: Server) -> Sample:
    """The latency of many connections while one whose callback blocks is never quiet. That one
    comes when the others are open and warming up, since some servers would take long to accept
    them beside it, and stays longer. They are measured for a few of its blocks at least."""
    seconds = max(bench.seconds, 3 * serving.BLOCK_SECONDS)
    long = replace(bench, seconds=seconds, warmup=2 * serving.BLOCK_SECONDS)
    longer = replace(bench, seconds=seconds + 2 * serving.BLOCK_SECONDS, warmup=0.0)
    many = start_load(long, server, list(cell.load))
    time.sleep(serving.BLOCK_SECONDS)
    one = start_load(longer, server, ["--connections", "1", "--size", "16", "--marked"])
    try:
        found = finish(long, many)
    finally:
        other = finish(longer, one)
    return {**found, "blocked_messages": other["messages"]}


def read_through(path: Path) -> None:
    """So that the page cache holds it, and every row finds the same."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def alone(command: list[str], cores: set[int] | None) -> Sample:
    """A program without a load, that measures itself."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LOAD_EXTRA_SECONDS,
        preexec_fn=lambda: pin(cores),
    )
    said = done.stderr.strip().splitlines() or [""]
    if done.returncode:
        raise StartError(said[-1])
    return {**json.loads(done.stdout), "runs_on": said[0].removeprefix("runs on ")}


def requests_each(command: list[str], folder: Path) -> Sample:
    """Of one round trip: the difference between many and few."""
    few, many = (
        windows.requests([*command, str(count)], folder, SERVER_CORES) for count in ROUND_TRIPS
    )
    return {
        "requests_each": (many[0] - few[0]) / (ROUND_TRIPS[1] - ROUND_TRIPS[0]),
        "runs_on": few[1],
    }


METHODS = {"load": under_load, "idle": holding_idle, "block": beside_blocked}
