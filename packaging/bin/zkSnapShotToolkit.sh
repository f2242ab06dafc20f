#!/usr/bin/env bash
# ZooKeeper's zkSnapShotToolkit.sh: a snapshot of Falconer, or of Apache, by `falconer snapshot dump`.

ZOOBINDIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$ZOOBINDIR/zkEnv.sh"

# Without -d Apache's tool shows the length of values only.
options=(--data 0) file=""
for word in "$@"; do
    case "$word" in
        -d) options=(--data 1073741824) ;;
        -json) options=(--json) ;;
        -*) file="" && break ;;
        *) file="$word" ;;
    esac
done
if [ -z "$file" ]; then
    echo "USAGE: SnapshotFormatter [-d|-json] snapshot_file
       -d dump the data for each znode
       -json one JSON object a line" >&2
    exit 2
fi
falconer="$(falconer_program falconer)" || exit 1
exec "$falconer" snapshot dump "${options[@]}" "$file"
