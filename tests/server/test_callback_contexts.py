"""In which context callbacks and offloaded functions run."""

from __future__ import annotations

import textwrap

import pytest
from support.child import start
from support.system import LIMIT

PROGRAM = """
import contextvars, queue
import iocpcore

variable = contextvars.ContextVar("variable", default="empty")
variable.set("the starter's")
seen = queue.SimpleQueue()

def see(who):
    seen.put((who, variable.get()))

def on_data(conn, data):
    see("on_data")
    variable.set("a callback's")  # the thread keeps it, and no other sees it
    conn.offload(see, "offload", then=lambda conn, _: conn.send(b"x"))

server = iocpcore.Server(on_connect=lambda conn: see("on_connect"), on_data=on_data, workers=1)
host, port = server.listen("127.0.0.1", 0)
with server:
    conn = iocpcore.connect(
        host,
        port,
        on_connect=lambda conn: (see("client"), conn.send(b"x")),
        on_data=lambda conn, data: (see("answer"), conn.abort()),
    )
    for _ in range(5):
        print(*seen.get(timeout=TIMEOUT))
"""


@pytest.mark.system
@pytest.mark.parametrize("inherit", ["0", "1"])
def test_context_of_whoever_started_it(backend, inherit):
    """It is not that of callbacks, whichever way threads get theirs (a choice from 3.14 on)."""
    code = textwrap.dedent(PROGRAM).replace("TIMEOUT", repr(LIMIT))
    options = {"IOCPCORE_BACKEND": backend, "PYTHON_THREAD_INHERIT_CONTEXT": inherit}
    with start("-c", code, **options) as process:
        try:
            out, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    seen = dict(line.split(" ", 1) for line in out.splitlines())
    names = ["on_connect", "on_data", "offload", "client", "answer"]
    assert seen == dict.fromkeys(names, "empty")
