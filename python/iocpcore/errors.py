"""The exceptions of this package."""

from __future__ import annotations


class InvalidStateError(RuntimeError):
    """The result of an operation was requested before the operation was done."""


class FramingError(ValueError):
    """A message is too large for its framing, is malformed, or was cut off by the stream's end."""


class ProxyProtocolError(ValueError):
    """A PROXY protocol header is malformed, missing, or from a peer that is not trusted."""


class SlowReaderError(ConnectionError):
    """More than ``max_write_buffer`` bytes were waiting because the peer did not read them."""
