"""`eval` and `calibrate` beside transformers, and importance matrices as the `gguf` package and llama.cpp's readers see them."""

import json
import math
import os
import pathlib
import re
import struct
import subprocess

import gguf as gguf_package
import numpy as np
import pytest
import tokenizers
import torch
from loading import embeddings, language_model
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
HELDOUT = ROOT / "assets/demo/text/heldout.txt"


def windows(folder, context, count):
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.encode(HELDOUT.read_text(encoding="utf-8"), add_special_tokens=False).ids
    return torch.tensor(ids[: context * count]).reshape(count, context)


@torch.no_grad()
def logits(model, window):
    return model(window[None]).logits[0].float()


def mean_loss(model, cut):
    losses = [torch.nn.functional.cross_entropy(logits(model, w)[:-1].double(), w[1:], reduction="sum").item() for w in cut]
    return math.fsum(losses) / (cut.numel() - len(cut))


def evaluate(reweight, folder, context, count, *more):
    words = ["eval", folder, "--text", HELDOUT, "--context", context, "--max-tokens", context * count, "--json", *more]
    return reweight(*words)


def has_the_loss_of_transformers(reweight, measured, folder, name):
    model = language_model(folder, dtype=torch.float32)
    torch.nn.Module.float(model)
    expected = mean_loss(model, windows(folder, 512, 2))
    found = evaluate(reweight, folder, 512, 2)
    measured(f"{name}: loss {found['nll']:.6f}, transformers {expected:.6f}")
    assert abs(found["nll"] - expected) < 1e-3


@pytest.mark.parametrize("name, context, count", [("smollm2", 1024, 2), ("demo", 512, 6)])
def test_the_loss_is_that_of_transformers_in_f32(request, reweight, measured, name, context, count):
    folder = request.getfixturevalue(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = mean_loss(model, windows(folder, context, count))
    found = evaluate(reweight, folder, context, count)
    assert found["tokens"] == count * (context - 1)
    measured(f"{name}: loss {found['nll']:.6f}, transformers {expected:.6f}")
    assert abs(found["nll"] - expected) < 1e-4


@pytest.mark.parametrize("method, scheme", [("awq", "int3-g64"), ("best", "int3-g64-sym")])
def test_a_scaled_folder_loads_and_has_the_loss_that_transformers_gives_it(reweight, smollm2, measured, tmp_path, method, scheme):
    text = ROOT / "assets/demo/text/calibration.txt"
    options = ["--method", method, "--text", text, "--tokens", 2048]
    reweight("quantize", smollm2, tmp_path / "t", "--scheme", scheme, *options)
    has_the_loss_of_transformers(reweight, measured, tmp_path / "t", f"SmolLM2 {scheme} {method}")


@pytest.mark.parametrize("scheme", ["int4-g64", "int4-g128-sym", "int3-g64"])
def test_a_packed_folder_has_the_loss_that_transformers_gives_it(reweight, smollm2, measured, tmp_path, scheme):
    reweight("quantize", smollm2, tmp_path / "t", "--scheme", scheme, "--method", "rtn")
    has_the_loss_of_transformers(reweight, measured, tmp_path / "t", f"SmolLM2 {scheme}")


def test_divergences_are_those_of_the_logits(reweight, demo, measured, tmp_path):
    reweight("quantize", demo, tmp_path / "t", "--scheme", "int3-g64")
    reweight("convert", tmp_path / "t", tmp_path / "bf16", "--to", "bf16")
    window = windows(demo, 512, 1)[0]
    ours, reference = (
        torch.log_softmax(logits(AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).eval(), window)[:-1].double(), -1)
        for f in [tmp_path / "bf16", demo]
    )
    expected = (reference.exp() * (reference - ours)).sum(-1)
    found = evaluate(reweight, tmp_path / "t", 512, 1, "--reference", demo)
    measured(f"demo int3-g64: divergence {found['kl_mean']:.6f}, torch {expected.mean().item():.6f}")
    assert found["kl_mean"] == pytest.approx(expected.mean().item(), rel=1e-3)
    assert found["kl_max"] == pytest.approx(expected.max().item(), rel=1e-3)
    assert found["top1_agreement"] == pytest.approx((ours.argmax(-1) == reference.argmax(-1)).double().mean().item(), abs=2e-3)


