"""Live figures: a table in a terminal, if rich is installed; lines of text otherwise."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Self


@dataclass(frozen=True)
class Figures:
    """The figures of one moment."""

    seconds: float
    connections: float
    rate: float  # messages a second
    answered: int
    p50: float | None  # milliseconds
    p99: float | None
    cpu: float  # of one CPU
    wrong: int


class Display(AbstractContextManager["Display"], Protocol):
    interval: float  # seconds between figures

    def show(self, figures: Figures) -> None: ...


def display(seconds: float) -> Display:
    """The display that suits stdout."""
    if sys.stdout.isatty():
        try:
            return _Live(seconds)
        except ImportError:
            pass
    return _Lines()


class _Lines:
    interval = 1.0

    def show(self, figures: Figures) -> None:
        print(
            f"{figures.seconds:5.1f} s  {figures.connections:.0f} connections  "
            f"{figures.rate:>9,.0f} messages/s  p50 {_ms(figures.p50)}  p99 {_ms(figures.p99)}  "
            f"server CPU {figures.cpu:.0%}  wrong {figures.wrong}",
            flush=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class _Live:
    interval = 0.25

    def __init__(self, seconds: float) -> None:
        from rich.live import Live

        self._limit = seconds
        self._live = Live(refresh_per_second=4, transient=True)

    def show(self, figures: Figures) -> None:
        self._live.update(self._table(figures))

    def _table(self, figures: Figures) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(title="iocpcore demo", min_width=56, show_header=False)
        table.add_column(style="dim")
        table.add_column(justify="right")
        for name, value in (
            ("connections", f"{figures.connections:,.0f}"),
            ("messages a second", f"[bold green]{figures.rate:,.0f}[/]"),
            ("messages answered", f"{figures.answered:,}"),
            ("question to answer, half of them", _ms(figures.p50)),
            ("question to answer, 99 %", _ms(figures.p99)),
            ("CPU of the server", f"{figures.cpu:.0%}"),
            ("lost or wrong", f"{'[bold red]' if figures.wrong else '[green]'}{figures.wrong}[/]"),
        ):
            table.add_row(name, value)
        table.add_row(
            f"{figures.seconds:.1f} of {self._limit:g} s",
            ProgressBar(total=self._limit, completed=min(figures.seconds, self._limit), width=22),
        )
        return table

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.__exit__(*exception)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
