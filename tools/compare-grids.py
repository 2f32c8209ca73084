#!/usr/bin/env python3
"""Compares the grids that are no integers with the formulas they are published by, evaluated in torch.

    compare-grids.py fixtures tests/fixtures/grids
        makes weights.safetensors and expected.safetensors (codes, scales and values of the formulas)
    compare-grids.py model MODEL [--work FOLDER] [--bits 1,2,3]
        quantizes a Hugging Face folder by the program and compares every code, level and value; ends with status 1 where one differs

StatsQ: nbasyl/OFQ, `src/quantization/quantizer/statsq.py`, its forward pass word for word but for two things. The mean is taken in f64 and rounded
to f32, because the order of torch's own f32 sum is not stated anywhere; the report counts rows where that gives another scale, and codes
where that gives another code. At one bit the published code rounds what lies at the lower end out of the two levels; such values are counted, and
held on the lowest level. NF4: bitsandbytes, `quantize_4bit` on the CPU. Ternary: BitNet b1.58, equations 1 to 3, without its 10^-5.
The program's files are read here by docs/format.md alone. REWEIGHT names the program (default target/release/reweight).
Last run with torch 2.15.0, bitsandbytes 0.50.2, safetensors 0.8.0.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent


def scale_of(groups, exact=True):
    """OFQ's scaling factor: twice the mean magnitude of what shares it."""
    if exact:
        return (2 * groups.abs().double().mean(dim=-1, keepdim=True).float()).float()
    return 2 * torch.mean(torch.abs(groups), dim=-1, keepdim=True)


def statsq(groups, bits, scale):
    """Codes from 0, values, and how many values the published code puts outside the 2^bits levels."""
    scaled = groups / scale
    clipped = torch.clamp(scaled, min=-1.0, max=1.0 - 1e-6)
    n = float(2 ** (bits - 1))
    rounded = torch.round(clipped * n - 0.5)
    outside = int((rounded < -n).sum())
    rounded = rounded.clamp(min=-n)
    values = scale * ((rounded + 0.5) / n)
    return (rounded + n).to(torch.uint8), values, outside


def ternary(groups):
    scale = groups.abs().double().mean(dim=-1, keepdim=True).float()
    codes = torch.clamp(torch.round(groups / scale), -1, 1)
    return (codes + 1).to(torch.uint8), codes * scale, scale


def nf4(groups):
    import bitsandbytes.functional as functional

    packed, state = functional.quantize_4bit(groups.contiguous(), blocksize=groups.shape[-1], quant_type="nf4")
    packed = packed.flatten()
    codes = torch.stack([packed >> 4, packed & 15], dim=-1).reshape(groups.shape)
    return codes, state.code[codes.long()] * state.absmax.reshape(-1, 1), state.absmax.reshape(-1, 1)


def split(weight, group):
    return weight if group is None else weight.reshape(-1, group)


def suffix(group):
    return "" if group is None else f"-g{group}"


def fixtures(folder):
    torch.manual_seed(7)
    weights = {}
    gaussian = torch.randn(3, 192)
    laplace = torch.distributions.Laplace(0.0, 0.02).sample((3, 192))
    uneven = torch.randn(3, 192) * torch.logspace(-3, 1, 192)
    # Ties: multiples of a sixteenth of the scale, which is 2 in every row and every 64 values; then zeros and tiny numbers.
    ties = (torch.arange(64) % 17 - 8) / 4.0
    ties = ties / ties.abs().mean()
    edges = torch.stack([ties.repeat(3), torch.tensor([1.0, -1.0] * 96), torch.tensor([2e-30, -1.0, 0.0, 1.0] * 48)])
    for index, weight in enumerate([gaussian, laplace, uneven, edges]):
        weights[f"model.layers.{index}.mlp.up_proj.weight"] = weight.float().contiguous()
    expected = {}
    for name, weight in weights.items():
        def put(scheme, codes, values, scale):
            expected[f"{scheme}/{name}/codes"] = codes.reshape(weight.shape).contiguous()
            expected[f"{scheme}/{name}/values"] = values.reshape(weight.shape).contiguous()
            expected[f"{scheme}/{name}/scales"] = scale.reshape(weight.shape[0], -1).contiguous()

        for group in [None, 64]:
            groups = split(weight, group)
            for bits in range(1, 9):
                scale = scale_of(groups)
                codes, values, _ = statsq(groups, bits, scale)
                # The program stores the step.
                put(f"statsq{bits}{suffix(group)}", codes, values, scale / 2 ** (bits - 1))
            codes, values, scale = ternary(groups)
            put(f"ternary{suffix(group)}", codes, values, scale)
        put("nf4-g64", *nf4(split(weight, 64)))
    versions = {"torch": torch.__version__, "script": "tools/compare-grids.py"}
    import bitsandbytes

    versions["bitsandbytes"] = bitsandbytes.__version__
    save_file(weights, folder / "weights.safetensors", metadata={"provenance": json.dumps(versions)})
    save_file(expected, folder / "expected.safetensors", metadata={"provenance": json.dumps(versions)})


