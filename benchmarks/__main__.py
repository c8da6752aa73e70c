"""`python -m benchmarks`: runs the cells, and writes the results. See docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks import cells, markdown, picture, windows
from benchmarks.arguments import UsageError, arguments
from benchmarks.build import build
from benchmarks.measure import SERVER_CORES, Bench, LoadError, sample
from benchmarks.process import StartError
from benchmarks.results import Line, Table, machine
from benchmarks.rows import READS, ROWS, WINDOWS_ROWS, Row, Things, missing, named, variants


def chosen_cells(options: argparse.Namespace) -> list[cells.Cell]:
    if options.cells:
        return cells.named(options.cells.split(","))
    if options.windows:
        return [cell for cell in cells.CELLS if cell.quick or cell.kind in ("bulk", "file")]
    return [cell for cell in cells.CELLS if (cell.quick or not options.quick) and not cell.windows]


def chosen_rows(options: argparse.Namespace) -> list[Row]:
    every = WINDOWS_ROWS if options.windows else ROWS
    if options.rows:
        return named(options.rows.split(","), every)
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


def check_interpreters(options: argparse.Namespace) -> None:
    """Raises UsageError unless they run."""
    pythons = {"--free-threaded": options.free_threaded}
    if options.windows is None:
        pythons["--python"] = options.python
    for option, python in pythons.items():
        if python is None:
            continue
        try:
            done = subprocess.run([python, "-c", ""], check=False, capture_output=True)
        except OSError as error:
            raise UsageError(f"{option} {python}: {error.strerror}") from None
        if done.returncode:
            raise UsageError(f"{option} {python}: it runs no Python code")


def certificate(path: Path) -> None:
    """One that nobody will look at, with its key. Raises OSError or CalledProcessError."""
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


def without_tls(things: Things) -> str:
    """Why there can be no TLS, or an empty text."""
    if not things.programs.tls:
        return "the load generator was built without OpenSSL"
    try:
        certificate(things.certificate)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"openssl makes no certificate: {getattr(error, 'strerror', error)}"
    return ""


def make_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return path.resolve()
    except OSError as error:
        raise UsageError(f"--output {path}: {error.strerror}") from None


def prepare(
    options: argparse.Namespace, chosen: list[cells.Cell]
) -> tuple[Things, list[cells.Cell]]:
    """What is needed, and the cells that can be run with it. Raises UsageError."""
    folder = make_folder(options.output)
    programs = build(make_folder(folder / "bin"), options.cc)
    things = Things(programs, folder / "file", folder / "certificate.pem")
    kinds = {cell.kind for cell in chosen}
    if "tls" in kinds and (why := without_tls(things)):
        print(f"without the cell tls: {why}", file=sys.stderr)
        chosen = [cell for cell in chosen if cell.kind != "tls"]
        if not chosen:
            raise UsageError("there is no cell left to run")
    if kinds & {"file", *READS}:
        try:
            cells.make_file(things.file)
        except OSError as error:
            raise UsageError(f"{things.file}: {error.strerror}") from None
    return things, chosen


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


def run(
    options: argparse.Namespace,
    things: Things,
    chosen: list[cells.Cell],
    counted: tuple[int, ...] = (),
) -> None:
    candidates = chosen_rows(options)
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
    for path in picture.draw_tables(tables, folder):
        print(path)


def carry_out(options: argparse.Namespace) -> None:
    """Raises UsageError, before it overwrites any results."""
    if options.windows is not None:
        windows.check_abi(options.windows)
    chosen, candidates = chosen_cells(options), chosen_rows(options)
    if options.list:
        print("cells:", *(cell.name for cell in chosen), sep="\n  ")
        print("rows:", *dict.fromkeys(row.name for row in candidates), sep="\n  ")
        return
    check_interpreters(options)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for those that are started
    if len(os.sched_getaffinity(0)) < 2:
        print("benchmarks: one core only: servers and load share it", file=sys.stderr)
    things, chosen = prepare(options, chosen)
    if options.windows is None:
        run(options, things, chosen)
        return
    folder = make_folder(things.file.parent / "windows")
    with windows.wine(options.windows, folder, SERVER_CORES) as (options.python, pid):
        run(options, things, chosen, (pid,))


def main() -> int:
    try:
        carry_out(arguments())
    except UsageError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
