"""Accepts and connects as many times as it is told, for run_tests.py to find in Wine's trace what
was asked of the sockets."""

import socket
import sys

import iocpcore


def main(connections: int) -> None:
    with (
        iocpcore.CompletionPort(backend="iocp") as port,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        for _ in range(connections):
            with socket.socket() as client:
                submitted = {
                    port.accept(listener),
                    port.connect(client, listener.getsockname()),
                }
                if {port.get(30), port.get(30)} != submitted:
                    raise SystemExit("accept and connect did not end")
                for op in submitted:
                    if op.kind == "accept":
                        op.result()[0].close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
