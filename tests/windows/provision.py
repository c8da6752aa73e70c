"""Put Wine, the Windows Pythons and the commands wine, wpy and wcc in place (see README.md).

What is complete is left alone, so that running this again costs next to nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pythons
import wine
from layout import (
    ABIS,
    COMPILE_FLAGS,
    DOWNLOADS,
    FREE_THREADED_FLAG,
    GCC,
    LIBRARIES,
    PYTHONS,
    SPECS,
    WIN,
    WINE,
    CommandFailed,
    check_abis,
    die,
    write_script,
)

WINE_SCRIPT = f"""\
#!/bin/bash
# wine EXE ARGS...: run a Windows program. WINCPU=N pins it, and the server it starts, to a CPU.
exec ${{WINCPU:+taskset -c "$WINCPU"}} "{WINE}/wine" "$@"
"""

# Byte code goes beside the toolchain, whatever the host's settings are: in the checkout a Windows
# and a Linux Python of one minor version would overwrite each other's files.
WPY_SCRIPT = f"""\
#!/bin/bash
# wpy ABI ARGS...: a Windows Python. WINCPU=N as for wine.
set -eu
abi=$1
shift
unset PYTHONHOME PYTHONDONTWRITEBYTECODE
export PYTHONNOUSERSITE=1 PYTHONPYCACHEPREFIX="Z:{WIN}/pycache/$abi"
exec "{WIN}/wine" "{PYTHONS}/$abi/python.exe" "$@"
"""

WCC_SCRIPT = f"""\
#!/bin/bash
# wcc ABI OUT SOURCES-AND-FLAGS...: compile for Windows. OUT says what is made: NAME.pyd an
# extension module for that ABI, NAME.exe a program (ABI may be -), NAME.o an object file.
set -eu
abi=$1 out=$2
shift 2
flags=({" ".join(COMPILE_FLAGS)})
if [ "$abi" != - ]; then
    home="{PYTHONS}/$abi"
    flags+=(-isystem "$home/Include")
    [ "${{abi%t}}" = "$abi" ] || flags+=({FREE_THREADED_FLAG})
fi
case $out in
*.o) exec {GCC} "${{flags[@]}}" -c "$@" -o "$out" ;;
*.exe) made=() ;;
*) made=(-shared "$home/python${{abi#cp}}.dll") ;;
esac
exec {GCC} "${{flags[@]}}" "$@" "${{made[@]}}" {" ".join(LIBRARIES)} -o "$out"
"""


def provision(abis: Sequence[str]) -> None:
    WIN.mkdir(parents=True, exist_ok=True)
    with _only_one():
        wine.install()
        for abi in abis:
            pythons.install(abi)
            pythons.install_packages(abi)
        _write_specs()
        write_script(WIN / "wine", WINE_SCRIPT)
        write_script(WIN / "wpy", WPY_SCRIPT)
        write_script(WIN / "wcc", WCC_SCRIPT)
        (WIN / "READY").touch()
        # Hundreds of megabytes that are of no further use; what failed half-way stays for a retry.
        shutil.rmtree(DOWNLOADS, ignore_errors=True)


@contextmanager
def _only_one() -> Iterator[None]:
    with (WIN / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_specs() -> None:
    """Make mingw link with the Universal CRT, as the Pythons do, instead of the old msvcrt.

    Two C runtimes in one process would each have their own errno, streams and descriptors.
    """
    asked = subprocess.run([GCC, "-dumpspecs"], check=True, capture_output=True, text=True)
    temporary = Path(f"{SPECS}.{os.getpid()}")
    temporary.write_text(re.sub(r"-lmsvcrt\b", "-lucrt", asked.stdout))
    temporary.replace(SPECS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("abi", nargs="*", help=f"default: {' '.join(ABIS)}")
    abis = parser.parse_args().abi or list(ABIS)
    check_abis(abis)
    try:
        provision(abis)
    except CommandFailed as failure:
        die(str(failure))
    print(f"ready: {WIN}", file=sys.stderr)


if __name__ == "__main__":
    main()
