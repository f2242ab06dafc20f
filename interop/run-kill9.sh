#!/bin/bash
# Kills the given server (the release build) with SIGKILL under load, N times, and audits what is left of it each time.
# Options (--rounds N --seed S --keep) go before the command.
exec python3 "$(dirname "$0")/kill9/kill9.py" "$@"
