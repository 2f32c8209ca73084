#!/usr/bin/env python3
"""Holds GPTQ folders of ours against GPTQModel's CPU kernel, under transformers: every weight, a loss, and a few words.

    python3 -m venv gptq && gptq/bin/pip install -r tests/interop/requirements.txt optimum accelerate gptqmodel
    TORCHDYNAMO_DISABLE=1 gptq/bin/python tools/compare-gptqmodel.py target/release/reweight MODEL TEXT

MODEL is a folder in floats. Each of the widths of GPTQ is written in version 1, symmetric, and in version 2 with zeros. Weights are
compared with `reweight convert --to f32`, rounded to the type that the kernel holds them in; the loss, at 4 bits, with `reweight eval`.
GPTQModel comes as source, without compiled parts; without the variable torch compiles its kernels for minutes.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTQConfig

CONTEXT, TOKENS = 512, 1024


def run(*words) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def load(folder: pathlib.Path):
    config = GPTQConfig(bits=4, backend="torch")  # the width is taken from the folder
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", quantization_config=config).eval()


def weights(model) -> dict[str, torch.Tensor]:
    packed = {name: module for name, module in model.named_modules() if hasattr(module, "dequantize_weight")}
    return {f"{name}.weight": module.dequantize_weight().T for name, module in packed.items()}


@torch.no_grad()
def loss(model, ids: torch.Tensor) -> float:
    windows = [ids[:, start : start + CONTEXT] for start in range(0, TOKENS, CONTEXT)]
    return sum(model(window, labels=window).loss.item() for window in windows) / len(windows)


def main(reweight: str, source: str, text: str) -> None:
    schemes = [("gptq", f"int{bits}-g32-sym") for bits in (2, 3, 4, 8)] + [("gptq-v2", f"int{bits}-g32") for bits in (2, 3, 4, 8)]
    wrong = 0
    for container, scheme in schemes:
        with tempfile.TemporaryDirectory() as scratch:
            folder, floats = pathlib.Path(scratch) / "packed", pathlib.Path(scratch) / "f32"
            run(reweight, "quantize", source, folder, "--to", container, "--scheme", scheme, "--method", "rtn")
            run(reweight, "convert", folder, floats, "--to", "f32")
            ours = load_file(floats / "model.safetensors")
            model = load(folder)
            theirs = weights(model)
            differ = [name for name, weight in theirs.items() if not torch.equal(ours[name].to(weight.dtype), weight)]
            types = sorted({str(weight.dtype) for weight in theirs.values()})
            print(f"{container} {scheme}: {len(theirs)} weights in {' '.join(types)}, {len(differ)} differ {differ[:2]}", flush=True)
            wrong += len(differ) + (not theirs)
            if scheme == "int4-g32-sym":
                tokenizer = AutoTokenizer.from_pretrained(folder)
                ids = tokenizer(pathlib.Path(text).read_text(encoding="utf-8"), add_special_tokens=False, return_tensors="pt").input_ids
                words = run(reweight, "eval", folder, "--text", text, "--context", CONTEXT, "--max-tokens", TOKENS, "--json")
                ours_loss, their_loss = json.loads(words)["nll"], loss(model, ids)
                prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
                said = tokenizer.decode(model.generate(prompt, max_new_tokens=8, do_sample=False)[0])
                print(f"  loss {ours_loss:.6f} here, {their_loss:.6f} there, {abs(ours_loss - their_loss):.1e} apart; {said!r}", flush=True)
                wrong += abs(ours_loss - their_loss) > 1e-3
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
