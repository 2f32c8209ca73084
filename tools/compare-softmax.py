#!/usr/bin/env python3
"""Softmax here beside torch.softmax, on one thread: one row of 16 to 2^26 floats, and many rows.

    pip install torch==2.15.0
    cargo build --release
    tools/compare-softmax.py [--reweight target/release/reweight] [--kernels avx512|avx2|scalar] [--json] [SIZE | ROWSxSIZE]...

Both take turns, a process of `reweight bench` and a few runs of torch, --turns times; a ratio is the median of torch's times over
the median of ours in `auto`, what the library chooses by itself. Both write to memory that was written before, torch with
`out=`. Up to 2^23 elements both run once before a sample, as `bench` does. torch runs its own best code whatever --kernels says;
ATEN_CPU_CAPABILITY=avx2 in the environment holds it to AVX2.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch

SIZES = ["16", "64", "256", "1024", "4096", "16384", "65536", "262144", "1048576", "4194304", "16777216", "67108864"]
ROWS = ["65536x16", "16384x64", "32768x1024", "4096x4096"]
SAMPLE = 1 << 21
WARM = 1 << 23


def ours(args, rows, n):
    command = [args.reweight, "bench", "softmax", "--json", "--threads", "1", "--rounds", str(args.rounds)]
    command += ["--sizes", str(n), "--total", str(rows * n)]
    if args.kernels:
        command += ["--kernels", args.kernels]
    results = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["results"]
    auto = [r for r in results if r["variant"] == "auto" and not r["in_place"] and "input" not in r]
    # Tables come in order, the fastest last.
    return auto[-1]["kernels"], auto[-1]["seconds"]


def theirs(args, rows, n):
    x = torch.rand(rows, n) * 16 - 8
    out = torch.ones_like(x)
    repeats = max(1, SAMPLE // (rows * n))
    seconds = []
    for _ in range(args.rounds):
        if rows * n <= WARM:
            torch.softmax(x, dim=-1, out=out)
        start = time.perf_counter()
        for _ in range(repeats):
            torch.softmax(x, dim=-1, out=out)
        seconds.append((time.perf_counter() - start) / repeats)
    return statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", nargs="*", metavar="SIZE | ROWSxSIZE", default=SIZES + ROWS)
    parser.add_argument("--reweight", default="target/release/reweight")
    parser.add_argument("--kernels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    if not args.json:
        print(f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), one thread")
    for shape in args.sizes:
        rows, n = map(int, shape.split("x")) if "x" in shape else (1, int(shape))
        mine, torchs = [], []
        for _ in range(args.turns):
            kernels, seconds = ours(args, rows, n)
            mine.append(seconds)
            torchs.append(theirs(args, rows, n))
        a, b = statistics.median(mine), statistics.median(torchs)
        results.append({"rows": rows, "n": n, "kernels": kernels, "seconds": a, "seconds_torch": b, "ratio": b / a})
        if not args.json:
            print(f"{rows:>6} x {n:<9} {kernels:<7} {a:.3e} s, torch {b:.3e} s: {b / a:.2f}x", flush=True)
    if args.json:
        print(json.dumps({"torch": torch.__version__, "results": results}, indent=1))


if __name__ == "__main__":
    main()
