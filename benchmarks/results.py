"""What was measured, beside the best of the C servers, and as JSON."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from typing import Any

from iocpcore._bench import results

from benchmarks.cells import Cell
from benchmarks.rows import Row

Line = results.Line[Row]


class Table(results.Table[Cell, Row]):
    """One cell."""

    def limit(self, key: str) -> float | None:
        """The best of the C servers: the least, or for rates the most."""
        found = [line.middle(key) for line in self.lines if line.row.limit]
        values = [value for value in found if value is not None]
        best = max if key in ("rate", "bytes_per_second") else min
        return best(values) if values else None

    def as_json(self) -> dict[str, Any]:
        key = self.cell.figure.key
        return {
            "cell": asdict(self.cell),
            "limit": self.limit(key),
            "control": self.control(key),
            "rows": [
                {
                    "name": line.row.name,
                    "failure": line.failure,
                    "median": {name: line.middle(name) for name in numbers(line)},
                    "spread": {name: line.spread(name) for name in numbers(line)},
                    "samples": line.samples,
                }
                for line in self.lines
            ],
        }


def numbers(line: Line) -> list[str]:
    """The keys of figures in this line's samples."""
    if not line.samples:
        return []
    return [name for name, value in line.samples[0].items() if isinstance(value, (int, float))]


def machine() -> dict[str, str]:
    """What the figures depend on."""
    processor = ""
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
    return {
        "kernel": f"{platform.system()} {platform.release()}",
        "processor": processor,
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
