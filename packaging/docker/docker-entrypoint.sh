#!/usr/bin/env bash
# Makes /conf/zoo.cfg and myid from the environment variables of the official ZooKeeper image, then runs the command.
#
#   ZOO_TICK_TIME, ZOO_INIT_LIMIT, ZOO_SYNC_LIMIT, ZOO_AUTOPURGE_PURGEINTERVAL, ZOO_AUTOPURGE_SNAPRETAINCOUNT,
#   ZOO_MAX_CLIENT_CNXNS, ZOO_STANDALONE_ENABLED, ZOO_ADMINSERVER_ENABLED, ZOO_4LW_COMMANDS_WHITELIST
#   ZOO_MY_ID, ZOO_SERVERS   this server and all of them: "server.1=host:2888:3888;2181 ..."
#   ZOO_CFG_EXTRA            more lines of zoo.cfg, separated by spaces
#   JVMFLAGS, SERVER_JVMFLAGS   -D properties, read by falconerd itself
#   ZOO_CONF_DIR, ZOO_DATA_DIR, ZOO_DATA_LOG_DIR, ZOO_LOG_DIR
#
# A zoo.cfg or myid that is there is left as it is.
set -e

if [ "${1:-}" = zkServer.sh ] && [ "$(id -u)" = 0 ] && id -u zookeeper > /dev/null 2>&1; then
    chown -R zookeeper "$ZOO_DATA_DIR" "$ZOO_DATA_LOG_DIR" "$ZOO_LOG_DIR"
    exec setpriv --reuid=zookeeper --regid=zookeeper --init-groups "$0" "$@"
fi

config="$ZOO_CONF_DIR/zoo.cfg"
if [ ! -f "$config" ]; then
    {
        echo "dataDir=$ZOO_DATA_DIR"
        echo "dataLogDir=$ZOO_DATA_LOG_DIR"
        echo "tickTime=$ZOO_TICK_TIME"
        echo "initLimit=$ZOO_INIT_LIMIT"
        echo "syncLimit=$ZOO_SYNC_LIMIT"
        echo "autopurge.snapRetainCount=$ZOO_AUTOPURGE_SNAPRETAINCOUNT"
        # The image's 0 is ZooKeeper's default, which nobody chose: falconerd's own is to keep the disk from filling.
        if [ "$ZOO_AUTOPURGE_PURGEINTERVAL" != 0 ]; then
            echo "autopurge.purgeInterval=$ZOO_AUTOPURGE_PURGEINTERVAL"
        fi
        echo "maxClientCnxns=$ZOO_MAX_CLIENT_CNXNS"
        echo "standaloneEnabled=$ZOO_STANDALONE_ENABLED"
        echo "admin.enableServer=$ZOO_ADMINSERVER_ENABLED"
        # Words on purpose: each is a line.
        # shellcheck disable=SC2086
        printf '%s\n' ${ZOO_SERVERS:-server.1=localhost:2888:3888;2181}
        if [ -n "${ZOO_4LW_COMMANDS_WHITELIST:-}" ]; then
            echo "4lw.commands.whitelist=$ZOO_4LW_COMMANDS_WHITELIST"
        fi
        # shellcheck disable=SC2086
        [ -z "${ZOO_CFG_EXTRA:-}" ] || printf '%s\n' $ZOO_CFG_EXTRA
    } > "$config.new"
    # Whole or not at all: a container may be killed at any moment.
    mv "$config.new" "$config"
fi
if [ ! -f "$ZOO_DATA_DIR/myid" ]; then
    echo "${ZOO_MY_ID:-1}" > "$ZOO_DATA_DIR/myid"
fi

exec "$@"
