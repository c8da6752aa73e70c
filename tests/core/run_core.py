"""Builds and runs the C tests of the core and its backends, without Python in the process.

    run_core.py [plain|asan|tsan|valgrind|guard|windows] [--cc clang] [--only NAME]

Each ``test_*.c`` and ``fuzz_*.c`` here becomes a program (see test.h). Objects and programs are
written to a directory outside the checkout. The last line of output is
``N passed, N failed, N skipped``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = ROOT / "src" / "iocp_ext"
CACHE = Path(os.environ.get("IOCPCORE_CACHE") or Path.home() / ".cache" / "iocpcore")
WINDOWS_TOOLS = CACHE / "win"

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Werror",
    "-pedantic-errors",
]

# No desktop, and no debugger for programs that crash on purpose.
WINE_WITHOUT = "mscoree,mshtml,winemenubuilder.exe,explorer.exe,winedbg.exe="

# Mode: (compiler flags, environment, seconds for one test, divisor of the amount of work)
MODES: dict[str, tuple[list[str], dict[str, str], int, int]] = {
    "plain": (["-O2"], {}, 60, 1),
    "guard": (["-O1"], {"IOCPCORE_GUARD": "1"}, 90, 2),
    "asan": (
        ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
        120,
        2,
    ),
    "tsan": (
        ["-O1", "-fsanitize=thread"],
        {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"},
        180,
        5,
    ),
    "valgrind": (["-O1"], {}, 200, 20),
    "windows": (["-O2"], {"WINEDEBUG": "-all", "WINEDLLOVERRIDES": WINE_WITHOUT}, 120, 4),
}


def sources(mode: str) -> list[Path]:
    platform = "windows" if mode == "windows" else "linux"
    folders = ("core", "net", "backends/sim", f"backends/{platform}")
    return [path for folder in folders for path in sorted((SOURCES / folder).glob("*.c"))]


def compiler(mode: str, cc: str) -> list[str]:
    if mode != "windows":
        return [cc, "-pthread", "-D_GNU_SOURCE"]
    return ["x86_64-w64-mingw32-gcc", "-D_WIN32_WINNT=0x0A00"]


def run_checked(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or done.stderr:
        sys.stderr.write(done.stderr)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")


def build(mode: str, cc: str, folder: Path) -> list[Path]:
    """Compile everything that has changed. Returns the programs."""
    flags = [*compiler(mode, cc), "-std=c11", "-g", "-fno-omit-frame-pointer", *WARNINGS]
    flags += [*MODES[mode][0], "-I", str(SOURCES), "-UNDEBUG", "-DIO_ASSERTIONS"]
    headers = [*SOURCES.rglob("*.h"), *HERE.glob("*.h")]
    newest = max(path.stat().st_mtime for path in headers)

    def compile_one(source: Path) -> Path:
        prefix = "" if source.parent == HERE else f"{source.parent.name}-"
        target = folder / f"{prefix}{source.stem}.o"
        if target.exists() and target.stat().st_mtime > max(newest, source.stat().st_mtime):
            return target
        run_checked([*flags, "-c", str(source), "-o", str(target)])
        return target

    tests = sorted([*HERE.glob("test_*.c"), *HERE.glob("fuzz_*.c")])
    common = [*sources(mode), *sorted(set(HERE.glob("*.c")) - set(tests))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(path) for path in pool.map(compile_one, common)]
        mains = list(pool.map(compile_one, tests))
    libraries = ["-static", "-lws2_32", "-lmswsock", "-lntdll"] if mode == "windows" else []
    programs = []
    for main in mains:
        program = main.with_suffix(".exe" if mode == "windows" else "")
        run_checked(
            [
                *compiler(mode, cc),
                *MODES[mode][0],
                str(main),
                *objects,
                "-o",
                str(program),
                *libraries,
            ]
        )
        programs.append(program)
    return programs


def command_of(mode: str, program: Path) -> list[str]:
    if mode == "valgrind":
        return [
            "valgrind",
            "-q",
            "--error-exitcode=99",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite,indirect",
            "--fair-sched=yes",
            str(program),
        ]
    if mode == "windows":
        return [str(WINDOWS_TOOLS / "wine"), str(program)]
    return [str(program)]


def run_program(mode: str, program: Path, only: str | None) -> tuple[int, int, int]:
    """Run all tests of a program. After a failure, start it again from the next test."""
    _, extra, limit, slowness = MODES[mode]
    environment = {**os.environ, **extra, "TEST_LIMIT": str(limit), "TEST_SLOWNESS": str(slowness)}
    passed = failed = skipped = start = 0
    while True:
        command = [*command_of(mode, program), "--from", str(start)]
        if only:
            command += ["--only", only]
        # A file, not a pipe: processes that a program leaves behind could keep a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            try:
                code = subprocess.run(
                    command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    timeout=limit * 6,
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
            output.seek(0)
            lines = output.read().splitlines()
        total = ran = 0
        running = None
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "tests":
                total = int(rest)
            elif word == "run":
                running = rest
                ran += 1
            elif word in ("ok", "skip", "FAIL") and running is not None:
                print(f"{program.stem}: {line}", flush=True)
                passed += word == "ok"
                skipped += word == "skip"
                failed += word == "FAIL"
                running = None
            elif line:
                print(f"    {line}")
        if running is not None:
            print(f"{program.stem}: FAIL {running}: the program ended with {code}", flush=True)
            failed += 1
        if code == 0:
            return passed, failed, skipped
        if running is None and not any(line.startswith("FAIL ") for line in lines):
            print(f"{program.stem}: FAIL at the end of the program: {code}", flush=True)
            return passed, failed + 1, skipped
        if only or ran == 0 or start + ran >= total:
            return passed, failed + (ran == 0), skipped
        start += ran


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", nargs="?", default="plain", choices=MODES)
    parser.add_argument("--cc", default=os.environ.get("CC", "gcc"))
    parser.add_argument("--only", help="part of a test's name")
    parser.add_argument("--program", help="part of a program's name", default="")
    options = parser.parse_args()
    key = hashlib.sha1(f"{ROOT}".encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"iocpcore-core-{key}" / f"{options.mode}-{options.cc}"
    folder.mkdir(parents=True, exist_ok=True)
    totals = [0, 0, 0]
    for program in build(options.mode, options.cc, folder):
        if options.program not in program.stem:
            continue
        for i, count in enumerate(run_program(options.mode, program, options.only)):
            totals[i] += count
    print("{} passed, {} failed, {} skipped".format(*totals))
    return 1 if totals[1] or not totals[0] else 0


if __name__ == "__main__":
    sys.exit(main())
