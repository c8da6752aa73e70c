"""Each option has one name and one default, wherever it is written: C, stubs, docstrings, docs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import iocpcore
import pytest
from iocpcore import Datagram, Server, _core, client, connect
from iocpcore._options import (
    CONNECTION_CALLBACKS,
    DATAGRAM_CALLBACKS,
    Callbacks,
    ClientLimits,
    DatagramLimits,
    GroupCallbacks,
    GroupLimits,
    GroupOptions,
    Limits,
    SocketOptions,
)
from iocpcore.client import ConnectOptions

PACKAGE = Path(iocpcore.__file__).parent
DOCS = Path(__file__).resolve().parents[1] / "docs" / "server.md"

LIMITS = {option.name: option.default for option in fields(Limits)}
ONLY_OF_SERVERS = {
    "workers",
    "concurrency",
    "backend",
    "max_connections",
    "max_connections_per_address",
    "handshake_timeout",
    "proxy_protocol",
}
ONLY_OF_CLIENTS = {"server_hostname", "timeout", "completion_port", "local_address", "context"}

needs_docs = pytest.mark.skipif(not DOCS.exists(), reason="only the package is here, without docs")


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def documented_parameters(text: str) -> list[str]:
    """The names below "Parameters": those of `a, b: what they do`."""
    after = inspect.cleandoc(text).split("Parameters", 1)[1].split(":\n", 1)[1].split("\n\n", 1)[0]
    lines = [re.match(r"    ([a-z_, ]+): ", line) for line in after.split("\n")]
    return [name for line in lines if line for name in line.group(1).split(", ")]


def documented_callbacks(text: str) -> dict[str, int]:
    """How many arguments the docstring gives to each."""
    found = re.findall(r"^\* ``(on_\w+)\(([^)]*)\)``:", inspect.cleandoc(text), re.MULTILINE)
    return {name: len(arguments.split(", ")) for name, arguments in found}


def arities(callbacks: Mapping[str, Any]) -> dict[str, int]:
    """Of callbacks' type hints, `Callable[[...], object] | None`."""
    return {name: len(get_args(get_args(hint)[0])[0]) for name, hint in callbacks.items()}


# ---- C and Python -------------------------------------------------------------------------------


def test_the_constructor_in_c_takes_the_same_names():
    taken = parameters(_core.ConnectionGroup)
    callbacks = list(GroupCallbacks.__annotations__)
    assert list(taken)[: len(callbacks)] == callbacks
    assert callbacks[: len(CONNECTION_CALLBACKS)] == list(CONNECTION_CALLBACKS)
    assert set(taken) == set(GroupOptions.__annotations__)
    optional = {name for name, one in taken.items() if one.default is None}
    required = {name for name, one in taken.items() if one.default is inspect.Parameter.empty}
    assert optional == GroupOptions.__optional_keys__
    assert required == GroupOptions.__required_keys__ == {*LIMITS, "reads_on"}


def test_the_stub_has_these_options():
    tree = ast.parse((PACKAGE / "_core.pyi").read_text())
    (group,) = (
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "ConnectionGroup"
    )
    (new,) = (
        node for node in group.body if isinstance(node, ast.FunctionDef) and node.name == "__new__"
    )
    assert new.args.kwarg is not None
    assert ast.unparse(new.args.kwarg.annotation or new) == "Unpack[GroupOptions]"


@pytest.fixture
def make_group():
    with iocpcore.CompletionPort(1) as port:
        yield lambda **options: _core.ConnectionGroup(
            port, **{**vars(Limits()), "reads_on": False, **options}
        )


def refuses(function: Any, *args: Any, **options: Any) -> bool:
    try:
        function(*args, **options)
    except (TypeError, ValueError):
        return True
    return False


@pytest.mark.parametrize("value", [None, -1, 0, 1, 65536, 65537, 2**63 - 1, 2**63, "1", 1.5])
@pytest.mark.parametrize("name", [name for name in LIMITS if not name.endswith("_timeout")])
def test_c_refuses_what_python_refuses(make_group, name, value):
    unbounded = Limits(write_high=2**63 - 1, write_low=0)
    assert refuses(make_group, **{name: value}) == refuses(unbounded.updated, {name: value})


@pytest.mark.parametrize("value", [None, 1e-9, 1, 1e300])
@pytest.mark.parametrize("name", [name for name in LIMITS if name.endswith("_timeout")])
def test_c_takes_every_time_that_python_takes(make_group, name, value):
    Limits().updated({name: value})
    make_group(**{name: value})


@pytest.mark.parametrize("name", [*LIMITS, "reads_on"])
def test_c_has_no_limits_of_its_own(name):
    given = {**vars(Limits()), "reads_on": False}
    del given[name]
    with (
        iocpcore.CompletionPort(1) as port,
        pytest.raises(TypeError, match=f"missing required argument '{name}'"),
    ):
        _core.ConnectionGroup(port, **given)


@pytest.mark.parametrize("name", [*GroupCallbacks.__annotations__, "framing", "stage", "executor"])
def test_c_names_what_cannot_be_called(make_group, name):
    make_group(**{name: print})
    make_group(**{name: None})
    with pytest.raises(TypeError, match=f"^{name} must be callable, not int$"):
        make_group(**{name: 5})


def test_c_names_what_it_does_not_know(make_group):
    with pytest.raises(TypeError, match="unexpected keyword argument 'on_nothing'"):
        make_group(on_nothing=print)


