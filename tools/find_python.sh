#!/bin/sh
# Prints a Python between 3.10 and 3.12; $PYTHON wins if it is set.
for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.10}; do
    if "$candidate" -c 'import sys, venv; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
done
echo "no Python from 3.10 to 3.12 with venv found; install one, or name it: make PYTHON=/path/to/python3.11" >&2
exit 1
