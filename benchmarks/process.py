"""Server processes: started fresh, pinned, ended; what the kernel knows of them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import tempfile
from pathlib import Path

from iocpcore._bench.processes import LineProcess

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0


class StartError(Exception):
    """The server did not come up; the text says why."""


def pin(cores: set[int] | None) -> None:
    """This process, and what it starts."""
    if cores:
        os.sched_setaffinity(0, cores)


class Server(LineProcess):
    """A context manager: a running server that has said where it listens. Raises StartError."""

    def __init__(self, command: list[str], cores: set[int] | None) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        super().__init__(command, cores, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=self.errors)
        try:
            self.address = self.said("listening on ")
            self.runs_on = self.said("runs on ") if "-m" in command else ""
        except BaseException:
            self.__exit__()
            raise

    def said(self, begin: str) -> str:
        """The rest of the next line, which must begin so."""
        try:
            line = self.line(START_SECONDS)
        except queue.Empty:
            line = ""
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

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.errors.close()
