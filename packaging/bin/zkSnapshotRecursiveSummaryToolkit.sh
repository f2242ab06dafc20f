#!/usr/bin/env bash
# ZooKeeper's zkSnapshotRecursiveSummaryToolkit.sh: counts and sizes by subtree, by `falconer snapshot tree`.

ZOOBINDIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$ZOOBINDIR/zkEnv.sh"

if [ $# -ne 3 ]; then
    echo "USAGE: SnapshotRecursiveSummary snapshot_file starting_node max_depth
       max_depth 0: without limit" >&2
    exit 2
fi
depth="$3"
[ "$depth" = 0 ] && depth=10000
falconer="$(falconer_program falconer)" || exit 1
exec "$falconer" snapshot tree --path "$2" --depth "$depth" --top 1000000 "$1"
