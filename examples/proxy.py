"""A TCP proxy: passes on what each side sends, no faster than the other side reads.

    python examples/chat.py
    python examples/proxy.py --target-port 9001
    nc 127.0.0.1 9003

Whatever the speeds of both sides, it holds little more than `write_high` bytes for each direction:
above that it stops reading from the one side until on_drain says that the other has caught up.
The end of a stream is passed on too: either side may end its own and still receive.
"""

from __future__ import annotations

import argparse
import sys

from iocpcore import Connecting, Connection, Server, connect_nowait

WRITE_HIGH = 256 * 1024  # bytes


class Link:
    """Two connections. Callbacks of the one may run while those of the other do."""

    def __init__(self, client: Connection) -> None:
        self.client = client
        self.target: Connection | None = None
        self.attempt: Connecting | None = None

    def other(self, conn: Connection) -> Connection:
        """Both are there before either is read from."""
        other = self.target if conn is self.client else self.client
        assert other is not None
        return other


class Proxy:
    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.server = Server(
            on_connect=self._client_connected,
            on_close=self._client_closed,
            on_data=on_data,
            on_eof=on_eof,
            on_drain=on_drain,
            write_high=WRITE_HIGH,
        )

    def _client_connected(self, client: Connection) -> None:
        client.pause_receiving()
        client.context = link = Link(client)

        def target_connected(target: Connection) -> None:
            link.target = target
            client.resume_receiving()
            if client.closing:  # perhaps before there was a target to close
                target.close()

        def target_closed(target: Connection | None, error: BaseException | None) -> None:
            if target is None:
                print(error, file=sys.stderr, flush=True)
            end(client, error)

        link.attempt = connect_nowait(
            *self._target,
            timeout=10,
            completion_port=self.server.completion_port,
            context=link,
            on_connect=target_connected,
            on_close=target_closed,
            on_data=on_data,
            on_eof=on_eof,
            on_drain=on_drain,
            write_high=WRITE_HIGH,
        )

    def _client_closed(self, client: Connection, error: BaseException | None) -> None:
        link: Link = client.context
        if link.target is not None:
            end(link.target, error)
        elif link.attempt is not None:
            link.attempt.cancel()


def on_data(conn: Connection, data: bytes) -> None:
    other = conn.context.other(conn)
    other.send(data)
    if other.pending_bytes > WRITE_HIGH:
        conn.pause_receiving()
        # If it has caught up since, on_drain may have been called too early.
        if other.pending_bytes <= WRITE_HIGH:
            conn.resume_receiving()


def on_drain(conn: Connection) -> None:
    conn.context.other(conn).resume_receiving()


def on_eof(conn: Connection) -> None:
    conn.context.other(conn).shutdown()  # both close when both streams have ended


def end(conn: Connection, error: BaseException | None) -> None:
    """An orderly end is passed on as one, anything else as a reset."""
    if error is None:
        conn.close()
    else:
        conn.abort()


def main() -> None:
    parser = argparse.ArgumentParser(description="A TCP proxy.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9003)
    parser.add_argument("--target-host", default="127.0.0.1")
    parser.add_argument("--target-port", type=int, required=True)
    options = parser.parse_args()

    server = Proxy(options.target_host, options.target_port).server
    host, port = server.listen(options.host, options.port)[:2]
    print(f"listening on {host}:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
