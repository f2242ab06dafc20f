#!/bin/bash
# What operators install: the scripts in packaging/bin, the image's start script, the unit, completions, manual pages.
# Argument: the folder of falconerd and falconer, the release build without.
set -u
here="$(cd "$(dirname "$0")" && pwd)"
exec python3 "$here/packaging/packaging.py" "$@"
