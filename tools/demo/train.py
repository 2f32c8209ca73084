#!/usr/bin/env python3
"""Makes `assets/demo` from nothing: text, tokenizer, training, export. One command repeats it all:

    python tools/demo/train.py

Needs torch, tokenizers and safetensors (versions in requirements.txt) and a Rust toolchain with its documentation
(`rustup component add rust-docs`), whose release must be the one in README.md for the same text. Seeds are fixed and
the algorithms deterministic; the last bits of the weights still depend on the processor and the torch build.
A run that is cut off goes on from its last checkpoint when started again with the same settings. `check.py` then judges
the result and `card.py` writes the model card.
"""

import argparse
import dataclasses
import itertools
import json
import math
import pathlib
import platform
import statistics
import time

import safetensors
import safetensors.torch
import tokenizers
import torch
from torch.nn import functional

import books
import model as llama

ASSETS = pathlib.Path(__file__).resolve().parents[2] / "assets/demo"
END_OF_TEXT = "<|endoftext|>"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the weights besides the text and the shape."""

    seed: int = 20260414
    steps: int = 2000
    batch_windows: int = 4
    context: int = 512
    # Share of training windows drawn from the Rust book; the rest comes from the other books by size.
    book_share: float = 0.3
    peak_learning_rate: float = 3e-3
    final_learning_rate: float = 1e-4
    warmup_steps: int = 120
    decay_share: float = 0.4
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    gradient_norm_max: float = 1.0
    autocast_bf16: bool = True
    # 9600 tokens a second instead of 6200 on two cores with AMX; needs a C++ compiler.
    compiled: bool = True
    threads: int = 2


def train_tokenizer(pages, vocab_size: int):
    """A byte-level BPE over the training pages, cut into words by the pattern of GPT-2."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The book counts several times, as in training.
    corpus = [page.text for page in pages for _ in range(3 if page.book == "book" else 1)]
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def encode_pages(tokenizer, pages):
    """Tokens of all pages in one row, `END_OF_TEXT` after each page."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    encoded = tokenizer.encode_batch([page.text for page in pages], add_special_tokens=False)
    return torch.tensor([token for page in encoded for token in [*page.ids, end]], dtype=torch.long)


def shuffled_windows(tokens, length: int, generator):
    """Endless windows of `length` tokens: per pass a new offset, then every window once in random order."""
    while True:
        offset = int(torch.randint(length, (), generator=generator))
        count = (len(tokens) - offset) // length
        for index in torch.randperm(count, generator=generator).tolist():
            start = offset + index * length
            yield tokens[start : start + length]


def batches(book, others, settings: Settings):
    """Endless batches `[batch_windows, context + 1]` that mix the two sources."""
    generator = torch.Generator().manual_seed(settings.seed)
    sources = [shuffled_windows(tokens, settings.context + 1, generator) for tokens in (book, others)]
    while True:
        draws = torch.rand(settings.batch_windows, generator=generator) < settings.book_share
        yield torch.stack([next(sources[0] if from_book else sources[1]) for from_book in draws.tolist()])


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then the peak, then half a cosine down to the final rate over the last `decay_share`."""
    if step < settings.warmup_steps:
        return settings.peak_learning_rate * (step + 1) / settings.warmup_steps
    decay_start = round(settings.steps * (1 - settings.decay_share))
    progress = max(0, step - decay_start) / max(1, settings.steps - decay_start)
    span = settings.peak_learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * progress))


def optimizer_for(network, settings: Settings):
    """AdamW that decays matrices and leaves the norms alone."""
    matrices = [parameter for parameter in network.parameters() if parameter.dim() == 2]
    norms = [parameter for parameter in network.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(settings.beta1, settings.beta2), fused=True)


def resume(checkpoint, network, optimizer) -> tuple[list[int], float]:
    """Loads what `fit` saved last; gives the steps at which the run was taken up again and the seconds spent so far."""
    if not checkpoint.exists():
        return [], 0.0
    saved = torch.load(checkpoint, weights_only=True)
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    return [*saved["resumed_at"], saved["steps_done"]], saved["seconds"]


def save(checkpoint, network, optimizer, **progress):
    """Saves the state after a step and the counts in `progress`, complete or not at all."""
    partial = checkpoint.with_name("checkpoint.new.partial")
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, **progress}, partial)
    partial.rename(checkpoint)


