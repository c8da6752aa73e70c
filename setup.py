"""Builds the extension module ``iocpcore._core``. Everything else is in pyproject.toml.

Environment variables:

``IOCPCORE_DEBUG=1``
    no optimisation, debug information, assertions on (core/assert.h)
``IOCPCORE_SANITIZE=address,undefined`` or ``thread``
    the compiler's sanitizers, assertions on (gcc, clang)
``IOCPCORE_WERROR=1``
    warnings in our code are errors (gcc, clang)
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCES = Path("src/iocp_ext")

# Each platform compiles these folders of backends/ and its own one. The simulator is in every
# wheel because users test their programs with it. Only its folder and py/port/sim_api.c refer to
# it.
BACKENDS_FOR_ALL = ("sim",)
PLATFORMS = {"win32": "windows", "linux": "linux"}

WINDOWS_LIBRARIES = ["ws2_32", "mswsock", "ntdll"]

WARNINGS = [
    "-Werror",
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wno-missing-field-initializers",  # clang's -Wextra warns about {NULL}
]


def sources(platform: str) -> list[str]:
    """The C files for "linux" or "windows": sorted paths, relative to the project."""
    found = [*_glob("core/*.c"), *_glob("net/*.c"), *_glob("py/**/*.c")]
    for folder in (*BACKENDS_FOR_ALL, platform):
        found += _glob(f"backends/{folder}/*.c")
    return sorted(path.as_posix() for path in found)


def headers() -> list[str]:
    return sorted(path.as_posix() for path in _glob("**/*.h"))


def _glob(pattern: str) -> list[Path]:
    return [path.relative_to(ROOT) for path in (ROOT / SOURCES).glob(pattern)]


def _switch(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


DEBUG = _switch("IOCPCORE_DEBUG")
SANITIZE = os.environ.get("IOCPCORE_SANITIZE", "")
WERROR = _switch("IOCPCORE_WERROR")


# For gcc and clang. tests/windows/build.py uses these too.
DEBUG_FLAGS = ["-O0", "-g", "-UNDEBUG", "-DIOCPCORE_DEBUG"]


def variant() -> str:
    """A name for this combination of switches, so that different builds share no files."""
    parts = ["debug"] * DEBUG + ["werror"] * WERROR + SANITIZE.replace(",", " ").split()
    if "CC" in os.environ:
        parts.append(Path(os.environ["CC"].split()[0]).name)
    return "-".join(parts)


def unix_flags() -> tuple[list[str], list[str]]:
    """Compiler and linker flags for gcc and clang."""
    compile_args = ["-std=c11", "-fvisibility=hidden", "-pthread"]
    link_args = ["-pthread"]
    # -isystem: no warnings from the interpreter's headers.
    for name in ("include", "platinclude"):
        flag = "-isystem" + sysconfig.get_path(name)
        if flag not in compile_args:
            compile_args.append(flag)
    if DEBUG:
        compile_args += DEBUG_FLAGS
    if SANITIZE:
        sanitizers = f"-fsanitize={SANITIZE}"
        if not DEBUG:
            compile_args += ["-O1", "-g", "-UNDEBUG", "-DIO_ASSERTIONS"]
        compile_args += [sanitizers, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
        link_args.append(sanitizers)
    if WERROR:
        compile_args += WARNINGS
    return compile_args, link_args


def msvc_flags() -> tuple[list[str], list[str]]:
    compile_args = ["/std:c11", "/experimental:c11atomics", "/utf-8"]
    if DEBUG:
        compile_args += ["/Od", "/Zi", "/UNDEBUG", "/DIOCPCORE_DEBUG"]
    return compile_args, ["/DEBUG"] if DEBUG else []


class Build(build):
    def initialize_options(self) -> None:
        super().initialize_options()
        if variant():
            self.build_base = os.path.join(self.build_base, variant())


class BuildExt(build_ext):
    def build_extensions(self) -> None:
        msvc = self.compiler.compiler_type == "msvc"
        compile_args, link_args = msvc_flags() if msvc else unix_flags()
        for extension in self.extensions:
            extension.extra_compile_args += compile_args
            extension.extra_link_args += link_args
        super().build_extensions()


def extension() -> Extension:
    platform = PLATFORMS.get(sys.platform)
    if platform is None:
        raise SystemExit(f"iocpcore has no backend for {sys.platform}, only for {[*PLATFORMS]}")
    windows = platform == "windows"
    macros: list[tuple[str, str | None]] = []
    if windows:
        macros.append(("_WIN32_WINNT", "0x0A00"))
        # On Windows pyconfig.h does not define this; the build of the extension must.
        if sysconfig.get_config_var("Py_GIL_DISABLED"):
            macros.append(("Py_GIL_DISABLED", "1"))
    else:
        # -std=c11 hides all declarations that are not ISO C.
        macros.append(("_GNU_SOURCE", "1"))
    return Extension(
        "iocpcore._core",
        sources=sources(platform),
        depends=headers(),
        include_dirs=[SOURCES.as_posix()],
        define_macros=macros,
        libraries=WINDOWS_LIBRARIES if windows else [],
    )


if __name__ == "__main__":
    setup(ext_modules=[extension()], cmdclass={"build": Build, "build_ext": BuildExt})
