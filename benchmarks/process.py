"""Server processes: started fresh, pinned, ended; what the kernel knows of them."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0
STOP_SECONDS = 5.0


class StartError(Exception):
    """The server did not come up; the text says why."""


def pin(cores: set[int] | None) -> None:
    if cores:
        os.sched_setaffinity(0, cores)


class Server:
    """A context manager: a running server that has said where it listens."""

    def __init__(self, command: list[str], cores: set[int] | None) -> None:
        self.command = command
        self.cores = cores
        self.address = ""
        self.runs_on = ""

    def __enter__(self) -> Server:
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            preexec_fn=lambda: pin(self.cores),
        )
        try:
            self.address = self.said("listening on ")
            if "-m" in self.command:
                self.runs_on = self.said("runs on ")
        except BaseException:
            self.__exit__()
            raise
        return self

    def said(self, begin: str) -> str:
        """The rest of the next line, which must begin so."""
        assert self.process.stdout is not None
        line = read_line(self.process.stdout.fileno(), START_SECONDS)
        if not line.startswith(begin):
            raise StartError(self.complaint() or f"said {line!r}")
        return line.removeprefix(begin).strip()

    def complaint(self) -> str:
        """The last line of its stderr. A server that is ending may still be writing it."""
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            pass
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1] if lines else ""

    def pss(self) -> int:
        """Bytes of memory, shared ones divided by those who share them."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        (line,) = [line for line in text.splitlines() if line.startswith("Pss:")]
        return int(line.split()[1]) * 1024

    def __exit__(self, *unused: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()


def read_line(fd: int, seconds: float) -> str:
    """One line, byte by byte so that nothing after it is taken; what there is at the deadline."""
    line = b""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(deadline - time.monotonic()):
            byte = os.read(fd, 1)
            if not byte:
                break
            line += byte
    return line.decode()
