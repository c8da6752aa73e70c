"""The tests of behaviour keep to what users have: they touch nothing private of the package."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
# tests/unit is for modules by themselves, tests/support for what users cannot do.
FILES = sorted(
    path for name in ("contract", "faults", "server") for path in (TESTS / name).glob("*.py")
)
# Private names of others, which have no public one.
OF_OTHERS = {"os._exit", "sys._is_gil_enabled"}

PATHS = re.compile(r"\biocpcore(?:\.\w+)*\._[a-z]\w*")


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(tree: ast.AST) -> Iterator[str]:
    """What a program uses, and the programs in its strings, if it is not its own."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("iocpcore"):
                yield from (
                    f"{module}.{alias.name}"
                    for alias in names
                    if any(private(part) for part in f"{module}.{alias.name}".split("."))
                )
            case ast.Import(names=names):
                yield from (
                    alias.name
                    for alias in names
                    if alias.name.startswith("iocpcore.")
                    and any(private(part) for part in alias.name.split("."))
                )
            case ast.Attribute(value=value, attr=attr) if private(attr):
                if not (isinstance(value, ast.Name) and value.id in ("self", "cls")):
                    yield ast.unparse(node)
            case ast.JoinedStr(values=values):
                # A placeholder stands for a line, or for a part of one.
                text = "".join(
                    str(value.value) if isinstance(value, ast.Constant) else "None"
                    for value in values
                )
                yield from names_in_text(text)
            case ast.Constant(value=str(text)):
                yield from names_in_text(text)


def names_in_text(text: str) -> Iterator[str]:
    yield from PATHS.findall(text)  # for monkeypatch.setattr
    if "\n" in text:
        try:
            program = ast.parse(textwrap.dedent(text))
        except SyntaxError:
            return  # prose, or a part of a program
        yield from private_names(program)


def faults(text: str) -> set[str]:
    return set(private_names(ast.parse(text))) - OF_OTHERS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_private_names(path):
    assert faults(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "text",
    [
        "from iocpcore import _core",
        "from iocpcore._log import Log",
        "from iocpcore.server import Server, _stage",
        "import iocpcore._runtime",
        "server._group.stats()",
        "def test(conn): conn._hold(True)",
        "monkeypatch.setattr('iocpcore.server._stage', None)",
        "code = '''\nfrom iocpcore import _core\n'''",
        "code = f'''\n    {HEAD}\n    server._group.shutdown()\n'''",
    ],
)
def test_the_search_finds(text):
    assert faults(text)


@pytest.mark.parametrize(
    "text",
    [
        "from iocpcore import Server, __version__",
        "self._events.add(1)",
        "os._exit(0)",
        "conn.__class__",
        "code = '''\nimport os\nos._exit(0)\n'''",
        "text = '''prose about\n_things, and other._things'''",
    ],
)
def test_the_search_leaves_alone(text):
    assert not faults(text)
