"""TLS between a connection and its callbacks, by the standard library's ssl module.

Everything that an SSLContext offers works as it does elsewhere: certificates of both sides, SNI by
``sni_callback``, ALPN, versions, session tickets. How a stream ends:

* Closing or shutting down a connection sends TLS's own end (close_notify), behind everything that
  was accepted before. Reading goes on after a shutdown.
* The peer's close_notify is the end of its stream. Bytes after it are ignored.
* A stream that ends without one may have been cut off by anybody on its way, so that is an error,
  ``ssl.SSLEOFError``. What was received before has been handed on, and what is queued is still
  sent, with our own close_notify behind it. Some programs, browsers among them, never send
  close_notify; where messages tell their own length that does no harm, and
  ``context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF`` accepts it. So does a connection that was
  closed from this side. Python before 3.11.4 sets the option in every context; where that is so,
  it says nothing about what the user wants and is not looked at.

What is sent before the handshake is over waits for its end; closing before that discards it.
"""

from __future__ import annotations

import os
import ssl
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from iocpcore._options import Limits
from iocpcore._stage import Data, Link
from iocpcore.errors import SlowReaderError

if sys.platform == "win32":
    import _winapi
    import msvcrt

# One record of TLS: what one SSL_read gives at most.
RECORD = 16 * 1024
# What is encrypted at once. It bounds how much exists twice, as plain and as cipher text.
PIECE = 256 * 1024
# What waits here goes on once no more than this is waiting for the socket.
AHEAD = 128 * 1024
# Files are read in pieces of this size. With AHEAD that stays below the default of write_high:
# sending a file does not stop the reading.
FILE_PIECE = 64 * 1024
# So many of them, and then others have a turn, even if the socket takes everything.
FILE_TURN = 16
# As a connection's default.


def _accepting_option() -> int:
    """The option by which a context accepts streams without close_notify.

    0 if every new context has it: then it does not tell what the user wants.
    """
    option: int = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return option & ~ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).options


_ACCEPTING_OPTION = _accepting_option()


class HasFileno(Protocol):
    """A file object of the operating system's."""

    def fileno(self) -> int:
        """Its descriptor."""


def server_stage(
    context: ssl.SSLContext, max_write_buffer: int = Limits.max_write_buffer
) -> Callable[[Link], TLSStage]:
    """What makes the stage of each connection that a server accepts.

    Raises TypeError if the context is none, and ValueError if it is for clients.
    """
    _check_context(context)
    return _factory(partial(context.wrap_bio, server_side=True), max_write_buffer)


def client_stage(
    context: ssl.SSLContext,
    server_hostname: str | None,
    max_write_buffer: int = Limits.max_write_buffer,
) -> Callable[[Link], TLSStage]:
    """What makes the stage of a connection to a server of this name.

    The name is what SNI asks for and what the server's certificate is checked against; None does
    without both. Raises TypeError if the context is none, and ValueError if it is for servers, or
    there can be no such name, or the context demands one.
    """
    _check_context(context)
    if server_hostname is None and context.check_hostname:  # which an SSLObject would not mind
        raise ValueError("server_hostname is needed by a context with check_hostname")
    return _factory(partial(context.wrap_bio, server_hostname=server_hostname), max_write_buffer)


def _check_context(context: object) -> None:
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl must be an ssl.SSLContext, not {type(context).__name__}")


Wrap = Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]


def _factory(wrap: Wrap, max_write_buffer: int) -> Callable[[Link], TLSStage]:
    try:
        wrap(ssl.MemoryBIO(), ssl.MemoryBIO())  # what is wrong shows now, not at each connection
    except ssl.SSLError as error:
        raise ValueError(f"ssl is not a context for this side: {error}") from error
    return lambda conn: TLSStage(conn, wrap, max_write_buffer)


