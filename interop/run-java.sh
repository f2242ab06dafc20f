#!/bin/bash
# Apache's Java client, Curator's recipes and zkCli (Debian packages) against the given server command (the release build).
set -u
here="$(cd "$(dirname "$0")" && pwd)"
jars=/usr/share/java
class_path="$jars/zookeeper.jar:$jars/slf4j-nop.jar:$jars/guava.jar:$jars/commons-cli.jar:$jars/jline.jar"
for jar in curator-recipes curator-framework curator-client netty-buffer netty-codec netty-common netty-handler netty-resolver \
    netty-transport netty-transport-native-epoll netty-transport-native-unix-common; do
    class_path="$class_path:$jars/$jar.jar"
done
export JAVA="${JAVA:-/usr/bin/java}" CLASS_PATH="$class_path"
status=0
for program in Client Recipes; do
    python3 "$here/lib/with_server.py" "java-${program,,}" "$@" -- \
        "$JAVA" -XX:TieredStopAtLevel=1 -cp "$class_path" "$here/java/$program.java" '{}' || status=1
done
python3 "$here/lib/with_server.py" zkcli "$@" -- "$here/java/zkcli.sh" '{}' || status=1
[ $status -eq 0 ] && echo "PASS java" || echo "FAIL java"
exit $status
