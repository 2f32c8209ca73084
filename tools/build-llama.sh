#!/bin/sh
# Builds programs of llama.cpp under target/llama.cpp/build/bin, once: what is there is left alone.
#   tools/build-llama.sh [PROGRAM...]      llama-quantize, llama-perplexity and llama-gguf-split where none is named
# The source is that in the PyPI package llama-cpp-python. Needs python3 with venv and a C++ compiler; on two cores the three
# take about five minutes.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
work=$here/target/llama.cpp
version=0.3.36
source=$work/llama_cpp_python-$version/vendor/llama.cpp
[ $# -gt 0 ] || set -- llama-quantize llama-perplexity llama-gguf-split

missing=
for program in "$@"; do
    [ -x "$work/build/bin/$program" ] || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

mkdir -p "$work"
if [ ! -x "$work/venv/bin/ninja" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet cmake==4.4.4 ninja==1.13.2 scikit-build-core flit_core setuptools
fi
if [ ! -d "$source" ]; then
    PATH=$work/venv/bin:$PATH "$work/venv/bin/pip" download --quiet --no-deps --no-build-isolation \
        --no-binary llama-cpp-python --dest "$work" "llama-cpp-python==$version"
    tar -xzf "$work/llama_cpp_python-$version.tar.gz" -C "$work"
fi
if [ ! -f "$work/build/build.ninja" ]; then
    "$work/venv/bin/cmake" -G Ninja -S "$source" -B "$work/build" \
        -DCMAKE_MAKE_PROGRAM="$work/venv/bin/ninja" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF > "$work/configure.log"
fi
# shellcheck disable=SC2086 # names of programs have no spaces
nice "$work/venv/bin/cmake" --build "$work/build" --target $missing > "$work/build.log"
