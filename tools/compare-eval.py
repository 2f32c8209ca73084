#!/usr/bin/env python3
"""Times reweight's eval and calibrate beside transformers in f32 on the same windows, and compares the loss.

    python3 tools/compare-eval.py MODEL TEXT [--context N] [--windows N] [--threads N] [--rounds N]

MODEL is a Hugging Face folder that transformers loads (packed compressed-tensors folders are decompressed while loading). The two take
turns; medians are printed, with their ratio, as one JSON document. REWEIGHT names the binary (default target/release/reweight).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tokenizers
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent


def load(folder):
    config = json.loads((Path(folder) / "config.json").read_text())
    options = {"dtype": torch.float32}
    if config.get("quantization_config", {}).get("quant_method") == "compressed-tensors":
        from transformers.utils.quantization_config import CompressedTensorsConfig
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def windows(folder, text, context, limit):
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.encode(Path(text).read_text(), add_special_tokens=False).ids
    cut = [ids[start:start + context] for start in range(0, len(ids) - context + 1, context)]
    return cut[:limit]


def evaluate(model, cut):
    total, count = 0.0, 0
    started = time.perf_counter()
    with torch.no_grad():
        for window in cut:
            ids = torch.tensor([window])
            logits = model(ids).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            count += len(window) - 1
    return total / count, time.perf_counter() - started


def calibrate(model, cut):
    """Moments of every linear layer's input but the output layer's, as AWQ tools gather them."""
    sums, hooks = {}, []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
            def hook(_module, inputs, _output, name=name):
                x = inputs[0].reshape(-1, inputs[0].shape[-1])
                absolute, square = x.abs().sum(0), (x * x).sum(0)
                if name in sums:
                    sums[name][0].add_(absolute)
                    sums[name][1].add_(square)
                else:
                    sums[name] = [absolute, square]
            hooks.append(module.register_forward_hook(hook))
    started = time.perf_counter()
    with torch.no_grad():
        for window in cut:
            model.model(torch.tensor([window]))
    seconds = time.perf_counter() - started
    for hook in hooks:
        hook.remove()
    return seconds


def ours(arguments, threads):
    binary = os.environ.get("REWEIGHT", ROOT / "target/release/reweight")
    ran = subprocess.run([binary, *arguments, "--threads", str(threads), "--json"], check=True, capture_output=True)
    return json.loads(ran.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    cut = windows(options.model, options.text, options.context, options.windows)
    n_tokens = sum(map(len, cut))
    model = load(options.model)
    evaluate(model, cut[:1])
    times = {"eval": [], "eval_torch": [], "calibrate": [], "calibrate_torch": []}
    common = ["--text", options.text, "--context", str(options.context)]
    with tempfile.TemporaryDirectory() as folder:
        stats = str(Path(folder) / "stats.safetensors")
        for _ in range(options.rounds):
            nll_torch, seconds = evaluate(model, cut)
            times["eval_torch"].append(seconds)
            found = ours(["eval", options.model, *common, "--max-tokens", str(n_tokens)], options.threads)
            times["eval"].append(found["seconds"])
            times["calibrate_torch"].append(calibrate(model, cut))
            gathered = ours(["calibrate", options.model, stats, *common, "--tokens", str(n_tokens), "--force"], options.threads)
            times["calibrate"].append(gathered["seconds"])
    median = {name: statistics.median(values) for name, values in times.items()}
    document = {
        "tokens": n_tokens - len(cut), "nll": found["nll"], "nll_torch": nll_torch, "difference": found["nll"] - nll_torch,
        "tokens_per_s": {name: n_tokens / seconds for name, seconds in median.items()},
        "eval_ratio": median["eval_torch"] / median["eval"],
        "calibrate_ratio": median["calibrate_torch"] / median["calibrate"],
        "threads": options.threads, "torch": torch.__version__, "transformers": transformers.__version__,
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
    }
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
