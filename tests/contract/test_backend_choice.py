"""Which backend a port runs on, and what happens when it cannot."""

from __future__ import annotations

import sys

import iocpcore
import pytest
from support import child
from support.system import ALL_BACKENDS, FREE_THREADED, REAL_BACKENDS


def usable() -> list[str]:
    known = iocpcore.backends()
    return [name for name in REAL_BACKENDS if known.get(name, "unknown") is None]


def test_backends_names_all_of_this_platform():
    known = iocpcore.backends()
    assert set(REAL_BACKENDS) <= set(known)
    assert set(known) <= set(ALL_BACKENDS)
    assert all(reason is None or isinstance(reason, str) for reason in known.values())
    known.clear()
    assert iocpcore.backends()


def test_the_argument(backend):
    with iocpcore.CompletionPort(backend=backend) as port:
        assert port.backend == backend


def test_the_environment(backend, monkeypatch):
    monkeypatch.setenv("IOCPCORE_BACKEND", backend)
    with iocpcore.CompletionPort() as port:
        assert port.backend == backend


def test_the_environment_of_a_child(backend):
    child.check(
        "import iocpcore; p = iocpcore.CompletionPort(); print(p.backend); p.close()",
        backend,
        output=backend,
    )


def test_the_argument_goes_before_the_environment(backend, monkeypatch):
    monkeypatch.setenv("IOCPCORE_BACKEND", "no such thing")
    with iocpcore.CompletionPort(backend=backend) as port:
        assert port.backend == backend


def test_an_empty_variable_is_none(monkeypatch):
    if not usable():
        pytest.skip("no backend works here")
    monkeypatch.setenv("IOCPCORE_BACKEND", "")
    with iocpcore.CompletionPort() as port:
        assert port.backend == usable()[0]


def test_the_best_one_is_the_default(monkeypatch):
    """Never the simulation."""
    if not usable():
        pytest.skip("no backend works here")
    monkeypatch.delenv("IOCPCORE_BACKEND", raising=False)
    with iocpcore.CompletionPort() as port:
        assert port.backend == usable()[0]
        assert port.backend != "sim"


def test_an_unknown_name(monkeypatch):
    with pytest.raises(ValueError, match="kqueue"):
        iocpcore.CompletionPort(backend="kqueue")
    with pytest.raises(TypeError, match="backend"):
        iocpcore.CompletionPort(backend=3)
    monkeypatch.setenv("IOCPCORE_BACKEND", "kqueue")
    with pytest.raises(ValueError, match="kqueue"):
        iocpcore.CompletionPort()


def test_one_of_another_platform():
    other = "epoll" if sys.platform == "win32" else "iocp"
    with pytest.raises((ValueError, RuntimeError), match=other):
        iocpcore.CompletionPort(backend=other)


def test_one_that_does_not_work_here_says_why():
    refused = {name: reason for name, reason in iocpcore.backends().items() if reason}
    for name, reason in refused.items():
        with pytest.raises(RuntimeError) as raised:
            iocpcore.CompletionPort(backend=name)
        assert reason in str(raised.value)
    if not refused:
        pytest.skip("every backend works here")


REFUSING = """
import ctypes, struct, sys
# A filter that answers io_uring_setup(2) with EPERM, as containers do.
libc = ctypes.CDLL(None, use_errno=True)
code = b"".join(struct.pack("HBBI", *line) for line in (
    (0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)))
program = ctypes.create_string_buffer(code)
argument = struct.pack("HxxxxxxP", 4, ctypes.addressof(program))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_char_p(argument), 0, 0):
    print("no filters here")
    sys.exit()
import iocpcore
print(bool(iocpcore.backends()["io_uring"]))
port = iocpcore.CompletionPort()
print(port.backend)
port.close()
try:
    iocpcore.CompletionPort(backend="io_uring")
except RuntimeError as error:
    print(iocpcore.backends()["io_uring"] in str(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="io_uring is Linux's")
def test_io_uring_refused(monkeypatch):
    """By the system, with the reason kept; the default is then epoll."""
    result = child.run(REFUSING, "")
    if result.stdout.strip() == "no filters here":
        pytest.skip("seccomp filters cannot be set here")
    assert result.stdout.split() == ["True", "epoll", "True"], result.stderr


def test_concurrency(backend):
    for concurrency in (0, 1, 2, 8):
        with iocpcore.CompletionPort(concurrency, backend=backend) as port:
            port.post(concurrency)
            assert port.get(10).result() == concurrency


def test_free_threading_stays_on():
    """The extension does not switch the GIL on again."""
    if not FREE_THREADED:
        pytest.skip("this interpreter has a GIL")
    assert not sys._is_gil_enabled()


@pytest.mark.parametrize("name", ["sim\0", "sim\0x", "\ud800", ""])
def test_a_name_that_is_none(name):
    with pytest.raises(
        ValueError, match=r"backend: there is no backend .* on this platform, but .*sim$"
    ):
        iocpcore.CompletionPort(backend=name)
