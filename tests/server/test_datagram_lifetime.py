"""What keeps a Datagram, and what becomes of one that is dropped, forked, or never opened."""

from __future__ import annotations

import gc
import os
import weakref
from typing import Any

import iocpcore
import pytest
from iocpcore import Datagram
from support import child
from support.datagrams import own_datagram
from support.events import Events
from support.system import wait_until


def test_nobody_refers_to_it(port, workers):
    """As long as it receives, it is there; once it is closed, nothing keeps it."""
    events = Events()
    options = {"on_datagram": lambda one, data, _: (one.close(), events.add(one.sockname))}
    reference = weakref.ref(own_datagram(port, **options))
    gc.collect()
    sockname = reference().sockname
    with workers(port, 1), own_datagram(port) as client:
        client.send_to(b"x", sockname)
        assert events.wait() == [sockname]
        client.close()
        wait_until(lambda: port.in_flight == 0, "the end of all operations")
    del client
    gc.collect()
    assert reference() is None


def test_dropped_with_its_port_and_never_closed(make_port):
    """Its descriptor is closed all the same."""
    port = make_port(1)
    one = own_datagram(port)
    references = [weakref.ref(one), weakref.ref(port)]
    port.close()
    del one
    gc.collect()
    assert references[0]() is None


class Counting(Datagram):
    """A subclass with something of its own."""

    def __init__(self, port: iocpcore.CompletionPort, **options: Any) -> None:
        self.taken = 0
        super().__init__(completion_port=port, **options)

    def send_to(self, data: Any, address: Any = None) -> bool:
        self.taken += 1
        return super().send_to(data, address)


def test_a_subclass(port, workers):
    options = {} if port.backend == "sim" else {"local_address": ("127.0.0.1", 0)}
    events = Events()
    one = Counting(port, on_datagram=lambda *args: events.add(args), **options)
    with workers(port, 1), one:
        one.send_to(b"x", one.sockname)
        assert events.wait() == [(one, b"x", one.sockname)]
        assert one.taken == 1
        one.close()
        wait_until(lambda: port.in_flight == 0, "the end of all operations")


def test_what_the_kernel_does_not_give_back():
    """It is leaked, with a warning, and never freed: the kernel may still write there."""
    code = """
import gc, warnings, weakref
import iocpcore
from support import sim

port = iocpcore.CompletionPort()
sim.configure(port, stuck=True)
one = iocpcore.Datagram(completion_port=port)
one.send_to(b"x", one.sockname)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    port.close(timeout=0.1)
assert [warning.category for warning in caught] == [ResourceWarning], caught
assert "2 operations" in str(caught[0].message), caught[0].message
one.close()
reference = weakref.ref(one)
del one
gc.collect()
assert reference() is not None
print("the kernel still has it")
"""
    child.check(code, "sim", output="the kernel still has it")


@pytest.mark.system
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child(backend):
    """Its callback forks: the child leaves run(), and what it has is its parent's."""
    code = """
import os, warnings
import iocpcore

warnings.simplefilter("ignore", DeprecationWarning)
port = iocpcore.CompletionPort()
children = []

def on_datagram(one, data, address):
    if data == b"fork":
        children.append(os.fork())
        if not children[0]:
            try:
                one.send_to(b"x", address)
            except RuntimeError as error:
                assert "parent" in str(error), error
                one.close()
                return
            os._exit(1)
    else:
        port.stop()

one = iocpcore.Datagram(
    completion_port=port, on_datagram=on_datagram, local_address=("127.0.0.1", 0)
)
for data in (b"fork", b"end"):
    one.send_to(data, one.sockname)
try:
    port.run()
except RuntimeError as error:
    assert not children[0] and "parent" in str(error), error
    os._exit(0)
pid, status = os.waitpid(children[0], 0)
assert os.waitstatus_to_exitcode(status) == 0, status
one.close()
port.close()
print("the parent goes on")
"""
    child.check(code, backend, output="the parent goes on")
