#!/bin/bash
# The page of the admin interface in a headless Chromium, under load, on a tree of a million znodes.
exec python3 "$(dirname "$0")/page/page.py" "$@"
