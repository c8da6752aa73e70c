"""Cross-compile the extension for the Windows Pythons: build.py [--into FOLDER] [ABI...].

Each ABI gets a folder FOLDER/ABI with the whole package in it, to be put on PYTHONPATH. The
flags are at once the check that the C code is clean standard C11 without GNU extensions, as no
other compiler for Windows is at hand.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from layout import (
    ABIS,
    BUILDS,
    CHECKOUT,
    COMPILE_FLAGS,
    FREE_THREADED_FLAG,
    GCC,
    LIBRARIES,
    CommandFailed,
    check_abis,
    die,
    digest,
    is_free_threaded,
    python_dll,
    python_home,
    run,
)

SOURCE_ROOT = CHECKOUT / "src" / "iocp_ext"
PACKAGE = CHECKOUT / "python" / "iocpcore"
OBJECTS = BUILDS / "objects"
KEEP_OBJECTS_S = 7 * 24 * 3600


def build(abis: Sequence[str], into: Path) -> None:
    project = runpy.run_path(str(CHECKOUT / "setup.py"))
    sources = [CHECKOUT / name for name in project["sources"]("windows")]
    if not sources:
        die(f"no C sources in {SOURCE_ROOT}")
    OBJECTS.mkdir(parents=True, exist_ok=True)
    compiler = _Compiler(project)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        wanted = {(source, _abi_of(source, abi)) for source in sources for abi in abis}
        objects = {job: pool.submit(compiler.compile, *job) for job in sorted(wanted, key=str)}
        # One for each source: the other ABIs have the same to say.
        problems = {job[0]: e for job, done in objects.items() if (e := done.exception())}
        if problems:
            found = map(str, problems.values())
            die("\n".join(["the extension does not compile for Windows", *found]))
        modules = []
        for abi in abis:
            parts = [objects[source, _abi_of(source, abi)].result() for source in sources]
            modules.append(pool.submit(_assemble, abi, parts, into / abi))
        for module in modules:
            module.result()
    _forget_old_objects()


def _abi_of(source: Path, abi: str) -> str | None:
    """Only py/ sees Python's headers; the rest is compiled once for all."""
    return abi if (SOURCE_ROOT / "py") in source.parents else None


class _Compiler:
    """Compiles one file at a time, and none whose object from the same text is still there."""

    def __init__(self, project: dict[str, Any]) -> None:
        self.flags = [
            *COMPILE_FLAGS,
            *("-std=c11", *project["WARNINGS"], f"-I{SOURCE_ROOT}", "-c"),
            *(project["DEBUG_FLAGS"] if project["DEBUG"] else ()),
            # mingw's isnan() has a branch for each type, and GCC sees the conversions in all.
            "-Wno-float-conversion",
        ]
        headers = sorted(SOURCE_ROOT.rglob("*.h"))
        version = subprocess.run([GCC, "--version"], check=True, capture_output=True)
        self.common = digest(version.stdout, *(header.read_bytes() for header in headers))

    def compile(self, source: Path, abi: str | None) -> Path:
        flags = list(self.flags)
        interpreter = b""
        if abi:
            include = python_home(abi) / "Include"
            # As system headers, Python's own are exempt from our warnings. Formats: GCC takes the
            # attribute in them to mean the old CRT's printf, which had no %zd.
            flags += ["-isystem", str(include), "-Wno-format"]
            flags += [FREE_THREADED_FLAG] if is_free_threaded(abi) else []
            interpreter = (include / "patchlevel.h").read_bytes()
        else:
            # Not in py/: the tables of the C API hold functions as void *, which is pedantic.
            flags.append("-pedantic-errors")
        name = digest(self.common, interpreter, source.read_bytes(), str(source), *flags)
        target = OBJECTS / f"{name}.o"
        if target.exists():
            target.touch()
            return target
        # Another run may be at the same object.
        temporary = OBJECTS / f"{name}.{os.getpid()}"
        run(GCC, *flags, source, "-o", temporary)
        temporary.replace(target)
        return target


def _assemble(abi: str, objects: Sequence[Path], target: Path) -> None:
    package = target / "iocpcore"
    shutil.rmtree(target, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    shutil.copytree(PACKAGE, package, ignore=ignore)
    module = package / f"_core.{abi}-win_amd64.pyd"
    inputs = (*objects, python_dll(abi))
    run(GCC, *COMPILE_FLAGS, "-shared", *inputs, *LIBRARIES, "-o", module)


def _forget_old_objects() -> None:
    limit = time.time() - KEEP_OBJECTS_S
    for item in OBJECTS.iterdir():
        if item.stat().st_mtime < limit:
            item.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("abi", nargs="*", help=f"default: {' '.join(ABIS)}")
    parser.add_argument("--into", type=Path, default=BUILDS / digest(str(CHECKOUT)))
    arguments = parser.parse_args()
    abis = arguments.abi or list(ABIS)
    check_abis(abis)
    try:
        build(abis, arguments.into)
    except CommandFailed as failure:
        die(str(failure))
    print(arguments.into)


if __name__ == "__main__":
    main()
