#!/bin/sh
# Times XNNPACK's softmax operator against reweight's `auto`, on one row and one thread, and says which instruction set the
# operator's micro-kernel uses: the one that a distribution builds may be far from the best that XNNPACK has.
#   apt-get install libxnnpack-dev
#   cargo build --release
#   REWEIGHT=target/release/reweight tools/compare-xnnpack-softmax.sh [SIZE]...
# Needs a C compiler, python3 and objdump. XNNPACK names a folder that holds `include` and `lib`, where the library is not
# installed for all. Both take turns, TURNS times (3); printed are medians, and XNNPACK's time by ours.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
reweight=${REWEIGHT:-$here/target/release/reweight}
turns=${TURNS:-3}
[ $# -gt 0 ] || set -- 64 1024 16384 131072 1048576 4194304 67108864
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags=
if [ -n "${XNNPACK:-}" ]; then
    libraries=$(dirname "$(find "$XNNPACK" -name libXNNPACK.so | head -n 1)")
    flags="-I$XNNPACK/include -L$libraries -Wl,-rpath-link,$libraries"
    export LD_LIBRARY_PATH="$libraries"
fi
# shellcheck disable=SC2086 # several words
${CC:-cc} -O2 "$here/tools/xnnpack-softmax/xnnpack-softmax.c" $flags -o "$work/rival" -lXNNPACK -ldl || {
    echo "compare-xnnpack-softmax: xnnpack-softmax does not build; is libxnnpack-dev installed?" >&2
    exit 1
}

# The widest registers around an address of a library.
registers() {
    python3 - "$1" "$2" <<'PY'
import re, subprocess, sys

library, hot = sys.argv[1], int(sys.argv[2], 16)
if library == "-":
    sys.exit(print("unknown"))
window = [f"--start-address={max(hot - 64, 0)}", f"--stop-address={hot + 192}"]
code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", *window, library], capture_output=True, text=True).stdout
widest = max(re.findall(r"%([xyz]mm)", code), default="unknown")
print({"xmm": "SSE (xmm)", "ymm": "AVX (ymm)", "zmm": "AVX-512 (zmm)"}.get(widest, widest))
PY
}

for n in "$@"; do
    : > "$work/ours"
    : > "$work/theirs"
    for _ in $(seq "$turns"); do
        "$reweight" bench softmax --json --threads 1 --rounds 5 --sizes "$n" > "$work/bench.json"
        python3 -c 'import json, sys
results = json.load(open(sys.argv[1]))["results"]
auto = [r for r in results if r["variant"] == "auto" and not r["in_place"] and "input" not in r]
print(auto[-1]["seconds"], auto[-1]["kernels"])' "$work/bench.json" >> "$work/ours"
        "$work/rival" "$n" 5 >> "$work/theirs"
    done
    read -r _ library address < "$work/theirs"
    python3 -c 'import statistics, sys
rows = [[line.split() for line in open(path)] for path in sys.argv[1:3]]
ours, theirs = [statistics.median(float(row[0]) for row in part) for part in rows]
print(f"{sys.argv[3]:>9}: {rows[0][0][1]} {ours:.3e} s, XNNPACK {theirs:.3e} s on {sys.argv[4]}: {theirs / ours:.2f}x")' \
        "$work/ours" "$work/theirs" "$n" "$(registers "$library" "$address")"
done
