"""A UDP echo: `python -m benchmarks.servers.datagram`."""

from __future__ import annotations

import iocpcore

from benchmarks import serving


def echo(endpoint: iocpcore.Datagram, data: bytes, address: object) -> None:
    endpoint.send_to(data, address)


def main() -> None:
    options = serving.arguments({"datagram": echo}, "--backend")
    with iocpcore.CompletionPort(backend=options.backend) as port:
        endpoint = iocpcore.Datagram(
            local_address=("127.0.0.1", 0), on_datagram=echo, completion_port=port
        )
        serving.listening(endpoint.sockname, f"iocpcore.Datagram, {port.backend}")
        port.run()


if __name__ == "__main__":
    main()
