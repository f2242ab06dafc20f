#!/usr/bin/env bash
# ZooKeeper's zkSnapshotComparer.sh: two snapshots of Falconer, or of Apache, by `falconer snapshot diff`.

ZOOBINDIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$ZOOBINDIR/zkEnv.sh"

left="" right=""
while [ $# -gt 0 ]; do
    case "$1" in
        -l | --left) left="${2:-}"; shift ;;
        -r | --right) right="${2:-}"; shift ;;
        # Every difference is shown, so there are no thresholds and nothing to ask.
        -b | --bytes | -n | --nodes) shift ;;
        -d | --debug | -i | --interactive) ;;
        *) left="" && break ;;
    esac
    shift
done
if [ -z "$left" ] || [ -z "$right" ]; then
    echo "usage: SnapshotComparer
 -l,--left <LEFT>     (Required) The left snapshot file.
 -r,--right <RIGHT>   (Required) The right snapshot file.
 -b, -n, -d, -i       Accepted: every difference is shown" >&2
    exit 1
fi
falconer="$(falconer_program falconer)" || exit 1
"$falconer" snapshot diff "$left" "$right"
status=$?
# Differences are no failure in Apache's tool.
[ $status -eq 1 ] && status=0
exit $status
