#!/usr/bin/env python3
"""`reweight quantize` beside llm-compressor: same model, same calibration tokens, same scheme, same machine; losses by one evaluator.

    python tools/compare-llm-compressor.py MODEL --text CALIBRATION... --eval HELDOUT... [--reweight BINARY]
        [--bits 3] [--group 64] [--tokens 16384] [--context 512] [--methods gptq awq] [--threads 2]

MODEL is a Hugging Face folder in floating point. Needs llmcompressor 0.14 with the torch, transformers and compressed-tensors that it
asks for. Its AWQ fails on a host without a GPU unless `Tensor.pin_memory` does nothing, so that is what it does here.

Every contender gets the same windows of token ids. Times are wall clock from the model in memory to the finished weights for
llm-compressor (its import and the reading of the model are not counted), and of the whole process for reweight (they are). Losses are
mean nats a predicted token over windows of 1024, computed by transformers in f32.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

import torch

torch.Tensor.pin_memory = lambda self, *args, **kwargs: self

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

EVAL_CONTEXT = 1024
EVAL_WINDOWS = 6


def spread(ids, context, n):
    """`n` whole windows at even distances."""
    windows = [ids[start : start + context] for start in range(0, len(ids) - context + 1, context)]
    if len(windows) <= n:
        return windows
    return [windows[index * len(windows) // n] for index in range(n)]


@torch.no_grad()
def loss(model, windows):
    total, count = 0.0, 0
    for window in windows:
        ids = torch.tensor([window])
        logits = model(ids).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += len(window) - 1
    return total / count


def losses(model, held_out):
    return [loss(model, windows) for windows in held_out]


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def modifiers(method, bits, group):
    weights = QuantizationArgs(num_bits=bits, symmetric=False, strategy="group", group_size=group)
    scheme = {"all": QuantizationScheme(targets=["Linear"], weights=weights)}
    if method == "gptq":
        return [GPTQModifier(config_groups=scheme, ignore=["lm_head"])]
    from llmcompressor.modifiers.transform.awq import AWQModifier

    return [AWQModifier(), QuantizationModifier(config_groups=scheme, ignore=["lm_head"])]


def theirs(path, windows, method, bits, group):
    model, tokenizer = load(path), AutoTokenizer.from_pretrained(path)
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * len(window) for window in windows]})
    start = time.perf_counter()
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=data,
        recipe=modifiers(method, bits, group),
        max_seq_length=len(windows[0]),
        num_calibration_samples=len(windows),
        shuffle_calibration_samples=False,
    )
    return model, time.perf_counter() - start


def ours(binary, path, windows, method, bits, group, threads, folder):
    ids = folder / "ids.jsonl"
    ids.write_text("".join(json.dumps({"text": window}) + "\n" for window in windows))
    scheme = f"int{bits}-g{group}"
    target, plain = folder / method, folder / f"{method}-f32"
    tokens = ["--tokens", str(sum(map(len, windows))), "--context", str(len(windows[0]))]
    guide = [] if method == "rtn" else ["--text", str(ids), *tokens]
    command = [binary, "quantize", str(path), str(target), "--scheme", scheme, "--method", method, *guide]
    start = time.perf_counter()
    subprocess.run([*command, "--threads", str(threads), "--quiet"], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    convert = [binary, "convert", str(target), str(plain), "--to", "f32", "--quiet"]
    subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
    return load(plain), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--eval", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--reweight", default="target/release/reweight")
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--methods", nargs="*", default=["gptq", "awq"], help="of llm-compressor")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    encode = lambda path: tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False).input_ids
    each = options.tokens // options.context // len(options.text)
    windows = [window for path in options.text for window in spread(encode(path), options.context, each)]
    held_out = [spread(encode(path), EVAL_CONTEXT, EVAL_WINDOWS) for path in options.eval]
    full = losses(load(options.model), held_out)
    print(f"{sum(map(len, windows))} tokens in {len(windows)} windows, {options.threads} threads")
    print("who | method | seconds | loss of each text | gap")

    def row(who, method, seconds, found):
        gap = sum(f - o for f, o in zip(found, full)) / len(full)
        print(f"{who} | {method} | {seconds:.1f} | {' '.join(f'{f:.4f}' for f in found)} | {gap:.4f}", flush=True)
        return gap

    row("-", "full precision", 0.0, full)
    gaps, times = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for method in ["rtn", "search", "awq", "gptq", "best"]:
            arguments = (options.model, windows, method, options.bits, options.group)
            model, seconds = ours(options.reweight, *arguments, options.threads, pathlib.Path(folder))
            gaps[method], times[method] = row("reweight", method, seconds, losses(model, held_out)), seconds
    for method in options.methods:
        model, seconds = theirs(options.model, windows, method, options.bits, options.group)
        gap = row("llm-compressor", method, seconds, losses(model, held_out))
        mine = "best" if method == "gptq" else "awq"
        print(f"{mine} beside its {method}: gap {gaps[mine] / gap:.2f}x, time {seconds / times[mine]:.1f}x shorter", flush=True)


if __name__ == "__main__":
    main()
