"""The rows of the table: the servers, and how each is started."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.build import Programs
from benchmarks.cells import Cell

STREAM = frozenset({"echo", "framed", "lines", "visit", "block", "bulk", "file", "tls"})
CONTROL = "asyncio-protocol"


@dataclass(frozen=True)
class Row:
    """A server. `module` is a script of ours, or `program` one in C."""

    name: str
    kinds: frozenset[str]
    module: str = ""
    program: str = ""
    arguments: tuple[str, ...] = ()
    needs: str = ""  # a package
    python: str = ""
    quick: bool = False

    @property
    def limit(self) -> bool:
        return bool(self.program)


@dataclass(frozen=True)
class Things:
    """What servers are started with."""

    programs: Programs
    file: Path
    certificate: Path


# What comes in frames is the same to a server that gives back every byte.
RAW = frozenset({"echo", "framed", "lines"})


def loop_rows(name: str, kinds: frozenset[str], streams: frozenset[str], quick: bool) -> list[Row]:
    needs = "" if name in ("asyncio", "proactor") else name
    loop = ("--loop", name)
    protocol = f"{name}-protocol", kinds, "benchmarks.peers.protocol"
    stream = f"{name}-streams", streams, "benchmarks.peers.streams"
    return [
        Row(*protocol, arguments=loop, needs=needs, quick=quick),
        Row(*stream, arguments=loop, needs=needs),
    ]


def rows_for(pythons: dict[str, str]) -> list[Row]:
    """All rows; those that say so run on each of the interpreters, by suffix of their names."""
    python = pythons[""]
    protocols = STREAM | {"work", "datagram"}
    rows = [
        Row("c-epoll", RAW | {"visit"}, program="epoll", quick=True),
        Row("c-io_uring", RAW | {"visit"}, program="uring", quick=True),
        Row("c-blocking", frozenset({"bulk", "file"}), program="bulk", quick=True),
        Row("c-recvfrom", frozenset({"datagram"}), program="datagram", quick=True),
        *loop_rows("asyncio", protocols, STREAM, quick=True),
        *loop_rows("uvloop", protocols - {"file"}, STREAM - {"file"}, quick=True),
        *loop_rows("rloop", STREAM - {"file", "tls"}, STREAM - {"file", "tls"}, quick=False),
        *(our_row(backend) for backend in ("epoll", "io_uring")),
    ]
    return [replace(row, python=python) for row in rows]


def our_row(backend: str) -> Row:
    return Row(
        f"iocpcore-{backend}",
        STREAM | {"work"},
        "benchmarks.servers.stream",
        arguments=("--backend", backend),
        needs="iocpcore",
        quick=True,
    )


def command(row: Row, cell: Cell, things: Things) -> list[str]:
    """What starts this row's server for this cell."""
    if row.limit:
        return [things.programs.path(row.program), *limit_arguments(row, cell, things)]
    kind = "echo" if cell.kind == "tls" else cell.kind
    arguments = [row.python, "-m", row.module, *row.arguments, *cell.server, kind]
    if cell.kind == "tls":
        arguments += ["--certificate", str(things.certificate)]
    if cell.kind == "file":
        arguments += ["--file", str(things.file)]
    if cell.bytes:
        arguments += ["--bytes", str(cell.bytes)]
    return arguments


def limit_arguments(row: Row, cell: Cell, things: Things) -> list[str]:
    if row.program == "bulk":
        return ["file", str(things.file)] if cell.kind == "file" else ["send", str(cell.bytes)]
    if row.program == "datagram":
        return []
    kind = "visit" if cell.kind == "visit" else "echo"
    return [kind, str(buffer_size(cell.receives))] if row.program == "uring" else [kind]


def buffer_size(receives: int) -> int:
    """The next power of two of what comes at once, from 2 KiB to 64 KiB."""
    return min(65536, max(2048, 1 << (receives - 1).bit_length()))


def missing(row: Row) -> str | None:
    """Why this row cannot run at all, if so."""
    if not row.needs:
        return None
    done = subprocess.run(
        [row.python, "-c", f"import {row.needs}"], capture_output=True, text=True, check=False
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else None
