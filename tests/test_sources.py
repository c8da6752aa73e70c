"""The C sources keep their rules: who may include what, and how long things may be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "iocp_ext"
CORE, BACKENDS, PY = (SOURCE / name for name in ("core", "backends", "py"))

FILES = sorted([*SOURCE.rglob("*.c"), *SOURCE.rglob("*.h")])
LINES_MAX = 700
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100

pytestmark = pytest.mark.skipif(not FILES, reason="only the package is here, without its sources")

by_file = pytest.mark.parametrize(
    "path", FILES, ids=[path.relative_to(SOURCE).as_posix() for path in FILES]
)

PYTHON = {"Python.h", "structmember.h"}
KERNEL_EVENTS = {
    "sys/epoll.h",
    "sys/timerfd.h",
    "sys/event.h",
    "linux/io_uring.h",
    "liburing.h",
    "mswsock.h",
    "winternl.h",
}
SOCKETS = {"sys/socket.h", "netinet/in.h", "netinet/tcp.h", "arpa/inet.h", "sys/un.h", "winsock2.h"}
SYSTEM = {*SOCKETS, *KERNEL_EVENTS, "windows.h", "unistd.h", "fcntl.h", "poll.h", "pthread.h"}
FORBIDDEN = {
    CORE: PYTHON | KERNEL_EVENTS,
    BACKENDS: PYTHON,
    PY: SYSTEM,
}


def includes(path: Path) -> set[str]:
    found = re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)
    return {name.lower() if name != "Python.h" else name for name in found}


def without_comments(text: str) -> str:
    """Comments, strings and characters blanked out; every line keeps its number."""
    pattern = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    return re.sub(
        pattern, lambda match: re.sub(r"[^\n]", " ", match.group()), text, flags=re.DOTALL
    )


def functions(text: str) -> list[tuple[str, int]]:
    """Name and length of each block that opens in the first column after a parameter list."""
    found = []
    lines = without_comments(text).split("\n")
    name, begin = "", 0
    for number, line in enumerate(lines):
        if match := re.match(r"^[A-Za-z_].*?(\w+)\s*\(", line):
            name, begin = match.group(1), number
        elif line == "}" and name:
            found.append((name, number - begin + 1))
            name = ""
        elif line.startswith(("};", "} ")):
            name = ""
    return found


def test_there_are_sources():
    for folder in (CORE, BACKENDS, PY):
        assert list(folder.glob("*.c")), folder
    assert (CORE / "io.h").exists()
    assert (CORE / "backend.h").exists()


@by_file
def test_includes(path):
    """The core knows neither Python nor any kernel's events, backends know no Python, and the
    layer for Python calls no system."""
    assert not includes(path) & FORBIDDEN[path.parent]


@by_file
def test_direction_of_includes(path):
    """core/ includes nothing of the others, backends/ only core/, py/ only core/."""
    found = {(path.parent / name).resolve() for name in includes(path)}
    if path.name == "sim_api.c":
        found.discard(BACKENDS / "sim.h")  # the tests' own backend is the only one with an API
    folders = {file.parent for file in found if file.exists()}
    assert folders <= {CORE, path.parent}


@by_file
def test_length_of_files(path):
    assert len(path.read_text().splitlines()) <= LINES_MAX


@by_file
def test_length_of_functions(path):
    long = {name: n for name, n in functions(path.read_text()) if n > FUNCTION_LINES_MAX}
    assert not long


@by_file
def test_lines(path):
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert "\t" not in text
    assert "\r" not in text
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= COLUMNS_MAX, f"line {number}"
        assert line == line.rstrip(), f"line {number} ends with blanks"


@by_file
def test_a_comment_at_the_head(path):
    """It explains the file; its first words are the file's name."""
    assert path.read_text().startswith(f"/* {path.name}"), "no head comment"


@by_file
def test_nothing_is_left_to_do(path):
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text())


# Those that put away an exception that may not be there, and put it back.
PUT_BACK = {"errors.c": 2, "compat.h": 1, "port_type.c": 1}


@pytest.mark.parametrize("path", sorted(PY.iterdir()), ids=lambda path: path.name)
def test_who_takes_over_an_exception(path):
    """By py_error_take, which makes one if there is none: no NULL travels on as an exception."""
    taken = without_comments(path.read_text()).count("PyErr_GetRaisedException(")
    assert taken == PUT_BACK.get(path.name, 0)


def test_the_scan_finds_functions():
    """Of a file that has one of each shape."""
    text = (
        "static int one(int a)\n{\n    return a;\n}\n\n"
        "struct thing {\n    int x;\n};\n\n"
        "void two(int a,\n         int b)\n{\n    if (a) {\n    }\n}\n"
        "/* three(\n{\n}\n*/\n"
        "static const int table[] = {\n    1,\n};\n"
    )
    assert functions(text) == [("one", 4), ("two", 6)]


def test_python_files_have_a_docstring():
    for path in (ROOT / "python" / "iocpcore").rglob("*.py"):
        assert path.read_text().lstrip().startswith(('"""', 'r"""')), path


# Who may name the simulator: the table of backends, its own folder, the API for tests.
SIMULATOR = {"core/port.c", "core/backend.h", "py/port/sim_api.c"}


@by_file
def test_nobody_asks_for_the_simulator(path):
    """What differs between backends is a property or a function of struct io_backend."""
    name = path.relative_to(SOURCE).as_posix()
    text = without_comments(path.read_text())
    names = re.findall(r"\bio_backend_\w+\b|\bio_sim_\w+\b", text)
    allowed = {"io_backend_by_name"}
    if name in SIMULATOR or name.startswith("backends/"):
        return
    assert not [found for found in names if found not in allowed]
    assert "sim/sim.h" not in " ".join(includes(path))
