"""An echo server that serves only those who have a certificate of the right authority.

The repository has certificates to try it with:

    cd tests/support/certificates
    python ../../../examples/tls_echo.py --cert server.pem --ca ca.pem
    openssl s_client -connect 127.0.0.1:9006 -CAfile ca.pem -cert client.pem -key client.pem

Callbacks are those of any other server. on_connect comes after the handshake; who fails in it
never gets that far.
"""

from __future__ import annotations

import argparse
import ssl

from iocpcore import Connection, Server


def on_connect(conn: Connection) -> None:
    certificate = conn.ssl_object.getpeercert()
    names = [value for _, value in certificate.get("subjectAltName", ())]
    conn.send(f"hello {', '.join(names)}\n".encode())


def on_data(conn: Connection, data: bytes) -> None:
    conn.send(data)


def main() -> None:
    parser = argparse.ArgumentParser(description="An echo server with TLS on both sides.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9006)
    parser.add_argument("--cert", required=True, help="ours, with its key (PEM)")
    parser.add_argument("--ca", required=True, help="who has signed those of the clients (PEM)")
    options = parser.parse_args()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=options.ca)
    context.load_cert_chain(options.cert)
    context.verify_mode = ssl.CERT_REQUIRED

    server = Server(on_connect=on_connect, on_data=on_data, ssl=context, handshake_timeout=5)
    host, port = server.listen(options.host, options.port)[:2]
    print(f"listening on {host}:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
