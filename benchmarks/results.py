"""What was measured: samples of all rows, their medians, and ratios."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.cells import Cell
from benchmarks.measure import Sample
from benchmarks.rows import Row


@dataclass
class Line:
    """One row of one cell."""

    row: Row
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""  # why there are no (or fewer) samples

    def values(self, key: str) -> list[float]:
        return [sample[key] for sample in self.samples if key in sample]

    def middle(self, key: str) -> float | None:
        values = self.values(key)
        return median(values) if values else None

    def spread(self, key: str) -> float | None:
        """The largest minus the smallest, as a share of the median."""
        values = self.values(key)
        middle = self.middle(key)
        return (max(values) - min(values)) / middle if middle else None


@dataclass
class Table:
    """One cell."""

    cell: Cell
    lines: list[Line]

    def limit(self, key: str) -> float | None:
        """The best of the C servers: the least, or for rates the most."""
        found = [line.middle(key) for line in self.lines if line.row.limit]
        values = [value for value in found if value is not None]
        best = max if key in ("rate", "bytes_per_second") else min
        return best(values) if values else None

    def control(self, key: str) -> float | None:
        for line in self.lines:
            if line.row.control:
                return line.middle(key)
        return None

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


def ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


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
