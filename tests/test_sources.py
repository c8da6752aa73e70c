"""The C sources keep their rules: who may include what, and how long things may be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "iocp_ext"
PY = SOURCE / "py"

FILES = sorted([*SOURCE.rglob("*.c"), *SOURCE.rglob("*.h")])
LINES_MAX = 700
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100

pytestmark = pytest.mark.skipif(not FILES, reason="only the package is here, without its sources")


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


by_file = pytest.mark.parametrize("path", FILES, ids=name_of)

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

# Folder: the folders that it may include, and the headers that it may not.
RULES: dict[str, tuple[set[str], set[str]]] = {
    "core": ({"core"}, PYTHON | KERNEL_EVENTS),
    "net": ({"core", "net"}, PYTHON | SYSTEM - {"netinet/in.h"}),  # which names no function
    "backends/linux": ({"core", "backends/linux"}, PYTHON),
    "backends/windows": ({"core", "backends/windows"}, PYTHON),
    "backends/sim": ({"core", "backends/sim"}, PYTHON),
    "py/base": ({"core", "py/base"}, SYSTEM),
    "py/port": ({"core", "py/base", "py/port"}, SYSTEM),
    "py/stream": ({"core", "net", "py/base", "py/stream"}, SYSTEM),
    "py/server": ({"core", "net", "py/base", "py/port", "py/stream", "py/server"}, SYSTEM),
    "py": ({"core", "net", "py/base", "py/port", "py/stream", "py/server"}, SYSTEM),
}
# The simulation's own functions for Python know it; nothing else does.
ALSO = {"py/port/sim_api.c": {"backends/sim"}}

INCLUDE = re.compile(
    r"^[ \t]*(?:#|%:|\?\?=)[ \t]*(?:include|include_next|import|embed)\b(.*)$", re.MULTILINE
)


def include_lines(text: str) -> list[str]:
    """What follows each #include, in whatever way it is written."""
    spliced = re.sub(r"\\\n", "", text)
    bare = re.sub(
        r"/\*.*?\*/", lambda match: re.sub(r"[^\n]", " ", match.group()), spliced, flags=re.DOTALL
    )
    return [match.group(1).split("//")[0].strip() for match in INCLUDE.finditer(bare)]


def includes(text: str) -> tuple[set[str], set[str]]:
    """Names in quotes, which are ours, and in angle brackets, which are the system's."""
    ours, system = set(), set()
    for line in include_lines(text):
        match = re.fullmatch(r'"([\w./]+)"|<([\w./]+)>', line)
        assert match, f"#include {line}"
        if match.group(1):
            ours.add(match.group(1))
        else:
            system.add(match.group(2) if match.group(2) in PYTHON else match.group(2).lower())
    return ours, system


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
    for folder in RULES:
        assert list((SOURCE / folder).glob("*.[ch]")), folder
    assert {name_of(path.parent) for path in FILES} == set(RULES)
    assert (SOURCE / "core" / "io.h").exists()
    assert (SOURCE / "core" / "backend.h").exists()


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]


@by_file
def test_includes(path):
    """Each folder includes only what is below it, by names from the root of the sources.

    Outside py/ nobody knows Python, in it nobody calls a system, and only backends/ knows a
    kernel's events.
    """
    ours, system = includes(path.read_text())
    allowed, forbidden = RULES[folder_of(name_of(path))]
    for name in ours:
        assert ".." not in name
        assert (SOURCE / name).is_file(), f"{name}: not a name from the root of the sources"
        assert folder_of(name) in allowed | ALSO.get(name_of(path), set()), name
    for name in system:
        assert ".." not in name
        assert not (SOURCE / name).exists(), f"{name}: ours, in angle brackets"
    assert not system & forbidden


@pytest.mark.parametrize(
    "line",
    [
        '#include "py/x.h"',
        ' #  include "py/x.h"',
        '#\\\ninclude "py/x.h"',
        '%:include "py/x.h"',
        '#include/* */"py/x.h"',
        '#include "py/x.h" // core/x.h',
    ],
)
def test_every_way_to_include_is_seen(line):
    assert includes(f"int a;\n{line}\nint b;\n") == ({"py/x.h"}, set())


