"""The exceptions of this package."""

from __future__ import annotations


class InvalidStateError(RuntimeError):
    """The result of an operation was asked for before the operation was done."""


class FramingError(ValueError):
    """A message is too large for its framing, or malformed, or the stream ended within it."""


class ProxyProtocolError(ValueError):
    """A PROXY protocol header that is malformed, missing, or not to be believed."""


class SlowReaderError(ConnectionError):
    """More than ``max_write_buffer`` bytes waited to be sent, since the peer did not read them."""
