"""TLS between a connection and its callbacks, using the standard library's ssl module.

All features of an SSLContext work as usual: certificates of both sides, SNI with ``sni_callback``,
ALPN, versions, session tickets. How a stream ends:

* Closing or shutting down a connection sends close_notify after everything accepted before.
  Reading continues after a shutdown.
* The peer's close_notify ends its stream. Bytes after it are ignored.
* If a stream ends without close_notify, an attacker may have truncated it. That is an error,
  ``ssl.SSLEOFError``. Data received before has been delivered. Queued data is still sent, followed
  by our close_notify. Some programs, including browsers, never send close_notify. That is harmless
  if messages carry their own length, and ``context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF``
  accepts it. A connection closed from this side accepts it as well. Python before 3.11.4 sets the
  option in every context. There it does not express the user's choice, so it is ignored.

Data sent before the handshake is complete waits for it. Closing before that discards the data.
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

# The size of a TLS record: the most that one SSL_read returns.
RECORD = 16 * 1024
# Bytes encrypted at once. Limits how much data exists twice, as plain and as cipher text.
PIECE = 256 * 1024
# Held data is written while at most this many bytes are queued for the socket.
AHEAD = 128 * 1024
# Files are read in pieces of this size. AHEAD plus one piece is below the default of write_high,
# so sending a file does not stop the connection from reading.
FILE_PIECE = 64 * 1024
# After this many pieces other connections get a turn, even if the socket takes everything.
FILE_TURN = 16


def _accepting_option() -> int:
    """The context option that accepts streams without close_notify.

    0 if new contexts have it set by default: then it does not express the user's choice.
    """
    option: int = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return option & ~ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).options


_ACCEPTING_OPTION = _accepting_option()


class HasFileno(Protocol):
    """A file object with a descriptor."""

    def fileno(self) -> int:
        """The file descriptor."""


def server_stage(
    context: ssl.SSLContext, max_write_buffer: int = Limits.max_write_buffer
) -> Callable[[Link], TLSStage]:
    """Return the stage factory for the connections of a server.

    Raises TypeError if `context` is not an SSLContext, and ValueError if it is for clients.
    """
    _check_context(context)
    return _factory(partial(context.wrap_bio, server_side=True), max_write_buffer)


def client_stage(
    context: ssl.SSLContext,
    server_hostname: str | None,
    max_write_buffer: int = Limits.max_write_buffer,
) -> Callable[[Link], TLSStage]:
    """Return the stage factory for a connection to a server.

    `server_hostname` is sent as SNI, and the server's certificate is checked against it; None
    disables both. Raises TypeError if `context` is not an SSLContext. Raises ValueError if it is
    for servers, if the name is invalid, or if there is none and the context requires one.
    """
    _check_context(context)
    if server_hostname is None and context.check_hostname:  # an SSLObject does not check this
        raise ValueError("server_hostname is needed by a context with check_hostname")
    return _factory(partial(context.wrap_bio, server_hostname=server_hostname), max_write_buffer)


def _check_context(context: object) -> None:
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl must be an ssl.SSLContext, not {type(context).__name__}")


Wrap = Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]


def _factory(wrap: Wrap, max_write_buffer: int) -> Callable[[Link], TLSStage]:
    try:
        wrap(ssl.MemoryBIO(), ssl.MemoryBIO())  # report errors now, not per connection
    except ssl.SSLError as error:
        raise ValueError(f"ssl is not a context for this side: {error}") from error
    return lambda conn: TLSStage(conn, wrap, max_write_buffer)


class TLSStage:
    """The TLS stage of one connection.

    Cipher text must reach the socket in the order of encryption, so encrypting and writing are one
    step under one lock. Data that cannot be encrypted yet is held: before the handshake is
    complete, behind a file, or when the thread that owns the lock is already inside the SSLObject.
    The last case occurs when a finalizer or a signal handler sends. The lock is reentrant, so the
    inner call only queues its data (`_late`), and the interrupted call writes it before it returns.
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
        self.pending_bytes = 0  # held bytes, not counting files
        self._max_held = max_write_buffer
        self._conn = conn
        self._lock = threading.RLock()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = wrap(self._incoming, self._outgoing)
        self._held: deque[bytes | _FilePart] = deque()
        self._busy = False  # the thread that owns the lock is using the SSLObject
        self._established = False
        self._closing = False  # close() or a truncated stream: no more data is accepted
        self._finishes = False  # close() returned True: _finish() must be called later
        self._spent = False  # no more encryption: close_notify was sent, or there was an error
        self._dead = False  # no more decryption either: there was an error
        self._late = False  # a call that came in while busy has left something to write
        self._truncated: ssl.SSLError | None = None  # the error to report when nothing is held

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The SSLObject, for queries: certificates, version, cipher, ALPN.

        Use it in callbacks only. In other threads it may be in the middle of a read. Some queries
        then return None or raise ValueError.
        """
        return self._ssl

    # ---- called on the strand

    def start(self) -> None:
        """Start the handshake on the client side. The server waits for the client."""
        if not self._ssl.server_side:
            self.receive(b"")

    def receive(self, data: bytes, /) -> bytes:
        """Take bytes from the socket and return the decrypted application data."""
        with self._lock:
            if self.peer_ended or self._dead:
                return b""
            self._incoming.write(data)
            self._busy = True
            try:
                if not (self._established or self._shake_hands()):
                    return b""
                plain = self._decrypt()
                # After close() the data is dropped, but close_notify may still be waiting.
                return b"" if self._closing and self._conn.closing else plain
            except Exception:
                self._give_up()
                raise
            finally:
                self._busy = False
                # Reading can produce output too: handshake messages, alerts, key updates.
                self._flush()
                self._pump()

    def eof(self) -> bool:
        """The socket's stream has ended. Raises SSLEOFError if it was truncated.

        Returns True if it was truncated but accepted data must be sent first. The error is then
        reported after that data and our close_notify.
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
            # Do not pass the EOF to the SSLObject: it would refuse to encrypt after that, and the
            # error that it raises depends on the OpenSSL version.
            error = _eof_error("the peer ended the connection without TLS's close_notify")
            if self._spent:
                raise error
            self._truncated = error
            self._closing = True
            self._pump()
            return True

    def room(self) -> None:
        """The socket's queue has room: continue writing what is held."""
        with self._lock:
            self._pump()

    # ---- called by any thread

    def send(self, data: Data, /) -> bool:
        """Encrypt and write the buffers as one unit. Returns False if it is closing or dead."""
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
        """Send part of a file, reading it as fast as the socket takes it.

        `file` is a file object, a descriptor, or on Windows a handle. The caller may close it
        after this returns. If the file is shorter than requested, less is sent. Returns False if
        the stage is closing or dead.
        """
        with self._lock:
            if self._closing or self._spent:
                return False
            self._held.append(_FilePart(file, offset, count))
            if len(self._held) == 1:  # otherwise the items before it will trigger the writing
                self._pump()
            return not self._spent

    def close(self) -> bool:
        """Send close_notify after everything accepted so far, and accept no more data.

        Returns True if that is not done yet; ``_finish()`` is called later.
        """
        with self._lock:
            if self._truncated is not None:
                self._finishes = True
            if self._closing or self._spent:
                return self._finishes
            self._closing = True
            if not self._established and self._conn.closing:
                self._give_up()  # the handshake is not worth finishing
            else:
                self._pump()
            self._finishes = not self._spent
            return self._finishes

    # ---- must be called with the lock held

    def _shake_hands(self) -> bool:
        """Continue the handshake. Returns whether it is complete."""
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
                    break  # an SSLWantReadError for every receive would be slow
            else:
                self.peer_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.peer_ended = True
        except ssl.SSLError as error:
            if not parts:
                raise
            # The data before the error is authentic: deliver it first, then fail.
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
        """Write held data in order as far as possible now, then close_notify if closing."""
        if self._busy:
            self._late = True
        elif self._established and not self._spent:
            self._use(self._write_held)

    def _use(self, function: Callable[[], object]) -> None:
        """Call a function that sends through the SSLObject. An error ends the connection."""
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
            # close_notify waits as well: it could exceed the limit of the write buffer.
            if not turn or self._conn.pending_bytes > AHEAD:
                self._conn._ask_for_room()
                return
            if not self._held:
                self._send_close_notify()
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
        """Encrypt and write data as one unit. Returns whether all of it was written.

        The rest is put back to the front of what is held.
        """
        view = memoryview(plain)
        pieces: list[bytes] = []
        done = 0
        try:
            while done < len(plain):
                done += self._ssl.write(view[done : done + PIECE])
                pieces.append(self._outgoing.read())
        except ssl.SSLWantReadError:  # the peer has requested a renegotiation (TLS 1.2)
            pieces.append(self._outgoing.read())
            self._held.appendleft(plain[done:])
            self.pending_bytes += len(plain) - done
        if pieces and not self._conn._write(pieces if len(pieces) > 1 else pieces[0]):
            self._give_up()
        if done < len(plain) and self._truncated is not None:
            raise self._truncated  # the stream has ended, so that handshake cannot complete
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

    def _send_close_notify(self) -> None:
        # unwrap() sends close_notify. It raises if the peer's has not arrived: not an error here.
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
        """Stop all encryption and decryption after an error, and drop what is held."""
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
    """Part of a file that is being sent. Owns a duplicate of the descriptor."""

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
        """Read the next bytes. Returns b"" at the end."""
        try:
            data = _read_at(self._descriptor, min(nbytes, self._left), self._offset)
        except OSError:  # the offset may be beyond what a file can have: that is the end
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

    __del__ = close  # a connection may end while the file is being sent


if sys.platform == "win32":
    # Duplicates of a handle share one file position, and so do connections that send the same
    # file. Seeking and reading must be one step.
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