@pytest.mark.parametrize("line", ["#include X", "#import X", "#include_next X(y)"])
def test_no_include_goes_by_a_macro(line):
    with pytest.raises(AssertionError):
        includes(line + "\n")


@pytest.mark.parametrize("path", sorted(PY.rglob("*.[ch]")), ids=name_of)
def test_who_calls_a_backend(path):
    """Nothing in py/, but to ask whether one works here: it calls functions of the core."""
    assert not re.search(
        r"backend\s*\)?->\s*(?!probe\b)\w+\s*\(", without_comments(path.read_text())
    )


# Who may name a backend: the table of backends, their folders, the simulation's own functions.
NAMES_BACKENDS = {"core/port.c", "core/backend.h", "py/port/sim_api.c"}


@by_file
def test_nobody_asks_which_backend_it_is(path):
    """What differs between backends is a property or a function of struct io_backend."""
    if name_of(path) in NAMES_BACKENDS or name_of(path).startswith("backends/"):
        return
    text = without_comments(path.read_text())
    assert not set(re.findall(r"\bio_(?:backend|sim)_\w+\b", text)) - {"io_backend_by_name"}


# ---- errors --------------------------------------------------------------------------------------

# Where the sign of an error changes: error.h from and to the systems' numbers, once for each.
SIGN_CHANGES = {"core/error.h", "core/error.c"}
# What else is negated: times from now are negative on Windows, io_uring answers a negative errno,
# and who uses the simulation gives an errno.
NO_ERRORS = {
    "backends/windows/iocp.c": ["POST_RETRY_MS * IO_NS_PER_MS / 100", "left"],
    "backends/linux/uring.c": ["result"],
    "py/port/sim_api.c": ["error"],
}


def negated(text: str) -> list[str]:
    """What a minus of one operand stands before, but numbers and the names of errors."""
    before = r"(?:[(,?:=\[{&|<>!]|\breturn|\bcase|^)\s*(?:\([\w ]+\*?\)\s*)?"
    found = re.findall(
        before + r"-(?!-|>)\s*((?:\([\w ]+\))?\s*\(?[^;,)?]+)",
        without_comments(text),
        re.MULTILINE,
    )
    names = [re.sub(r"^(?:\([a-z]\w+\))?\s*\(?", "", one.strip()) for one in found]
    return [name for name in names if not re.match(r"\d|IOE_\w+$|IOE_\w+\b|[A-Z_]+$", name)]


def plain_errors(text: str) -> list[str]:
    return re.findall(r"(?<![-\w])IOE_\w+", without_comments(text))


@by_file
def test_errors_are_negative(path):
    """A portable error has one sign wherever it goes: nobody has to know who makes it."""
    name = name_of(path)
    if name in SIGN_CHANGES:
        return
    text = path.read_text()
    assert not plain_errors(text)
    assert [one for one in negated(text) if one not in NO_ERRORS.get(name, [])] == []


@pytest.mark.parametrize(
    "line",
    [
        "return -error;",
        "x = -errno;",
        "f(-io_g(a), 1);",
        "f((int)-op->result, 1);",
        "f(a, -(int64_t)io_g(b));",
        "return x ? -error : 0;",
        "x = a || -self->error;",
    ],
)
def test_every_change_of_sign_is_seen(line):
    assert negated(line)


@pytest.mark.parametrize(
    "line", ["return -IOE_BADF;", "x = -1;", "x = a - b;", "x->y = a[i - j];", "if (a - b > c)"]
)
def test_what_changes_no_sign(line):
    assert not negated(line)
    assert not plain_errors(line)


# ---- what is one system's own ------------------------------------------------------------------

LINUX_HEADERS = {"sys/epoll.h", "sys/eventfd.h", "sys/sendfile.h", "sys/timerfd.h"}


@by_file
def test_who_includes_what_only_linux_has(path):
    """Files that say so by their folder or name; who adds a system finds there what to write."""
    _, system = includes(path.read_text())
    found = {name for name in system if name.startswith("linux/")} | (system & LINUX_HEADERS)
    assert not found or folder_of(name_of(path)) == "backends/linux" or "linux" in path.stem


