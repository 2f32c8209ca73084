#!/bin/sh
# Times llama.cpp's matrix-vector products against reweight's: Q4_0 and Q4_K, plain and repacked,
# beside int4-g128 with int8 activations.
#   BENCH=target/release/deps/matvec-... tools/compare-llama-matvec.sh [RUNS] [THREADS]
# Needs a C compiler and python3. libggml comes from the source of llama.cpp in the PyPI package
# llama-cpp-python, built under target/llama.cpp by tools/compare-llama-quantize.sh or here (minutes);
# LLAMA names another folder that holds both. The two programs take turns, each with weights of its
# own that exceed the caches together (and one matrix in cache); printed are medians over the runs.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
runs=${1:-5}
threads=${2:-1}
work=$here/target/llama.cpp
llama=${LLAMA:-$work}
version=0.3.36
source=$llama/llama_cpp_python-$version/vendor/llama.cpp
libraries=$llama/build/ggml/src

fail() {
    echo "compare-llama-matvec: $1" >&2
    exit 1
}

build_libggml() {
    mkdir -p "$llama"
    python3 -m venv "$llama/venv"
    "$llama/venv/bin/pip" install --quiet cmake==4.4.4 ninja==1.13.2 scikit-build-core flit_core setuptools
    PATH=$llama/venv/bin:$PATH "$llama/venv/bin/pip" download --quiet --no-deps --no-build-isolation \
        --no-binary llama-cpp-python --dest "$llama" "llama-cpp-python==$version"
    tar -xzf "$llama/llama_cpp_python-$version.tar.gz" -C "$llama"
    nice "$llama/venv/bin/cmake" -G Ninja -S "$source" -B "$llama/build" \
        -DCMAKE_MAKE_PROGRAM="$llama/venv/bin/ninja" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF > "$llama/configure.log"
    nice "$llama/venv/bin/cmake" --build "$llama/build" --target ggml > "$llama/build.log"
}

[ -f "$libraries/libggml-cpu.a" ] || build_libggml
mkdir -p "$work"
rival=$work/llama-matvec
${CC:-cc} -O2 -I "$source/ggml/include" "$here/tools/llama-matvec/llama-matvec.c" -o "$rival" \
    "$libraries/libggml.a" "$libraries/libggml-cpu.a" "$libraries/libggml-base.a" \
    -lstdc++ -lm -lgomp -lpthread -ldl || fail "llama-matvec does not build"
bench=${BENCH:-$(cd "$here" && cargo bench --quiet --bench matvec --no-run --message-format=json |
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("target", {}).get("name") == "matvec" and message.get("executable"):
        print(message["executable"])')}
[ -x "$bench" ] || fail "no bench at \`$bench\`"

# measure ROWS COLUMNS MIB: both programs in turn, then their medians side by side
measure() {
    rm -f "$work"/matvec.*.txt "$work"/matvec.*.json
    for run in $(seq "$runs"); do
        "$rival" "$1" "$2" "$3" "$threads" 3 > "$work/matvec.$run.txt"
        "$bench" --json --shape "$1x$2" --bits 4 --threads "$threads" --mib "$3" --rounds 3 \
            > "$work/matvec.$run.json" 2> "$work/matvec.log"
    done
    python3 "$here/tools/llama-matvec/report.py" "$work" "$runs" "$1x$2"
}

echo "$threads threads, medians of $runs runs in turn; ratio: the rival's time by that of the best int8 kernel"
for shape in "4096 4096 640" "14336 4096 640" "4096 11008 640" "512 2048 0"; do
    # shellcheck disable=SC2086 # three words
    measure $shape
done
