#!/bin/bash
# Single zkCli commands and what they must print: zkcli.sh HOST:PORT (CLASS_PATH and JAVA come from run-java.sh).
# Each case: a command line, then a pattern (extended regular expression) that a line of its output matches as a whole.
set -u
failures=0
expect() { # pattern, command...
    local pattern="$1" out
    shift
    out="$("$JAVA" -XX:TieredStopAtLevel=1 -cp "$CLASS_PATH" org.apache.zookeeper.ZooKeeperMain -server "$server" "$@" 2>&1)"
    if ! grep -qxE -- "$pattern" <<< "$out"; then
        failures=$((failures + 1))
        printf 'FAILED zkCli %s: no line is %s in\n%s\n' "$*" "$pattern" "$(grep -v -e '^WATCH' -e '^$' <<< "$out" | tail -5)"
    fi
}
server="$1"
expect 'Created /cli' create /cli hello
expect 'hello' get /cli
expect 'Node already exists: /cli' create /cli again
expect 'dataLength = 5' stat /cli
expect '\[cli, zookeeper\]' ls /
expect 'dataVersion = 1' set -s /cli world
expect 'version No is not valid : /cli' set -v 7 /cli x
expect 'Created /cli/s-0000000000' create -s /cli/s- x
expect 'Created /cli/box' create -c /cli/box
expect 'Created /cli/ttl' create -t 300000 /cli/ttl x
expect '/cli/s-0000000000' ls -R /cli
expect "'world,'anyone" getAcl /cli
expect ': cdrwa' getAcl /cli
expect 'aclVersion = 1' setAcl -s /cli world:anyone:cdrwa,ip:127.0.0.1:r
expect 'Node not empty: /cli' delete /cli
expect 'Node does not exist: /none' get /none
expect '3' getAllChildrenNumber /cli
expect 'Sync is OK' sync /cli
expect 'ip: 127\.0\.0\.1' whoami
expect 'Connecting to .*' setquota -n 100 /cli # says nothing more
expect 'Output quota for /cli count=100,.*' listquota /cli
expect 'Output stat for /cli count=4,bytes=.*' listquota /cli
"$JAVA" -XX:TieredStopAtLevel=1 -cp "$CLASS_PATH" org.apache.zookeeper.ZooKeeperMain -server "$server" deleteall /cli > /dev/null 2>&1
expect '\[zookeeper\]' ls /
[ $failures -eq 0 ] && echo "zkCli: all commands as expected"
exit $((failures > 0))
