#!/bin/bash
# kazoo's own test suite with its own harness against the given server command (the release build).
# The virtual environment lives in $KAZOO_VENV (target/kazoo-venv) and is made on first use.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
venv="${KAZOO_VENV:-$here/../target/kazoo-venv}"
if [ ! -x "$venv/bin/pytest" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q 'kazoo[test]==2.11.0' 'setuptools<81' 'pyopenssl<25'
fi
exec python3 "$here/kazoo/run.py" "$(cd "$venv" && pwd)/bin/python" "$@"
