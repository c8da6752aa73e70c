"""The client's end of a named pipe."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from iocpcore import _core, connect
from support.system import LIMIT, WINDOWS

if WINDOWS:
    import _winapi


@pytest.mark.system
@pytest.mark.skipif(not WINDOWS, reason="named pipes are for Windows")
def test_what_is_no_pipe():
    with pytest.raises(FileNotFoundError, match=r"connect to .*nothing"):
        _core.pipe_connect(r"\\.\pipe\nothing", 1)
    with pytest.raises(OSError, match="connect to") as raised:  # which opening might change
        _core.pipe_connect(r"C:\file", 1)
    assert raised.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="null"):
        _core.pipe_connect("\\\\.\\pipe\\x\0y", 1)
    with pytest.raises(ValueError, match="timeout"):
        _core.pipe_connect(r"\\.\pipe\nothing", -1)
    with pytest.raises(TypeError, match="timeout"):
        _core.pipe_connect(r"\\.\pipe\nothing", "soon")
    with pytest.raises(TypeError):
        _core.pipe_connect(b"nothing", 1)


@pytest.mark.system
@pytest.mark.skipif(not WINDOWS, reason="named pipes are for Windows")
def test_a_busy_pipe(client_port):
    """As many clients as there are instances; the next one waits."""
    name = rf"\\.\pipe\iocpcore-busy-{os.getpid()}"
    another = name + "-too"  # connect() may still be trying for a moment when its time is up

    def instance(name: str) -> int:
        return _winapi.CreateNamedPipe(name, _winapi.PIPE_ACCESS_DUPLEX, 0, 2, 4096, 4096, 0, 0)

    handles = [instance(name), instance(another)]
    ends = [_core.pipe_connect(name, 0), _core.pipe_connect(another, None)]
    with pytest.raises(TimeoutError, match="connect to"):
        _core.pipe_connect(name, 0.01)
    with pytest.raises(TimeoutError):
        connect(another, completion_port=client_port(), timeout=0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_core.pipe_connect, name, LIMIT)
        handles.append(instance(name))
        ends.append(waiting.result(LIMIT))
    for handle in [*ends, *handles]:
        _core.pipe_close(handle)