# ---- signatures ---------------------------------------------------------------------------------


def test_the_signature_of_server():
    taken = parameters(Server)
    assert list(taken)[: len(CONNECTION_CALLBACKS)] == list(CONNECTION_CALLBACKS)
    assert all(taken[name].default is None for name in CONNECTION_CALLBACKS)
    assert {name: taken[name].default for name in LIMITS} == LIMITS
    assert taken["keepalive"].default is SocketOptions().keepalive
    hints, limits, callbacks = map(get_type_hints, (Server.__init__, Limits, Callbacks))
    assert {name: hints[name] for name in LIMITS} == limits
    del callbacks["on_close"]  # connect_nowait() has one with None for the connection
    assert {name: hints[name] for name in callbacks} == callbacks


def test_the_signature_of_listen():
    taken = parameters(Server.listen)
    options = SocketOptions()
    assert {name: one.default for name, one in taken.items()} == {
        "backlog": options.backlog,
        "reuse_port": options.reuse_port,
    }


def test_the_signature_of_datagram():
    taken = parameters(Datagram)
    assert list(taken)[: len(DATAGRAM_CALLBACKS)] == list(DATAGRAM_CALLBACKS)
    limits, options = vars(DatagramLimits()), vars(SocketOptions())
    assert {name: taken[name].default for name in limits} == limits
    assert all(taken[name].default is options[name] for name in ("reuse_port", "broadcast"))


def test_the_options_of_connect():
    """Clients and servers differ in what is listed here, and in nothing else."""
    of_clients = ConnectOptions.__optional_keys__
    assert set(ConnectOptions.__annotations__) == of_clients
    of_servers = {"handler", *parameters(Server)}
    assert of_servers >= ONLY_OF_SERVERS
    assert of_clients == of_servers - ONLY_OF_SERVERS | ONLY_OF_CLIENTS
    limits = get_type_hints(Limits)
    assert get_type_hints(ClientLimits) == {
        name: hint for name, hint in limits.items() if name not in ONLY_OF_SERVERS
    }
    assert {**get_type_hints(GroupLimits)} == {**limits, "reads_on": bool}


def test_the_limits_of_clients():
    """A server's, without the time for a handshake: `timeout` is for all of connect()."""
    assert replace(client.LIMITS, handshake_timeout=Limits.handshake_timeout) == Limits()
    assert client.LIMITS.handshake_timeout is None


def test_every_option_has_a_default_and_a_check():
    for options in (Limits, DatagramLimits, SocketOptions):
        for option in fields(options):
            assert option.default is not MISSING
            assert getattr(options().updated({option.name: option.default}), option.name) == (
                option.default
            )
            with pytest.raises((TypeError, ValueError), match=option.name):
                options().updated({option.name: "x"})


# ---- docstrings and docs ------------------------------------------------------------------------


def test_the_docstring_of_server():
    text = inspect.getdoc(Server) or ""
    assert documented_callbacks(text) == arities(get_type_hints(Callbacks))
    documented = documented_parameters(text)
    assert set(documented) == set(parameters(Server)) - set(CONNECTION_CALLBACKS)
    assert len(documented) == len(set(documented))
    low, high = re.search(r"read_size: .*; (\d+) to (\d+)", text).groups()
    assert not refuses(Limits().updated, {"read_size": int(low)})
    assert not refuses(Limits().updated, {"read_size": int(high)})
    assert refuses(Limits().updated, {"read_size": int(high) + 1})


def test_the_docstring_of_connect():
    documented = set(documented_parameters(inspect.getdoc(connect) or ""))
    assert documented == ONLY_OF_CLIENTS | {"ssl"}  # of which connect() takes more than a server


def test_the_docstring_of_datagram():
    text = inspect.getdoc(Datagram) or ""
    assert list(documented_callbacks(text)) == list(DATAGRAM_CALLBACKS)
    documented = documented_parameters(text)
    assert set(documented) == set(parameters(Datagram)) - set(DATAGRAM_CALLBACKS)


def table(section: str) -> list[list[str]]:
    """The rows of the first table below this title, in docs/server.md."""
    text = DOCS.read_text(encoding="utf-8").split(f"\n{section}\n", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE).group().splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def figure(text: str) -> Any:
    """A default as the docs write it."""
    if text == "None":
        return None
    number, unit = text.split(" ")
    return int(number) * {"s": 1, "KiB": 2**10, "MiB": 2**20}[unit]


@needs_docs
def test_the_callbacks_in_the_docs():
    rows = [re.fullmatch(r"`(\w+)\((.*)\)`", cells[0]).groups() for cells in table("## Callbacks")]
    documented = {name: len(arguments.split(", ")) for name, arguments in rows}
    assert documented == arities(get_type_hints(Callbacks))


@needs_docs
def test_the_limits_in_the_docs():
    documented: dict[str, Any] = {}
    for names, defaults, _ in table("### Limits"):
        found = re.findall(r"`(\w+)`", names)
        documented.update(zip(found, map(figure, defaults.split(", ")), strict=True))
    assert documented == LIMITS


@needs_docs
@pytest.mark.parametrize(
    "options",
    [set(parameters(Server)), set(ConnectOptions.__annotations__), set(parameters(Datagram))],
    ids=["Server", "connect", "Datagram"],
)
def test_every_option_is_in_the_docs(options):
    code = re.findall(r"```.*?```|`[^`\n]+`", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    named = set(re.findall(r"\w+", " ".join(code)))
    assert options - named == set()
