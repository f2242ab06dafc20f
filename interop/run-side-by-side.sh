#!/bin/bash
# Apache on the left, the given server command (the release build) on the right, the same script, every answer compared.
# Options (--seed N --seeds K --length N --replay FILE) go before the command.
exec python3 "$(dirname "$0")/sidebyside/run.py" "$@"
