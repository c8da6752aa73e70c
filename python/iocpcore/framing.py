"""The protocol for framings written in Python.

LengthPrefixed, Delimited and FixedSize are built in. Any other format needs a Framer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Framer(Protocol):
    """Cuts the byte stream of one connection into messages.

    A framer keeps the start of an incomplete message, so every connection needs its own instance.
    ``feed`` is called only from that connection's callbacks, which never overlap. ``encode`` is
    called by any thread that sends, so it must not depend on state that ``feed`` changes.
    """

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Takes received bytes (at least 1) and returns the messages that they complete.

        Raises FramingError if the stream is malformed or a message is too large. The framer must
        limit how much it buffers: nothing else does. If it returns a generator, that may yield
        messages before it raises.
        """

    def encode(self, message: bytes) -> bytes:
        """Returns the bytes to send for a message. Raises FramingError if it has no encoding."""
