"""The results as tables in Markdown."""

from __future__ import annotations

from iocpcore._bench.results import ratio

from benchmarks.results import Line, Table

SATURATED = 0.95


def document(tables: list[Table], machine: dict[str, str], settings: str) -> str:
    parts = [
        ", ".join(f"{name} {value}" for name, value in machine.items()) + f"; {settings}.",
        *(table_text(table) for table in tables),
    ]
    return "\n\n".join(parts) + "\n"


def table_text(table: Table) -> str:
    figure = table.cell.figure
    bases = [("/ C limit", table.limit(figure.key)), ("/ asyncio", table.control(figure.key))]
    columns = {
        "row": [line.row.name for line in table.lines],
        f"{figure.title}, {figure.unit}": [main_figure(table, line) for line in table.lines],
        **{
            title: [compared(line, figure.key, base) for line in table.lines]
            for title, base in bases
            if base is not None
        },
        **{
            title: [cell_text(line, key, factor) for line in table.lines]
            for title, key, factor in OTHERS
            if key != figure.key and any(line.middle(key) for line in table.lines)
        },
        "notes": [notes(table, line) for line in table.lines],
    }
    rows = [list(columns), ["---", *["---:"] * (len(columns) - 2), "---"]]
    rows += [list(row) for row in zip(*columns.values(), strict=True)]
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"### {table.cell.title}\n\n{text}"


OTHERS = [
    ("messages/s", "rate", 1.0),
    ("p50 µs", "p50_us", 1.0),
    ("p99 µs", "p99_us", 1.0),
    ("p99.9 µs", "p999_us", 1.0),
    ("Pss MiB", "pss", 2.0**-20),
]


def number(value: float) -> str:
    """Three figures that count, whole above 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def cell_text(line: Line, key: str, factor: float) -> str:
    value = line.middle(key)
    return "" if value is None else number(value * factor)


def main_figure(table: Table, line: Line) -> str:
    figure = table.cell.figure
    value = line.middle(figure.key)
    if value is None:
        return ""
    spread = line.spread(figure.key)
    around = f" ± {spread * 50:.0f} %" if spread is not None and len(line.samples) > 1 else ""
    return f"**{number(value * figure.factor)}**{around}"


def compared(line: Line, key: str, base: float | None) -> str:
    value = ratio(line.middle(key), base)
    return "" if value is None else f"{value:.2f}"


def notes(table: Table, line: Line) -> str:
    found = []
    if line.failure:
        found.append(line.failure.replace("|", "/"))
    busy = line.middle("load_cpu")
    if busy is not None and busy > SATURATED:
        found.append(f"load generator {busy:.0%} busy")
    if lost := line.middle("lost"):
        found.append(f"{lost:.0f} lost")
    return "; ".join(found)