def test_sentence_embeddings_are_those_of_transformers(minilm, heldout, measured):
    sentences = [re.sub(r"\s+", " ", s) for s in re.findall(r"(?<=[.?!] )[A-Z][^.?!\n]{3,200}[.?!]", heldout)[:40]]
    binary = ROOT / "target/release/examples/embed"
    assert os.access(binary, os.X_OK), "cargo build --release --examples"
    ran = subprocess.run([binary, minilm], input="\n".join(sentences), capture_output=True, text=True, check=True)
    found = torch.nn.functional.normalize(torch.tensor([json.loads(line) for line in ran.stdout.splitlines()]).double(), dim=-1)
    distance = 1 - (found * embeddings(minilm, sentences).double()).sum(-1)
    measured(f"MiniLM embeddings: cosine distance at most {distance.max().item():.2e}")
    assert distance.max().item() < 1e-5


@pytest.fixture(scope="module")
def moments(smollm2):
    """Sums of x^2 of some layers' inputs over two windows, in f64."""
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    sums = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and any(f"layers.{n}." in name for n in (0, 15, 29)):
            def hook(_module, inputs, _output, name=name):
                sums[name] = sums.get(name, 0) + inputs[0].double().square().sum((0, 1))
            module.register_forward_hook(hook)
    for window in windows(smollm2, 512, 2):
        logits(model, window)
    return sums


STEMS = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
         "down_proj": "ffn_down"}  # fmt: skip


def ggml(name):
    parts = name.split(".")
    return f"blk.{parts[2]}.{STEMS[parts[-1]]}.weight"


@pytest.fixture(scope="module")
def statistics(reweight, smollm2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("statistics")
    (folder / "ids.jsonl").write_text(json.dumps({"text": windows(smollm2, 512, 2).flatten().tolist()}) + "\n")
    path = folder / "stats.safetensors"
    reweight("calibrate", smollm2, path, "--text", folder / "ids.jsonl", "--context", 512)
    return path


def test_an_importance_matrix_holds_the_sums_that_torch_gives(reweight, statistics, moments, measured, tmp_path):
    reweight("calibrate", tmp_path / "imatrix.gguf", "--merge", statistics)
    tensors = {tensor.name: tensor.data for tensor in gguf_package.GGUFReader(tmp_path / "imatrix.gguf").tensors}
    assert len(tensors) == 2 * 210
    worst = 0.0
    for name, expected in moments.items():
        assert np.asarray(tensors[f"{ggml(name)}.counts"]).reshape(-1).tolist() == [1024.0]
        found = torch.tensor(np.asarray(tensors[f"{ggml(name)}.in_sum2"]).reshape(-1)).double()
        worst = max(worst, ((found - expected).abs() / expected.clamp_min(expected.mean() * 1e-6)).max().item())
    measured(f"importance matrix: sums at most {worst:.1e} off those of torch, relative")
    assert worst < 1e-3


def test_the_older_format_is_as_its_readers_expect(reweight, statistics, moments, tmp_path):
    reweight("calibrate", tmp_path / "imatrix.dat", "--merge", statistics)
    data = (tmp_path / "imatrix.dat").read_bytes()
    (count,), at, means = struct.unpack_from("<i", data), 4, {}
    for _ in range(count):
        (length,) = struct.unpack_from("<i", data, at)
        name = data[at + 4 : at + 4 + length].decode()
        calls, n = struct.unpack_from("<ii", data, at + 4 + length)
        at += 12 + length
        means[name] = np.frombuffer(data, "<f4", n, at) / calls
        at += 4 * n
    chunks, length = struct.unpack_from("<ii", data, at)
    assert (chunks, at + 8 + length) == (2, len(data))
    for name, expected in moments.items():
        np.testing.assert_allclose(means[ggml(name)], (expected / 1024).numpy(), rtol=1e-3, atol=1e-9)


