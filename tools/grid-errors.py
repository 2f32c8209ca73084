#!/usr/bin/env python3
"""Squared error of each grid as a share of the variance: Gaussian and Laplace rows, and two layers of a model. Prints a Markdown table.

    grid-errors.py MODEL [--layers NAME NAME] [--work FOLDER]

MODEL is a Hugging Face folder of one .safetensors file. Rows have a scale each, in f32. REWEIGHT names the program (default target/release/reweight).
The optimum uniform grid is Max's (1960): 2^B levels in equal steps about zero, the step that is best for the distribution, by numeric search on
these values; for layers, `intB-channel` by search, which also places its zero.
"""
import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = os.environ.get("REWEIGHT", str(ROOT / "target/release/reweight"))


def optimum(values, bits):
    n = 2 ** (bits - 1)
    best = None
    for step in torch.logspace(-2.2, 0.6, 160).tolist():
        found = (torch.clamp(torch.round(values / step - 0.5), -n, n - 1) + 0.5) * step
        error = (found - values).square().mean().item()
        best = error if best is None else min(best, error)
    return best / values.square().mean().item()


def measured(model, variances, work, scheme, method):
    target = work / "target"
    shutil.rmtree(target, ignore_errors=True)
    words = [PROGRAM, "quantize", str(model), str(target), "--scheme", scheme, "--method", method, "--scale-dtype", "f32", "--to", "reweight"]
    ran = subprocess.run([*words, "--json"], check=True, capture_output=True, text=True)
    errors = {tensor["name"]: tensor["error_mse"] for tensor in json.loads(ran.stdout)["tensors"]}
    return [errors[name] / variance for name, variance in variances.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--layers", nargs=2, default=["model.layers.15.self_attn.q_proj.weight", "model.layers.15.mlp.down_proj.weight"])
    parser.add_argument("--work", type=Path, default=Path("target/grid-errors"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    gauss = torch.randn(256, 1024)
    laplace = torch.distributions.Laplace(0.0, 1.0).sample((256, 1024))
    tensors = {"model.layers.0.mlp.up_proj.weight": gauss, "model.layers.0.mlp.gate_proj.weight": laplace}
    with safe_open(args.model / "model.safetensors", framework="pt") as file:
        for index, name in enumerate(args.layers):
            tensors[f"model.layers.{index + 1}.mlp.up_proj.weight"] = file.get_tensor(name).float().contiguous()
    model = args.work / "model.safetensors"
    save_file(tensors, model)
    variances = {name: tensor.double().square().mean().item() for name, tensor in tensors.items()}
    print("| grid | Gaussian | Laplace | " + " | ".join(f"`{name.split('.', 3)[-1].removesuffix('.weight')}`" for name in args.layers) + " |")
    print("|---|---|---|---|---|")

    def row(name, errors):
        print(f"| {name} | " + " | ".join("" if error is None else f"{error:.3g}" for error in errors) + " |", flush=True)

    for bits in [1, 2, 3, 4]:
        row(f"`statsq{bits}`", measured(model, variances, args.work, f"statsq{bits}", "rtn"))
        row(f"`statsq{bits}-fit`", measured(model, variances, args.work, f"statsq{bits}-fit", "search"))
        uniform = [optimum(tensors[name].flatten(), bits) for name in list(tensors)[:2]]
        layers = [None, None] if bits == 1 else measured(model, variances, args.work, f"int{bits}-channel", "search")[2:]
        row(f"uniform, {bits} bits", uniform + layers)
        if bits > 1:
            row(f"`lloyd{bits}`", measured(model, variances, args.work, f"lloyd{bits}", "search"))
    row("`nf4`", measured(model, variances, args.work, "nf4", "search"))
    row("`ternary`", measured(model, variances, args.work, "ternary", "search"))


if __name__ == "__main__":
    main()
