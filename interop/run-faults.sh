#!/bin/bash
# What a server does where the system refuses it something: io_uring, locked memory, direct I/O, room on the disk.
# Options (--only NAME,... --rounds N) go before the command.
exec python3 "$(dirname "$0")/faults/faults.py" "$@"
