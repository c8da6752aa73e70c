"""The results of bench as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iocpcore._cli.bench import Cell, Row

OURS, OTHERS = "#c2410c", "#3b6ea5"
FIGURES = (
    ("rate", "messages a second (more is better)", "{:,.0f}"),
    ("cpu", "CPU of the server for a message, us (less is better)", "{:.2f}"),
)


def draw(rows: Sequence[Row], cells: Sequence[Cell], path: Path) -> bool:
    """Writes it. False if matplotlib is not installed. Raises OSError or ValueError."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(cells),
        len(FIGURES),
        figsize=(12, (0.35 * len(rows) + 1.1) * len(cells)),
        squeeze=False,
        layout="constrained",
    )
    for line, cell in zip(axes, cells, strict=True):
        for axis, (name, title, form) in zip(line, FIGURES, strict=True):
            _panel(axis, rows, cell, name, form)
            axis.set_title(f"{cell.title}\n{title}", fontsize=9, loc="left")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


def _panel(axis: Any, rows: Sequence[Row], cell: Cell, name: str, form: str) -> None:
    shown = [(row, value) for row in rows if (value := row.middle(cell, name)) is not None]
    bars = axis.barh(
        [row.name for row, _ in shown],
        [value for _, value in shown],
        color=[OURS if row.ours else OTHERS for row, _ in shown],
    )
    axis.bar_label(bars, [form.format(value) for _, value in shown], padding=4, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.18)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
