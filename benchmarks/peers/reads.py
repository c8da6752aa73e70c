"""Random reads of a file with asyncio: `python -m benchmarks.peers.reads`. asyncio has no reads of
files; users take its threads or aiofiles, which has threads too."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from benchmarks import reading


async def by_threads(reads: reading.Reads, options: Any, buffer: memoryview) -> None:
    while True:
        count = await asyncio.to_thread(os.preadv, reads.file, [buffer], reads.offset())
        if reads.done(count):
            return


async def by_aiofiles(reads: reading.Reads, options: Any, buffer: memoryview) -> None:
    import aiofiles

    async with aiofiles.open(options.file, "rb", buffering=0) as file:
        while True:
            await file.seek(reads.offset())
            if reads.done(len(await file.read(reading.BYTES))):
                return


KINDS = {"threads": by_threads, "aiofiles": by_aiofiles}


async def main(options: Any) -> None:
    with reading.measured(options, f"{options.kind}, {type(asyncio.get_running_loop())}") as reads:
        work = KINDS[options.kind]
        await asyncio.gather(*(work(reads, options, buffer) for buffer in reading.buffers()))


if __name__ == "__main__":
    asyncio.run(main(reading.arguments(list(KINDS))))
