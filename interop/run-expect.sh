#!/bin/bash
# What clients see of 3.9.5 where older versions differ, and session expiry, against the given server (the release build).
exec python3 "$(dirname "$0")/expect/expect.py" "$@"
