# Sourced by the other scripts: goes to the repository's root and defines what they share.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
BUNDLE=/etc/ssl/certs/ca-certificates.crt

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Installs Debian packages, as root or through sudo; says which are missing where it cannot.
apt_install() {
    local sudo=()
    command -v apt-get >/dev/null || die "install these with your system's package manager, then run this again: $*"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "run as root, then this again: apt-get install $*"
        sudo=(sudo)
    fi
    say "installing $*"
    "${sudo[@]}" apt-get update -qq >&2 || say "some package lists could not be refreshed; going on"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}

# Prints a Python >= 3.11; nothing when there is none.
find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}

# Prints a uv: the one on PATH, else our own in .venv-tools, installed once.
find_uv() {
    command -v uv && return
    if [ ! -x .venv-tools/bin/uv ]; then
        say "installing uv into .venv-tools"
        rm -rf .venv-tools
        "$1" -m venv .venv-tools >&2 && .venv-tools/bin/pip install -q --disable-pip-version-check uv >&2 ||
            die "uv could not be installed"
    fi
    echo "$ROOT/.venv-tools/bin/uv"
}

# What .venv is made from: another lock file, other entry points or another place need a new one.
venv_stamp() {
    { echo "$ROOT"; cat uv.lock; sed -n '/^\[project/,/^\[tool/p' pyproject.toml; } | sha256sum
}

make_venv() {
    local python uv
    python="$(find_python)"
    if [ -z "$python" ] || [ ! -f "$BUNDLE" ] || { ! command -v uv >/dev/null && ! "$python" -c 'import ensurepip' 2>/dev/null; }; then
        apt_install python3 python3-venv ca-certificates
        python="$(find_python)"
        [ -n "$python" ] || die "gridcontrol needs Python 3.11 or newer; this system's is older"
    fi
    if [ -f "$BUNDLE" ]; then # the system's certificates, a TLS proxy's included
        export SSL_CERT_FILE="${SSL_CERT_FILE:-$BUNDLE}" PIP_CERT="${PIP_CERT:-$BUNDLE}"
    fi
    uv="$(find_uv "$python")"
    say "making .venv from uv.lock"
    UV_PYTHON="$python" UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv "$uv" sync -q --frozen >&2
    venv_stamp >.venv/.stamp
}

# Makes .venv (gridcontrol importable from the checkout, console scripts, development tools) unless it is there.
need_venv() {
    [ "$(cat .venv/.stamp 2>/dev/null)" = "$(venv_stamp)" ] && return
    {
        flock 9
        [ "$(cat .venv/.stamp 2>/dev/null)" = "$(venv_stamp)" ] || make_venv
    } 9<"$ROOT"
}
