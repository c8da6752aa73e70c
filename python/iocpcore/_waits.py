"""Logs when waiting for completions fails for lack of resources, and when it recovers."""

from __future__ import annotations

import logging

logger = logging.getLogger("iocpcore")


def changed(error: OSError | None) -> None:
    """Called when waits on a port begin to fail, and with None when none has failed for a while.

    The core retries after a pause, so no completion is lost. May be called from any thread.
    """
    if error is None:
        logger.warning("waiting for completions goes on")
    else:
        logger.warning("waiting for completions fails, and is tried again: %s", error)