def fit(network, source, held_out, settings: Settings, checkpoint):
    """Trains `network` in place, from `checkpoint` where that exists; gives the steps of resumption and the seconds.

    Prints the mean training loss every 50 steps and the held-out loss every 500; saves its state every 100.
    """
    optimizer = optimizer_for(network, settings)
    forward = torch.compile(network, dynamic=False) if settings.compiled else network
    resumed_at, seconds_before = resume(checkpoint, network, optimizer)
    first_step = resumed_at[-1] if resumed_at else 0
    started, losses = time.monotonic() - seconds_before, []
    for step, windows in enumerate(itertools.islice(source, settings.steps)):
        if step < first_step:
            continue
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.autocast_bf16):
            logits = forward(windows[:, :-1])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_norm_max)
        optimizer.step()
        losses.append(loss.item())
        steps_done, seconds = step + 1, time.monotonic() - started
        if steps_done % 50 == 0:
            print(f"step {steps_done} loss {statistics.fmean(losses[-50:]):.4f} seconds {seconds:.0f}", flush=True)
        if steps_done % 100 == 0:
            save(checkpoint, network, optimizer, steps_done=steps_done, seconds=seconds, resumed_at=resumed_at)
        if steps_done % 500 == 0 and steps_done < settings.steps:
            print(f"step {steps_done} held-out {llama.mean_nll(network, held_out, settings.context):.4f}", flush=True)
    return resumed_at, time.monotonic() - started


def write_json(path, document):
    """Indented JSON with a newline at its end."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_configs(shape: llama.Shape, tokenizer, target):
    """`config.json`, `generation_config.json`, `tokenizer.json` and `tokenizer_config.json`."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **dataclasses.asdict(shape),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    write_json(target / "config.json", config)
    write_json(target / "generation_config.json", {"bos_token_id": end, "eos_token_id": end, "do_sample": False})
    tokenizer.save(str(target / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.max_position_embeddings,
    }
    write_json(target / "tokenizer_config.json", tokenizer_config)


def export(weights, path):
    """Writes the weights as transformers does, readable for everybody."""
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)


def parse_arguments():
    """The command line: where from, where to, and every field of `Settings`."""
    parser = argparse.ArgumentParser(description="train the demo model and write its folder")
    parser.add_argument("--docs", type=pathlib.Path, help="documentation folder (default: of the rustc on the path)")
    parser.add_argument("--target", type=pathlib.Path, default=ASSETS)
    defaults = Settings()
    for field in dataclasses.fields(Settings):
        option, default = f"--{field.name.replace('_', '-')}", getattr(defaults, field.name)
        if field.type is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(option, type=field.type, default=default)
    return parser.parse_args()


def main():
    """Text, tokenizer, training, export, in this order."""
    arguments = parse_arguments()
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)})
    shape = llama.Shape()
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(settings.seed)

    pages = books.read_books(arguments.docs or books.default_docs())
    training = [page for page in pages if not page.held_out]
    held_out_text = books.held_out_text(pages)
    (arguments.target / "text").mkdir(parents=True, exist_ok=True)
    (arguments.target / "text/heldout.txt").write_text(held_out_text, encoding="utf-8")
    (arguments.target / "text/calibration.txt").write_text(books.calibration_text(pages), encoding="utf-8")

    tokenizer = train_tokenizer(training, shape.vocab_size)
    write_configs(shape, tokenizer, arguments.target)
    book = encode_pages(tokenizer, [page for page in training if page.book == "book"])
    others = encode_pages(tokenizer, [page for page in training if page.book != "book"])
    held_out = tokenizer.encode(held_out_text, add_special_tokens=False).ids
    print(f"tokens: book {len(book)}, other books {len(others)}, held out {len(held_out)}", flush=True)

    network = llama.Llama(shape)
    checkpoint = arguments.target / "checkpoint.partial"
    resumed_at, seconds = fit(network, batches(book, others, settings), held_out, settings, checkpoint)
    loss_f32 = llama.mean_nll(network, held_out, settings.context)
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in network.state_dict().items()}
    network.load_state_dict(weights)
    loss_bf16 = llama.mean_nll(network, held_out, settings.context)
    export(weights, arguments.target / "model.safetensors")

    record = {
        "settings": dataclasses.asdict(settings),
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "tokens": {"book": len(book), "other_books": len(others), "held_out": len(held_out)},
        "tokens_seen": settings.steps * settings.batch_windows * settings.context,
        "training_seconds": round(seconds),
        "resumed_at_steps": resumed_at,
        "held_out_nll_f32_weights": loss_f32,
        "held_out_nll_bf16_weights": loss_bf16,
        "versions": {
            "rustc": books.rustc_version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
            "safetensors": safetensors.__version__,
        },
    }
    write_json(arguments.target / "training.json", record)
    checkpoint.unlink(missing_ok=True)
    print(f"held-out nats per token: {loss_f32:.6f} with f32 weights, {loss_bf16:.6f} with bf16 weights")


if __name__ == "__main__":
    main()