def read_own(file):
    """Weights of the toolkit's layout, by docs/format.md: name -> scheme, codes, scales, levels."""
    with safe_open(file, "pt") as tensors:
        names = set(tensors.keys())
        for name in sorted(names):
            if not name.endswith(".weight_codes"):
                continue
            module = name.removesuffix(".weight_codes")
            get = lambda part: tensors.get_tensor(f"{module}.weight_{part}")
            scheme = bytes(get("scheme").tolist()).decode("ascii")
            rows, columns = get("shape").tolist()
            packed, levels = get("codes"), get("levels")
            if scheme.startswith("ternary"):
                codes = torch.stack([packed.int() // 3**i % 3 for i in range(5)], dim=-1)
            else:
                bits = (len(levels) - 1).bit_length()
                stream = torch.stack([packed >> i & 1 for i in range(8)], dim=-1).reshape(rows, -1)
                stream = stream[:, : stream.shape[1] // bits * bits].reshape(rows, -1, bits).int()
                codes = (stream << torch.arange(bits)).sum(-1)
            codes = codes.reshape(rows, -1)[:, :columns].to(torch.uint8)
            yield module, scheme, codes, get("scales").float(), levels


def compare(model, work, widths):
    program = os.environ.get("REWEIGHT", str(ROOT / "target/release/reweight"))
    originals = {}
    for file in sorted(Path(model).glob("*.safetensors")):
        originals.update(load_file(file))
    failed = False
    for bits in widths:
        for group in [None, 64]:
            scheme, target = f"statsq{bits}{suffix(group)}", work / "target"
            shutil.rmtree(target, ignore_errors=True)
            words = [program, "quantize", str(model), str(target), "--scheme", scheme, "--method", "rtn", "--scale-dtype", "f32", "-q"]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            n = {"tensors": 0, "weights": 0, "codes": 0, "levels": 0, "values": 0, "outside": 0, "scales of torch's sum": 0, "codes of torch's sum": 0}
            for file in sorted(target.glob("*.safetensors")):
                for module, named, codes, scales, levels in read_own(file):
                    assert named == scheme, (named, scheme)
                    weight = originals[f"{module}.weight"].float()
                    groups = split(weight, group)
                    scale = scale_of(groups)
                    expected, values, outside = statsq(groups, bits, scale)
                    own, steps = split(codes, group), scales.reshape(-1, 1)
                    half = 2 ** (bits - 1)
                    n["tensors"] += 1
                    n["weights"] += weight.numel()
                    n["codes"] += int((own != expected).sum())
                    n["levels"] += int((levels != torch.arange(2 * half) + 0.5 - half).sum())
                    n["values"] += int((levels[own.long()] * steps != values).sum())
                    n["outside"] += outside
                    plain = scale_of(groups, exact=False)
                    n["scales of torch's sum"] += int((plain != scale).sum())
                    n["codes of torch's sum"] += int((statsq(groups, bits, plain)[0] != expected).sum())
            print(json.dumps({"scheme": scheme, **n}), flush=True)
            failed |= n["tensors"] == 0 or n["codes"] + n["levels"] + n["values"] > 0
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("fixtures").add_argument("folder", type=Path)
    model = modes.add_parser("model")
    model.add_argument("model", type=Path)
    model.add_argument("--work", type=Path, default=Path("/tmp"))
    model.add_argument("--bits", default="1,2,3,4,5,6,7,8")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    if arguments.mode == "fixtures":
        fixtures(arguments.folder)
        return 0
    return int(compare(arguments.model, arguments.work, [int(bits) for bits in arguments.bits.split(",")]))


if __name__ == "__main__":
    sys.exit(main())
