"""The results as a picture: a panel per cell, bars of its main figure, dashes at the limit."""

from __future__ import annotations

from pathlib import Path

from iocpcore._bench.picture import Panel, draw

from benchmarks.markdown import number
from benchmarks.results import Table

COLUMNS = 2
WIDTH = 6.5  # inches, of a panel


def draw_tables(tables: list[Table], folder: Path) -> list[Path]:
    """Writes results.png and results.svg; nothing if matplotlib is not installed."""
    shown = [table for table in tables if any(line.samples for line in table.lines)]
    if not shown:
        return []
    height = max(len(table.lines) for table in shown) * 0.27 + 0.9
    paths = [folder / "results.png", folder / "results.svg"]
    panels = [panel(table) for table in shown]
    return paths if draw(panels, COLUMNS, (WIDTH, height), paths) else []


def panel(table: Table) -> Panel:
    figure = table.cell.figure
    return Panel(
        table.cell.title,
        table.lines,
        figure.key,
        number,
        f"{figure.title}, {figure.unit}",
        figure.factor,
        table.limit(figure.key),
    )
