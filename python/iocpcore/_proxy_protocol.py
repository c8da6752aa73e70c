"""The PROXY protocol, versions 1 and 2: a proxy in front of the server names its client.

The header comes first on a connection, before TLS. A header can claim any address, so the server
accepts it only from the peers that it trusts:

* A trusted peer must send a header. Its address becomes ``conn.peername``. Proxies send LOCAL,
  UNKNOWN or a kind of address that a stream cannot have for their own connections (health checks);
  ``peername`` then stays the real address.
* Any other peer is served under its own address, without waiting for data from it. If its first
  bytes turn out to be a header, the connection ends.

A connection that breaks these rules ends with ProxyProtocolError, and the log "iocpcore" says why.
Headers are parsed strictly by the specification. A version 1 header has at most 107 bytes. Version
2 allows 64 KiB after the first 16 bytes; here the limit is 4 KiB. A checksum, if present, must be
right. Other extensions (TLVs) are ignored.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from iocpcore._stage import Link, Stage, StageFactory
from iocpcore.errors import ProxyProtocolError

V1_SIGNATURE = b"PROXY "
V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_MAX = 107
V2_MAX = 4096

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | str | bytes


class Header(NamedTuple):
    """A complete header."""

    size: int
    """So many bytes of the stream it took."""

    address: Address | None
    """The client's, as a socket would give it; None: the connection's own is right."""


def parse(data: bytes) -> Header | None:
    """Parse the header at the start of a stream.

    Returns None if more bytes are needed. Raises ProxyProtocolError as soon as the bytes cannot be
    the start of a header.
    """
    if V2_SIGNATURE.startswith(data[:12]):
        return _parse_v2(data)
    if V1_SIGNATURE.startswith(data[:6]):
        return _parse_v1(data)
    raise ProxyProtocolError(f"no PROXY header, but {_shown(data)}")


def _shown(data: bytes) -> str:
    """Format bytes from a peer for the log."""
    return repr(data[:40]) + ("..." if len(data) > 40 else "")


# ---- version 1: a line of text ------------------------------------------------------------------

# Leading zeros are forbidden: some parsers read them as octal.
_PORT = "(0|[1-9][0-9]{0,4})"
_V1 = re.compile(f"PROXY (TCP[46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) {_PORT} {_PORT}")


def _parse_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, V1_MAX)
    if end < 0:
        if len(data) >= V1_MAX:
            raise ProxyProtocolError(f"PROXY header longer than {V1_MAX} bytes: {_shown(data)}")
        return None
    line = data[:end]
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return Header(end + 2, None)
    match = _V1.fullmatch(line.decode("latin-1"))
    if match is None:
        raise ProxyProtocolError(f"malformed PROXY header {line!r}")
    kind, source, destination, *ports = match.groups()
    make = ipaddress.IPv4Address if kind == "TCP4" else ipaddress.IPv6Address
    try:
        packed = make(source).packed
        make(destination)
    except ValueError:
        raise ProxyProtocolError(f"malformed address in the PROXY header {line!r}") from None
    source_port, destination_port = map(int, ports)
    if max(source_port, destination_port) > 0xFFFF:
        raise ProxyProtocolError(f"port out of range in the PROXY header {line!r}")
    return Header(end + 2, _inet_address(packed, source_port))


def _inet_address(packed: bytes, port: int) -> Address:
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed), port
    return socket.inet_ntop(socket.AF_INET6, packed), port, 0, 0


# ---- version 2: binary --------------------------------------------------------------------------

_LOCAL, _PROXY = 0, 1
_UNSPEC, _INET, _INET6, _UNIX = range(4)
_STREAM, _DATAGRAM = 1, 2
_ADDRESSES = {_UNSPEC: 0, _INET: 12, _INET6: 36, _UNIX: 216}  # sizes of the address block
_TLV_CRC32C = 0x03


def _parse_v2(data: bytes) -> Header | None:
    if len(data) < 16:
        return None
    version_command, family_transport, length = struct.unpack_from("!BBH", data, 12)
    version, command = divmod(version_command, 16)
    family, transport = divmod(family_transport, 16)
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise ProxyProtocolError(f"PROXY header with version {version}, command {command}")
    if length > V2_MAX:
        raise ProxyProtocolError(f"PROXY header with {length} bytes, more than {V2_MAX}")
    size = 16 + length
    if command == _PROXY:
        if family not in _ADDRESSES or transport > _DATAGRAM:
            raise ProxyProtocolError(f"PROXY header of unknown kind {family_transport:#04x}")
        if length < _ADDRESSES[family]:
            raise ProxyProtocolError(f"PROXY header with {length} bytes, too few for its addresses")
    if len(data) < size:
        return None
    if command == _LOCAL:  # the rest of the header must be ignored
        return Header(size, None)
    if family == _UNSPEC or transport != _STREAM:
        # The bytes after the first 16 are unspecified too, so the TLVs are not checked.
        return Header(size, None)
    _check_tlvs(data[:size], 16 + _ADDRESSES[family])
    return Header(size, _address_v2(family, data))


def _address_v2(family: int, data: bytes) -> Address:
    if family == _INET:
        return _inet_address(data[16:20], int.from_bytes(data[24:26], "big"))
    if family == _INET6:
        return _inet_address(data[16:32], int.from_bytes(data[48:50], "big"))
    path = data[16 : 16 + 108].rstrip(b"\0")
    if path.startswith(b"\0"):  # an abstract name (Linux): bytes, as sockets return it
        return path
    return path.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _check_tlvs(header: bytes, at: int) -> None:
    """Check the form of the TLVs after the addresses, and the checksum if there is one."""
    while at < len(header):
        end = at + 3
        if end <= len(header):
            end += int.from_bytes(header[at + 1 : at + 3], "big")
        if end > len(header):
            raise ProxyProtocolError("malformed PROXY header: an addition goes beyond its end")
        if header[at] == _TLV_CRC32C:
            found = header[at + 3 : end]
            zeroed = header[: at + 3] + bytes(len(found)) + header[end:]
            if found != crc32c(zeroed).to_bytes(4, "big"):
                raise ProxyProtocolError("PROXY header with a wrong checksum")
        at = end


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The CRC32c checksum of RFC 9260, appendix A."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


# ---- trusted peers ------------------------------------------------------------------------------

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Trusted: TypeAlias = (
    str
    | ipaddress.IPv4Address
    | ipaddress.IPv6Address
    | ipaddress.IPv4Network
    | ipaddress.IPv6Network
)


class TrustedPeers:
    """The peers whose headers are accepted.

    They are networks and addresses, as strings or as objects of the ipaddress module. The string
    "unix" means every peer on a unix socket. An IPv4 peer of an IPv6 socket also matches by its
    IPv4 address.
    """

    def __init__(self, trusted: Iterable[Trusted]) -> None:
        if isinstance(trusted, str | bytes) or not isinstance(trusted, Iterable):
            raise TypeError(
                "proxy_protocol must be an iterable of networks and addresses,"
                f" not {type(trusted).__name__}"
            )
        self._unix = False
        self._networks: list[Network] = []
        for item in trusted:
            if item == "unix":
                self._unix = True
            else:
                self._networks.append(_network(item))

    def __contains__(self, peername: object) -> bool:
        """Whether the peer with this address, as sockets return it, is trusted."""
        if not isinstance(peername, tuple):
            return self._unix
        address = ipaddress.ip_address(peername[0].partition("%")[0])
        mapped = address.ipv4_mapped if address.version == 6 else None
        return any(
            address in network or (mapped is not None and mapped in network)
            for network in self._networks
        )


def _network(item: Trusted) -> Network:
    # ipaddress also accepts numbers and packed bytes. Here those would be mistakes.
    if not isinstance(
        item,
        str
        | ipaddress.IPv4Address
        | ipaddress.IPv6Address
        | ipaddress.IPv4Network
        | ipaddress.IPv6Network,
    ):
        raise TypeError(
            f"proxy_protocol: a network or an address is expected, not {type(item).__name__}"
        )
    try:
        return ipaddress.ip_network(item)
    except ValueError as error:
        raise ValueError(f"proxy_protocol: {error}") from None


# ---- stages -------------------------------------------------------------------------------------


OnRefused: TypeAlias = Callable[[object, ProxyProtocolError], object]


def proxy_stage(
    trusted: Iterable[Trusted], then: StageFactory | None = None, *, on_refused: OnRefused
) -> StageFactory:
    """Return the factory of the first stage of a server's connections.

    ``then`` makes the next stage (TLS), if there is one. ``on_refused`` is called with the peername
    of a connection that breaks the rules, and the error that ends it. Raises TypeError or
    ValueError if ``trusted`` is not valid for TrustedPeers.
    """
    peers = TrustedPeers(trusted)

    def make(conn: Link) -> Stage:
        stage = then(conn) if then else None
        kind = _Header if conn.peername in peers else _NoHeader
        return kind(conn, stage, on_refused)

    return make


class _First:
    """A stage for the first bytes of a stream, in front of the next stage or of the callbacks.

    Methods that it lacks (send, close...) are those of the next stage, if any. The next stage
    exists from the start, so data that is sent early waits there and not here.
    """

    def __init__(self, conn: Link, stage: Stage | None, on_refused: OnRefused) -> None:
        self._conn = conn
        self._stage = stage
        self._on_refused = on_refused
        self._over = False
        self._seen = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    @property
    def peer_ended(self) -> bool:
        return self._stage is not None and self._stage.peer_ended

    def _pass(self, data: bytes) -> bytes:
        """Pass received bytes through the next stage."""
        return data if self._stage is None or not data else self._stage.receive(data)

    def _refuse(self, error: ProxyProtocolError) -> None:
        self._over = True
        self._on_refused(self._conn.peername, error)
        raise error


class _Header(_First):
    """Reads the header of a trusted peer. The connection is established after that."""

    def start(self) -> None:
        """Nothing to do: the peer sends first."""

    def receive(self, data: bytes, /) -> bytes:
        if self._over:
            return self._pass(data)
        self._seen += data
        try:
            header = parse(self._seen)
        except ProxyProtocolError as error:
            self._refuse(error)
        if header is None:
            return b""
        self._over = True
        if header.address is not None:
            self._conn._set_peername(header.address)
        self._conn._set_stage(self._stage)
        if self._stage is None:
            self._conn._established()
        else:
            self._stage.start()
        return self._pass(self._seen[header.size :])

    def eof(self) -> bool | None:
        if self._over:
            return None if self._stage is None else self._stage.eof()
        if self._seen:
            self._refuse(ProxyProtocolError(f"the PROXY header ends early: {_shown(self._seen)}"))
        # A health check that only connects. Not reported to on_refused: no warning is needed.
        raise ProxyProtocolError("the connection ended without a PROXY header")


class _NoHeader(_First):
    """Watches the first bytes of a peer that must not send a header."""

    def start(self) -> None:
        # The peer may be waiting for a greeting.
        if self._stage is None:
            self._conn._established()
        else:
            self._stage.start()

    def receive(self, data: bytes, /) -> bytes:
        """Passes everything on at once.

        Version 2 headers begin with an empty line. Holding back a possible header would stall a
        peer that has sent an empty line and waits for the answer.
        """
        self._seen += data[: len(V2_SIGNATURE)]
        if self._seen.startswith((V1_SIGNATURE, V2_SIGNATURE)):
            self._refuse(ProxyProtocolError("a PROXY header from a peer that is not trusted"))
        if not any(s.startswith(self._seen) for s in (V1_SIGNATURE, V2_SIGNATURE)):
            self._over = True
            self._conn._set_stage(self._stage)
        return self._pass(data)

    def eof(self) -> bool | None:
        return None if self._stage is None else self._stage.eof()
