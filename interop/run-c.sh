#!/bin/bash
# Apache's C client (Debian: libzookeeper-mt-dev) against the given server command (the release build).
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
${CC:-cc} -std=c11 -D_DEFAULT_SOURCE -DTHREADED -Wall -Wextra -Werror -o "$work/client" "$here/c/client.c" -lzookeeper_mt -lpthread
python3 "$here/lib/with_server.py" c-client "$@" -- "$work/client" '{}'
