"""Draws results as bar charts, if matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iocpcore._bench.results import Line, Server

OURS, LIMIT, OTHERS = "#c2410c", "#9ca3af", "#3b6ea5"


@dataclass(frozen=True)
class Panel:
    """One chart: one figure of one cell. Lines without samples are left out."""

    title: str
    lines: Sequence[Line[Any]]
    key: str  # the key in each sample
    form: Callable[[float], str]
    label: str = ""  # of the axis
    factor: float = 1.0  # from the samples' unit to the displayed one
    limit: float | None = None  # an upper bound, drawn as a dashed line


def draw(
    panels: Sequence[Panel], columns: int, panel_size: tuple[float, float], paths: Sequence[Path]
) -> bool:
    """Write the charts. Returns False if matplotlib is missing. Raises OSError or ValueError."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(panels) // columns)
    width, height = panel_size
    figure, axes = pyplot.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, panel)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for path in paths:
        figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


def _draw_panel(axis: Any, panel: Panel) -> None:
    lines = [line for line in panel.lines if line.samples]
    values = [[value * panel.factor for value in line.values(panel.key)] for line in lines]
    middles = [(line.middle(panel.key) or 0.0) * panel.factor for line in lines]
    low = [middle - min(each or [0.0]) for middle, each in zip(middles, values, strict=True)]
    high = [max(each or [0.0]) - middle for middle, each in zip(middles, values, strict=True)]
    bars = axis.barh(
        [line.row.name for line in lines],
        middles,
        xerr=[low, high] if any(len(each) > 1 for each in values) else None,
        color=[_colour(line.row) for line in lines],
        ecolor="#444444",
        capsize=2,
    )
    axis.bar_label(bars, [panel.form(middle) for middle in middles], padding=4, fontsize=8)
    if panel.limit is not None:
        axis.axvline(panel.limit * panel.factor, color=LIMIT, linestyle="--", linewidth=1)
    axis.invert_yaxis()
    axis.margins(x=0.18)
    axis.set_title(panel.title, fontsize=9, loc="left")
    axis.set_xlabel(panel.label, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _colour(row: Server) -> str:
    if row.ours:
        return OURS
    return LIMIT if row.limit else OTHERS
