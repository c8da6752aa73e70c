"""Ctrl-C, in a process of its own."""

from __future__ import annotations

import pytest
from support import child
from support.system import WINDOWS, scaled

pytestmark = pytest.mark.system

# The child interrupts itself, from another thread, once the main thread waits in the kernel. What
# it prints is how long that took.
INTERRUPT = """
import _thread, os, signal, sys, threading, time
import iocpcore

port = iocpcore.CompletionPort()
begin = [0.0]

def interrupt():
    while port.stats()["waits"] == 0:
        time.sleep(0.001)
    time.sleep(0.1)
    begin[0] = time.monotonic()
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        os.kill(os.getpid(), signal.SIGINT)

def report():
    late = time.monotonic() - begin[0]
    print("at once" if late < 2 else f"after {late:.1f} s", flush=True)
"""

WAITS = {
    "get": "port.get(30)",
    "get without a limit": "port.get()",
    "get_many": "port.get_many(10, 30)",
    "run": "port.run()",
}


@pytest.mark.parametrize("wait", WAITS)
def test_it_ends_a_wait(backend, wait):
    code = f"""
{INTERRUPT}
threading.Thread(target=interrupt, daemon=True).start()
try:
    {WAITS[wait]}
except KeyboardInterrupt:
    report()
else:
    print("no KeyboardInterrupt")
port.post("it goes on")
print(port.get(30).result())
port.close()
"""
    child.check(code, backend, output="at once\nit goes on")


@pytest.mark.parametrize("wait", ["get", "run"])
def test_other_threads_do_not_notice(backend, wait):
    """Workers and getters wait beside the main thread; only it is interrupted, also when one of
    them is the one that waits in the kernel."""
    code = f"""
{INTERRUPT}
ends = []

def work(call):
    try:
        call()
        ends.append("fine")
    except BaseException as error:
        ends.append(repr(error))

def getter():
    while (op := port.get(30)).result() != "end":
        if op.callback:
            op.callback(op)

threads = [threading.Thread(target=work, args=(port.run,)) for _ in range(2)]
threads.append(threading.Thread(target=work, args=(getter,)))
for thread in threads:
    thread.start()
while port.stats()["workers"] < 2:
    time.sleep(0.001)
time.sleep(0.05)
threading.Thread(target=interrupt, daemon=True).start()
try:
    {WAITS[wait]}
except KeyboardInterrupt:
    report()
served = threading.Event()
while not served.is_set():
    port.timer(0, callback=lambda op: served.set())
    served.wait(0.01)
print("served")
port.stop()
for thread in threads[:2]:
    thread.join(30)
port.post("end")
threads[2].join(30)
print(ends)
port.close()
"""
    child.check(code, backend, output="at once\nserved\n['fine', 'fine', 'fine']")


def test_work_is_not_lost(backend):
    """What was in flight when the signal came is still delivered."""
    code = f"""
{INTERRUPT}
import socket
a, b = socket.socketpair()
op = port.recv(a, 10)
threading.Thread(target=interrupt, daemon=True).start()
try:
    port.get(30)
except KeyboardInterrupt:
    report()
b.sendall(b"later")
assert port.get(30) is op
print(op.result().decode())
port.close()
"""
    child.check(code, backend, output="at once\nlater")


def test_in_a_callback(backend):
    """A KeyboardInterrupt inside a callback leaves run()."""
    code = f"""
{INTERRUPT}
threading.Thread(target=interrupt, daemon=True).start()

def callback(op):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(0.01)

port.timer(0, callback=callback)
try:
    port.run()
except KeyboardInterrupt:
    report()
port.close()
"""
    child.check(code, backend, output="at once")


def test_unhandled(backend):
    """The program ends as Python programs do."""
    code = f"""
{INTERRUPT}
threading.Thread(target=interrupt, daemon=True).start()
port.recv(__import__("socket").socketpair()[0], 10)
port.run()
"""
    result = child.run(code, backend)
    assert result.stderr.strip().endswith("KeyboardInterrupt")
    assert result.returncode != 0


@pytest.mark.skipif(WINDOWS, reason="signals other than Ctrl-C are of no use on Windows")
def test_a_signal_with_a_handler_does_not_end_a_wait(backend):
    """It runs, and the wait goes on to its completion."""
    code = f"""
{INTERRUPT}
seen = []
signal.signal(signal.SIGUSR1, lambda *_: (seen.append(1), port.post("from the handler")))

def send():
    while port.stats()["waits"] == 0:
        time.sleep(0.001)
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGUSR1)

threading.Thread(target=send, daemon=True).start()
print(port.get(30).result(), seen)
port.close()
"""
    child.check(code, backend, output="from the handler [1]")


@pytest.mark.skipif(WINDOWS, reason="no signal.setitimer on Windows")
def test_a_storm_of_signals(backend):
    """Interrupted system calls lose nothing."""
    code = """
import signal, socket, iocpcore
port = iocpcore.CompletionPort()
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
a, b = socket.socketpair()
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for number in range(2000):
    op = port.recv(a, 10)
    send = port.send(b, b"%d" % number)
    timer = port.timer(0.0002)
    while not (op.done and send.done and timer.done):
        assert port.get(30) is not None
    assert op.result() == b"%d" % number
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(seen) > 10)
port.close()
"""
    child.check(code, backend, output="True")


@pytest.mark.skipif(WINDOWS, reason="signals have no threads on Windows")
@pytest.mark.parametrize("wait", WAITS)
def test_another_thread_takes_the_signal(backend, wait):
    """It may while it runs Python code and the main thread is just about to wait; here it is made
    to. The main thread, which is to handle it, hears of it all the same."""
    code = f"""
{INTERRUPT}
def take_it():
    while port.stats()["waits"] == 0:
        time.sleep(0.001)
    time.sleep(0.1)
    begin[0] = time.monotonic()
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

threading.Thread(target=take_it, daemon=True).start()
try:
    {WAITS[wait]}
except KeyboardInterrupt:
    report()
port.close()
"""
    child.check(code, backend, output="at once")


@pytest.mark.skipif(WINDOWS, reason="no signal masks on Windows")
@pytest.mark.stress
def test_handlers_run_with_signals_as_they_were(backend):
    """Whenever they arrive: threads and processes that a handler starts inherit the mask."""
    code = f"""
import signal
import iocpcore

masks = []
signal.signal(signal.SIGALRM, lambda *_: masks.append(signal.pthread_sigmask(0, [])))
with iocpcore.CompletionPort() as port:
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    while len(masks) < {scaled(20000)}:
        port.get(1e-6)
    signal.setitimer(signal.ITIMER_REAL, 0)
print(sum(map(bool, masks)))
"""
    child.check(code, backend, output="0")
