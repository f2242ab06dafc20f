#!/bin/bash
# Three servers on this machine that form an ensemble: ensemble.sh start | status | stop
#
# Ports 2181 to 2183 for clients, 8080 to 8082 for the admin interfaces, 2888 to 2890 and 3888 to 3890 between the servers, all
# on the loopback address; data, configurations and logs in ./falconer-ensemble. What `start` writes there is what each of three
# machines would have, but for the ports. All of it at a glance: falconer status --admin 8080,8081,8082
set -euo pipefail
falconerd="$(dirname "$0")/../target/release/falconerd"
home="$PWD/falconer-ensemble"

say() { # the port's answer to srvr; nothing when nobody listens
    { exec 3<> "/dev/tcp/127.0.0.1/$1" && printf srvr >&3 && cat <&3; } 2> /dev/null || true
}

runs() { # whether the server of that number does; one that has died may stay in the table until somebody asks for its end
    local pid
    pid="$(cat "$home/$1/pid" 2> /dev/null)" && grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$pid/status"
}

start() {
    for n in 1 2 3; do
        mkdir -p "$home/$n"
        echo "$n" > "$home/$n/myid"
        cat > "$home/$n/zoo.cfg" << END
dataDir=$home/$n
clientPort=$((2180 + n))
clientPortAddress=127.0.0.1
tickTime=2000
initLimit=10
syncLimit=5
admin.serverPort=$((8079 + n))
server.1=127.0.0.1:2888:3888;127.0.0.1:2181
server.2=127.0.0.1:2889:3889;127.0.0.1:2182
server.3=127.0.0.1:2890:3890;127.0.0.1:2183
END
        if runs "$n"; then
            echo "server $n runs already"
            continue
        fi
        "$falconerd" "$home/$n/zoo.cfg" >> "$home/$n/log.txt" 2>&1 < /dev/null &
        echo $! > "$home/$n/pid"
    done
    for _ in $(seq 100); do
        serving=0
        for n in 1 2 3; do
            if say $((2180 + n)) | grep -q '^Mode: '; then serving=$((serving + 1)); fi
        done
        [ $serving -lt 3 ] || break
        sleep 0.1
    done
    status
}

status() {
    for n in 1 2 3; do
        answer="$(say $((2180 + n)))"
        mode="$(sed -n 's/^Mode: //p' <<< "$answer")"
        zxid="$(sed -n 's/^Zxid: //p' <<< "$answer")"
        if [ -n "$mode" ]; then
            echo "server $n on 127.0.0.1:$((2180 + n)): $mode, zxid $zxid"
        elif [ -n "$answer" ]; then
            echo "server $n on 127.0.0.1:$((2180 + n)): looks for a leader"
        else
            echo "server $n on 127.0.0.1:$((2180 + n)): down (log: $home/$n/log.txt)"
        fi
    done
}

stop() {
    for n in 1 2 3; do
        [ -f "$home/$n/pid" ] || continue
        kill "$(cat "$home/$n/pid")" 2> /dev/null || true
        rm "$home/$n/pid"
    done
}

case "${1:-}" in
    start) start ;;
    status) status ;;
    stop) stop ;;
    *) echo "usage: $0 start | status | stop" >&2 && exit 2 ;;
esac
