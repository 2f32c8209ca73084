#!/usr/bin/env python3
"""Judges `assets/demo` from outside: transformers loads it and gives the loss that training recorded.

    python tools/demo/check.py

Needs transformers besides what `train.py` needs. Verifies names, shapes, tokenizer, sizes and losses, measures
round-to-nearest quantization and the baselines, writes `evaluation.json` beside the weights, and exits with 1 if
anything does not hold.
"""

import argparse
import json
import math
import pathlib
import sys

import safetensors
import safetensors.torch
import torch
import transformers

import baselines
import books
import model as llama
import train

WEIGHT_BYTES_MAX = 9_000_000
FOLDER_BYTES_MAX = 15_000_000
# Two f32 implementations of the same network differ by summation order only: about 1e-7 per operation, some hundred
# operations deep. Measured 1e-7 to 1e-6 on the mean loss; an error in the layout moves it by far more than 0.1.
LOSS_TOLERANCE = 1e-4
QUANTIZED_SCHEMES = ((4, 128), (4, 64), (3, 128), (3, 64), (2, 64))


def check_layout(folder, failures):
    """Weights and configuration agree with each other and with the limits on size."""
    path = folder / "model.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        if file.metadata() != {"format": "pt"}:
            failures.append(f"metadata of the weights is {file.metadata()}")
        dtypes = {str(file.get_tensor(name).dtype) for name in file.keys()}
    if dtypes != {"torch.bfloat16"}:
        failures.append(f"weights have types {sorted(dtypes)}, not bfloat16 alone")
    if path.stat().st_size > WEIGHT_BYTES_MAX:
        failures.append(f"weights take {path.stat().st_size} bytes, more than {WEIGHT_BYTES_MAX}")
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if total > FOLDER_BYTES_MAX:
        failures.append(f"folder takes {total} bytes, more than {FOLDER_BYTES_MAX}")
    return {"weights": path.stat().st_size, "folder": total}


def transformers_losses(folder, text, context, failures):
    """Held-out loss by transformers in f32 and in bf16 arithmetic, and the tokens it makes of the text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if tokenizer(text, verbose=False)["input_ids"] != tokens:
        failures.append("the tokenizer adds special tokens unasked")
    if tokenizer.decode(tokens, clean_up_tokenization_spaces=False) != text:
        failures.append("tokens do not decode to the text they came from")
    losses = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        loading = {"dtype": dtype, "output_loading_info": True}
        network, report = transformers.AutoModelForCausalLM.from_pretrained(folder, **loading)
        troubles = {key: sorted(map(str, value)) for key, value in report.items() if value}
        if troubles:
            failures.append(f"transformers reports {troubles} on loading")
        losses[name] = llama.mean_nll(lambda windows, network=network: network(windows).logits, tokens, context)
    return tokens, losses


def own_network(folder):
    """The model of `model.py` with the exported weights."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = llama.Shape.__dataclass_fields__
    network = llama.Llama(llama.Shape(**{key: value for key, value in config.items() if key in names}))
    network.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    return network


def quantized_losses(folder, tokens, context):
    """Held-out loss with every linear layer rounded to nearest; embedding, head and norms stay.

    `more` is the loss above that of the bf16 weights, `standard_error` that of this difference, window by window.
    """
    base = llama.window_nlls(own_network(folder), tokens, context)
    losses = {}
    for bits, group in QUANTIZED_SCHEMES:
        network = own_network(folder)
        state = network.state_dict()
        for name, weight in state.items():
            if name.endswith("_proj.weight"):
                state[name] = llama.round_to_nearest(weight, bits, group)
        network.load_state_dict(state)
        quantized = llama.window_nlls(network, tokens, context)
        more = quantized - base
        losses[f"int{bits}-g{group}"] = {
            "nll": quantized.mean().item(),
            "more": more.mean().item(),
            "standard_error": more.std().item() / len(more) ** 0.5,
        }
    return losses


def seen_line_share(pages) -> float:
    """Share of the held-out lines above 40 characters that occur verbatim in the training text."""
    seen = {line.strip() for page in pages if not page.held_out for line in page.text.split("\n")}
    lines = [line.strip() for line in books.held_out_text(pages).split("\n") if len(line) > 40]
    return sum(line in seen for line in lines) / len(lines)


def baseline_figures(pages, tokenizer, tokens, text):
    """Nats per token of n-grams, bits per byte of compressors."""
    training = [page for page in pages if not page.held_out]
    training_tokens = train.encode_pages(tokenizer, training).tolist()
    vocab_size = tokenizer.get_vocab_size()
    primer = "\n".join(page.text for page in reversed(training)).encode()
    return {
        "unigram_nll": baselines.Ngram(training_tokens, 1, vocab_size).mean_nll(tokens),
        "bigram_nll": baselines.Ngram(training_tokens, 2, vocab_size).mean_nll(tokens),
        "trigram_nll": baselines.Ngram(training_tokens, 3, vocab_size).mean_nll(tokens),
        "gzip_bits_per_byte": baselines.gzip_bits_per_byte(text.encode()),
        "primed_xz_bits_per_byte": baselines.primed_xz_bits_per_byte(primer, text.encode()),
    }


def check_texts(folder, pages, failures):
    """The stored texts are what the documentation gives, and the two do not overlap."""
    stored = {name: (folder / f"text/{name}.txt").read_text(encoding="utf-8") for name in ("heldout", "calibration")}
    if stored["heldout"] != books.held_out_text(pages):
        failures.append("text/heldout.txt differs from what the documentation gives")
    if stored["calibration"] != books.calibration_text(pages):
        failures.append("text/calibration.txt differs from what the documentation gives")
    return stored["heldout"]


def main() -> int:
    """Runs every check, writes the figures, prints them, and returns the exit status."""
    parser = argparse.ArgumentParser(description="check the demo model")
    parser.add_argument("--docs", type=pathlib.Path, help="documentation folder (default: of the rustc on the path)")
    parser.add_argument("--folder", type=pathlib.Path, default=train.ASSETS)
    arguments = parser.parse_args()
    folder, failures = arguments.folder, []
    recorded = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    context = recorded["settings"]["context"]
    torch.set_num_threads(recorded["settings"]["threads"])

    sizes = check_layout(folder, failures)
    pages = books.read_books(arguments.docs or books.default_docs())
    text = check_texts(folder, pages, failures)
    tokens, losses = transformers_losses(folder, text, context, failures)
    own = llama.mean_nll(own_network(folder), tokens, context)
    expected = recorded["held_out_nll_bf16_weights"]
    for name, loss in (("model.py", own), ("transformers", losses["f32"])):
        if not math.isclose(loss, expected, rel_tol=0.0, abs_tol=LOSS_TOLERANCE):
            failures.append(f"held-out loss by {name} is {loss:.6f}, training recorded {expected:.6f}")
    tokenizer = train.tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if tokenizer.encode(text, add_special_tokens=False).ids != tokens:
        failures.append("transformers and tokenizers disagree on the tokens")

    figures = {
        "context": context,
        "held_out_bytes": len(text.encode()),
        "held_out_tokens": len(tokens),
        "held_out_lines_seen_in_training": seen_line_share(pages),
        "nll": {"model.py": own, "transformers_f32": losses["f32"], "transformers_bf16": losses["bf16"]},
        "nll_round_to_nearest": quantized_losses(folder, tokens, context),
        "baselines": baseline_figures(pages, tokenizer, tokens, text),
        "bytes": sizes,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    train.write_json(folder / "evaluation.json", figures)
    print(json.dumps(figures, indent=2))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
