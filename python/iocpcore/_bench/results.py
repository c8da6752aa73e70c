"""Results: the samples of each row of a cell, their medians, and ratios."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any, Generic, Protocol, TypeVar

Sample = dict[str, Any]


class Server(Protocol):
    """A server that is measured: a row of the tables."""

    @property
    def name(self) -> str: ...

    @property
    def ours(self) -> bool: ...

    @property
    def control(self) -> bool:
        """Whether it is the baseline of the comparison."""

    @property
    def limit(self) -> bool:
        """Whether it is not a real server but an upper bound for the others."""


Row = TypeVar("Row", bound=Server)
Cell = TypeVar("Cell")  # a kind of load


@dataclass
class Line(Generic[Row]):
    """The samples of one row in one cell."""

    row: Row
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""  # why samples are missing

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
class Table(Generic[Cell, Row]):
    """All lines of one cell."""

    cell: Cell
    lines: list[Line[Row]]

    def control(self, key: str) -> float | None:
        for line in self.lines:
            if line.row.control:
                return line.middle(key)
        return None


def ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
