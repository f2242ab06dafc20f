#!/usr/bin/env bash
# ZooKeeper's zkTxnLogToolkit.sh, for reading: the log of Falconer, and of Apache, by `falconer log dump`.

ZOOBINDIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$ZOOBINDIR/zkEnv.sh"

usage() {
    echo "usage: TxnLogToolkit [-dhv] <log file, or data directory>
 -d,--dump      Dump mode. Dump all entries of the log. (this is the default)
 -h,--help      Print help message
 -v,--verbose   Values as a whole, instead of their first bytes"
}
options=() file=""
while [ $# -gt 0 ]; do
    case "$1" in
        -d | --dump | -y | --yes) ;;
        -v | --verbose) options+=(--data 1073741824) ;;
        -h | --help) usage; exit 0 ;;
        -r | --recover | -c | --chop)
            echo "$1 is not available: falconerd mends the end of its log by itself at each start, and refuses to start where what was" \
                "acknowledged is damaged ('falconer log verify' tells which). For Apache's logs use Apache's tool." >&2
            exit 1
            ;;
        -*) echo "Unrecognized option: $1" >&2; usage >&2; exit 1 ;;
        *) file="$1" ;;
    esac
    shift
done
if [ -z "$file" ]; then
    usage >&2
    exit 1
fi
falconer="$(falconer_program falconer)" || exit 1
exec "$falconer" log dump "${options[@]}" "$file"