class TLSStage:
    """The TLS of one connection.

    Cipher text must reach the socket in the order in which it was made, so encrypting and writing
    are one step under one lock. What cannot be encrypted yet is held here: until the handshake is
    over, behind a file, or while the lock's own thread is inside the SSLObject (a finalizer or a
    signal handler may send; the lock lets it in, and the call that it interrupts goes on with what
    it left).
    """

    __slots__ = (
        "_busy",
        "_closing",
        "_conn",
        "_dead",
        "_established",
        "_finishes",
        "_held",
        "_incoming",
        "_late",
        "_lock",
        "_max_held",
        "_outgoing",
        "_spent",
        "_ssl",
        "_truncated",
        "peer_ended",
        "pending_bytes",
    )

    def __init__(
        self, conn: Link, wrap: Wrap, max_write_buffer: int = Limits.max_write_buffer
    ) -> None:
        self.peer_ended = False
        self.pending_bytes = 0  # of what is held, files not counted
        self._max_held = max_write_buffer
        self._conn = conn
        self._lock = threading.RLock()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = wrap(self._incoming, self._outgoing)
        self._held: deque[bytes | _FilePart] = deque()
        self._busy = False  # this lock's thread is using the SSLObject
        self._established = False
        self._closing = False  # close() was called: nothing more is accepted
        self._finishes = False  # and waits for what is held; _finish() is to follow
        self._spent = False  # nothing more is encrypted: close_notify is out, or it is dead
        self._dead = False  # nothing more is decrypted either: there was an error
        self._late = False  # something was left behind by a call that came in while busy
        self._truncated: ssl.SSLError | None = None  # how it ends once nothing is held any more

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The SSLObject, to ask it things: certificates, version, cipher, ALPN.

        In callbacks: elsewhere it may be in the middle of reading, when some answers are None or a
        ValueError.
        """
        return self._ssl

    # ---- called on the strand

    def start(self) -> None:
        """A client speaks first."""
        if not self._ssl.server_side:
            self.receive(b"")

    def receive(self, data: bytes, /) -> bytes:
        """Take what came from the socket; give what it holds for the application."""
        with self._lock:
            if self.peer_ended or self._dead:
                return b""
            self._incoming.write(data)
            self._busy = True
            try:
                if not (self._established or self._shake_hands()):
                    return b""
                plain = self._decrypt()
                # After close() nobody wants it, though the goodbye may have to wait.
                return b"" if self._closing and self._conn.closing else plain
            except Exception:
                self._give_up()
                raise
            finally:
                self._busy = False
                # Reading has things to say, too: handshakes, alerts, new keys.
                self._flush()
                self._pump()

    def eof(self) -> bool:
        """The socket's stream has ended. Raises if it may not.

        True tells that later, when what was accepted has been written, with our own end.
        """
        with self._lock:
            if self.peer_ended or self._dead:
                return False
            if not self._established:
                self._give_up()
                raise _eof_error("the peer ended the connection during the TLS handshake")
            closed = self._closing and self._conn.closing
            if closed or self._ssl.context.options & _ACCEPTING_OPTION:
                return False
            # The SSLObject is not told: it would not encrypt any more, and what it makes of such
            # an end differs from version to version.
            error = _eof_error("the peer ended the connection without TLS's close_notify")
            if self._spent:
                raise error
            self._truncated = error
            self._closing = True
            self._pump()
            return True

    def room(self) -> None:
        """The socket has taken enough: go on with what is held."""
        with self._lock:
            self._pump()

    # ---- called by any thread

    def send(self, data: Data, /) -> bool:
        """Encrypt and write these buffers, as one."""
        plain = b"".join(data)
        with self._lock:
            if self._closing or self._spent:
                return False
            if self._held or self._busy or not self._established:
                self._hold(plain)
            else:
                self._use(partial(self._encrypt, plain))
            return not self._spent

    def send_file(
        self, file: int | HasFileno, offset: int = 0, count: int | None = None, /
    ) -> bool:
        """The same with a part of a file, read as fast as the socket takes it.

        The file may be closed at once. If it is shorter, less is sent. A descriptor, or on Windows
        a handle, does as well as a file object.
        """
        with self._lock:
            if self._closing or self._spent:
                return False
            self._held.append(_FilePart(file, offset, count))
            if len(self._held) == 1:  # else somebody is at it already, or will be
                self._pump()
            return not self._spent

    def close(self) -> bool:
        """Send close_notify after everything accepted so far, and then nothing any more.

        True: that takes longer, and ``_finish()`` follows.
        """
        with self._lock:
            if self._truncated is not None:
                self._finishes = True
            if self._closing or self._spent:
                return self._finishes
            self._closing = True
            if not self._established and self._conn.closing:
                self._give_up()  # nobody waits for this handshake
            else:
                self._pump()
            self._finishes = not self._spent
            return self._finishes

    # ---- the lock is held

    def _shake_hands(self) -> bool:
        """Whether the handshake is over."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self._established = True
        self._conn._established()
        return True

    def _decrypt(self) -> bytes:
        parts: list[bytes] = []
        try:
            while part := self._ssl.read(RECORD):
                parts.append(part)
                if not (self._incoming.pending or self._ssl.pending()):
                    break  # the exception below would be dear for every receive
            else:
                self.peer_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.peer_ended = True
        except ssl.SSLError as error:
            if not parts:
                raise
            # What came before the error is genuine; it is handed on first.
            self._give_up()
            self._conn._run(partial(self._conn._fail, error))
        return b"".join(parts)

    def _hold(self, plain: bytes) -> None:
        if self.pending_bytes >= self._max_held:
            self._give_up()
            self._conn._fail(
                SlowReaderError(
                    f"more than max_write_buffer, {self._max_held} bytes, waited to be sent"
                )
            )
            return
        self._held.append(plain)
        self.pending_bytes += len(plain)
        self._late = self._late or self._busy

    def _pump(self) -> None:
        """Write what is held, in order, as far as it can go now; then the goodbye."""
        if self._busy:
            self._late = True
        elif self._established and not self._spent:
            self._use(self._write_held)

    def _use(self, function: Callable[[], object]) -> None:
        """Call what uses the SSLObject to send. What goes wrong ends the connection."""
        self._busy = True
        try:
            function()
        except Exception as error:
            self._flush()
            self._conn._fail(error)
            self._give_up()
        finally:
            self._busy = False
        if self._late:
            self._late = False
            self._pump()

    def _write_held(self) -> None:
        turn = FILE_TURN
        while (self._held or self._closing) and not self._spent:
            # The goodbye waits, too: it would be one write too many where the limit is reached.
            if not turn or self._conn.pending_bytes > AHEAD:
                self._conn._ask_for_room()
                return
            if not self._held:
                self._say_goodbye()
                return
            first = self._held[0]
            if isinstance(first, bytes):
                self._held.popleft()
                self.pending_bytes -= len(first)
                written = self._encrypt(first)
            else:
                turn -= 1
                written = self._write_piece(first)
            if not written:
                return

    def _encrypt(self, plain: bytes) -> bool:
        """Write this, as one. What cannot be written now is held, before everything else."""
        view = memoryview(plain)
        pieces: list[bytes] = []
        done = 0
        try:
            while done < len(plain):
                done += self._ssl.write(view[done : done + PIECE])
                pieces.append(self._outgoing.read())
        except ssl.SSLWantReadError:  # the peer wants another handshake first (TLS 1.2)
            pieces.append(self._outgoing.read())
            self._held.appendleft(plain[done:])
            self.pending_bytes += len(plain) - done
        if pieces and not self._conn._write(pieces if len(pieces) > 1 else pieces[0]):
            self._give_up()
        if done < len(plain) and self._truncated is not None:
            raise self._truncated  # that handshake cannot come any more
        return done == len(plain)

    def _write_piece(self, part: _FilePart) -> bool:
        piece = part.read(FILE_PIECE)
        if piece:
            return self._encrypt(piece)
        self._held.popleft()
        part.close()
        return True

    def _flush(self) -> None:
        if self._outgoing.pending and not self._conn._write(self._outgoing.read()):
            self._give_up()

    def _say_goodbye(self) -> None:
        # It also asks whether the peer has said its own goodbye. No is not an error.
        with suppress(ssl.SSLError):
            self._ssl.unwrap()
        self._flush()
        self._spent = True
        truncated, self._truncated = self._truncated, None
        if truncated is not None and not self._conn.closing:
            self._dead = True
            self._conn._fail(truncated)
        self._finish()

    def _give_up(self) -> None:
        """There was an error that leaves nothing to do."""
        self._spent = self._dead = True
        self._drop_held()
        self._finish()

    def _drop_held(self) -> None:
        self.pending_bytes = 0
        for item in self._held:
            if isinstance(item, _FilePart):
                item.close()
        self._held.clear()

    def _finish(self) -> None:
        if self._finishes:
            self._finishes = False
            self._conn._finish()


