#!/usr/bin/env python3
"""Weighted error of our GGUF blocks beside llama-quantize's, both with one importance matrix, on down projections.

    REWEIGHT=target/release/reweight .venv/bin/python tools/compare-llama-imatrix.py MODEL.gguf IMATRIX.gguf [TYPE...]

MODEL is in floats, and rows of its down projections are whole super-blocks, so that no type falls back to another: those of
SmolLM2 and of the bundled model are. IMATRIX comes from `reweight calibrate` or llama-imatrix, in its GGUF format. Needs what
tools/build-llama.sh builds, and a Python with the `gguf` package. Printed for each type: the ratio of our error to llama.cpp's
in up to five layers, weighted by the matrix; and unweighted, without one.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from gguf.quants import dequantize

ROOT = pathlib.Path(__file__).resolve().parents[1]
LLAMA = ROOT / "target/llama.cpp"
TYPES = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"]
LAYERS = 5


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout[-500:]}{done.stderr[-500:]}")


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def values(tensor):
    return dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def moments(path, names):
    found = {name: np.asarray(tensor.data, dtype=np.float64).reshape(-1) for name, tensor in tensors(path).items()}
    return {name: found[f"{name}.in_sum2"] / found[f"{name}.counts"][0] for name in names}


def main():
    source, matrix, types = sys.argv[1], sys.argv[2], sys.argv[3:] or TYPES
    reweight = os.environ.get("REWEIGHT", str(ROOT / "target/release/reweight"))
    downs = {name: tensor for name, tensor in tensors(source).items() if name.endswith(".ffn_down.weight")}
    names = sorted(downs, key=lambda name: int(name.split(".")[1]))
    names = [names[index] for index in sorted({round(index) for index in np.linspace(0, len(names) - 1, LAYERS)})]
    original, weights = {name: values(downs[name]) for name in names}, moments(matrix, names)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = pathlib.Path(folder) / "ours.gguf", pathlib.Path(folder) / "theirs.gguf"
        for kind in types:
            pure = f"{kind}_s" if kind in ("q3_k", "q4_k", "q5_k") else kind
            for told in (True, False):
                words = ["--imatrix", matrix] if told else []
                run(LLAMA / "build/bin/llama-quantize", *words, "--pure", source, theirs, pure)
                words = ["--stats", matrix] if told else []
                only = f"*.mlp.down_proj.weight={kind}"
                run(reweight, "quantize", source, ours, "--to", "gguf", "--scheme", "f16", "--tensor", only, "--force", *words)
                our, their = tensors(ours), tensors(theirs)
                ratios = []
                for name in names:
                    assert our[name].tensor_type == their[name].tensor_type, (name, their[name].tensor_type)
                    weight = weights[name] if told else 1.0
                    errors = [(np.square(values(file[name]) - original[name]) * weight).sum() for file in (our, their)]
                    ratios.append(errors[0] / errors[1] if errors[1] else float(errors[0] > 0))
                print(kind, "imatrix" if told else "plain", " ".join(f"{ratio:.4f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
