#!/bin/bash
# setup.sh [ABI...]: everything that the Windows tests need, on a Debian 12 machine.
# Installs what the host lacks by apt (as root), then puts the rest below the cache folder.
set -euo pipefail
here=$(dirname "$(realpath "$0")")

# command:package
needed=(
    x86_64-w64-mingw32-gcc:gcc-mingw-w64-x86-64-win32
    patchelf:patchelf
    xz:xz-utils
    taskset:util-linux
    python3:python3
)
missing=()
for pair in "${needed[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
has_modules() {
    python3 -c 'import importlib.util as u; exit(not (u.find_spec("pip") and u.find_spec("setuptools")))'
}
has_modules 2>/dev/null || missing+=(python3-pip python3-setuptools)
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)

if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || { echo "setup.sh: needs Debian; missing: ${missing[*]}" >&2; exit 1; }
    [ "$(id -u)" = 0 ] || { echo "setup.sh: as root, first: apt-get install ${missing[*]}" >&2; exit 1; }
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o Acquire::Retries=3 update
    apt-get -qq -o Acquire::Retries=3 install -y --no-install-recommends "${missing[@]}" >/dev/null
fi

# The packages are those of Debian's own Python, which need not be the one first on PATH.
has_modules || { echo "setup.sh: $(command -v python3) lacks pip or setuptools" >&2; exit 1; }

exec python3 "$here/provision.py" "$@"
