"""Inside a Datagram: how long it waits when receives fail, and one that was never opened."""

from __future__ import annotations

import errno

import pytest
from iocpcore import Datagram


@pytest.mark.system
def test_failures_in_a_row(endpoint):
    """A receive that fails for ever does not keep a worker busy; it pauses, longer and longer."""
    server = endpoint()
    no_memory = OSError(errno.ENOMEM, "no memory")
    for failures, expected in enumerate((0.02, 0.04, 0.08), 1):
        server._not_received(no_memory, failures)
        assert server._pause == pytest.approx(expected)
    for failures in range(4, 24):
        server._not_received(no_memory, failures)
    assert server._pause == 1.0
    server._not_received(no_memory, 1)  # something was received meanwhile
    assert server._pause == pytest.approx(0.02)
    server.close()


def test_one_that_was_never_opened():
    """A subclass that forgets __init__ has one that is not open, and nothing breaks."""
    one = Datagram.__new__(Datagram)
    with pytest.raises(ValueError, match="address is needed"):
        one.send_to(b"x")
    with pytest.raises(ValueError, match="address"):
        one.send_to(b"x", ("127.0.0.1", 5))
    assert one.fileno() == -1
    assert one.pending_bytes == 0
    one._receive()
    assert one._end()
    assert not one._end()
