"""``echo``: a TCP server that sends back what it receives."""

from __future__ import annotations

import argparse
import logging
import ssl
from typing import Any

from iocpcore import Connection, Delimited, LengthPrefixed, Server
from iocpcore._cli import arguments
from iocpcore._cli.serving import description, open_server
from iocpcore._log import Kind, shown
from iocpcore._options import Framing

FRAMINGS: dict[str, Framing | None] = {
    "none": None,
    "length": LengthPrefixed(4),
    "lines": Delimited(b"\n"),
}
FAILURES = Kind(logging.WARNING, "iocpcore: connections that failed")  # on stderr
STOP_LIMIT = 0.5  # seconds, for clients that do not read


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "echo",
        help="a TCP server that sends back what it receives, until Ctrl-C",
        description="A TCP server that sends back what it receives, until Ctrl-C.",
    )
    parser.set_defaults(run=run)
    arguments.add_address(parser, 9000)
    arguments.add_server(parser)
    parser.add_argument(
        "--framing",
        choices=FRAMINGS,
        default="none",
        help="what is sent back: bytes as they come (none, the default), whole messages behind "
        "their length in 4 bytes, most significant first (length), or whole lines (lines)",
    )
    parser.add_argument(
        "--tls-cert", metavar="FILE", help="serve TLS, with this certificate chain (PEM)"
    )
    parser.add_argument(
        "--tls-key", metavar="FILE", help="its private key, unless that is in the same file"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM. Returns the exit code."""
    framing = FRAMINGS[options.framing]
    context = _tls(options.tls_cert, options.tls_key)
    server: Server = open_server(
        options.host,
        options.port,
        framing=framing,
        ssl=context,
        workers=options.workers,
        backend=options.backend,
        on_error=lambda conn, error: _report(server, conn, error),
        **({"on_data": Connection.send} if framing is None else {}),
        **({"on_message": Connection.send_message} if framing is not None else {}),
    )
    facts = [] if framing is None else [f"framing: {options.framing}"]
    facts += [] if context is None else ["TLS"]
    line = description(server, options.workers, *facts)
    # A worker prints it, so the server already handles Ctrl-C when the user reads the line.
    server.completion_port.post(callback=lambda _: print(f"{line}; Ctrl-C ends it", flush=True))
    server.serve_forever(stop_timeout=STOP_LIMIT)
    figures = server.stats()
    print(f"served {figures['accepted']} connections, {figures['bytes_sent']} bytes", flush=True)
    return 0


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise ValueError("--tls-key needs --tls-cert")
        return None
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        if path is not None:
            try:
                with open(path, "rb"):  # errors of ssl do not name the file
                    pass
            except OSError as error:
                raise ValueError(f"{option} {path}: {error.strerror}") from error

    def refuse() -> str:
        raise ValueError(f"--tls-key {key or certificate}: the key must not be encrypted")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, refuse)
    except ssl.SSLError as error:
        files = certificate if key is None else f"{certificate} --tls-key {key}"
        text = "these must be a certificate and its key, in PEM"
        raise ValueError(f"--tls-cert {files}: {text}: {error}") from error
    return context


def _report(server: Server, conn: Connection, error: BaseException) -> None:
    """Log the failure of a connection, such as a message too large. It is closed after this."""
    server._runtime.log.note(FAILURES, "iocpcore: %s: %s", shown(conn.peername), error)
