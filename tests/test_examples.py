"""Every example, as its users start it: a process, asked over sockets, and ended by a signal."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support import certificates, child
from support.net import reset
from support.system import LIMIT, LINUX, WINDOWS, scaled, wait_until

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SIZE = scaled(16 << 20, 1 << 18)

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not EXAMPLES.exists(), reason="only the package is here, without examples"),
]

Address = tuple[str, int]


@contextmanager
def example(name: str, *args: object, backend: str, errors: str = "") -> Iterator[Address]:
    """Started, and ended by SIGTERM or Ctrl-Break. It exits with 0, and says nothing more.

    `errors`: the pattern of what it writes to stderr.
    """
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--port", "0", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=child.environment(IOCPCORE_BACKEND=backend),
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    try:
        line = process.stdout.readline()
        match = re.fullmatch(r"listening on ([\d.]+):(\d+)\n", line)
        assert match, (line, process.stderr.read() if process.poll() is not None else "")
        yield match[1], int(match[2])
        if terminate(process):
            output, said = process.communicate(timeout=LIMIT)
            assert (process.returncode, output) == (0, ""), said
            assert re.fullmatch(errors, said), said
    finally:
        process.kill()
        process.communicate()


def terminate(process: subprocess.Popen[str]) -> bool:
    """Whether it could be done."""
    assert process.poll() is None
    if WINDOWS:
        if sys.version_info < (3, 12):
            return False  # where there is no console, its os.kill() kills, and fails in an odd way
        try:
            process.send_signal(signal.CTRL_BREAK_EVENT)
        except OSError:  # there is no console
            return False
        return True
    if LINUX:  # until it hears signals they would just kill it
        wait_until(lambda: catches(process.pid, signal.SIGTERM), "it hears SIGTERM")
    process.send_signal(signal.SIGTERM)
    return True


def catches(pid: int, number: int) -> bool:
    mask = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask[1], 16) >> (number - 1) & 1)


def connect(address: Address) -> socket.socket:
    sock = socket.create_connection(address, timeout=LIMIT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def receive(sock: socket.socket, count: int) -> bytes:
    """So many bytes, fewer at the end of the stream."""
    data = bytearray()
    while len(data) < count and (part := sock.recv(min(count - len(data), 1 << 20))):
        data += part
    return bytes(data)


class Lines:
    def __init__(self, address: Address) -> None:
        self.sock = connect(address)
        self.file = self.sock.makefile("rwb")

    def say(self, line: str) -> None:
        self.file.write(f"{line}\n".encode())
        self.file.flush()

    def hear(self) -> str:
        return self.file.readline().decode().removesuffix("\n")

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()
        self.sock.close()


# ---- chat ---------------------------------------------------------------------------------------


def test_chat(backend):
    with example("chat", backend=backend) as address, Lines(address) as ann:
        assert ann.hear() == "What is your name?"
        ann.say("ann")
        assert ann.hear() == "* ann is here"
        with Lines(address) as bob:
            assert bob.hear() == "What is your name?"
            bob.say("ann")
            assert bob.hear() == "Another name, please."
            bob.say("bob\r")  # as telnet does
            assert bob.hear() == ann.hear() == "* bob is here"
            bob.say("héllo")
            assert ann.hear() == "bob: héllo"
            ann.say("/who")
            assert ann.hear() == "ann, bob"
            bob.say("x" * 1000)
            assert ann.hear() == "bob: " + "x" * 1000
            bob.say("/quit")
            assert bob.hear() == ""
        assert ann.hear() == "* bob has left"
        with Lines(address) as eve:
            assert eve.hear() == "What is your name?"
            eve.say("eve")
            assert ann.hear() == "* eve is here"
            reset(eve.sock)
        assert ann.hear() == "* eve has left"


def test_chat_of_many(backend):
    """Everybody hears everything that each of the others says, in order."""
    count, lines = scaled(20, 5), scaled(50, 10)
    with example("chat", backend=backend) as address:
        members = [Lines(address) for _ in range(count)]
        for number, member in enumerate(members):
            assert member.hear() == "What is your name?"
            member.say(f"m{number}")
            for other in members[: number + 1]:
                assert other.hear() == f"* m{number} is here"
        for number, member in enumerate(members):
            member.say("\n".join(f"m{number} {line}" for line in range(lines)))
        for number, member in enumerate(members):
            heard: dict[str, list[str]] = {}
            for _ in range((count - 1) * lines):
                name, text = member.hear().split(": ")
                heard.setdefault(name, []).append(text)
            expected = {
                f"m{other}": [f"m{other} {line}" for line in range(lines)]
                for other in range(count)
                if other != number
            }
            assert heard == expected
        for member in members:
            reset(member.sock)
            member.__exit__()


# ---- key-value ----------------------------------------------------------------------------------


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(message)) + message for message in messages)


def answers(sock: socket.socket, count: int) -> list[bytes]:
    return [receive(sock, struct.unpack(">I", receive(sock, 4))[0]) for _ in range(count)]


def test_keyvalue(backend, tmp_path):
    log = tmp_path / "log"
    with example("keyvalue", "--journal", log, backend=backend) as address:
        with connect(address) as sock:
            # All at once: the answers come in order, though some wait for the disk and some not.
            sock.sendall(
                framed(b"get a", b"set a 1 2", b"get a", b"delete a", b"get a", b"delete a")
            )
            assert answers(sock, 6) == [b"none", b"ok", b"value 1 2", b"ok", b"none", b"none"]
            sock.sendall(framed(b"", b"set a", b"nonsense", b"set \xff \0\n", b"set b x"))
            assert answers(sock, 5) == 3 * [b"error: set KEY VALUE, get KEY or delete KEY"] + 2 * [
                b"ok"
            ]
    with open(log, "ab") as file:  # as a crash may leave it
        file.write(framed(b"set b broken")[:-3])
    for value in (b"x", b"y"):
        with example("keyvalue", "--journal", log, backend=backend) as address:
            with connect(address) as sock:
                sock.sendall(framed(b"get \xff", b"get b", b"set b y"))
                assert answers(sock, 3) == [b"value \0\n", b"value " + value, b"ok"]


def test_keyvalue_for_many(backend, tmp_path):
    rounds = scaled(20, 3)
    with example("keyvalue", "--journal", tmp_path / "log", backend=backend) as address:
        socks = [connect(address) for _ in range(10)]
        for number, sock in enumerate(socks):
            for round_ in range(rounds):
                sock.sendall(framed(b"set k%d %d" % (number, round_), b"get k%d" % number))
        for sock in socks:
            for round_ in range(rounds):
                assert answers(sock, 2) == [b"ok", b"value %d" % round_]
            sock.close()


# ---- proxy --------------------------------------------------------------------------------------


@contextmanager
def target() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        yield listener


@contextmanager
def proxied(backend: str) -> Iterator[tuple[Address, socket.socket, socket.socket]]:
    """Its address, and both ends of a connection through it."""
    with target() as listener:
        args = ("--target-port", listener.getsockname()[1])
        with example("proxy", *args, backend=backend) as address:
            with connect(address) as client:
                server, _ = listener.accept()
                server.settimeout(LIMIT)
                with server:
                    yield address, client, server


def transfer(sender: socket.socket, receiver: socket.socket) -> None:
    data = bytes(range(256)) * (SIZE // 256)

    def send() -> None:
        sender.sendall(data)
        sender.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert receive(receiver, SIZE + 1) == data
    finally:
        thread.join(LIMIT)


def test_proxy(backend):
    """Both directions, half-closed one after the other."""
    with proxied(backend) as (_, client, server):
        client.sendall(b"ping")
        assert receive(server, 4) == b"ping"
        server.sendall(b"pong")
        assert receive(client, 4) == b"pong"
        transfer(client, server)
        server.sendall(b"still there")
        assert receive(client, 11) == b"still there"
        transfer(server, client)


def test_proxy_holds_back(backend):
    """Who sends to one that does not read has to wait, soon; and nothing is lost. Both ways."""
    with proxied(backend) as (_, client, server):
        for sender, receiver in ((client, server), (server, client)):
            sent = fill(sender)
            assert sent < 1 << 27  # what three kernel buffers and the proxy take
            assert receive(receiver, sent) == bytes(sent)
            sender.sendall(b"and on")
            assert receive(receiver, 6) == b"and on"


def fill(sock: socket.socket) -> int:
    """Send until nothing has been taken for a while; how many bytes were."""
    sent = 0
    sock.settimeout(0.5)
    try:
        while sent < 1 << 28:
            sent += sock.send(bytes(1 << 16))
    except TimeoutError:
        pass
    sock.settimeout(LIMIT)
    return sent


def test_proxy_passes_on_ends(backend):
    with proxied(backend) as (_, client, server):
        client.sendall(b"ping")
        assert receive(server, 4) == b"ping"
        reset(client)
        with pytest.raises(ConnectionResetError):
            receive(server, 1)
    with proxied(backend) as (_, client, server):
        client.close()
        assert receive(server, 1) == b""


def test_proxy_without_a_target(backend):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        args = ("--target-port", reserved.getsockname()[1])
        with example("proxy", *args, backend=backend, errors=r".*refused.*\n") as address:
            # The reset may come before connect() has returned.
            with pytest.raises(ConnectionResetError), connect(address) as client:
                receive(client, 1)


# ---- static files -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("h11")
    (tmp_path / "outside.txt").write_text("secret")
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "index.html").write_text("<p>hello")
    (site / "sub" / "a b.txt").write_text("in a folder")
    (site / "empty.css").write_text("")
    (site / "large.bin").write_bytes(bytes(range(256)) * (SIZE // 256))
    return site


def request(address: Address, *lines: str, pieces: int = 1) -> bytes:
    """All that comes back, until the end."""
    data = "\r\n".join([*lines, "", ""]).encode()
    step = -(-len(data) // pieces)
    with connect(address) as sock:
        for begin in range(0, len(data), step):
            sock.sendall(data[begin : begin + step])
        return receive(sock, 1 << 40)


def get(address: Address, path: str, method: str = "GET", pieces: int = 1) -> tuple[str, bytes]:
    host, close = "Host: here", "Connection: close"
    answer = request(address, f"{method} {path} HTTP/1.1", host, close, pieces=pieces)
    head, _, body = answer.partition(b"\r\n\r\n")
    # The time of an answer is not that of the next one.
    head = re.sub(rb"\r\nDate: [^\r]* GMT(?=\r\n)", b"", head)
    return head.decode(), body


def test_static_files(backend, folder):
    with example("static_files", folder, backend=backend) as address:
        head, body = get(address, "/")
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert "Content-Type: text/html" in head
        assert body == b"<p>hello"
        assert get(address, "/sub/a%20b.txt?query", pieces=20)[1] == b"in a folder"
        assert get(address, "/index.html", "HEAD") == (head, b"")
        head, body = get(address, "/empty.css")
        assert "Content-Length: 0" in head
        assert body == b""
        head, body = get(address, "/large.bin")
        content = (folder / "large.bin").read_bytes()
        assert f"Content-Length: {len(content)}" in head
        assert body == content


def test_static_files_refused(backend, folder):
    with example("static_files", folder, backend=backend) as address:
        for path in (
            *("/nothing", "/sub", "/../outside.txt", "/%2e%2e/outside.txt", "/%00", "/x%ff"),
            *("/sub/../../outside.txt", "//etc/passwd", "/%2fetc/passwd", "/C:/x", "/" + "x" * 300),
        ):
            assert get(address, path)[0].startswith("HTTP/1.1 404 "), path
        head, _ = get(address, "/index.html", "DELETE")
        assert head.startswith("HTTP/1.1 405 ")
        assert "Allow: GET, HEAD" in head
        assert request(address, "nonsense").startswith(b"HTTP/1.1 400 ")
        assert request(address, "GET / HTTP/1.1").startswith(b"HTTP/1.1 400 ")  # no Host
        with connect(address) as sock:  # it breaks off, and hurts nobody
            sock.sendall(b"GET / HT")
        assert get(address, "/")[1] == b"<p>hello"


def test_static_files_over_one_connection(backend, folder):
    """Several requests at once: the answers come in order."""
    with example("static_files", folder, backend=backend) as address:
        head = "Host: here\r\n\r\n"
        answer = request(
            address,
            f"GET / HTTP/1.1\r\n{head}GET /large.bin HTTP/1.1\r\n{head}GET /no HTTP/1.1\r\n{head}"
            "HEAD / HTTP/1.1\r\nHost: here\r\n\r\nGET /sub/a%20b.txt HTTP/1.0",
        )
        large = (folder / "large.bin").read_bytes()
        assert answer.count(large) == 1
        assert re.findall(rb"HTTP/1.1 (\d+)", answer.replace(large, b"")) == [
            *(b"200", b"200", b"404", b"200", b"200")
        ]
        assert answer.endswith(b"in a folder")


@pytest.mark.skipif(not LINUX, reason="it limits descriptors")
def test_static_files_for_one_that_does_not_read(backend, folder):
    """It may ask for as many files as it likes: others get theirs."""
    import resource

    with open(folder / "huge.bin", "wb") as file:
        file.truncate(1 << 26)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        try:
            address = stack.enter_context(example("static_files", folder, backend=backend))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        sock = stack.enter_context(connect(address))
        sock.sendall(b"GET /huge.bin HTTP/1.1\r\nHost: here\r\n\r\n" * 1500)
        assert receive(sock, 12) == b"HTTP/1.1 200"
        assert get(address, "/")[1] == b"<p>hello"


# ---- UDP ----------------------------------------------------------------------------------------


def test_udp_echo(backend):
    with example("udp_echo", backend=backend) as address:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(LIMIT)
            for data in (b"hello", b"", bytes(60000)):
                sock.sendto(data, address)
                assert sock.recvfrom(65535) == (data, address)
            for number in range(100):
                sock.sendto(b"%d" % number, address)
                assert sock.recv(100) == b"%d" % number


# ---- TLS ----------------------------------------------------------------------------------------


PIECE = 1 << 15


def test_tls_echo(backend):
    server = certificates.FOLDER / "server.pem"
    args = ("--cert", server, "--ca", certificates.FOLDER / "ca.pem")
    data = bytes(range(256)) * (SIZE // 1024)
    with example("tls_echo", *args, backend=backend) as address:
        with tls(address, "client.pem") as sock:
            hello = b"hello client@example.org\n"
            assert receive(sock, len(hello)) == hello
            for begin in range(0, len(data), PIECE):  # an SSLSocket is not for two threads
                sock.sendall(data[begin : begin + PIECE])
                assert receive(sock, len(data[begin : begin + PIECE])) == data[begin:][:PIECE]
            # Its close_notify comes before the end of the stream.
            sock.unwrap()
        for certificate in ("", "untrusted.pem"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                with tls(address, certificate) as sock:
                    sock.recv(1)  # TLS 1.3 tells a client only now
        with tls(address, "client.pem") as sock:
            assert receive(sock, len(hello)) == hello
            sock.unwrap()


def tls(address: Address, certificate: str) -> ssl.SSLSocket:
    context = certificates.client_context(certificate)
    sock = connect(address)
    try:
        return context.wrap_socket(sock, server_hostname=certificates.HOST)
    except BaseException:
        sock.close()
        raise


# ---- all of them --------------------------------------------------------------------------------


def test_each_has_a_test_and_says_how_to_try_it():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"chat", "keyvalue", "proxy", "static_files", "udp_echo", "tls_echo"}
    for name in names:
        text = (EXAMPLES / f"{name}.py").read_text("utf-8")
        assert re.match(r'r?"""[A-Z].*\n\n', text), name
        assert f"examples/{name}.py" in text.split('"""')[1], name
