#!/usr/bin/env bash
# ZooKeeper's zkCli.sh: its options become those of `falconer shell`.

ZOOBINDIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$ZOOBINDIR/zkEnv.sh"

options=()
while [ $# -gt 0 ]; do
    case "$1" in
        -server | -timeout | -client-configuration)
            if [ $# -lt 2 ]; then
                echo "Error: no argument found for option $1" >&2
                exit 1
            fi
            options+=("-$1" "$2")
            shift
            ;;
        -r) options+=(--read-only) ;;
        -waitforconnection) options+=(--wait) ;;
        # As zkCli: an option that it does not know means nothing.
        -*) ;;
        *) break ;;
    esac
    shift
done
shell="$(falconer_program falconer)" || exit 1
exec "$shell" shell "${options[@]}" "$@"
