# Read by the other scripts: which configuration, where logs go, which programs. The variables are ZooKeeper's.
#
#   ZOOCFGDIR, ZOOCFG        the folder of the configuration and its name in it (zoo.cfg); --config DIR before the command
#   zookeeper-env.sh, java.env   in that folder, are read first
#   ZOO_LOG_DIR, ZOOPIDFILE  where `start` writes
#   SERVER_JVMFLAGS, JVMFLAGS    falconerd reads the -D properties in them
#   FALCONER_BIN             the folder of falconerd and falconer, if it is none of the usual ones

ZOOBINDIR="${ZOOBINDIR:-/usr/bin}"
ZOOKEEPER_PREFIX="$ZOOBINDIR/.."

if [ $# -gt 1 ] && [ "$1" = --config ]; then
    ZOOCFGDIR="$2"
    shift 2
fi
if [ -z "${ZOOCFGDIR:-}" ]; then
    if [ -e "$ZOOKEEPER_PREFIX/conf" ]; then
        ZOOCFGDIR="$ZOOKEEPER_PREFIX/conf"
    elif [ -e "$ZOOKEEPER_PREFIX/etc/zookeeper" ]; then
        ZOOCFGDIR="$ZOOKEEPER_PREFIX/etc/zookeeper"
    else
        ZOOCFGDIR=/etc/zookeeper/conf
    fi
fi
if [ -f "$ZOOCFGDIR/zookeeper-env.sh" ]; then
    . "$ZOOCFGDIR/zookeeper-env.sh"
fi
ZOOCFG="$ZOOCFGDIR/${ZOOCFG:-zoo.cfg}"
if [ -f "$ZOOCFGDIR/java.env" ]; then
    . "$ZOOCFGDIR/java.env"
fi
# Without export in those files they would be lost to falconerd.
export SERVER_JVMFLAGS JVMFLAGS ZOO_DATADIR_AUTOCREATE_DISABLE
ZOO_LOG_DIR="${ZOO_LOG_DIR:-$ZOOKEEPER_PREFIX/logs}"
USER="${USER:-$(id -un)}"
HOSTNAME="${HOSTNAME:-$(uname -n)}"

# The path of a program of Falconer: beside the scripts, where it was installed, or where it was built.
falconer_program() {
    local folder
    for folder in "${FALCONER_BIN:-}" "$ZOOBINDIR" "$ZOOKEEPER_PREFIX/../target/release" "$ZOOKEEPER_PREFIX/libexec"; do
        if [ -n "$folder" ] && [ -x "$folder/$1" ]; then
            echo "$folder/$1"
            return
        fi
    done
    if ! command -v "$1"; then
        echo "$1 is not found: it is neither in PATH nor beside $ZOOBINDIR; FALCONER_BIN names its folder" >&2
        return 1
    fi
}

# The value of a key of the configuration; of several the last, as falconerd reads it.
setting() {
    sed -n "s/^[[:space:]]*${1//./\\.}[[:space:]]*[=:][[:space:]]*\(.*[^[:space:]]\)[[:space:]]*$/\1/p" "${2:-$ZOOCFG}" 2> /dev/null | tail -n 1
}
