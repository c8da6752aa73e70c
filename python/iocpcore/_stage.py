"""What may stand between a connection's raw bytes and its callbacks: TLS, and the PROXY protocol.

A connection has at most one stage at a time. Each of the two needs little of the other, and this
is all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from iocpcore._core import Connection


class Link(Protocol):
    """The part of a connection that stages use.

    None of the private methods calls Python, so that a stage may hold its lock around them.
    """

    @property
    def closing(self) -> bool: ...
    @property
    def peername(self) -> Any: ...
    @property
    def pending_bytes(self) -> int: ...

    def _write(self, data: bytes | list[bytes], /) -> bool:
        """Queues bytes for the socket. False: the connection is ending, nothing is taken."""

    def _ask_for_room(self) -> None:
        """Has ``room()`` called, once, when no more than ``write_low`` bytes are queued."""

    def _established(self) -> None:
        """Now the connection exists for its user: on_connect, and then data. On the strand."""

    def _fail(self, error: BaseException, /) -> None:
        """Ends the connection with this error, after what is queued."""

    def _run(self, function: Callable[[], object], /) -> None:
        """Calls the function on the strand, soon. Not on a connection that is closing."""

    def _finish(self) -> None:
        """What the stage had to write after close() is queued: the stream may end behind it."""

    def _set_stage(self, stage: Stage | None, /) -> None:
        """Puts another stage, or none, into this one's place. On the strand."""

    def _set_peername(self, address: object, /) -> None:
        """What ``peername`` says from now on."""


class Stage(Protocol):
    """What every stage has. All of this is called on the strand, one call at a time.

    A stage may also have the following. Where it lacks one of the methods, the connection does
    what it does without a stage.

    * ``send(data)``, any thread: the buffers of one send, which are to go out as one. Whether they
      were accepted.
    * ``send_file(file, offset, count)``, any thread: the same for a part of a file.
    * ``close()``, any thread, once: the connection accepts nothing more, and the stream will end.
      True: the stage still has something to write, and calls ``_finish()`` then. Until that,
      ``receive`` and ``room`` go on.
    * ``room()``, on the strand: the answer to ``_ask_for_room()``.
    * ``ssl_object``: what the connection gives by this name.
    """

    @property
    def peer_ended(self) -> bool:
        """The peer has ended its stream of application bytes, perhaps not yet the raw one."""

    def start(self) -> None:
        """Comes first. Only for a stage that begins the connection, not for one set later."""

    def receive(self, data: bytes, /) -> bytes:
        """Takes raw bytes and gives application bytes. What it raises ends the connection."""

    def eof(self) -> bool | None:
        """The raw stream has ended. If this raises nothing, that was its proper end. True: it was
        not, and the stage ends the connection when it has sent what was accepted."""


StageFactory: TypeAlias = Callable[[Link], Stage | None]
Data: TypeAlias = Sequence[bytes | bytearray | memoryview]

if TYPE_CHECKING:

    def _as_link(connection: Connection) -> Link:
        """Holds the stub of Connection against Link."""
        return connection
