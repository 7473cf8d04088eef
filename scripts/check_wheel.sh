#!/bin/sh
# Builds the wheel, installs it bare into an empty environment (no torch), and does there what needs none.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip wheel --no-deps --wheel-dir "$folder" .
$pip install --constraint constraints.txt "$folder"/steadyvlm-*.whl
cp tests/cli/logs/original.jsonl tests/cli/logs/accelerated.jsonl "$folder"
cd "$folder" # away from the source tree: what runs is what was installed
venv/bin/steadyvlm --help >/dev/null
venv/bin/steadyvlm list >/dev/null
venv/bin/steadyvlm pocket sample 0 >/dev/null
venv/bin/steadyvlm compare original.jsonl accelerated.jsonl --html report.html --json report.json
test -s report.html && test -s report.json
if venv/bin/python -c 'import torch' 2>/dev/null; then
    echo "the bare install pulled in torch" >&2
    exit 1
fi
if venv/bin/steadyvlm demo 2>missing.txt; then
    echo "demo ran without torch?" >&2
    exit 1
fi
grep -q 'steadyvlm\[models\]' missing.txt || { echo "demo does not name the missing extra:"; cat missing.txt; exit 1; } >&2
ls -l steadyvlm-*.whl | awk '{printf "wheel: %.1f MB, runs bare\n", $5 / 1e6}'
