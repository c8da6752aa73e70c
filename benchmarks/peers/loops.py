"""The asyncio loops to compare with, by name."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable

LOOPS = {
    "asyncio": "asyncio",
    "proactor": "asyncio:ProactorEventLoop",
    "uvloop": "uvloop",
    "winloop": "winloop",
    "rloop": "rloop",
}


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes loops of this name; what is not installed raises ImportError."""
    module, _, function = LOOPS[name].partition(":")
    made: Callable[[], asyncio.AbstractEventLoop] = getattr(
        importlib.import_module(module), function or "new_event_loop"
    )
    return made
