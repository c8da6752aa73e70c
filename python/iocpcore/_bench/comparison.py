"""The servers and loads that ``bench`` compares, and how one sample is measured.

Each server and each load runs in its own process, on different CPUs if there are two. The most
reliable figure is the CPU time of the server: it does not include the load, which is Python too.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import sys
from dataclasses import dataclass

from iocpcore import backends
from iocpcore._bench import results
from iocpcore._bench.processes import ANSWER_LIMIT, CONNECT_LIMIT, PATIENCE, Child
from iocpcore._sockets import is_simulated

CONTROL = "asyncio"  # the baseline


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
class Row:
    """One server."""

    name: str
    kind: str
    gather: bool = False  # asyncio with all answers of a receive in one write
    limit = False

    def takes_part(self, cell: Cell) -> bool:
        return cell.framing != "none" or not self.gather

    @property
    def ours(self) -> bool:
        return self.name.startswith("iocpcore")

    @property
    def control(self) -> bool:
        return self.kind == CONTROL and not self.gather


Line = results.Line[Row]
Table = results.Table[Cell, Row]


def choose_rows() -> tuple[list[Row], list[str]]:
    """Return the servers, and the names of those that are not installed."""
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


def measure(line: Line, cell: Cell, connections: int, seconds: float) -> None:
    """Add one sample to the line, or set its failure."""
    server_core, load_core = two_cores()
    limit = CONNECT_LIMIT + seconds + ANSWER_LIMIT + PATIENCE
    row = line.row
    try:
        with Child(
            "iocpcore._bench.server",
            *(row.kind, "--framing", cell.framing, *(["--gather"] if row.gather else [])),
            cores=server_core,
        ) as server:
            begin = server.event(PATIENCE)
            with Child(
                "iocpcore._bench.load",
                *("127.0.0.1", begin["port"], "--connections", connections),
                *("--seconds", seconds, "--interval", seconds),
                *("--framing", cell.framing, "--size", cell.size, "--depth", cell.depth),
                cores=load_core,
            ) as load:
                end = load.event(limit)
                while end["event"] != "end":
                    end = load.event(limit)
            server.end()
            cpu = server.event(PATIENCE)["cpu"] - begin["cpu"]
    except (RuntimeError, OSError) as error:
        line.failure = str(error)
        return
    except queue.Empty:
        line.failure = "it did not come to an end"
        return
    if end["lost"] or end["wrong"] or not end["answered"]:
        line.failure = f"answers lost: {end['lost']}, wrong: {end['wrong']}"
        return
    line.samples.append(
        {
            "rate": end["answered"] / end["seconds"],  # messages a second
            "cpu_us": cpu / end["answered"] * 1e6,  # of the server's process, per message
            "p99_ms": end["p99"],
            "load_cpu": end["load_cpu"],  # of one CPU
        }
    )


def two_cores() -> tuple[set[int] | None, set[int] | None]:
    """The CPUs for server and load; (None, None) if there is only one or no way to pin."""
    if sys.platform == "win32" or not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return ({cores[0]}, {cores[-1]}) if len(cores) > 1 else (None, None)
