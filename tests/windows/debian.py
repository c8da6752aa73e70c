"""Packages of any Debian release, unpacked without touching the host's own package state."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from layout import DOWNLOADS, die, run, run_with_retries

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@cache
def mirror() -> str:
    """The mirror that this machine's own apt uses: it is known to be reachable and trusted."""
    chosen = os.environ.get("IOCPCORE_DEBIAN_MIRROR")
    if chosen:
        return chosen
    files = [*Path("/etc/apt/sources.list.d").glob("*"), Path("/etc/apt/sources.list")]
    for file in files:
        if file.suffix not in {".sources", ".list"} or not file.is_file():
            continue
        # "URIs: http://…/debian" and "deb [options] http://…/debian suite main" alike
        line = r"^(?:URIs:|deb\s)[^#\n]*?(\S+://\S+/debian)/?(?:\s|$)"
        found = re.search(line, file.read_text(), re.MULTILINE)
        if found:
            return found[1]
    die("no Debian mirror in the apt sources; set IOCPCORE_DEBIAN_MIRROR")


class Release:
    """One release, with package lists and cache of its own."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.home = DOWNLOADS / "debian" / suite
        self._has_lists = False

    def unpack(self, packages: Iterable[str], target: Path) -> None:
        """Download binary packages and unpack them below target, running none of their scripts."""
        folder = self.home / "debs"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = list(packages)
        missing = [name for name in wanted if not list(folder.glob(f"{name}_*.deb"))]
        if missing:
            self._apt("download", *missing, cwd=folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            run("dpkg-deb", "-x", next(folder.glob(f"{name}_*.deb")), target)

    def source_archive(self, package: str) -> Path:
        """Download a source package; return its original archive."""
        folder = self.home / "sources"
        folder.mkdir(parents=True, exist_ok=True)
        pattern = f"{package}_*.orig.tar.*z"
        if not list(folder.glob(pattern)):
            self._apt("source", "--download-only", package, cwd=folder)
        return next(folder.glob(pattern))

    def _apt(self, *arguments: str, cwd: Path) -> None:
        if not self._has_lists:
            for name in ("lists/partial", "cache/archives/partial"):
                (self.home / name).mkdir(parents=True, exist_ok=True)
            (self.home / "status").touch()
            line = f"[signed-by={KEYRING}] {mirror()} {self.suite} main\n"
            (self.home / "sources.list").write_text(f"deb {line}deb-src {line}")
            run_with_retries(*self._command("update"))
            self._has_lists = True
        run_with_retries(*self._command(*arguments), cwd=cwd)

    def _command(self, *arguments: str) -> list[str]:
        settings = {
            "Dir::Etc::sourcelist": self.home / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": self.home / "lists",
            "Dir::State::status": self.home / "status",
            "Dir::Cache": self.home / "cache",
            # The unprivileged user that apt downloads with cannot write below a home folder.
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        return ["apt-get", "-qq", *options, *arguments]
