#!/bin/bash
# Ensembles of the given server (the release build), alone and with Apache's servers: election, kill -9, links that are cut,
# slow and full disks, bad input, audit.
# Options (--only NAME,... --rounds N --partition-rounds N --links auto|namespaces|proxies --seed S --keep) go before the command.
exec python3 "$(dirname "$0")/ensemble/ensemble.py" "$@"
