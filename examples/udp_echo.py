"""UDP: every datagram is sent back to where it came from.

python examples/udp_echo.py
nc -u 127.0.0.1 9005
"""

from __future__ import annotations

import argparse

from iocpcore import Datagram


def on_datagram(endpoint: Datagram, data: bytes, address: tuple[str, int]) -> None:
    endpoint.send_to(data, address)


def main() -> None:
    parser = argparse.ArgumentParser(description="A UDP server that sends back what it receives.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9005)
    options = parser.parse_args()

    with Datagram(on_datagram=on_datagram, local_address=(options.host, options.port)) as endpoint:
        host, port = endpoint.sockname[:2]
        print(f"listening on {host}:{port}", flush=True)
        endpoint.serve_forever()


if __name__ == "__main__":
    main()
