"""A port whose waits fail for good: other code of the process has closed its descriptor.

What lives on such a port is served by nobody any more, so it ends, and everybody is told: a server
that serves nobody must not look as if it did.
"""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from support.child import run
from support.system import LINUX

FAILED = "ERROR iocpcore the port has failed, and everything on it ends: "
HEAD = '''
import logging, os, socket, sys, threading, time
import iocpcore

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
KINDS = ("anon_inode:[eventpoll]", "anon_inode:[io_uring]")


def queues():
    """The descriptors of ports."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") in KINDS:
                found.append(int(name))
        except OSError:
            pass  # the one of the listing
    return found


def close_queues(put_another=False):
    """As code does that closes a number twice; perhaps the number is used again."""
    for number in queues():
        os.close(number)
        if put_another:
            assert os.dup2(other.fileno(), number) == number


def ask(address):
    """One echo; that also ends the wait that is under way, which still has the old file."""
    with socket.create_connection(address, 10) as sock:
        sock.sendall(b"x")
        try:
            return sock.recv(1)
        except ConnectionResetError:
            return b""


other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
events = []
'''


def with_descriptors(test: Any) -> Any:
    """Of tests that have to find the port's own."""
    test = pytest.mark.skipif(not LINUX, reason="a port's own handle is not to be found")(test)
    return pytest.mark.system(test)


def run_child(code: str, backend: str, *output: str) -> None:
    """The lines that it prints begin like these; what the error is called differs.

    Clients that come meanwhile have warnings of their own.
    """
    child = run(HEAD + textwrap.dedent(code), backend)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout
    lines = [line for line in child.stdout.splitlines() if not line.startswith("WARNING ")]
    assert len(lines) == len(output), child.stdout
    for line, beginning in zip(lines, output, strict=True):
        assert line.startswith(beginning), child.stdout


@pytest.mark.found_in_use
@with_descriptors
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("again", [False, True], ids=["closed", "used again"])
def test_serve_forever_raises(backend, count, again):
    """And connections, stats(), repr() and the log tell."""
    run_child(
        f"""
        server = iocpcore.Server(
            on_data=lambda conn, data: conn.send(data),
            on_close=lambda conn, error: events.append(error),
            workers={count}, concurrency=1,
        )
        address = server.listen("127.0.0.1", 0)

        def break_it():
            with socket.create_connection(address, 10) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                while not server.stats()["running"]:
                    time.sleep(0.001)  # start() has not returned yet
                close_queues({again})
                ask(address)
                assert sock.recv(1) == b"", "its peer is not told"

        breaking = threading.Thread(target=break_it)
        breaking.start()
        try:
            server.serve_forever()
        except OSError as error:
            print(type(error).__name__, error.errno is not None, "wait" in str(error))
        breaking.join(10)
        print(server.stats()["running"], "failed: " in repr(server), server.connections)
        print(all(isinstance(error, OSError) for error in events), len(events) >= 1)
        print(server.stop(1))
        """,
        backend,
        FAILED,
        "OSError True True",
        "0 True ()",
        "True True",
        "0",
    )


@pytest.mark.found_in_use
@with_descriptors
def test_started_server(backend):
    """Without serve_forever(): the log and on_close tell, and stop() ends as ever."""
    run_child(
        """
        ended = threading.Event()
        server = iocpcore.Server(
            on_data=lambda conn, data: conn.send(data),
            on_close=lambda conn, error: (events.append(error), ended.set()),
        )
        address = server.listen("127.0.0.1", 0)
        server.start()
        sock = socket.create_connection(address, 10)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        close_queues()
        sock.sendall(b"y")
        assert ended.wait(10)
        (error,) = events
        assert isinstance(error, OSError), error
        assert server.stop(5) == 0
        assert server.stats()["running"] == 0
        print("end")
        """,
        backend,
        FAILED,
        "end",
    )


@pytest.mark.found_in_use
@with_descriptors
def test_default_port_of_clients(backend):
    """Its connections hear of it, and the next connect() gets another port."""
    run_child(
        """
        ended = threading.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        conn = iocpcore.connect(
            *address,
            on_data=lambda conn, data: None,
            on_close=lambda conn, error: (events.append(error), ended.set()),
        )
        sock = listener.accept()[0]
        close_queues()
        sock.sendall(b"x")
        assert ended.wait(10)
        assert isinstance(events[0], OSError), events
        got = threading.Event()
        again = iocpcore.connect(*address, on_data=lambda conn, data: got.set())
        listener.accept()[0].sendall(b"x")
        assert got.wait(10)
        print("end")
        """,
        backend,
        FAILED,
        "end",
    )


@pytest.mark.found_in_use
@with_descriptors
def test_datagram(backend):
    """Its on_error hears of it, and may take any time: the end does not wait."""
    run_child(
        """
        told = threading.Event()

        def tell(endpoint, error):
            if "wait" in str(error):
                told.set()
                threading.Event().wait()

        server = iocpcore.Server(on_data=lambda conn, data: None)
        endpoint = iocpcore.Datagram(
            local_address=("127.0.0.1", 0),
            on_datagram=lambda endpoint, data, address: None,
            on_error=tell,
            completion_port=server.completion_port,
        )
        server.start()

        def break_it():
            close_queues()
            other.sendto(b"x", endpoint.sockname)

        threading.Timer(0, break_it).start()
        try:
            endpoint.serve_forever()
        except OSError as error:
            print("raised", "wait" in str(error), endpoint.closed)
        assert told.wait(10)
        """,
        backend,
        FAILED,
        "raised True True",
    )


@pytest.mark.found_in_use
@with_descriptors
def test_port_of_ones_own(backend):
    """Every wait on it raises, from then on; close() ends what is in flight."""
    run_child(
        """
        port = iocpcore.CompletionPort(backend=os.environ["IOCPCORE_BACKEND"])
        one, two = socket.socketpair()
        op = port.recv(one, 10)
        port.post("ready")
        raised = []

        def work():
            try:
                port.run()
            except OSError as error:
                raised.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        close_queues()
        port.post()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert len(raised) == 2
        for call in (port.get, port.get_many, lambda: port.get(0), port.run):
            try:
                call()
                raise AssertionError("it did not raise")
            except OSError as error:
                assert "wait" in str(error)
        assert "failed" in repr(port), repr(port)
        assert port.stats()["wait_failures"] >= 1
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # io_uring cannot give it back
            port.close(0.1)
        assert op.done and op.cancelled
        print("end")
        """,
        backend,
        "end",
    )