def _eof_error(message: str) -> ssl.SSLEOFError:
    return ssl.SSLEOFError(int(ssl.SSL_ERROR_EOF), message)


class _FilePart:
    """A part of a file that is being sent. It has a descriptor of its own."""

    __slots__ = ("_descriptor", "_left", "_offset")

    def __init__(self, file: int | HasFileno, offset: int, count: int | None) -> None:
        self._descriptor = -1
        if offset < 0:
            raise ValueError(f"offset must not be negative, not {offset}")
        if count is not None and count < 0:
            raise ValueError(f"count must not be negative, not {count}")
        self._offset = offset
        self._left = sys.maxsize if count is None else count
        self._descriptor = _duplicate(file)

    def read(self, nbytes: int) -> bytes:
        """The next bytes; none at the end."""
        try:
            data = _read_at(self._descriptor, min(nbytes, self._left), self._offset)
        except OSError:  # at an offset that no file can have
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode) or self._offset < status.st_size:
                raise
            data = b""
        self._offset += len(data)
        self._left -= len(data)
        return data

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close  # a connection may end with the file under way


if sys.platform == "win32":
    # Duplicates of a handle share one position, and so do all connections that are being sent
    # the same file.
    _position_lock = threading.Lock()

    def _duplicate(file: int | HasFileno) -> int:
        handle = file if isinstance(file, int) else msvcrt.get_osfhandle(file.fileno())
        process = _winapi.GetCurrentProcess()
        copy = _winapi.DuplicateHandle(
            process, handle, process, 0, False, _winapi.DUPLICATE_SAME_ACCESS
        )
        try:
            return msvcrt.open_osfhandle(copy, os.O_RDONLY | os.O_BINARY)
        except OSError:
            _winapi.CloseHandle(copy)
            raise

    def _read_at(descriptor: int, nbytes: int, offset: int) -> bytes:
        with _position_lock:
            before = os.lseek(descriptor, 0, os.SEEK_CUR)
            try:
                os.lseek(descriptor, offset, os.SEEK_SET)
                return os.read(descriptor, nbytes)
            finally:
                os.lseek(descriptor, before, os.SEEK_SET)

else:

    def _duplicate(file: int | HasFileno) -> int:
        return os.dup(file if isinstance(file, int) else file.fileno())

    def _read_at(descriptor: int, nbytes: int, offset: int) -> bytes:
        return os.pread(descriptor, nbytes, offset)
