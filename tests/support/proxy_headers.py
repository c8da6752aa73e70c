"""Valid and malformed headers of the PROXY protocol."""

from __future__ import annotations

import ipaddress
import struct

from iocpcore._proxy_protocol import V1_MAX, V2_MAX, V2_SIGNATURE, crc32c

LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UNIX = 0x11, 0x21, 0x31


def v1(kind: str, source: object, destination: object, *ports: int) -> bytes:
    return " ".join(["PROXY", kind, str(source), str(destination), *map(str, ports)]).encode() + (
        b"\r\n"
    )


def v2(command: int, kind: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return V2_SIGNATURE + struct.pack("!BBH", command, kind, size) + body


def inet(source: str, destination: str, *ports: int) -> bytes:
    packed = (ipaddress.ip_address(address).packed for address in (source, destination))
    return b"".join(packed) + struct.pack("!HH", *ports)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def with_checksum(command: int, kind: int, body: bytes) -> bytes:
    unsigned = v2(command, kind, body + tlv(3, bytes(4)))
    return unsigned[:-4] + crc32c(unsigned).to_bytes(4, "big")


BODY4 = inet("198.51.100.7", "203.0.113.9", 50000, 443)
BODY6 = inet("2001:db8::7", "2001:db8::9", 50000, 443)

VALID = {
    "v1 tcp4": (
        b"PROXY TCP4 198.51.100.7 203.0.113.9 50000 443\r\n",
        ("198.51.100.7", 50000),
    ),
    "v1 tcp6": (
        b"PROXY TCP6 2001:DB8:0::7 2001:db8::9 50000 443\r\n",
        ("2001:db8::7", 50000, 0, 0),
    ),
    "v1 mapped": (
        b"PROXY TCP6 ::ffff:198.51.100.7 ::1 0 65535\r\n",
        ("::ffff:198.51.100.7", 0, 0, 0),
    ),
    "v1 longest": (
        b"PROXY TCP6 "
        + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2)
        + b" 65535 65535\r\n",
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, 0, 0),
    ),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1 unknown more": (b"PROXY UNKNOWN ffff::1 \xff whatever\r\n", None),
    "v1 unknown longest": (b"PROXY UNKNOWN ".ljust(V1_MAX - 2, b"x") + b"\r\n", None),
    "v2 tcp4": (v2(PROXY, TCP4, BODY4), ("198.51.100.7", 50000)),
    "v2 tcp6": (v2(PROXY, TCP6, BODY6), ("2001:db8::7", 50000, 0, 0)),
    "v2 tlvs": (
        v2(PROXY, TCP4, BODY4 + tlv(1, b"h2") + tlv(0xEA, b"") + tlv(4, bytes(9))),
        ("198.51.100.7", 50000),
    ),
    "v2 checksum": (with_checksum(PROXY, TCP6, BODY6), ("2001:db8::7", 50000, 0, 0)),
    "v2 most": (
        v2(PROXY, TCP4, BODY4 + tlv(4, bytes(V2_MAX - 15))),
        ("198.51.100.7", 50000),
    ),
    "v2 local": (v2(LOCAL, 0, b""), None),
    "v2 local of any kind": (v2(LOCAL, 0xFF, b"anything"), None),
    "v2 unspec": (v2(PROXY, 0x00, b"any bytes at all"), None),
    "v2 datagram": (v2(PROXY, 0x12, BODY4), None),
    "v2 unix": (
        v2(PROXY, UNIX, b"/run/client".ljust(108, b"\0") + bytes(108)),
        "/run/client",
    ),
    "v2 unix longest": (v2(PROXY, UNIX, b"/" + b"x" * 215), "/" + "x" * 107),
    "v2 unix unnamed": (v2(PROXY, UNIX, bytes(216)), ""),
    "v2 unix abstract": (
        v2(PROXY, UNIX, b"\0name".ljust(108, b"\0") + bytes(108)),
        b"\0name",
    ),
    "v2 unix not utf-8": (v2(PROXY, UNIX, b"/\xff".ljust(216, b"\0")), "/\udcff"),
}

MALFORMED = {
    "other protocol": b"GET / HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00",
    "lower case": b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    "v1 kind": b"PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n",
    "v1 udp": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
    "v1 unknownx": b"PROXY UNKNOWNX\r\n",
    "v1 nothing": b"PROXY \r\n",
    "v1 two blanks": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n",
    "v1 blank at the end": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n",
    "v1 tab": b"PROXY TCP4\t1.2.3.4 1.2.3.4 1 1\r\n",
    "v1 few": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "v1 octal": b"PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n",
    "v1 out of range": b"PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n",
    "v1 short address": b"PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n",
    "v1 destination": b"PROXY TCP4 1.2.3.4 1.2.3 1 1\r\n",
    "v1 six as four": b"PROXY TCP4 ::1 ::1 1 1\r\n",
    "v1 four as six": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n",
    "v1 scope": b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n",
    "v1 port": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
    "v1 other port": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n",
    "v1 port zeros": b"PROXY TCP4 1.2.3.4 1.2.3.4 080 1\r\n",
    "v1 port sign": b"PROXY TCP4 1.2.3.4 1.2.3.4 +80 1\r\n",
    "v1 port digits": "PROXY TCP4 1.2.3.4 1.2.3.4 ٣ 1\r\n".encode(),
    "v1 line feed": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\nx\r\n",
    "v1 too long": b"PROXY UNKNOWN ".ljust(V1_MAX - 1, b"x") + b"\r\n",
    "v1 endless": b"PROXY " + b"x" * 101,
    "v2 version": v2(0x11, TCP4, BODY4),
    "v2 command": v2(0x22, TCP4, BODY4),
    "v2 family": v2(PROXY, 0x41, BODY4),
    "v2 transport": v2(PROXY, 0x13, BODY4),
    "v2 short": v2(PROXY, TCP4, BODY4[:-1]),
    "v2 short six": v2(PROXY, TCP6, BODY6[:-1]),
    "v2 short unix": v2(PROXY, UNIX, bytes(215)),
    "v2 too long": v2(PROXY, TCP4, b"", V2_MAX + 1),
    "v2 local too long": v2(LOCAL, 0, b"", 65535),
    "v2 tlv cut": v2(PROXY, TCP4, BODY4 + b"\x01\x00"),
    "v2 tlv beyond": v2(PROXY, TCP4, BODY4 + b"\x01\x00\x02x"),
    "v2 checksum": with_checksum(PROXY, TCP4, BODY4)[:-1] + b"!",
    "v2 checksum short": v2(PROXY, TCP4, BODY4 + tlv(3, bytes(3))),
    "v2 checksum empty": v2(PROXY, TCP4, BODY4 + tlv(3, b"")),
}
