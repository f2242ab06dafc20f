#!/bin/bash
# How long nobody can write when the leader is killed, hands over, or all servers are restarted: Apache's and the given server
# (the release build) in turns. Options (--rounds N --seed S --only KIND,...) go before the command.
exec python3 "$(dirname "$0")/ensemble/failover.py" "$@"
