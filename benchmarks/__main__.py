"""`python -m benchmarks`: runs the cells, and writes the results. See docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

from benchmarks import cells, markdown, picture, windows
from benchmarks.build import build
from benchmarks.measure import SERVER_CORES, Bench, LoadError, sample
from benchmarks.process import StartError
from benchmarks.results import Line, Table, machine
from benchmarks.rows import READS, ROWS, WINDOWS_ROWS, Row, Things, missing, variants


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Servers side by side, in one run, under one load.",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="few cells and rows, under 3 minutes")
    parser.add_argument("--list", action="store_true", help="names the cells and rows, and ends")
    parser.add_argument(
        "--cells", metavar="A,B", help="those of these names, which may have * and ?"
    )
    parser.add_argument(
        "--rows", metavar="A,B", help="those of these names, which may have * and ?"
    )
    parser.add_argument("--repeats", type=int, help="samples of each row (5; quick: 1)")
    parser.add_argument("--seconds", type=float, help="measured per sample (3; quick: 0.7)")
    parser.add_argument("--output", type=Path, default=Path(".benchmarks"), metavar="FOLDER")
    parser.add_argument("--python", default=sys.executable, help="runs the servers")
    parser.add_argument(
        "--free-threaded", metavar="PYTHON", help="a free-threaded build, for the scaling cells"
    )
    parser.add_argument(
        "--windows", metavar="ABI", help="that Windows Python (cp313), under Wine, instead"
    )
    parser.add_argument("--cc", default="cc", help="builds the C programs")
    return parser.parse_args()


def chosen_cells(options: argparse.Namespace) -> list[cells.Cell]:
    if options.cells:
        return cells.named(options.cells.split(","))
    if options.windows:
        return [cell for cell in cells.CELLS if cell.quick or cell.kind in ("bulk", "file")]
    return [cell for cell in cells.CELLS if (cell.quick or not options.quick) and not cell.windows]


def chosen_rows(options: argparse.Namespace) -> list[Row]:
    every = WINDOWS_ROWS if options.windows else ROWS
    if options.rows:
        patterns = options.rows.split(",")
        return [row for row in every if any(fnmatch(row.name, pattern) for pattern in patterns)]
    return [row for row in every if row.quick or not options.quick]


def rows_of(cell: cells.Cell, candidates: list[Row], options: argparse.Namespace) -> list[Row]:
    """Those that can run in this cell. What is not installed is said once."""
    pythons = {"": options.python}
    if options.free_threaded:
        pythons["-ft"] = options.free_threaded
    found = [row for each in candidates for row in variants(each, cell, pythons)]
    return [row for row in found if not missing(row.python, row.needs)]


def absent(candidates: list[Row], options: argparse.Namespace) -> list[str]:
    """What will not be compared with, and why."""
    needed = {row.needs for row in candidates}
    pythons = [options.python, *filter(None, [options.free_threaded])]
    return [
        f"without {package} on {python}: {why}"
        for python in pythons
        for package in sorted(needed)
        if (why := missing(python, package))
    ]


def certificate(path: Path) -> Path:
    """One that nobody will look at, with its key."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", str(path), "-out", str(path) + ".certificate"),
        ],
        check=True,
        capture_output=True,
    )
    with path.open("a") as both:
        both.write(Path(str(path) + ".certificate").read_text())
    return path


def prepare(options: argparse.Namespace, chosen: list[cells.Cell]) -> Things:
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    things = Things(build(folder / "bin", options.cc), folder / "file", folder / "certificate.pem")
    kinds = {cell.kind for cell in chosen}
    if kinds & {"file", *READS}:
        cells.make_file(things.file)
    if "tls" in kinds:
        certificate(things.certificate)
    return things


def run_cell(bench: Bench, cell: cells.Cell, chosen: list[Row], repeats: int) -> Table:
    """The rows take turns, so that what changes meanwhile changes for all."""
    table = Table(cell, [Line(row) for row in chosen])
    for number in range(repeats):
        for line in table.lines:
            if line.failure:
                continue
            print(f"{cell.name}: {line.row.name} {number + 1}/{repeats}", file=sys.stderr)
            try:
                line.samples.append(sample(bench, line.row, cell))
            except (StartError, LoadError) as error:
                line.failure = str(error)
                print(f"  {error}", file=sys.stderr)
    return table


def write(tables: list[Table], settings: str, folder: Path) -> str:
    """results.json, results.md and the picture; gives back the Markdown."""
    facts = machine()
    text = markdown.document(tables, facts, settings)
    (folder / "results.md").write_text(text)
    found = {"machine": facts, "settings": settings, "tables": [t.as_json() for t in tables]}
    (folder / "results.json").write_text(json.dumps(found, indent=1, default=sorted))
    return text


def run(options: argparse.Namespace, things: Things, counted: tuple[int, ...]) -> None:
    chosen, candidates = chosen_cells(options), chosen_rows(options)
    repeats = options.repeats or (1 if options.quick else 5)
    seconds = options.seconds or (0.7 if options.quick else 3.0)
    bench = Bench(things, seconds, counted=counted)
    folder = things.file.parent
    for line in absent(candidates, options):
        print(line, file=sys.stderr)
    tables = []
    text = ""
    for cell in chosen:
        tables.append(run_cell(bench, cell, rows_of(cell, candidates, options), repeats))
        text = write(tables, f"{repeats} x {seconds:g} s per row", folder)
    print(text)
    for path in picture.draw(tables, folder):
        print(path)


def main() -> int:
    options = arguments()
    if options.list:
        print("cells:", *(cell.name for cell in chosen_cells(options)), sep="\n  ")
        print("rows:", *dict.fromkeys(row.name for row in chosen_rows(options)), sep="\n  ")
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for those that are started
    if len(os.sched_getaffinity(0)) < 2:
        print("benchmarks: one core only: servers and load share it", file=sys.stderr)
    things = prepare(options, chosen_cells(options))
    if options.windows is None:
        run(options, things, ())
        return 0
    folder = things.file.parent / "windows"
    folder.mkdir(exist_ok=True)
    with windows.wine(options.windows, folder, SERVER_CORES) as (options.python, pid):
        run(options, things, (pid,))
    return 0


if __name__ == "__main__":
    sys.exit(main())
