#!/usr/bin/env python3
"""Writes the model card, `assets/demo/README.md`, from `config.json`, `training.json` and `evaluation.json`.

    python tools/demo/card.py

No figure in the card is typed by hand. Standard library of Python only.
"""

import argparse
import json
import math
import pathlib
import textwrap

import books

ASSETS = pathlib.Path(__file__).resolve().parents[2] / "assets/demo"

CARD = """\
---
license: other
license_name: mit-or-apache-2.0
license_link: LICENSE
language: en
library_name: transformers
pipeline_tag: text-generation
---

# reweight demo model

A small language model of the Llama architecture with {parameters:,} parameters, trained from scratch on the books of
the Rust toolchain. It exists so that `reweight` can be tried, tested and measured without a download: it knows the
prose and code of the Rust book well enough that what quantization does to it can be measured. It is no use for anything
else: what it writes looks like the Rust book and means nothing.

| | |
|---|---|
| layers, hidden size, MLP size | {layers}, {hidden}, {intermediate} |
| attention | {heads} heads of {head_dim} over {kv_heads} key-value heads, RoPE with theta {theta:g} |
| vocabulary | {vocab}, byte-level BPE (word pattern of GPT-2), tied embedding |
| context | {context} tokens |
| weights | bfloat16, {weight_bytes:,} bytes |

## Held-out loss

`text/heldout.txt` ({held_bytes:,} bytes, {held_tokens:,} tokens) is chapters {chapters} of the Rust book. Neither the
weights nor the tokenizer have seen it; {seen:.1%} of its lines above 40 characters also stand in the training text
(compiler messages, mostly). Windows of {context} tokens do not overlap; every token of a window but its first is
predicted.

| | nats per token | nats per byte | bits per byte |
|---|---|---|---|
{loss_rows}

The n-grams (absolute discounting, interpolated) saw the same training tokens. "xz after the training text" is what the
held-out text adds to an archive of all training text.

Every linear layer of the decoder layers rounded to the nearest step of a min/max grid, embedding left alone:

| scheme | nats per token | more than bf16 | standard error of that |
|---|---|---|---|
{quantized_rows}

## Data

Books under MIT or Apache-2.0 from `share/doc/rust/html` of
{rustc}: {books}.
{book_tokens:,} training tokens are of the
Rust book, {other_tokens:,} of the others; {share:.0%} of the training windows come from the Rust book.
`text/calibration.txt` is a part of the training text: whole pages spread over the Rust book.

## Training

`python tools/demo/train.py` makes this folder; `check.py` loads it with transformers, compares the losses and takes the
figures above; `card.py` writes this page. {steps} steps of {batch} windows
of {context} tokens ({seen_tokens:,} tokens), AdamW ({beta1}, {beta2}; weight decay {decay}), learning rate {peak:g} after {warmup} steps, over the last
{decay_share:.0%} of the steps a cosine down to {final:g},
gradients clipped at norm {clip:g}, {arithmetic}, seed {seed}, {threads} threads,
{minutes} minutes on two busy cores{resumed}. Python {python}, torch {torch}, tokenizers {tokenizers}, safetensors {safetensors}, checked
with transformers {transformers}. All settings: `training.json`; all figures: `evaluation.json`. The
last bits of the weights depend on the processor and the torch build.

## Licence

MIT or Apache-2.0, as the books: see `LICENSE`.
"""


def loss_rows(evaluation) -> str:
    """The model and its baselines, best first."""
    tokens_per_byte = evaluation["held_out_tokens"] / evaluation["held_out_bytes"]
    figures = evaluation["baselines"]
    by_token = {
        "**this model, bf16 weights**": evaluation["nll"]["transformers_f32"],
        "3-gram": figures["trigram_nll"],
        "2-gram": figures["bigram_nll"],
        "1-gram": figures["unigram_nll"],
    }
    rows = [(nll * tokens_per_byte, name, f"{nll:.4f}") for name, nll in by_token.items()]
    for name, key in (("xz after the training text", "primed_xz_bits_per_byte"), ("gzip -9", "gzip_bits_per_byte")):
        rows.append((figures[key] * math.log(2), name, ""))
    return "\n".join(f"| {name} | {nll} | {byte:.4f} | {byte / math.log(2):.3f} |" for byte, name, nll in sorted(rows))


