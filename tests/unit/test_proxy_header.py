"""Headers of the PROXY protocol and its stage by themselves: both versions, at any split, and whom
they are believed from."""

from __future__ import annotations

import ipaddress
import socket
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from iocpcore import _tls
from iocpcore._log import Log, ServerLog
from iocpcore._proxy_protocol import (
    V2_MAX,
    V2_SIGNATURE,
    ProxyProtocolError,
    TrustedPeers,
    crc32c,
    parse,
    proxy_stage,
)
from support.certificates import client_context, server_context
from support.proxy_headers import (
    BODY4,
    MALFORMED,
    PROXY,
    TCP4,
    TCP6,
    VALID,
    inet,
    tlv,
    v1,
    v2,
    with_checksum,
)

PEER = ("192.0.2.1", 40000)


def cases(table: dict[str, object]) -> object:
    return pytest.mark.parametrize("case", table.values(), ids=list(table))


# ---- headers ------------------------------------------------------------------------------------


@cases(VALID)
def test_valid(case):
    data, address = case
    assert parse(data) == (len(data), address)
    assert parse(data + b"more") == (len(data), address)


@cases(VALID)
def test_a_beginning_is_not_enough(case):
    data = case[0]
    for size in range(len(data)) if len(data) < 1000 else (0, 1, 15, 16, 17, len(data) - 1):
        assert parse(data[:size]) is None


@cases(MALFORMED)
def test_malformed(case):
    with pytest.raises(ProxyProtocolError):
        parse(case)


@cases(MALFORMED)
def test_malformed_at_every_split(case):
    """It is refused at the latest with its last byte, and what was refused stays so."""
    refused = False
    for size in range(len(case) + 1):
        try:
            assert parse(case[:size]) is None
            assert not refused
        except ProxyProtocolError:
            refused = True
    assert refused


def test_what_announces_too_much_is_not_waited_for():
    with pytest.raises(ProxyProtocolError, match="4097 bytes"):
        parse(v2(PROXY, TCP4, b"", V2_MAX + 1)[:16])


def test_errors_are_fit_for_a_log():
    """Foreign bytes are shown as such, and not all of them."""
    with pytest.raises(ProxyProtocolError) as caught:
        parse(b"\x1b[2J\r\nroot logged in" + bytes(1000))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250
    with pytest.raises(ProxyProtocolError) as caught:
        parse(b"PROXY \x1b[2J\nroot\xff logged in\r\n")
    assert str(caught.value).isprintable()


ports = st.integers(0, 65535)
v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6)


@given(st.tuples(v4, v4) | st.tuples(v6, v6), ports, ports, st.binary(max_size=30))
def test_any_address(addresses, source_port, destination_port, rest):
    source, destination = addresses
    four = source.version == 4
    family = socket.AF_INET if four else socket.AF_INET6
    expected = (socket.inet_ntop(family, source.packed), source_port)
    expected += () if four else (0, 0)
    text = v1("TCP4" if four else "TCP6", source, destination, source_port, destination_port)
    binary = inet(str(source), str(destination), source_port, destination_port)
    for header in (
        text,
        v2(PROXY, TCP4 if four else TCP6, binary),
        with_checksum(PROXY, TCP4 if four else TCP6, binary),
    ):
        assert parse(header + rest) == (len(header), expected)


@given(st.binary(max_size=300))
def test_any_bytes(data):
    """They are a header, the beginning of one, or refused; nothing else is raised."""
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", V2_SIGNATURE, V2_SIGNATURE + b"\x21\x11\x00"):
        try:
            header = parse(start + data)
        except ProxyProtocolError:
            continue
        assert header is None or header.size <= len(start + data)


@given(st.data())
def test_a_changed_bit_does_not_pass_the_checksum(data):
    header = bytearray(with_checksum(PROXY, TCP4, BODY4 + tlv(1, b"h2")))
    at = data.draw(st.integers(16, len(header) - 8))
    header[at] ^= data.draw(st.integers(1, 255))
    try:
        parsed = parse(bytes(header))
    except ProxyProtocolError:
        return
    # A changed length or kind may hide the checksum, but no address passes with a wrong one.
    assert parsed is None or at >= 28


