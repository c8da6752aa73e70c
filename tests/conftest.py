"""Fixtures: backends, ports on them, and a check that no test leaves anything behind."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import iocpcore
import pytest
from support import outcome, system
from support.net import Net

EXPECTED = [name for name in os.environ.get("IOCPCORE_EXPECT_BACKENDS", "").split(",") if name]
_passed: dict[str, int] = dict.fromkeys(system.ALL_BACKENDS, 0)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "stress: many operations, many threads, or many rounds")
    config.addinivalue_line(
        "markers", "system: needs sockets, files or waiting threads of the system: not for sim"
    )
    config.addinivalue_line(
        "markers", "found_in_use: of a fault that users met: a failure is never taken for chance"
    )
    if outcome.TARGET:
        recorder = outcome.Recorder(Path(outcome.TARGET), _missing)
        config.pluginmanager.register(recorder, "outcome")
    system.raise_descriptor_limit()


# ---- backends -----------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("system")
        names = system.REAL_BACKENDS if marked else system.ALL_BACKENDS
        metafunc.parametrize("backend", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend. A test that uses this fixture runs once for each backend."""
    name = request.param
    known = iocpcore.backends()
    reason = known.get(name, "this build does not have it")
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return name


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" and report.passed:
        name = getattr(item, "callspec", None) and item.callspec.params.get("backend")
        if name:
            _passed[name] += 1


def _missing() -> list[str]:
    return [name for name in EXPECTED if not _passed.get(name)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _missing() and not session.config.option.collectonly:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in _passed.items())
    terminalreporter.write_line(f"passed by backend: {counts}")
    for name in _missing():
        terminalreporter.write_line(f"ERROR: no test ran on the expected backend {name}", red=True)


# ---- no test leaves anything behind -------------------------------------------------------------


def _differences(before: dict[str, object]) -> list[str]:
    found = []
    descriptors = system.descriptors()
    if len(descriptors) > len(before["descriptors"]) + system.HANDLE_TOLERANCE:
        left = {k: v for k, v in descriptors.items() if before["descriptors"].get(k) != v}
        found.append(f"descriptors left open: {left if not system.WINDOWS else len(left)}")
    if len(system.threads()) > len(before["threads"]):
        found.append(f"threads left: {system.threads()}, before: {before['threads']}")
    if system.operations() > before["operations"]:
        found.append(f"Operation objects left: {system.operations() - before['operations']}")
    return found


_started = itertools.count()
# Without the GIL, a collection visits frozen objects too, and takes longer than most tests.
TESTS_BETWEEN_COLLECTIONS = 20


def _tidy_up() -> None:
    """Freeze all existing objects, so that the search for what a test leaves is cheap."""
    if not system.FREE_THREADED:
        gc.collect()
    elif next(_started) % TESTS_BETWEEN_COLLECTIONS == 0:
        gc.unfreeze()  # some frozen objects are garbage by now
        gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def ends_at_zero() -> Iterator[None]:
    """Checks that the test left no descriptors, threads or operations behind."""
    _tidy_up()
    before = {
        "descriptors": system.descriptors(),
        "threads": system.threads(),
        "operations": system.operations(),
    }
    yield
    deadline = time.monotonic() + 5
    # The kernel frees a descriptor or a thread slightly later than it reports the end.
    while (left := _differences(before)) and time.monotonic() < deadline:
        if gc.collect() == 0:
            time.sleep(0.02)
    assert not left, "; ".join(left)


# ---- ports --------------------------------------------------------------------------------------


def _in_flight(port: iocpcore.CompletionPort) -> int:
    try:
        return port.in_flight
    except ValueError:  # closed by the test
        return 0


@pytest.fixture
def make_port(backend: str, ends_at_zero: None) -> Iterator[Callable[..., iocpcore.CompletionPort]]:
    """Creates ports. They are closed after the test, and must have nothing in flight by then."""
    ports: list[iocpcore.CompletionPort] = []

    def make(concurrency: int = 0) -> iocpcore.CompletionPort:
        ports.append(iocpcore.CompletionPort(concurrency, backend=backend))
        return ports[-1]

    yield make
    left = [_in_flight(port) for port in ports]
    for port in ports:
        port.close()
    assert not any(left), f"operations left in flight: {left}"


@pytest.fixture
def port(make_port: Callable[..., iocpcore.CompletionPort]) -> iocpcore.CompletionPort:
    return make_port()


@pytest.fixture
def net(port: iocpcore.CompletionPort) -> Iterator[Net]:
    """Handles for `port`, and access to its completions."""
    net = Net(port)
    yield net
    net.end()


@pytest.fixture
def make_net(ends_at_zero: None) -> Iterator[Callable[[iocpcore.CompletionPort], Net]]:
    nets: list[Net] = []

    def make(port: iocpcore.CompletionPort) -> Net:
        nets.append(Net(port))
        return nets[-1]

    yield make
    for net in nets:
        net.end()


Workers = Callable[[iocpcore.CompletionPort, int], AbstractContextManager[list[threading.Thread]]]


@pytest.fixture
def workers() -> Workers:
    """`with workers(port, 3):` runs the port in 3 threads, and ends them with stop()."""

    @contextmanager
    def start(port: iocpcore.CompletionPort, count: int) -> Iterator[list[threading.Thread]]:
        raised: list[BaseException] = []

        def work() -> None:
            try:
                port.run()
            except BaseException as error:
                raised.append(error)

        threads = [threading.Thread(target=work, name=f"worker-{i}") for i in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield threads
        finally:
            port.stop()
            for thread in threads:
                thread.join(system.LIMIT)
        assert not any(thread.is_alive() for thread in threads), "run() did not return after stop()"
        assert not raised, raised

    return start


@pytest.fixture
def unraisable(
    monkeypatch: pytest.MonkeyPatch, ends_at_zero: None
) -> Iterator[list[BaseException]]:
    """The exceptions that were passed to sys.unraisablehook."""
    seen: list[BaseException] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: seen.append(args.exc_value))
    yield seen
    seen.clear()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns the lines that the package has logged so far."""
    caplog.set_level(logging.INFO, "iocpcore")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "iocpcore"]