def quantized_rows(evaluation) -> str:
    """One row per round-to-nearest scheme."""
    return "\n".join(
        f"| `{scheme}` | {loss['nll']:.4f} | {loss['more']:+.4f} | {loss['standard_error']:.4f} |"
        for scheme, loss in evaluation["nll_round_to_nearest"].items()
    )


def resumption(steps) -> str:
    """Where the run was cut off and taken up again, as the end of a sentence."""
    return f", taken up again from its checkpoint at step {', '.join(map(str, steps))}" if steps else ""


def wrapped(text: str) -> str:
    """Prose filled to 120 columns; headings, tables and the header stay as they are."""
    filler = textwrap.TextWrapper(width=120, break_long_words=False, break_on_hyphens=False)
    blocks = text.rstrip("\n").split("\n\n")
    return "\n\n".join(block if block.startswith(("---", "#", "|")) else filler.fill(block) for block in blocks) + "\n"


def card(config, training, evaluation) -> str:
    """The text of the card."""
    settings, versions = training["settings"], training["versions"]
    text = CARD.format(
        parameters=training["parameters"],
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=config["num_attention_heads"],
        head_dim=config["head_dim"],
        kv_heads=config["num_key_value_heads"],
        theta=config["rope_theta"],
        vocab=config["vocab_size"],
        context=evaluation["context"],
        weight_bytes=evaluation["bytes"]["weights"],
        held_bytes=evaluation["held_out_bytes"],
        held_tokens=evaluation["held_out_tokens"],
        chapters=" and ".join(chapter.removeprefix("ch").lstrip("0") for chapter in books.HELD_OUT_CHAPTERS),
        seen=evaluation["held_out_lines_seen_in_training"],
        loss_rows=loss_rows(evaluation),
        quantized_rows=quantized_rows(evaluation),
        rustc=versions["rustc"],
        books=", ".join(f"`{book}`" for book in books.BOOKS),
        book_tokens=training["tokens"]["book"],
        other_tokens=training["tokens"]["other_books"],
        share=settings["book_share"],
        steps=settings["steps"],
        batch=settings["batch_windows"],
        seen_tokens=training["tokens_seen"],
        beta1=settings["beta1"],
        beta2=settings["beta2"],
        decay=settings["weight_decay"],
        peak=settings["peak_learning_rate"],
        warmup=settings["warmup_steps"],
        decay_share=settings["decay_share"],
        final=settings["final_learning_rate"],
        clip=settings["gradient_norm_max"],
        arithmetic="bfloat16 autocast" if settings["autocast_bf16"] else "float32",
        seed=settings["seed"],
        threads=settings["threads"],
        resumed=resumption(training["resumed_at_steps"]),
        minutes=round(training["training_seconds"] / 60),
        python=versions["python"],
        torch=versions["torch"],
        tokenizers=versions["tokenizers"],
        safetensors=versions["safetensors"],
        transformers=evaluation["versions"]["transformers"],
    )
    return wrapped(text)


def main():
    """Reads the three documents and writes the card beside them."""
    parser = argparse.ArgumentParser(description="write the model card of the demo model")
    parser.add_argument("--folder", type=pathlib.Path, default=ASSETS)
    folder = parser.parse_args().folder
    names = ("config.json", "training.json", "evaluation.json")
    documents = [json.loads((folder / name).read_text(encoding="utf-8")) for name in names]
    (folder / "README.md").write_text(card(*documents), encoding="utf-8")


if __name__ == "__main__":
    main()
