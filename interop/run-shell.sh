#!/bin/bash
# The same commands through Apache's zkCli (Debian package) and through `falconer shell`: what people see must agree.
# Arguments: the server command, the release build without.
set -u
here="$(cd "$(dirname "$0")" && pwd)"
exec python3 "$here/shell/shell.py" "$@"
