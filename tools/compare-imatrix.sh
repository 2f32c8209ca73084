#!/bin/sh
# The second moments that `reweight calibrate` gathers beside those of llama.cpp's own llama-imatrix: same model, same tokens.
#   REWEIGHT=target/release/reweight PYTHON=.venv/bin/python tools/compare-imatrix.sh [CHUNKS]
# Needs tools/compare-llama-quantize.sh to have run (its build tree and F16 GGUF are used), and a Python with gguf and
# tokenizers, such as that of tests/interop/setup.sh. Prints relative differences a channel, and whether llama-quantize takes both
# formats. Fails where a channel is more than 2 % off.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
reweight=${REWEIGHT:-$here/target/release/reweight}
python=${PYTHON:-$here/.venv/bin/python}
chunks=${1:-8}
work=$here/target/llama.cpp
text=$here/assets/demo/text/heldout.txt
model=$work/f16.gguf

[ -f "$model" ] || { echo "compare-imatrix: no \`$model\`: run tools/compare-llama-quantize.sh" >&2; exit 1; }
nice "$work/venv/bin/cmake" --build "$work/build" --target llama-imatrix > "$work/build-imatrix.log"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

"$work/build/bin/llama-imatrix" -m "$model" -f "$text" -c 512 -b 512 --chunks "$chunks" --no-ppl -o "$out/theirs.gguf" \
    > "$out/log" 2>&1 || { tail -5 "$out/log" >&2; exit 1; }
"$reweight" convert "$model" "$out/folder" --to f16 -q > /dev/null
"$python" - "$out" "$text" "$chunks" << 'PYTHON'
import json, pathlib, sys, tokenizers
out, text, chunks = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
tokenizer = tokenizers.Tokenizer.from_file(str(out / "folder/tokenizer.json"))
ids = tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids[: 512 * chunks]
(out / "ids.jsonl").write_text(json.dumps({"text": ids}) + "\n")
PYTHON
"$reweight" calibrate "$model" "$out/stats.safetensors" --text "$out/ids.jsonl" --context 512 -q
for format in gguf dat; do
    "$reweight" calibrate "$out/ours.$format" --merge "$out/stats.safetensors" -q
    "$work/build/bin/llama-quantize" --imatrix "$out/ours.$format" "$model" "$out/quantized.gguf" Q4_0 > "$out/log" 2>&1 ||
        { tail -5 "$out/log" >&2; exit 1; }
    grep -o 'loaded [0-9]* importance matrix entries' "$out/log"
done
"$python" - "$out" << 'PYTHON'
import pathlib, sys
import gguf, numpy as np
def means(path):
    tensors = {t.name: np.asarray(t.data, dtype=np.float64).reshape(-1) for t in gguf.GGUFReader(path).tensors}
    return {n[:-8]: tensors[n] / tensors[n[:-8] + ".counts"][0] for n in tensors if n.endswith(".in_sum2")}
out = pathlib.Path(sys.argv[1])
ours, theirs = means(out / "ours.gguf"), means(out / "theirs.gguf")
assert set(ours) == set(theirs), set(ours) ^ set(theirs)
off = np.concatenate([np.abs(ours[n] - theirs[n]) / theirs[n] for n in theirs])
print(f"{len(theirs)} weights, relative difference a channel: median {np.median(off):.1e}, 99 % {np.quantile(off, 0.99):.1e}, most {off.max():.1e}")
sys.exit(off.max() > 0.02)
PYTHON
