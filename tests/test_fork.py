"""fork: the child's use of the port raises, the parent's goes on."""

from __future__ import annotations

import sys
import textwrap

import pytest
from support import child

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows"),
]

HEAD = """
import gc, os, socket, sys, threading, time, warnings
import iocpcore

warnings.simplefilter("ignore", DeprecationWarning)
port = iocpcore.CompletionPort()
a, b = socket.socketpair()
op = port.recv(a, 10)

def refused(call, *args):
    try:
        call(*args)
    except RuntimeError as error:
        assert "parent" in str(error), error
    else:
        raise AssertionError(f"{call} was not refused")

def parent_goes_on(child):
    pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    b.sendall(b"alive")
    while not op.done:
        assert port.get(30)
    assert op.result() == b"alive"
    port.close()
    print("the parent goes on")
"""


def check(backend: str, code: str) -> None:
    """Behind HEAD; at its end the parent goes on."""
    child.check(HEAD + textwrap.dedent(code), backend, output="the parent goes on")


def check_child(backend: str, code: str, before: str = "") -> None:
    """This is what the child does, which ends by it, and the parent's port goes on."""
    forked = "child = os.fork()\nif not child:\n" + textwrap.indent(textwrap.dedent(code), "    ")
    check(backend, f"{textwrap.dedent(before)}\n{forked}\nparent_goes_on(child)\n")


def test_use_in_the_child(backend):
    check_child(
        backend,
        """
        refused(port.recv, a, 10)
        refused(port.post)
        refused(port.timer, 1)
        refused(port.get, 0)
        refused(port.get_many, 1, 0)
        refused(port.run)
        refused(port.associate, b)
        refused(port.close_handle, b)
        refused(op.cancel)
        os._exit(0)
        """,
    )


def test_the_child_exits_cleanly(backend):
    """Through the whole end of the interpreter, without touching what is the parent's."""
    check_child(backend, "sys.exit(0)")


def test_the_child_drops_the_port(backend):
    check_child(
        backend,
        """
        del port, op
        gc.collect()
        sys.exit(0)
        """,
    )


def test_a_port_of_the_childs_own(backend):
    check_child(
        backend,
        """
        c, d = socket.socketpair()
        with iocpcore.CompletionPort() as mine:
            receive = mine.recv(c, 10)
            mine.send(d, b"child")
            while not receive.done:
                assert mine.get(30)
            assert receive.result() == b"child"
            # The parent's socket belongs to a port that does not exist here.
            other = mine.send(b, b"")
            assert mine.get(30) is other
        sys.exit(0)
        """,
    )


def test_with_threads_at_work(backend):
    """In the middle of everything: workers, a getter, callbacks, file reads."""
    check(
        backend,
        """
        import tempfile
        file = tempfile.TemporaryFile()
        file.write(bytes(1000))
        file.flush()
        served = []

        def again(op):
            served.append(1)
            if len(served) < 100000:
                port.read(file, 100, 0, callback=again)

        for _ in range(4):
            port.read(file, 100, 0, callback=again)
        threads = [threading.Thread(target=port.run) for _ in range(2)]
        for thread in threads:
            thread.start()
        children = []
        for number in range(10):
            while len(served) < 20 * number:
                time.sleep(0.001)
            child = os.fork()
            if not child:
                refused(port.post)
                port = op = None
                gc.collect()
                with iocpcore.CompletionPort() as mine:
                    mine.post()
                    assert mine.get(30)
                os._exit(0)
            children.append(child)
        for child in children:
            pid, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0, status
        before = len(served)
        while len(served) < min(before + 100, 99000):
            time.sleep(0.001)
        port.stop()
        for thread in threads:
            thread.join(30)
        port.close()
        print("the parent goes on")
        """,
    )


def test_close_in_the_child(backend):
    """Harmless or refused; the parent's work is not cancelled by it."""
    check_child(
        backend,
        """
        try:
            port.close()
        except RuntimeError as error:
            assert "parent" in str(error)
        sys.exit(0)
        """,
    )


def test_a_subprocess(backend):
    """fork and exec: descriptors of the port are not inherited."""
    before = """
    import subprocess
    listing = "import subprocess; print(subprocess.run(['ls', '-l', '/proc/self/fd'], " \
        "capture_output=True, close_fds=False, text=True).stdout)"
    out = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True,
                         close_fds=False, check=True).stdout
    assert "eventpoll" not in out and "io_uring" not in out and "eventfd" not in out, out
    """
    check_child(backend, "os._exit(0)", before)


def test_in_a_callback(backend):
    """The child leaves run() at once; what was about to be called back is the parent's."""
    check(
        backend,
        """
        called = []

        def fork(op):
            global child
            child = os.fork()

        port.post(callback=fork)
        for number in range(3):
            port.post(number, callback=lambda op: called.append(op.result()))
        port.timer(0.2, callback=lambda op: port.stop())
        try:
            port.run()
        except RuntimeError as error:
            assert child == 0
            assert str(error) == "the port belongs to the parent process", error
            assert not called, called
            os._exit(0)
        assert child, "the child has returned from run()"
        assert called == [0, 1, 2], called
        parent_goes_on(child)
        """,
    )


def test_exit_in_a_callback(backend):
    """The child ends in the middle of run()."""
    check(
        backend,
        """
        def fork(op):
            global child
            child = os.fork()
            if not child:
                sys.exit(0)
            port.stop()

        port.post(callback=fork)
        port.run()
        parent_goes_on(child)
        """,
    )


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("end", ["stop(0)", "completion_port.close()"])
def test_a_child_does_not_keep_peers_waiting(backend, end, family, tmp_path):
    """It has copies of the descriptors of the parent's connections, which end all the same."""
    code = f"""
import os, socket, sys, warnings
import iocpcore

warnings.simplefilter("ignore", DeprecationWarning)

def on_data(conn, data):
    if data == b"abort":
        conn.abort()
    elif data == b"close":
        conn.close()
    else:
        conn.send(data)

def on_eof(conn):
    if conn is not last[0]:
        conn.close()

server = iocpcore.Server(on_data=on_data, on_eof=on_eof)
if {family!r} == "unix":
    address = {str(tmp_path / "socket")!r}
    server.listen(address)
    family = socket.AF_UNIX
else:
    address = server.listen("127.0.0.1", 0)
    family = socket.AF_INET
server.start()
socks = [socket.socket(family) for _ in range(5)]
for sock in socks:
    sock.settimeout(10)
    sock.connect(address)
    sock.sendall(b"hello")
    assert sock.recv(10) == b"hello"
last = server.connections[-1:]
reading, writing = os.pipe()
child = os.fork()
if not child:
    os.close(writing)
    os.read(reading, 1)
    os._exit(0)
aborted, closed, ended, idle, half_closed = socks
aborted.sendall(b"abort")
try:
    assert aborted.recv(10) == b"" and {family!r} == "unix"
except ConnectionResetError:
    pass
closed.sendall(b"close")
assert closed.recv(10) == b""
ended.shutdown(socket.SHUT_WR)
assert ended.recv(10) == b""
half_closed.shutdown(socket.SHUT_WR)
server.{end}
assert idle.recv(10) == half_closed.recv(10) == b""
os.close(writing)
os.waitpid(child, 0)
server.stop()
print("all have ended")
"""
    child.check(code, backend, output="all have ended")
