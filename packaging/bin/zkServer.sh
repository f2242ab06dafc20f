#!/usr/bin/env bash
# ZooKeeper's zkServer.sh for falconerd: the same commands, variables, exit statuses and answers.

ZOOBINDIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$ZOOBINDIR/zkEnv.sh"

if [ -n "${2:-}" ]; then
    # A name is looked for in the folder of the configuration, a path is taken as it is.
    case "$2" in
        */*) ZOOCFG="$2" ;;
        *) ZOOCFG="$ZOOCFGDIR/$2" ;;
    esac
fi
echo "Using config: $ZOOCFG" >&2

data_dir="$(setting dataDir)"
log_data_dir="$(setting dataLogDir)"
if [ -n "${ZOO_DATADIR_AUTOCREATE_DISABLE:-}" ]; then
    for folder in "$data_dir" "$log_data_dir"; do
        if [ -n "$folder" ] && [ ! -d "$folder" ]; then
            echo "The data directory is missing at $folder fix the path or run initialize"
            exit 1
        fi
    done
fi
ZOOPIDFILE="${ZOOPIDFILE:-$data_dir/zookeeper_server.pid}"
daemon_out="$ZOO_LOG_DIR/zookeeper-$USER-server-$HOSTNAME.out"

case "${1:-}" in
start)
    echo -n "Starting zookeeper ... "
    if [ -f "$ZOOPIDFILE" ] && kill -0 "$(cat "$ZOOPIDFILE")" 2> /dev/null; then
        echo "already running as process $(cat "$ZOOPIDFILE")."
        exit 1
    fi
    server="$(falconer_program falconerd)" || exit 1
    if ! mkdir -p "$ZOO_LOG_DIR" "$(dirname "$ZOOPIDFILE")"; then
        echo "FAILED TO WRITE PID"
        exit 1
    fi
    nohup "$server" "$ZOOCFG" > "$daemon_out" 2>&1 < /dev/null &
    pid=$!
    if ! echo -n "$pid" > "$ZOOPIDFILE"; then
        kill "$pid"
        echo "FAILED TO WRITE PID"
        exit 1
    fi
    # A wrong configuration shows at once. Recovery may take longer than anybody wants to wait here.
    for _ in $(seq 50); do
        if ! kill -0 "$pid" 2> /dev/null; then
            rm -f "$ZOOPIDFILE"
            echo "FAILED TO START"
            tail -n 5 "$daemon_out" >&2
            exit 1
        fi
        grep -q ': started ' "$daemon_out" && break
        sleep 0.1
    done
    echo STARTED
    ;;
start-foreground)
    server="$(falconer_program falconerd)" || exit 1
    if [ -n "${ZOO_NOEXEC:-}" ]; then
        "$server" "$ZOOCFG"
        exit
    fi
    exec "$server" "$ZOOCFG"
    ;;
print-cmd)
    server="$(falconer_program falconerd)" || exit 1
    echo "\"$server\" \"$ZOOCFG\" > \"$daemon_out\" 2>&1 < /dev/null"
    ;;
stop)
    echo -n "Stopping zookeeper ... "
    if [ ! -f "$ZOOPIDFILE" ]; then
        echo "no zookeeper to stop (could not find file $ZOOPIDFILE)"
    else
        pid="$(cat "$ZOOPIDFILE")"
        kill "$pid"
        rm -f "$ZOOPIDFILE"
        # What was taken is made durable and answered first.
        for _ in $(seq 300); do
            kill -0 "$pid" 2> /dev/null || break
            sleep 0.1
        done
        echo STOPPED
    fi
    exit 0
    ;;
version)
    server="$(falconer_program falconerd)" || exit 1
    "$server" --version | sed 's/^falconerd .* (\(.*\))$/Falconer for Apache ZooKeeper, version \1/'
    ;;
restart)
    shift
    "$0" stop "$@"
    "$0" start "$@"
    ;;
status)
    port="$(setting clientPort)"
    address="$(setting clientPortAddress)"
    if [ -z "$port" ]; then
        # The client part of this server's line, in the configuration or in its dynamic file.
        id="$(head -n 1 "$data_dir/myid" 2> /dev/null)"
        dynamic="$(setting dynamicConfigFile)"
        if [ -z "$id" ]; then
            echo "myid could not be determined, will not able to locate clientPort in the server configs."
        else
            line="$(setting "server.$id")"
            case "$line" in *\;*) ;; *) line="$([ -z "$dynamic" ] || setting "server.$id" "$dynamic")" ;; esac
            case "$line" in
                *\;*) line="${line##*;}"; port="${line##*:}"; [ "$port" = "$line" ] || address="${line%:*}" ;;
                *) echo "Client port not found in the server configs" ;;
            esac
        fi
    fi
    if [ -z "$port" ]; then
        echo "Client port not found. Looking for secureClientPort in the static config."
        echo "Unable to find a client port in any configs: falconerd serves no secureClientPort. Terminating."
        exit 1
    fi
    address="${address#[}"
    address="${address%]}"
    case "$address" in "" | 0.0.0.0 | ::) address=localhost ;; esac
    echo "Client port found: $port. Client address: $address. Client SSL: false."
    mode="$(timeout 10 bash -c 'exec 3<> "/dev/tcp/$0/$1" && printf srvr >&3 && cat <&3' "$address" "$port" 2> /dev/null | grep Mode)"
    if [ -z "$mode" ]; then
        echo "Error contacting service. It is probably not running."
        exit 1
    fi
    echo "$mode"
    exit 0
    ;;
*)
    echo "Usage: $0 [--config <conf-dir>] {start|start-foreground|stop|version|restart|status|print-cmd}" >&2
    ;;
esac
