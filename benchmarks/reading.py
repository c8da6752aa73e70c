"""What the programs of the file cells share. They serve nobody: each reads at random for a while
and prints what it measured of itself, in the same form as the C program of limit/reads.c."""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

DEPTH = 32
BYTES = 4096


def arguments(kinds: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("file")
    parser.add_argument("seconds", type=float)
    parser.add_argument("cache", choices=["cached", "direct"])
    return parser.parse_args()


class Reads:
    """Counts reads, and says where to read next and whether to go on."""

    def __init__(self, options: argparse.Namespace) -> None:
        flags = os.O_DIRECT if options.cache == "direct" else 0
        self.file = os.open(options.file, os.O_RDONLY | flags)
        self.blocks = os.fstat(self.file).st_size // BYTES
        self.random = random.Random(1).random
        self.count = 0
        self.end: float = time.monotonic() + options.seconds

    def offset(self) -> int:
        return int(self.random() * self.blocks) * BYTES

    def done(self, count: int) -> bool:
        """One more has ended; whether that was the last."""
        if count != BYTES:
            raise ValueError(f"a read of {count} bytes")
        self.count += 1
        return time.monotonic() > self.end


def buffers() -> list[memoryview]:
    """Aligned ones, as reading past the page cache needs them."""
    memory = memoryview(mmap.mmap(-1, DEPTH * BYTES))
    return [memory[begin : begin + BYTES] for begin in range(0, len(memory), BYTES)]


@contextmanager
def measured(options: argparse.Namespace, runs_on: str) -> Iterator[Reads]:
    print(f"runs on {runs_on}, Python {sys.version.split()[0]}", file=sys.stderr)
    reads = Reads(options)
    begun, cpu = time.perf_counter(), time.process_time()
    yield reads
    cpu = time.process_time() - cpu
    rate = reads.count / (time.perf_counter() - begun)
    figures = {"messages": reads.count, "rate": rate, "cpu_us": cpu / reads.count * 1e6}
    print(json.dumps(figures))
