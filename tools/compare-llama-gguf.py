#!/usr/bin/env python3
"""Our GGUF files beside llama-quantize's own, type by type, on SmolLM2.

    REWEIGHT=target/release/reweight tools/compare-llama-gguf.py [--perplexity TEXT [--chunks N]] [--loss TEXT..] [--times RUNS] [--imatrix FILE] [SCHEME...]

Needs what tools/compare-llama-quantize.sh builds under target/llama.cpp (run it first). Both start from the same F16 file (F16, or the one that the script made).
Printed for each type in a file: tensors, median and largest ratio of our mean squared error to llama.cpp's, and whether
every tensor has the type that llama.cpp gives it. With --perplexity also what llama-perplexity makes of both (tools/build-llama.sh builds
it; it runs with --no-repack, because that of llama-cpp-python 0.3.36 ends in a segmentation fault otherwise, on its own files
too), over --chunks windows of 512. With --loss what `reweight eval` makes of both, in f32, over --tokens of each text. With --times both take turns so many times; printed
are the median wall and processor times of each and how many times as fast we are. --imatrix is given to both.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
LLAMA = ROOT / "target/llama.cpp"
SCHEMES = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k"]


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout + done.stderr


def errors(reweight, source, file):
    told = json.loads(subprocess.check_output([reweight, "diff", source, file, "--json"]))
    return {row["name"]: (row["b"].split()[0], row["mse"]) for row in told["tensors"]}


def perplexity(file, text, chunks):
    words = [LLAMA / "build/bin/llama-perplexity", "-m", file, "-f", text, "-c", "512", "--chunks", chunks, "--no-repack"]
    return float(re.search(r"PPL = ([0-9.]+)", run(*words)).group(1))


def loss(reweight, file, text, tokens):
    words = [reweight, "eval", file, "--text", text, "--context", "512", "--max-tokens", str(tokens), "--json"]
    return json.loads(subprocess.check_output(words))["nll"]


def timed(*words):
    before, start = os.times(), time.monotonic()
    run(*words)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - start, used


def race(runs, ours, theirs):
    """Wall and processor seconds of both, in turns."""
    rounds = [(timed(*ours), timed(*theirs)) for _ in range(runs)]
    of = lambda who, what: statistics.median(one[who][what] for one in rounds)
    for what, name in enumerate(("wall", "processor")):
        print(f"    {name} {of(0, what):.2f} s, llama-quantize {of(1, what):.2f} s: {of(1, what) / of(0, what):.2f} times as fast")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schemes", nargs="*", default=SCHEMES, metavar="SCHEME")
    parser.add_argument("--perplexity", metavar="TEXT")
    parser.add_argument("--loss", metavar="TEXT", nargs="+")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--times", type=int, default=0, metavar="RUNS")
    parser.add_argument("--imatrix", metavar="FILE")
    options = parser.parse_args()
    reweight, source = os.environ.get("REWEIGHT", str(ROOT / "target/release/reweight")), pathlib.Path(os.environ.get("F16", LLAMA / "f16.gguf"))
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = pathlib.Path(folder) / "ours.gguf", pathlib.Path(folder) / "theirs.gguf"
        for scheme in options.schemes:
            stats, matrix = (["--stats", options.imatrix], ["--imatrix", options.imatrix]) if options.imatrix else ([], [])
            our_words = [reweight, "quantize", source, ours, "--to", "gguf", "--scheme", scheme, "--force", "--quiet", *stats]
            their_words = [LLAMA / "build/bin/llama-quantize", *matrix, source, theirs, scheme.upper()]
            run(*our_words)
            run(*their_words)
            our, their = errors(reweight, source, ours), errors(reweight, source, theirs)
            same = all(our[name][0] == their[name][0] for name in their)
            ratios = {}
            for name, (kind, mse) in their.items():
                if mse:
                    ratios.setdefault(kind, []).append(our[name][1] / mse)
            told = ", ".join(
                f"{len(found)} {kind} {statistics.median(found):.3f} (at most {max(found):.3f})"
                for kind, found in sorted(ratios.items())
            )
            print(f"{scheme}: {told}; {'the same types' if same else 'OTHER TYPES'}")
            if options.times:
                race(options.times, our_words, their_words)
                if scheme == "q4_0":
                    print("    by --method rtn, the whole range as llama-quantize takes it:")
                    race(options.times, [*our_words[:-len(stats) or None], "--method", "rtn"], their_words)
            for text in options.loss or []:
                found = [loss(reweight, file, text, options.tokens) for file in (ours, theirs)]
                print(f"    loss on {pathlib.Path(text).stem} {found[0]:.4f}, llama-quantize {found[1]:.4f}", flush=True)
            if options.perplexity:
                found = [perplexity(file, options.perplexity, options.chunks) for file in (ours, theirs)]
                print(f"    perplexity {found[0]:.4f}, llama-quantize {found[1]:.4f}")


if __name__ == "__main__":
    main()
