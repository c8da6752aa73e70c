"""The protocol of framings that are written in Python.

LengthPrefixed, Delimited and FixedSize are built in; this is for everything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Framer(Protocol):
    """How one connection's stream of bytes is cut into messages.

    It keeps the beginning of a message that is not complete yet, so every connection needs an
    instance of its own. ``feed`` is only called by that connection's callbacks, which never
    overlap; ``encode`` by whatever threads send, so it must not depend on what ``feed`` changes.
    """

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Takes what was received (1 byte or more) and gives the messages that it completes.

        Raises FramingError if the stream is malformed or a message too large, and no later than
        when it holds as much as it is willing to: nobody else limits it. An iterable that is a
        generator may yield messages first, and then raise.
        """

    def encode(self, message: bytes) -> bytes:
        """The bytes to send for a message. Raises FramingError if there are none."""
