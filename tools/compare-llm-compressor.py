#!/usr/bin/env python3
"""`reweight quantize` beside llm-compressor: same model, same calibration tokens, same scheme, same machine; losses by one evaluator.

    python tools/compare-llm-compressor.py MODEL --text CALIBRATION... --eval HELDOUT... [--reweight BINARY]
        [--bits 3] [--group 64] [--tokens 16384] [--context 512] [--ours rtn search awq gptq best] [--methods gptq awq]
        [--threads 2] [--duo true|false|both] [--ratios FILE]

MODEL is a Hugging Face folder in floating point. Needs llmcompressor 0.14 with the torch, transformers and compressed-tensors that it
asks for. Its AWQ fails on a host without a GPU unless `Tensor.pin_memory` does nothing, so that is what it does here.

Every contender gets the same windows of token ids. Times are wall clock from the model in memory to the finished weights for
llm-compressor (its import and the reading of the model are not counted), and of the whole process for reweight (they are). Losses are
mean nats a predicted token over windows of 1024, computed by transformers in f32.

`--ratios` writes what llm-compressor's AWQ found for every mapping: its candidates as [ratio, whether the weights' means enter] and the
error of each, in its order. `--duo false` leaves the means of the weights out, which is the published form of the scales. With that, and
`paper` among `--ours` (`--method awq --paper`), the chosen exponents are compared.
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


def recording(awq, found):
    """llm-compressor's AWQ, which also keeps the error of every candidate in `found`."""

    class Recording(awq):
        def _compute_best_scale(self, mapping, *args, **kwargs):
            candidates = [list(candidate) for candidate in self._get_grid_search_params()]
            found.append({"mapping": mapping.smooth_name, "consumers": mapping.balance_names, "candidates": candidates, "errors": []})
            return super()._compute_best_scale(mapping, *args, **kwargs)

        def _compute_loss(self, *args, **kwargs):
            loss = super()._compute_loss(*args, **kwargs)
            found[-1]["errors"].append(loss)
            return loss

    return Recording


def modifiers(method, bits, group, duo, found):
    weights = QuantizationArgs(num_bits=bits, symmetric=False, strategy="group", group_size=group)
    scheme = {"all": QuantizationScheme(targets=["Linear"], weights=weights)}
    if method == "gptq":
        return [GPTQModifier(config_groups=scheme, ignore=["lm_head"])]
    from llmcompressor.modifiers.transform.awq import AWQModifier

    awq = recording(AWQModifier, found)(duo_scaling=duo)
    return [awq, QuantizationModifier(config_groups=scheme, ignore=["lm_head"])]


def theirs(path, windows, method, bits, group, duo, found):
    model, tokenizer = load(path), AutoTokenizer.from_pretrained(path)
    batches = [{"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)} for ids in windows]
    data = torch.utils.data.DataLoader(batches, batch_size=None)
    start = time.perf_counter()
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=data,
        recipe=modifiers(method, bits, group, duo, found),
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
    # Scales in f32, which is what llm-compressor's are here, so that both see the same grids.
    form = ["awq", "--paper", "--scale-dtype", "f32"] if method == "paper" else [method]
    command = [binary, "quantize", str(path), str(target), "--scheme", scheme, "--method", *form, *guide]
    start = time.perf_counter()
    run = [*command, "--threads", str(threads), "--quiet", "--json"]
    document = json.loads(subprocess.run(run, check=True, stdout=subprocess.PIPE).stdout)
    seconds = time.perf_counter() - start
    convert = [binary, "convert", str(target), str(plain), "--to", "f32", "--quiet"]
    subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
    return load(plain), seconds, document.get("mappings", [])


def agreement(mine, found):
    """Says for how many mappings both chose the same exponent, and of each other one what its choice would have cost."""
    chosen = {mapping["name"]: mapping["ratio"] for mapping in mine if "refused" not in mapping}
    together, apart = 0, []
    for mapping in found:
        ratios = [ratio for ratio, _ in mapping["candidates"]]
        best = min(range(len(ratios)), key=lambda index: mapping["errors"][index])
        own = min(range(len(ratios)), key=lambda index: abs(ratios[index] - chosen[mapping["mapping"]]))
        if own == best:
            together += 1
        else:
            worse = mapping["errors"][own] / mapping["errors"][best] - 1
            apart.append(f"  {mapping['mapping']}: {ratios[best]:.3f}, here {ratios[own]:.3f}, {worse:.2e} more error by its own measure")
    print(f"same exponent for {together} of {len(found)} mappings")
    print("\n".join(apart), flush=True)


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
    parser.add_argument("--ours", nargs="*", default=["rtn", "search", "awq", "gptq", "best"])
    parser.add_argument("--methods", nargs="*", default=["gptq", "awq"], help="of llm-compressor")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--duo", choices=["true", "false", "both"], default="true", help="scales of llm-compressor's AWQ")
    parser.add_argument("--ratios", type=pathlib.Path, help="where to write what its AWQ found")
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
    gaps, times, paper = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        for method in options.ours:
            arguments = (options.model, windows, method, options.bits, options.group)
            model, seconds, mappings = ours(options.reweight, *arguments, options.threads, pathlib.Path(folder))
            paper = mappings if method == "paper" else paper
            gaps[method], times[method] = row("reweight", method, seconds, losses(model, held_out)), seconds
    duo = {"true": True, "false": False, "both": "both"}[options.duo]
    for method in options.methods:
        found = []
        model, seconds = theirs(options.model, windows, method, options.bits, options.group, duo, found)
        if found and options.ratios:
            options.ratios.write_text(json.dumps(found, indent=1))
        if found and paper and not duo:
            agreement(paper, found)
        gap = row("llm-compressor", method, seconds, losses(model, held_out))
        mine = "best" if method == "gptq" else "awq"
        if mine not in gaps:
            continue
        print(f"{mine} beside its {method}: gap {gaps[mine] / gap:.2f}x, time {seconds / times[mine]:.1f}x shorter", flush=True)


if __name__ == "__main__":
    main()
