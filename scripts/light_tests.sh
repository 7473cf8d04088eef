#!/bin/sh
# Runs the tests of what needs no torch on every other supported Python that this machine has.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 3.12 3.13; do
    python="python$version"
    # A version manager may put a command on the path for a Python it does not switch to: ask it by running it.
    if ! "$python" -c '' 2>/dev/null; then
        python=$(ls -d "$HOME"/.pyenv/versions/"$version".*/bin/python 2>/dev/null | tail -n 1)
    fi
    if [ -z "$python" ]; then
        echo "Python $version: not on this machine, not tested"
        continue
    fi
    "$python" -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --disable-pip-version-check --quiet --constraint constraints.txt . pytest hypothesis
    echo "Python $version:"
    "$folder/$version/bin/python" -m pytest -q -p no:cacheprovider -m 'not browser and not gpu and not slow and not network' \
        tests/stability tests/tasks tests/report tests/cli/test_compare.py tests/cli/test_progress.py
done
