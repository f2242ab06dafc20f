#!/bin/bash
# What operators see and do of an ensemble: readiness, restore. Options (--only NAME,... --keep) go before the server
# command (default: the release build).
exec python3 "$(dirname "$0")/operators/operators.py" "$@"
