#!/bin/bash
# Bad input over raw sockets against the given server (the release build), with a canary client beside it.
# Options (--only NAME,... --connections N) go before the command.
exec python3 "$(dirname "$0")/badinput/badinput.py" "$@"
