#!/usr/bin/env bash
# ZooKeeper's zkServer-initialize.sh: makes the data directories that a configuration names, with myid.

ZOOBINDIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$ZOOBINDIR/zkEnv.sh"

usage() {
    echo "usage: $0 <parameters>
  Optional parameters:
     -h                    Display this message
     --help                Display this message
     --configfile=FILE     Configuration (default: $ZOOCFG)
     --myid=#              Set the myid to be used, if any (1-255)
     --force               Remove what is in the directories, and make them anew"
    exit 1
}
myid="" force=""
while [ $# -gt 0 ]; do
    case "$1" in
        --configfile) ZOOCFG="${2:-}"; shift ;;
        --configfile=?*) ZOOCFG="${1#*=}" ;;
        --myid) myid="${2:-}"; shift ;;
        --myid=?*) myid="${1#*=}" ;;
        --force) force=1 ;;
        -h | --help) usage ;;
        *) echo "Unknown option: $1"; usage ;;
    esac
    shift
done
if [ ! -e "$ZOOCFG" ]; then
    echo "Unable to find config file at $ZOOCFG"
    exit 1
fi
data_dir="$(setting dataDir)"
log_data_dir="$(setting dataLogDir)"
if [ -z "$data_dir" ]; then
    echo "Unable to determine dataDir from $ZOOCFG"
    exit 1
fi
# Falconer's files, and Apache's.
owned="myid superblock log snapshot version-2 initialize"
for folder in "$data_dir" ${log_data_dir:+"$log_data_dir"}; do
    for name in superblock log snapshot version-2; do
        if [ -z "$force" ] && [ -e "$folder/$name" ]; then
            echo "ZooKeeper data directory already exists at $folder (or use --force to force re-initialization)"
            exit 1
        fi
    done
done
if [ -e "$data_dir/falconer.lock" ] && ! flock -n "$data_dir/falconer.lock" true; then
    echo "falconerd runs on $data_dir: stop it first"
    exit 1
fi
[ -n "$force" ] && echo "Force enabled, data/txnlog directories will be re-initialized"
for folder in "$data_dir" ${log_data_dir:+"$log_data_dir"}; do
    for name in $owned; do
        rm -rf "${folder:?}/$name"
    done
    mkdir -p "$folder" || exit 1
done
if [ -n "$myid" ]; then
    echo "Using myid of $myid"
    echo "$myid" > "$data_dir/myid"
else
    echo "No myid provided, be sure to specify it in $data_dir/myid if using non-standalone"
fi
touch "$data_dir/initialize"
