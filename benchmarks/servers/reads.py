"""Random reads of a file through a port: `python -m benchmarks.servers.reads`."""

from __future__ import annotations

from collections.abc import Callable

import iocpcore

from benchmarks import reading


def reader(
    port: iocpcore.CompletionPort, reads: reading.Reads, buffer: memoryview
) -> Callable[[iocpcore.Operation], None]:
    """A callback that reads the next block into the same buffer."""

    def finished(op: iocpcore.Operation) -> None:
        if reads.done(op.result()):
            port.stop()
        else:
            port.read_into(reads.file, buffer, reads.offset(), callback=finished)

    return finished


def main() -> None:
    options = reading.arguments(["epoll", "io_uring"])
    with iocpcore.CompletionPort(backend=options.kind) as port:
        with reading.measured(options, f"iocpcore.CompletionPort, {port.backend}") as reads:
            for buffer in reading.buffers():
                callback = reader(port, reads, buffer)
                port.read_into(reads.file, buffer, reads.offset(), callback=callback)
            port.run()


if __name__ == "__main__":
    main()
