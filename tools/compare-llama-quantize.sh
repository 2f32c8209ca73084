#!/bin/sh
# Times llama.cpp's llama-quantize against reweight on the same SmolLM2 weights.
#   REWEIGHT=target/release/reweight tools/compare-llama-quantize.sh [RUNS]
# Needs tools/fetch-models, GNU time, and what tools/build-llama.sh needs, which the first run calls (minutes).
# The rivals take turns; printed are the median wall time, its ratio to llama-quantize, and the
# largest resident set.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
reweight=${REWEIGHT:-$here/target/release/reweight}
runs=${1:-9}
work=$here/target/llama.cpp
gguf=$here/models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf
version=0.3.36
llama_quantize=$work/build/bin/llama-quantize

fail() {
    echo "compare-llama-quantize: $1" >&2
    exit 1
}

[ -x "$reweight" ] || fail "no binary at \`$reweight\` (set REWEIGHT)"
[ -f "$gguf" ] || fail "no \`$gguf\`: run tools/fetch-models"
/usr/bin/time -f %e true 2> /dev/null || fail "GNU time is needed at /usr/bin/time"

# one NAME COMMAND...: runs it, appends "seconds kilobytes" to NAME.times
one() {
    name=$1
    shift
    rm -rf "$work/out"
    /usr/bin/time -f '%e %M' -a -o "$work/$name.times" "$@" > "$work/$name.log" 2>&1 ||
        fail "\`$*\` failed: see $work/$name.log"
}

round() {
    one llama "$llama_quantize" "$work/f16.gguf" "$work/out" Q4_0
    one gguf "$reweight" quantize "$work/f16.gguf" "$work/out" --scheme int4-g32 --method rtn
    one folder "$reweight" quantize "$work/bf16" "$work/out" --scheme int4-g32 --method rtn
}

median() { sort -n "$work/$1.times" | awk '{ t[NR] = $1 } END { print (t[int((NR + 1) / 2)] + t[int(NR / 2) + 1]) / 2 }'; }
resident() { awk '$2 > most { most = $2 } END { print most / 1024 }' "$work/$1.times"; }
report() {
    awk -v what="$2" -v time="$(median "$1")" -v base="$(median llama)" -v mib="$(resident "$1")" \
        'BEGIN { printf "%-48s %7.3f s  %5.2fx  %6.0f MiB\n", what, time, time / base, mib }'
}

"$here/tools/build-llama.sh" llama-quantize
[ -f "$work/f16.gguf" ] || "$llama_quantize" --allow-requantize "$gguf" "$work/f16.gguf" F16 > "$work/f16.log" 2>&1
rm -rf "$work/bf16"
"$reweight" --quiet convert "$work/f16.gguf" "$work/bf16" --to bf16
round
rm -f "$work"/*.times
for _ in $(seq "$runs"); do
    round
done
rm -rf "$work/out"
echo "$(nproc) cores, $runs runs of each in turn; median wall time, ratio to llama-quantize, peak resident"
report llama "llama-quantize ($version) F16 GGUF -> Q4_0"
report gguf "reweight F16 GGUF -> int4-g32 rtn"
report folder "reweight bf16 folder -> int4-g32 rtn"
