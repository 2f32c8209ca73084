#!/bin/sh
# Makes the Python environment of the interop suite, exactly as requirements.txt says.
#   tests/interop/setup.sh [FOLDER]      FOLDER defaults to .venv in the repository root
# Running it again does nothing when the environment is already the one asked for.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
venv=${1:-$here/../../.venv}
python=${PYTHON:-python3}
wanted=$(cksum < "$here/requirements.txt")
done_mark=$venv/reweight-interop

if [ -f "$done_mark" ] && [ "$(cat "$done_mark")" = "$wanted" ]; then
    exit 0
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup.sh: python 3.11 or later is needed; \`$python\` is not (set PYTHON)" >&2
    exit 1
}
"$python" -m venv --clear "$venv"
"$venv/bin/pip" install --quiet --no-deps --no-compile --no-cache-dir --only-binary :all: \
    --disable-pip-version-check -r "$here/requirements.txt"
"$venv/bin/python" -c 'import accelerate, compressed_tensors, gguf, pytest, torch, transformers'
printf '%s\n' "$wanted" > "$done_mark"
