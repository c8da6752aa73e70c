"""Certificates for tests of TLS, and contexts that use them.

The certificates are stored beside this file, because trustme cannot be installed everywhere the
tests run. They are valid for a long time. To make new ones:
`pip install trustme && python certificates.py`.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "certificates"
HOST = "localhost"
OTHER_HOST = "other.example"

IGNORE_UNEXPECTED_EOF: int = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def accepts_ragged_ends(context: ssl.SSLContext) -> bool:
    return bool(context.options & IGNORE_UNEXPECTED_EOF)


# Marks tests in which a context accepts ragged ends because the user has set the option.
accepting_ragged_ends_is_a_choice = pytest.mark.skipif(
    not IGNORE_UNEXPECTED_EOF or accepts_ragged_ends(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)),
    reason="OP_IGNORE_UNEXPECTED_EOF is unknown here, or set in every context",
)


def make() -> None:
    """Make all files. ca.pem signs the others, except untrusted.pem. Each has a key and a chain."""
    import trustme

    FOLDER.mkdir(exist_ok=True)
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(FOLDER / "ca.pem"))
    issued = {
        "server.pem": authority.issue_cert(HOST, "127.0.0.1", "::1"),
        "other.pem": authority.issue_cert(OTHER_HOST),
        "client.pem": authority.issue_cert("client@example.org"),
        "untrusted.pem": stranger.issue_cert(HOST, "127.0.0.1", "::1"),
    }
    for name, certificate in issued.items():
        certificate.private_key_and_cert_chain_pem.write_to_path(str(FOLDER / name))


def server_context(
    certificate: str = "server.pem", ask_client: bool = False, alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=FOLDER / "ca.pem")
    context.load_cert_chain(FOLDER / certificate)
    if ask_client:
        context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(list(alpn))
    return context


def client_context(certificate: str = "", alpn: Sequence[str] = ()) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=FOLDER / "ca.pem")
    if certificate:
        context.load_cert_chain(FOLDER / certificate)
    context.set_alpn_protocols(list(alpn))
    return context


if __name__ == "__main__":
    make()
