# Helpers of .ci/run, .ci/rows and .ci/roots; to be sourced.
# shellcheck shell=bash

CACHE="${IOCPCORE_CACHE:-$HOME/.cache/iocpcore}"
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

export DEBIAN_FRONTEND=noninteractive
export PIP_CACHE_DIR="${PIP_CACHE_DIR:-$CACHE/pip}"
export PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_NO_INPUT=1
export PIP_RETRIES=10
# An older wheel rather than a newer source package that needs other compilers.
export PIP_PREFER_BINARY=1
export PIP_ROOT_USER_ACTION=ignore

say() {
    printf '== %s\n' "$*"
}

# install_packages PACKAGE...: those that the machine lacks, by apt; without root it only names them.
install_packages() {
    local package missing=()
    for package in "$@"; do
        if [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]]; then
            missing+=("$package")
        fi
    done
    if [[ ${#missing[@]} == 0 ]]; then
        return 0
    fi
    if [[ $(id -u) != 0 ]]; then
        say "not root, so these Debian packages are not installed: ${missing[*]}" >&2
        return 0
    fi
    say "installing ${missing[*]}"
    apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update &&
        apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install \
            --no-install-recommends "${missing[@]}" >/dev/null
}

# mirror: the one that this machine's own apt uses.
mirror() {
    local found
    found="$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
        sed -nE 's#^(URIs:[[:space:]]*|deb[[:space:]]+(\[[^]]*\][[:space:]]*)?)([^[:space:]]+/debian)/?([[:space:]].*)?$#\3#p' |
        head -n 1)" || true
    if [[ -z $found ]]; then
        say "no Debian mirror in the apt sources of this machine" >&2
        return 1
    fi
    echo "$found"
}

# retry COMMAND...: for what uses the network.
retry() {
    local attempt
    for attempt in 1 2 3; do
        if "$@"; then return 0; fi
        say "failed (attempt $attempt): $*" >&2
        sleep $((attempt * 5))
    done
    return 1
}

# readme_block NAME: the shell block of README.md that is marked <!-- ci: NAME -->.
readme_block() {
    local block
    block="$(sed -n "/^<!-- ci: $1 -->\$/,/^\`\`\`[[:space:]]*\$/p" "$ROOT/README.md" | sed '1,2d;$d')"
    if [[ ! $block =~ [^[:space:]] ]]; then
        say "README.md has no block marked <!-- ci: $1 -->" >&2
        return 1
    fi
    echo "$block"
}

# readme_packages: the Debian packages that README names, one a line.
readme_packages() {
    readme_block packages | sed -nE 's/^apt-get install //p' | tr -s ' ' '\n'
}

# usable_python PYTHON 3.X: whether it is that version, with the GIL, and can build extensions.
usable_python() {
    "$1" - "$2" 2>/dev/null <<'PYTHON'
import ensurepip, os, ssl, sys, sysconfig, venv
assert "%d.%d" % sys.version_info[:2] == sys.argv[1]
assert not sysconfig.get_config_var("Py_GIL_DISABLED")
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
PYTHON
}

# find_python 3.X: prints the path of an interpreter with the GIL, or fails.
find_python() {
    local candidate candidates
    candidates="$(
        compgen -G "$HOME/.pyenv/versions/$1.*/bin/python3" | sort -rV || true
        printf '%s\n' "/usr/local/bin/python$1" "/usr/bin/python$1"
        type -P "python$1" || true
    )"
    while read -r candidate; do
        if [[ -x $candidate ]] && usable_python "$candidate" "$1"; then
            echo "$candidate"
            return 0
        fi
    done <<<"$candidates"
    return 1
}

# missing_allowed NAME: whether $IOCPCORE_CI_ALLOW_MISSING, by commas or spaces, lists it.
missing_allowed() {
    local allowed="${IOCPCORE_CI_ALLOW_MISSING:-}"
    [[ " ${allowed//,/ } " == *" $1 "* ]]
}

# copy_sources DIRECTORY: the checkout as it stands, without what git ignores. Builds happen in
# such copies, so that builds with different switches never meet.
copy_sources() {
    mkdir -p "$1" &&
        git -C "$ROOT" ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do
            if [[ -e $ROOT/$file ]]; then printf '%s\0' "$file"; fi
        done |
            tar -C "$ROOT" -c --null -T - |
            tar -C "$1" -x
}

# How the commands of a row run: as they are, or by .ci/inside in a root.
INSIDE=()

# make_venv DIRECTORY PYTHON
make_venv() {
    "${INSIDE[@]}" "$2" -m venv "$1"
    say "$("${INSIDE[@]}" "$1/bin/python" -VV)"
}

# pip_install VENV REQUIREMENT...
pip_install() {
    local venv="$1"
    shift
    retry "${INSIDE[@]}" "$venv/bin/python" -m pip install -q --no-warn-script-location "$@"
}
