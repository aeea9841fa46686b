# shellcheck shell=bash
# Sourced by the scripts beside it: an interpreter, what it takes to build for it, and a virtual
# environment with the versions of uv.lock.
#
# pip downloads, so that a mirror in PIP_INDEX_URL or pip.conf is used; uv only reads the lock file,
# which names each file by its hash but would otherwise insist on the hosts that are named there.

export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_USE_PEP517=1
if [ -z "${PIP_INDEX_URL:-}" ] && [ -n "${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-}}" ]; then
    export PIP_INDEX_URL="${UV_DEFAULT_INDEX:-$UV_INDEX_URL}"
fi

say() { printf '\033[1m== %s\033[0m\n' "$*"; }

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Prints the first interpreter of at least 3.11; "$@" is what comes before its name, to try it so.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 /usr/bin/python3 /usr/local/bin/python3 \
        python3.14 python3.13 python3.12 python3.11; do
        "$@" "$candidate" -c '
import sys
if sys.version_info < (3, 11): sys.exit(1)
print(getattr(sys, "_base_executable", sys.executable))' 2>/dev/null && return
    done
    return 1
}

# Prints the Debian packages without which nothing can be built for the interpreter "$1".
missing_packages() {
    local python=$1 name=python3 command
    # An interpreter that is not the distribution's brings its own headers.
    [ "$(readlink -f "$python")" = "$(readlink -f /usr/bin/python3)" ] ||
        name=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    for command in bash git gcc setpriv:util-linux; do
        command -v "${command%:*}" >/dev/null || echo "${command#*:}"
    done
    echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || echo libc6-dev
    echo '#include <sys/capability.h>' | gcc -E - >/dev/null 2>&1 || echo libcap-dev
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "$name-venv"
    "$python" -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
' || echo "$name-dev"
}

# Installs these Debian packages where that is possible, or says what to do.
install_packages() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "Missing on this machine: $*" \
            "    on Debian and Ubuntu:  sudo apt-get install $*" \
            "    elsewhere:             the packages with the same content (gcc, libcap-devel, …)"
    fi
    say "installing $*"
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

need_packages_for() {
    local missing
    missing=$(missing_packages "$1" | xargs)
    # shellcheck disable=SC2086
    [ -z "$missing" ] || install_packages $missing
    missing=$(missing_packages "$1" | xargs)
    [ -z "$missing" ] || fail "$1 cannot be built for: $missing is still missing." \
        "Set PYTHON to another interpreter (3.11 or later)."
}

need_rust() {
    local minimum version
    minimum=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    version=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || true
    if [ -z "$version" ] || ! command -v cargo >/dev/null; then
        fail "Missing on this machine: Rust, $minimum or later. https://rustup.rs installs it."
    fi
    [ "$(printf '%s\n' "$minimum" "$version" | sort -V | head -n 1)" = "$minimum" ] ||
        fail "Rust $version is too old: $minimum is needed. https://rustup.rs installs a later one."
}

# Writes the locked requirements that uv's options "${@:2}" select to "$1".
export_lock() {
    .venv/bin/uv export --quiet --frozen --offline --no-emit-project --no-header \
        --no-annotate --output-file "$@" >/dev/null
}
