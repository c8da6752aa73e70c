"""Wine 10 beside the libraries of a Debian 12 host, and its prefix.

bookworm's own Wine 8 gets the completion ports wrong in many places (no ERROR_ABANDONED_WAIT_0,
waiters released in the wrong order, cancelling nothing succeeds), and no backport exists. The
packages of the next release, with the few libraries they need, run without a chroot once their
two programs are told to use those libraries instead of the host's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from debian import Release
from layout import PREFIX, WINE, is_complete, mark_complete, run, say, write_script

RECIPE = "wine 1"
SUITE = "trixie"
PACKAGES = ("libwine", "wine64", "libc6", "libunwind8", "liblzma5", "libgcc-s1", "libz-mingw-w64")

LIBRARIES = WINE / "usr/lib/x86_64-linux-gnu"
PROGRAMS = WINE / "usr/lib/wine"
WINDOWS_DLLS = LIBRARIES / "wine/x86_64-windows"

# The desktop, the menus, .NET and the browser are of no use here, and asking for them is slow.
SCRIPT = """\
#!/bin/sh
export WINEPREFIX="${{WINEPREFIX:-{prefix}}}" WINEDEBUG="${{WINEDEBUG--all}}"
export WINEDLLOVERRIDES="${{WINEDLLOVERRIDES-mscoree,mshtml,winemenubuilder.exe,explorer.exe=}}"
exec "{program}" "$@"
"""


def install() -> None:
    if not is_complete(WINE, RECIPE):
        say("Wine: downloading and unpacking")
        stop_server()
        shutil.rmtree(WINE, ignore_errors=True)
        WINE.mkdir(parents=True)
        Release(SUITE).unpack(PACKAGES, WINE)
        _use_own_libraries()
        _make_zlib_builtin()
        _slim()
        write_script(WINE / "wine", SCRIPT.format(prefix=PREFIX, program=PROGRAMS / "wine64"))
        write_script(
            WINE / "wineserver", SCRIPT.format(prefix=PREFIX, program=PROGRAMS / "wineserver64")
        )
        mark_complete(WINE, RECIPE)
    if not is_complete(PREFIX, RECIPE):
        say("Wine: making the prefix")
        shutil.rmtree(PREFIX, ignore_errors=True)
        run(WINE / "wine", "wineboot", "--init", env=environment(PREFIX))
        subprocess.run([WINE / "wineserver", "--wait"], env=environment(PREFIX), check=True)
        # wineboot copied the system's DLLs into the prefix.
        run("hardlink", "--quiet", "--ignore-time", WINE, PREFIX)
        mark_complete(PREFIX, RECIPE)


def environment(prefix: Path) -> dict[str, str]:
    return {**os.environ, "WINEPREFIX": str(prefix)}


def stop_server(prefix: Path = PREFIX) -> None:
    """End every process of one prefix, and only those."""
    if (WINE / "wineserver").exists():
        command = [str(WINE / "wineserver"), "--kill"]
        subprocess.run(command, env=environment(prefix), capture_output=True)


def clone_prefix(target: Path) -> None:
    """A prefix of its own for one test run: its server, its registry, its temporary files.

    The system files are most of it and are only read, so they are shared as hard links.
    """
    target.mkdir(parents=True)
    files = [item for item in PREFIX.iterdir() if item.name != "drive_c"]
    files += [item for item in (PREFIX / "drive_c").iterdir() if item.name != "windows"]
    (target / "drive_c").mkdir()
    for item in files:
        run("cp", "--archive", item, target / item.relative_to(PREFIX))
    run("cp", "--archive", "--link", PREFIX / "drive_c/windows", target / "drive_c")


def _use_own_libraries() -> None:
    loader = LIBRARIES / "ld-linux-x86-64.so.2"
    for name in ("wine64", "wineserver64"):
        program = PROGRAMS / name
        run("patchelf", "--set-interpreter", loader, program)
        run("patchelf", "--force-rpath", "--set-rpath", LIBRARIES, program)
    # wine64 starts what has this name beside itself; the package's script would find the host's.
    (PROGRAMS / "wineserver").unlink(missing_ok=True)
    (PROGRAMS / "wineserver").symlink_to("wineserver64")
    # wineserver looks for its tables in share/wine/wine.
    (WINE / "usr/share/wine/wine").symlink_to(".")


def _make_zlib_builtin() -> None:
    """What the package's install script does: Wine loads zlib1.dll only if it has this stamp.

    Without it user32 does not load, and with it crypt32 and Python's _ssl.
    """
    data = bytearray((WINE / "usr/x86_64-w64-mingw32/lib/zlib1.dll").read_bytes())
    data[64:96] = b"Wine builtin DLL".ljust(32, b"\0")
    (WINDOWS_DLLS / "zlib1.dll").write_bytes(data)


def _slim() -> None:
    """Remove debug information and what is not used: 700 MB become 250."""
    suffixes = {".dll", ".exe", ".drv", ".sys", ".ocx", ".cpl", ".acm", ".ax"}
    images = [item for item in WINDOWS_DLLS.iterdir() if item.suffix in suffixes]
    run("x86_64-w64-mingw32-strip", "-g", *images)
    for name in ("doc", "lintian", "bug", "locale"):
        shutil.rmtree(WINE / "usr/share" / name, ignore_errors=True)
    shutil.rmtree(LIBRARIES / "gconv", ignore_errors=True)
    for folder in (WINE / "usr").glob("*-w64-mingw32*"):
        shutil.rmtree(folder)
