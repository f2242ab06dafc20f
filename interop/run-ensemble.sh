#!/bin/bash
# Ensembles of the given server (the release build), alone and with Apache's servers: election, kill -9, audit, bad input.
# Options (--only NAME,... --rounds N --seed S --keep) go before the command.
exec python3 "$(dirname "$0")/ensemble/ensemble.py" "$@"
