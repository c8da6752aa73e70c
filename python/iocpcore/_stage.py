"""The interface between a connection and its stage: TLS or the PROXY protocol.

A stage sits between a connection's raw bytes and its callbacks. A connection has at most one stage
at a time. The two protocols below are all that either side uses of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from iocpcore._core import Connection


class Link(Protocol):
    """The part of a connection that stages use.

    None of the private methods calls Python, so a stage may call them with its lock held.
    """

    @property
    def closing(self) -> bool: ...
    @property
    def peername(self) -> Any: ...
    @property
    def pending_bytes(self) -> int: ...

    def _write(self, data: bytes | list[bytes], /) -> bool:
        """Queues bytes for the socket. Returns False, and takes nothing, if the connection ends."""

    def _ask_for_room(self) -> None:
        """Requests one call of ``room()`` once at most ``write_low`` bytes are queued."""

    def _established(self) -> None:
        """Announces the connection to its user: on_connect, then data. Call on the strand."""

    def _fail(self, error: BaseException, /) -> None:
        """Ends the connection with this error after everything queued has been sent."""

    def _run(self, function: Callable[[], object], /) -> None:
        """Schedules a function on the strand. It is dropped if the connection is closing."""

    def _finish(self) -> None:
        """Everything the stage had to write after close() is queued: the stream may now end."""

    def _set_stage(self, stage: Stage | None, /) -> None:
        """Replaces this stage by another one or none. Call on the strand."""

    def _set_peername(self, address: object, /) -> None:
        """Changes what ``peername`` returns."""


class Stage(Protocol):
    """What every stage has. The connection calls it on the strand, one call at a time.

    A stage may also have the following members. If one is missing, the connection behaves as it
    does without a stage.

    * ``send(data)``, any thread: sends the buffers as one unit. Returns whether they were accepted.
    * ``send_file(file, offset, count)``, any thread: sends part of a file. Returns whether it was
      accepted.
    * ``close()``, any thread, once: the connection accepts no more data and the stream will end.
      Returns True if the stage still has something to write. It then calls ``_finish()`` when
      done, and ``receive`` and ``room`` continue to be called until then.
    * ``room()``, on the strand: the answer to ``_ask_for_room()``.
    * ``ssl_object``: the value of the connection's attribute of that name.
    """

    @property
    def peer_ended(self) -> bool:
        """Whether the peer has ended its application stream. The raw stream may still be open."""

    def start(self) -> None:
        """Called first, but only on the stage a connection begins with, not on a later one."""

    def receive(self, data: bytes, /) -> bytes:
        """Takes raw bytes and returns application bytes. An exception ends the connection."""

    def eof(self) -> bool | None:
        """Called when the raw stream has ended. Raises if it must not end here.

        Returns True if that was an error too, but the stage first sends what it has accepted and
        ends the connection itself. Any other result means a proper end.
        """


StageFactory: TypeAlias = Callable[[Link], Stage | None]
Data: TypeAlias = Sequence[bytes | bytearray | memoryview]

if TYPE_CHECKING:

    def _as_link(connection: Connection) -> Link:
        """Makes the type checker compare the stub of Connection with Link."""
        return connection
