"""What the log is told of waits for completions that fail for want of something."""

from __future__ import annotations

import logging

logger = logging.getLogger("iocpcore")


def changed(error: OSError | None) -> None:
    """Waits on a port have begun to fail; or (None) none has failed for a while. Any thread.

    The core waits again after a pause, so nothing is lost meanwhile.
    """
    if error is None:
        logger.warning("waiting for completions goes on")
    else:
        logger.warning("waiting for completions fails, and is tried again: %s", error)
