#!/usr/bin/env bash
# Starts the control server on port 3000, in a container or from a checkout. Arguments are a
# program to run beside it; options are environment variables (`sandbox-runtime serve --help`).
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
if ! command -v sandbox-runtime >/dev/null; then
    if [ ! -x "$here/.ci/setup" ]; then
        echo "startup.sh: sandbox-runtime is not installed: pip install sandbox-runtime" >&2
        exit 127
    fi
    (cd "$here" && .ci/setup --group build) >&2
    PATH=$here/.venv/bin:$PATH
fi

echo "startup.sh: $(sandbox-runtime --version), $(python3 --version), in $PWD as uid $(id -u)" >&2
if [ $# -gt 0 ]; then
    echo "startup.sh: beside the server: $1" >&2
fi
exec sandbox-runtime serve -- "$@"
