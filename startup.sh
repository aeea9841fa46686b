#!/usr/bin/env bash
# Starts the control server on port 3000, in a container or from a checkout. Arguments are a
# program to run beside it; options are environment variables (`sandbox-runtime serve --help`).
set -euo pipefail
trap 'exit 143' TERM INT # as PID 1 it would not even be asked

here=$(dirname "$(readlink -f "$0")")
if ! command -v sandbox-runtime >/dev/null; then
    if [ ! -x "$here/.ci/setup" ]; then
        echo "startup.sh: sandbox-runtime is not installed: pip install sandbox-runtime" >&2
        exit 127
    fi
    (cd "$here" && .ci/setup --group build) >&2
    PATH=$here/.venv/bin:$PATH
fi

echo "startup.sh: starting sandbox-runtime in $PWD as uid $(id -u)${1:+, and beside it $1}" >&2
exec sandbox-runtime serve -- "$@"
