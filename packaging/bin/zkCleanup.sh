#!/usr/bin/env bash
# ZooKeeper's zkCleanup.sh. falconerd removes old snapshots and logs by itself, after each snapshot: this says so, and
# fails where the configuration forbids it, so that a job that relies on it is noticed.

ZOOBINDIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$ZOOBINDIR/zkEnv.sh"

if [ "${1:-}" = -n ] && ! [ "${2:-0}" -ge 3 ] 2> /dev/null; then
    echo "count should be greater than or equal to 3" >&2
    exit 2
fi
if [ ! -f "$ZOOCFG" ]; then
    echo "there is no configuration at $ZOOCFG: --config DIR or ZOOCFGDIR names its folder" >&2
    exit 1
fi
interval="$(setting autopurge.purgeInterval)"
keep="$(setting autopurge.snapRetainCount)"
if [ -n "$interval" ] && [ "$interval" -le 0 ] 2> /dev/null; then
    echo "autopurge.purgeInterval=$interval in $ZOOCFG: falconerd keeps every snapshot and log. Take the line out, and it keeps" \
        "the newest ${keep:-3} (autopurge.snapRetainCount) and removes the rest after each snapshot." >&2
    exit 1
fi
echo "Nothing to do: falconerd removes old snapshots and logs after each snapshot, and keeps ${keep:-3} (autopurge.snapRetainCount)."