@given(st.binary())
@example(b"123456789")
def test_crc32c(data):
    """Against the definition: division by the polynomial, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    assert crc32c(data) == value ^ 0xFFFFFFFF


def test_crc32c_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"123456789") != zlib.crc32(b"123456789")


# ---- whom to believe ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "peername", "expected"),
    [
        (["10.0.0.0/8"], ("10.255.0.1", 1), True),
        (["10.0.0.0/8"], ("11.0.0.1", 1), False),
        (["127.0.0.1"], ("127.0.0.1", 1), True),
        (["127.0.0.1"], ("127.0.0.2", 1), False),
        (["::1"], ("::1", 1, 0, 0), True),
        (["::/0"], ("127.0.0.1", 1), False),
        (["0.0.0.0/0"], ("::1", 1, 0, 0), False),
        (["fe80::/10"], ("fe80::1%eth0", 1, 0, 2), True),
        (["10.0.0.0/8"], ("::ffff:10.0.0.1", 1, 0, 0), True),
        (["::ffff:10.0.0.0/104"], ("::ffff:10.0.0.1", 1, 0, 0), True),
        ([ipaddress.ip_network("10.0.0.0/8")], ("10.0.0.1", 1), True),
        ([ipaddress.ip_address("10.0.0.1")], ("10.0.0.1", 1), True),
        ({"192.0.2.0/24", "10.0.0.1"}, ("10.0.0.1", 1), True),
        (["unix"], "", True),
        (["unix"], None, True),
        (["unix"], ("127.0.0.1", 1), False),
        (["0.0.0.0/0", "::/0"], "/run/x", False),
        ([], ("127.0.0.1", 1), False),
    ],
)
def test_trusted(trusted, peername, expected):
    assert (peername in TrustedPeers(trusted)) is expected


@pytest.mark.parametrize(
    "bad", ["10.0.0.0/8", b"10.0.0.0/8", 5, True, [5], [b"\x7f\0\0\1"], [None]]
)
def test_trusted_of_the_wrong_type(bad):
    with pytest.raises(TypeError, match="proxy_protocol"):
        TrustedPeers(bad)


@pytest.mark.parametrize("bad", ["10.0.0.1/8", "localhost", "", "10.0.0.0/33", "fe80::1%eth0/64"])
def test_trusted_that_is_no_network(bad):
    with pytest.raises(ValueError, match="proxy_protocol"):
        TrustedPeers([bad])


# ---- the stages ---------------------------------------------------------------------------------


class Connection:
    """What the stages use of a connection."""

    def __init__(self, peername: object = PEER) -> None:
        self.peername = peername
        self.closing = False
        self.pending_bytes = 0
        self.established = 0
        self.stages: list[object] = []
        self.written = b""
        self.stage: object = None
        self.got = b""

    def _established(self) -> None:
        self.established += 1

    def _set_stage(self, stage: object) -> None:
        self.stages.append(stage)
        self.stage = stage

    def _set_peername(self, address: object) -> None:
        self.peername = address

    def _write(self, data: bytes) -> bool:
        self.written += data
        return True

    def begin(self, make: Callable[[Connection], object]) -> None:
        self.stage = make(self)
        self.stage.start()

    def feed(self, data: bytes) -> None:
        """What the connection does with raw bytes."""
        self.got += data if self.stage is None else self.stage.receive(data)

    def feed_split(self, data: bytes, nbytes: int) -> None:
        for at in range(0, len(data), nbytes):
            self.feed(data[at : at + nbytes])


def stage(trusted: Any, then: Any = None) -> Any:
    """As a server makes it, with its lines in the log."""
    told = ServerLog(Log(lambda seconds, callback: SimpleNamespace(cancel=bool)))
    return proxy_stage(trusted, then, on_refused=told.on_bad_header)


@cases(VALID)
@pytest.mark.parametrize("nbytes", [1, 7, 100000])
def test_header_of_a_trusted_peer(case, nbytes, logged):
    data, address = case
    conn = Connection()
    conn.begin(stage(["192.0.2.0/24"]))
    conn.feed_split(data[:-1], nbytes)
    assert conn.established == 0
    conn.feed(data[-1:] + b"first")
    conn.feed(b" second")
    assert conn.established == 1
    assert conn.peername == (PEER if address is None else address)
    assert conn.got == b"first second"
    assert conn.stages == [None]
    assert not logged()


@cases(MALFORMED)
@pytest.mark.parametrize("nbytes", [1, 7, 100000])
def test_malformed_header_of_a_trusted_peer(case, nbytes, logged):
    conn = Connection()
    conn.begin(stage([PEER[0]]))
    with pytest.raises(ProxyProtocolError):
        conn.feed_split(case, nbytes)
    assert conn.established == 0
    assert conn.got == b""
    (line,) = logged()
    assert line.startswith("connection from 192.0.2.1:40000 closed: ")
    assert line.isprintable()


def test_a_trusted_peer_that_ends_within_the_header(logged):
    conn = Connection(("2001:db8::1", 9, 0, 0))
    conn.begin(stage(["2001:db8::/32"]))
    conn.feed(b"PROXY TCP")
    with pytest.raises(ProxyProtocolError):
        conn.stage.eof()
    assert logged() == [
        "connection from [2001:db8::1]:9 closed: the PROXY header ends early: b'PROXY TCP'"
    ]


def test_a_trusted_peer_that_only_connects(logged):
    """A health check: nothing worth a line."""
    conn = Connection("")
    conn.begin(stage(["unix"]))
    with pytest.raises(ProxyProtocolError):
        conn.stage.eof()
    assert not logged()


@pytest.mark.parametrize("nbytes", [1, 3, 100])
@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"P", b"PROXY", b"PROXYTHIS", b"\r\n", b"\r\n\r\n\0\r\nQUIT", b""],
)
def test_an_untrusted_peer_without_a_header(data, nbytes, logged):
    """It is served at once, and nothing that it sends is held back."""
    conn = Connection()
    conn.begin(stage(["10.0.0.0/8"]))
    assert conn.established == 1
    for at in range(0, len(data), nbytes):
        conn.feed(data[at : at + nbytes])
        assert conn.got == data[: at + nbytes]
    conn.feed(b"! and more that is no header")
    assert conn.got == data + b"! and more that is no header"
    assert conn.established == 1
    assert conn.stage is None
    assert conn.peername == PEER
    assert not logged()


@pytest.mark.parametrize("nbytes", [1, 6, 11, 100])
@pytest.mark.parametrize("name", ["v1 tcp4", "v1 unknown", "v2 tcp4", "v2 local"])
def test_an_untrusted_peer_with_a_header(name, nbytes, logged):
    data = VALID[name][0]
    conn = Connection()
    conn.begin(stage(["10.0.0.0/8"]))
    with pytest.raises(ProxyProtocolError, match="not trusted"):
        conn.feed_split(data, nbytes)
    assert conn.peername == PEER
    assert len(conn.got) < 12
    assert logged() == [
        "connection from 192.0.2.1:40000 closed: a PROXY header from a peer that is not trusted"
    ]


def test_optional_methods_are_those_of_the_stage_behind():
    """Without one, the connection sends as it does without a stage."""
    for trusted in (["192.0.2.1"], []):
        alone = stage(trusted)(Connection())
        assert not hasattr(alone, "send")
        assert not hasattr(alone, "close")
        assert not alone.peer_ended
        before_tls = stage(trusted, _tls.server_stage(server_context()))(Connection())
        assert hasattr(before_tls, "send")
        assert before_tls.ssl_object.server_side


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("nbytes", [1, 10, 100000])
def test_before_tls(trusted, nbytes):
    """The header comes in the clear, TLS after it, in the same segment or not."""
    header = VALID["v2 tcp4"][0] if trusted else b""
    conn, client_conn = Connection(), Connection()
    networks = ["192.0.2.1"] if trusted else []
    conn.begin(stage(networks, _tls.server_stage(server_context())))
    client_conn.begin(_tls.client_stage(client_context(), "localhost"))
    assert conn.stage.send([b"waits for all that"])
    client_conn.written = header + client_conn.written
    while conn.written or client_conn.written:
        to_server, client_conn.written = client_conn.written, b""
        conn.feed_split(to_server, nbytes)
        to_client, conn.written = conn.written, b""
        client_conn.feed_split(to_client, nbytes)
    assert conn.established == client_conn.established == 1
    assert client_conn.got == b"waits for all that"
    assert type(conn.stage) is _tls.TLSStage
    assert conn.peername == (VALID["v2 tcp4"][1] if trusted else PEER)


def test_untrusted_header_before_tls(logged):
    conn = Connection()
    conn.begin(stage([], _tls.server_stage(server_context())))
    with pytest.raises(ProxyProtocolError):
        conn.feed(VALID["v1 tcp4"][0])
    assert len(logged()) == 1
    assert conn.established == 0
