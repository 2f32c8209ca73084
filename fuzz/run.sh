#!/usr/bin/env bash
# Builds the fuzz targets with coverage on stable Rust and runs each for SECONDS (60), two at a time.
#   fuzz/run.sh [SECONDS] [TARGET...]
# What is found is left in fuzz/artifacts; new inputs go to fuzz/corpus, which git ignores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=${1:-60}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(safetensors gguf model manifest_journal patch)

host=$(rustc -vV | sed -n 's/^host: //p')
# With --target the flags do not reach build scripts. They are those of cargo-fuzz, without the sanitizer of addresses,
# which needs a nightly compiler.
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions -Ccodegen-units=1" \
    cargo build --release --locked --target "$host" --target-dir target

mkdir -p artifacts
fuzz() {
    mkdir -p "corpus/$1"
    local status=0
    "target/$host/release/$1" "corpus/$1" "seeds/$1" -max_total_time="$seconds" -rss_limit_mb=512 -timeout=10 -seed=1 \
        -artifact_prefix="artifacts/$1-" > "artifacts/$1.log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        printf 'fuzz %s: FAILED (status %d)\n' "$1" "$status"
        tail -n 40 "artifacts/$1.log"
        return 1
    fi
    printf 'fuzz %s: %s\n' "$1" "$(tail -n 1 "artifacts/$1.log")"
}

failed=0
while [ ${#targets[@]} -gt 0 ]; do
    jobs=()
    for target in "${targets[@]:0:2}"; do
        fuzz "$target" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do
        wait "$job" || failed=1
    done
    targets=("${targets[@]:2}")
done
exit "$failed"