@by_file
def test_the_choice_of_backends_names_each_system(path):
    """Not "Linux, because it is not Windows": another system is refused, with a hint."""
    text = path.read_text()
    block = r"^#\s*if[^\n]*_WIN32[^\n]*\n(?:(?!^#\s*if).*\n)*?^#\s*endif"
    for choice in re.findall(block, text, re.MULTILINE):
        if "io_backend_" in choice:
            assert "defined(__linux__)" in choice
            assert re.search(r"#else\n#error", choice)


def constants(text: str) -> set[str]:
    """Names of the numbers that a file defines."""
    bare = without_comments(text)
    found = set(re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+[(\w]", bare, re.MULTILINE))
    for inside in re.findall(r"\benum\b[^;{}()]*\{([^}]*)\}", bare):
        found.update(re.findall(r"\b([A-Z]\w+)\s*=", inside))
    return found


def test_constants_stand_once():
    """What two files need is in a header of both."""
    where: dict[str, list[str]] = {}
    for path in FILES:
        for name in constants(path.read_text()):
            where.setdefault(name, []).append(name_of(path))
    assert not {name: files for name, files in where.items() if len(files) > 1}


def test_the_scan_finds_constants():
    text = (
        "enum { ONE = 1, TWO = ONE << 1 };\n#define THREE (3)\n#define four(x) x\nint FIVE = 5;\n"
    )
    assert constants(text) == {"ONE", "TWO", "THREE"}


# ---- names of statics ---------------------------------------------------------------------------

C_FILES = [path for path in FILES if path.suffix == ".c"]


def prefix_of(path: Path) -> str:
    """Of a file's statics: its name, with the folder's before it if there are two of that name."""
    twice = sum(other.stem == path.stem for other in C_FILES) > 1
    return f"{path.parent.name}_{path.stem}_" if twice else f"{path.stem}_"


def statics(text: str) -> set[str]:
    """The functions and data that a file defines, or declares, for itself."""
    bare = re.sub(r"^[ \t]*#(?:[^\n]|(?<=\\)\n)*", "", without_comments(text), flags=re.MULTILINE)
    found = set(re.findall(r"^PyDoc_STRVAR\(\s*(\w+)", bare, re.MULTILINE))
    found.update(
        re.findall(r"^static (?:struct|union|enum) \{.*?^\} (\w+)", bare, re.MULTILINE | re.DOTALL)
    )
    for match in re.finditer(
        r"^static\b(?! (?:struct|union|enum) \{)([^;={]*)", bare, re.MULTILINE
    ):
        declared = re.sub(r"\b(?:_Atomic|_Alignas|IO_\w+)\([^)]*\)", "", match.group(1))
        before = re.match(r"[^(\[]*\b(\w+)\s*(?:[(\[]|$)", declared.rstrip())
        assert before, match.group()
        found.add(before.group(1))
    return found - {"_Static_assert"}


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_statics_carry_the_name_of_their_file(path):
    """So that a debugger, a profile and a search show one function for one name."""
    other = {name for name in statics(path.read_text()) if not name.startswith(prefix_of(path))}
    assert not other


def test_statics_are_unique():
    of_name: dict[str, list[str]] = {}
    for path in C_FILES:
        for name in statics(path.read_text()):
            of_name.setdefault(name, []).append(name_of(path))
    assert not {name: where for name, where in of_name.items() if len(where) > 1}


def test_the_scan_finds_statics():
    text = (
        "static int one(int a) {\n    static int inside;\n    return a;\n}\n"
        "static const char *const two[] = {0};\n"
        "static _Atomic(int) three;\n"
        "static struct {\n    int x;\n} four;\n"
        "/* static int five; */\n"
        "static bool\nsix(void);\n"
        'PyDoc_STRVAR(\n    seven, "static int eight;");\n'
    )
    assert statics(text) == {"one", "two", "three", "four", "six", "seven"}


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


@pytest.mark.parametrize("path", sorted(PY.rglob("*.[ch]")), ids=name_of)
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
