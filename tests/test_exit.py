"""The end of the interpreter, with work in flight: no hang, no crash, the right exit code."""

from __future__ import annotations

import pytest
from support import child

pytestmark = pytest.mark.system

WORK = """
import os, socket, sys, tempfile, threading, time
import iocpcore

port = iocpcore.CompletionPort()
a, b = socket.socketpair()
a2, b2 = socket.socketpair()
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
file = tempfile.TemporaryFile(buffering=0)
file.write(bytes(1 << 20))
buffer = bytearray(10)
ops = [
    port.recv(a, 10, callback=print),
    port.recv_into(a2, buffer),
    port.accept(listener),
    port.timer(1000),
    port.poll(b2, 1),
]
ops += [port.read(file, 1 << 16, 1000 * number) for number in range(50)]

def work(call, *args):
    try:
        call(*args)
    except ValueError as error:
        assert str(error) == "port is closed", error

def start(call, *args, daemon=True):
    thread = threading.Thread(target=work, args=(call, *args), daemon=daemon)
    thread.start()
    return thread

def wait_for_workers(count):
    while port.stats()["workers"] < count:
        time.sleep(0.001)
"""


def check_exit(code: str, backend: str, exit_code: int = 0) -> str:
    result = child.run(WORK + code, backend)
    assert result.returncode == exit_code, (result.returncode, result.stdout, result.stderr)
    assert result.stdout == ""
    return result.stderr


def test_from_the_main_thread(backend):
    assert check_exit("", backend) == ""


def test_with_daemon_threads(backend):
    """Some in run(), some in get(), one in a callback that does not end."""
    code = """
stuck = threading.Event()
port.timer(0, callback=lambda op: (stuck.set(), time.sleep(1000)))
for _ in range(3):
    start(port.run)
for _ in range(2):
    start(port.get)
start(lambda: [port.get_many(10, 1) for _ in range(1000)])
wait_for_workers(3)
for _ in range(1000):
    if stuck.wait(0.001):
        break
"""
    assert check_exit(code, backend) == ""


def test_with_daemon_threads_at_work(backend):
    """Busy until the very end."""
    code = """
def again(op):
    port.timer(0, callback=again)

for _ in range(10):
    port.timer(0, callback=again)
for _ in range(3):
    start(port.run)
wait_for_workers(3)
"""
    assert check_exit(code, backend) == ""


@pytest.mark.parametrize("end", ["", "sys.exit(7)", "1 / 0"])
def test_with_threads_that_are_no_daemons(backend, end):
    """The interpreter waits for them, and has ended their run() before."""
    code = """
for _ in range(3):
    start(port.run, daemon=False)
wait_for_workers(2)  # and one may come later
"""
    errors = check_exit(code + end, backend, {"": 0, "sys.exit(7)": 7, "1 / 0": 1}[end])
    assert errors.count("Traceback") == ("/" in end)


def test_a_thread_that_is_late(backend):
    """It calls run() when the port has been closed; without a traceback."""
    code = """
def late():
    while not port.closed:
        time.sleep(0.001)
    port.run()
    print("late", file=sys.stderr)

threading.Thread(target=late).start()
"""
    assert check_exit(code, backend) == "late\n"


def test_a_port_that_is_opened_while_it_ends(backend):
    """By a thread that is waited for."""
    code = """
def late():
    while not port.closed:
        time.sleep(0.001)
    global other
    other = iocpcore.CompletionPort()
    other.timer(1000, callback=print)
    threading.Thread(target=other.run, daemon=True)

threading.Thread(target=late).start()
"""
    assert check_exit(code, backend) == ""


@pytest.mark.parametrize("action", ["always", "error"])
def test_a_port_that_was_never_closed(backend, action):
    """There is a warning if something was in flight; every port is closed all the same."""
    code = f"""
import warnings
import iocpcore

warnings.simplefilter("{action}", ResourceWarning)

def lose():
    port = iocpcore.CompletionPort()
    port.timer(1000, callback=lambda op, port=port: None)

lose()
lose()
idle = iocpcore.CompletionPort()
"""
    result = child.run(code, backend)
    assert result.returncode == 0
    warned = f"ResourceWarning: unclosed <iocpcore.CompletionPort {backend}, 1 in flight>"
    assert result.stderr.count(warned) == (2 if action == "always" else 1)
    assert "CompletionPort" not in result.stderr.replace(warned, "")


def test_sys_exit_in_the_main_thread(backend):
    assert check_exit("sys.exit(7)", backend, 7) == ""


def test_sys_exit_in_a_callback(backend):
    # The getters are started by the callback: before, one of them could take its timer.
    code = """
def leave(op):
    for _ in range(2):
        start(port.get)
    sys.exit(7)

port.timer(0, callback=leave)
port.run()
"""
    assert check_exit(code, backend, 7) == ""


def test_an_unhandled_exception(backend):
    errors = check_exit("start(port.run)\nwait_for_workers(1)\n1 / 0", backend, 1)
    assert errors.strip().endswith("ZeroDivisionError: division by zero")
    assert errors.count("Traceback") == 1


def test_an_exception_in_a_callback(backend):
    """It is reported, and no more than that."""
    code = """
port.timer(0, callback=lambda op: 1 / 0)
port.timer(0.01, callback=lambda op: port.stop())
port.run()
"""
    errors = check_exit(code, backend)
    assert "ZeroDivisionError" in errors
    assert errors.count("Traceback") == 1


@pytest.mark.parametrize("thread", [False, True])
def test_os_exit(backend, thread):
    code = "start(port.run)\nwait_for_workers(1)\n"
    if thread:
        code += "start(os._exit, 5)\ntime.sleep(60)"
    else:
        code += "os._exit(5)"
    assert check_exit(code, backend, 5) == ""


def test_os_exit_in_a_callback(backend):
    assert (
        check_exit("port.timer(0, callback=lambda op: os._exit(5))\nport.run()", backend, 5) == ""
    )


def test_a_closed_port(backend):
    assert check_exit("port.close()", backend) == ""


def test_ports_in_cycles(backend):
    """Collected at the end, in whatever order."""
    code = """
class Holder: pass
for _ in range(5):
    holder = Holder()
    holder.self = holder
    holder.port = iocpcore.CompletionPort()
    holder.op = holder.port.timer(1000, callback=lambda op, holder=holder: None)
"""
    assert check_exit(code, backend) == ""


def test_use_at_exit(backend):
    """A handler that was registered before the port exists runs after it has been closed."""
    code = """
import atexit, threading
import iocpcore

def last():
    try:
        port.post()
    except ValueError as error:
        pass

atexit.register(last)
port = iocpcore.CompletionPort()
port.post()
"""
    child.check(code, backend)


def test_module_teardown(backend):
    """Operations and sockets that outlive everything else."""
    code = """
class Late:
    def __init__(self, *things):
        self.things = things
    def __del__(self):
        for op in self.things:
            op.cancel()

late = Late(*ops)
ops = None
sys.modules["late"] = late
"""
    assert check_exit(code, backend) == ""


def test_a_subinterpreter(backend):
    """It may refuse; it may not crash."""
    pytest.importorskip(
        "concurrent.interpreters",
        reason="this interpreter has no subinterpreters for users",
        exc_type=ImportError,
    )
    code = """
from concurrent import interpreters
interpreter = interpreters.create()
try:
    interpreter.exec("import iocpcore; p = iocpcore.CompletionPort(); p.post(); p.close()")
except interpreters.ExecutionFailed as error:
    assert "ImportError" in str(error), error
interpreter.close()
"""
    child.check(code, backend)
