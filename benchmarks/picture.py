"""The results as a picture: a panel per cell, bars of its main figure, dashes at the limit."""

from __future__ import annotations

from pathlib import Path

from benchmarks.markdown import number
from benchmarks.results import Line, Table

OURS, LIMIT, OTHERS = "#c2410c", "#9ca3af", "#3b6ea5"
COLUMNS = 2


def draw(tables: list[Table], folder: Path) -> list[Path]:
    """Writes results.png and results.svg; nothing if matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("Agg")
    from matplotlib import pyplot

    shown = [table for table in tables if any(line.samples for line in table.lines)]
    if not shown:
        return []
    height = max(len(table.lines) for table in shown) * 0.27 + 0.9
    count = -(-len(shown) // COLUMNS)
    figure, axes = pyplot.subplots(
        count, COLUMNS, figsize=(6.5 * COLUMNS, height * count), squeeze=False, layout="constrained"
    )
    for axis, table in zip(axes.flat, shown, strict=False):
        panel(axis, table)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    paths = [folder / "results.png", folder / "results.svg"]
    for path in paths:
        figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return paths


def panel(axis: object, table: Table) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    figure = table.cell.figure
    lines = [line for line in table.lines if line.samples]
    values = [(line.middle(figure.key) or 0.0) * figure.factor for line in lines]
    low = [value - min(scaled(line, table)) for value, line in zip(values, lines, strict=True)]
    high = [max(scaled(line, table)) - value for value, line in zip(values, lines, strict=True)]
    names = [line.row.name for line in lines]
    colours = [colour(line) for line in lines]
    spread = [low, high] if any(len(line.samples) > 1 for line in lines) else None
    bars = axis.barh(names, values, xerr=spread, color=colours, ecolor="#444444", capsize=2)
    axis.bar_label(bars, [number(value) for value in values], padding=4, fontsize=8)
    limit = table.limit(figure.key)
    if limit is not None:
        axis.axvline(limit * figure.factor, color=LIMIT, linestyle="--", linewidth=1)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_title(table.cell.title, fontsize=10, loc="left")
    axis.set_xlabel(f"{figure.title}, {figure.unit}", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def scaled(line: Line, table: Table) -> list[float]:
    figure = table.cell.figure
    return [value * figure.factor for value in line.values(figure.key)] or [0.0]


def colour(line: Line) -> str:
    if line.row.limit:
        return LIMIT
    return OURS if line.row.name.startswith("iocpcore") else OTHERS
