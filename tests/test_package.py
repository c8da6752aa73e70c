"""What the package shows, and what it keeps to itself."""

from __future__ import annotations

import ast
from pathlib import Path

import iocpcore
import pytest
from iocpcore import errors

PACKAGE = Path(iocpcore.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
PUBLIC = {"client", "datagram", "errors", "framing", "server"}


def test_which_modules_are_public():
    """The facade has what most users need; these are where it is documented and typed."""
    shown = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    assert shown == PUBLIC
    folders = {path.parent.name for path in FILES if path.parent != PACKAGE}
    assert all(name.startswith("_") for name in folders)


def test_exceptions_are_in_one_place():
    """Their full names are in tracebacks: no private module is."""
    ours = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    exported = {
        name
        for name in iocpcore.__all__
        if isinstance(value := getattr(iocpcore, name), type) and issubclass(value, BaseException)
    }
    assert set(ours) == exported
    for name, value in ours.items():
        assert f"{value.__module__}.{value.__qualname__}" == f"iocpcore.errors.{name}"


def compares_backends(node: ast.AST) -> bool:
    """Whether one side of a comparison is called `backend` or is the name of a backend."""
    if not isinstance(node, ast.Compare) or isinstance(node.ops[0], ast.Is | ast.IsNot):
        return False
    sides = [node.left, *node.comparators]
    names = {getattr(side, "attr", None) or getattr(side, "id", None) for side in sides}
    texts = {side.value for side in sides if isinstance(side, ast.Constant)}
    return "backend" in names or bool(texts & set(iocpcore.backends()))


@pytest.mark.parametrize(
    "path", FILES, ids=[path.relative_to(PACKAGE).as_posix() for path in FILES]
)
def test_who_asks_for_the_backend(path):
    """Sockets are chosen once for a port, and everything else is the same with each backend."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    questions = [node.lineno for node in nodes if compares_backends(node)]
    assert len(questions) == (path.name == "_sockets.py")  # is_simulated()
    asked = [node for node in nodes if isinstance(node, ast.Name) and node.id == "is_simulated"]
    if path.parent == PACKAGE:  # the commands choose what other processes are to reach
        assert len(asked) == (path.name == "_runtime.py")
