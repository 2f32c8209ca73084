"""GGUF files that the binary writes, loaded and run by llama.cpp itself (tools/build-llama.sh).

llama-perplexity predicts the second half of each window: its figure is compared with that of our own logits over the same tokens,
and with that of transformers elsewhere in the suite. It computes with activations in F16, or in blocks of eight bits beside
quantized weights, where we compute in f32; bounds are about three times the differences that were measured.
"""

import math
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, MixtralConfig
from transformers import MixtralForCausalLM, Qwen2Config, Qwen2ForCausalLM

CONTEXT = 256
SCHEMES = {"f16": 2e-3, "q8_0": 1e-2, "q4_0": 2e-2, "q4_k_m": 2e-2}
SIZES = dict(
    vocab_size=49152, num_hidden_layers=2, num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=CONTEXT,
    rope_theta=10000.0, tie_word_embeddings=True, initializer_range=0.06,
)  # fmt: skip


def llama(program, *words):
    command = [ROOT / "target/llama.cpp/build/bin" / program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-2000:]
    return told


def their_loss(file, text, *more):
    words = [*more, "-m", file, "-f", text, "-c", CONTEXT, "-b", CONTEXT, "--chunks", 1, "-t", 1, "--no-repack"]
    return math.log(float(re.search(r"PPL = ([0-9.]+)", llama("llama-perplexity", *words)).group(1)))


@pytest.fixture(scope="module")
def text(heldout, tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(heldout[:6000])
    return file


def our_loss(reweight, file, text, tokenizer, folder):
    """Over what llama-perplexity predicts: the tokens after the middle one of the first window."""
    logits = folder / "logits.safetensors"
    words = ["--context", CONTEXT, "--max-tokens", CONTEXT, "--save-logits", logits]
    reweight("eval", file, "--text", text, *words)
    slices = load_file(logits)
    all_logits = torch.cat([slices[name] for name in sorted(slices)], dim=1)
    logits.unlink()
    ids = tokenizer(text.read_text(), add_special_tokens=False).input_ids[:CONTEXT]
    predicted = slice(CONTEXT // 2, CONTEXT - 1)
    return torch.nn.functional.cross_entropy(all_logits[predicted].double(), torch.tensor(ids)[1:][predicted]).item()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_llama_cpp_finds_our_loss_of_smollm2(smollm2, gguf, reweight, text, tmp_path, measured, scheme):
    reweight("quantize", gguf, tmp_path / "t.gguf", "--to", "gguf", "--scheme", scheme)
    ours = our_loss(reweight, tmp_path / "t.gguf", text, AutoTokenizer.from_pretrained(smollm2), tmp_path)
    theirs = their_loss(tmp_path / "t.gguf", text)
    measured(f"SmolLM2 {scheme}: loss {ours:.4f}, llama.cpp {theirs:.4f}")
    assert theirs == pytest.approx(ours, abs=SCHEMES[scheme])


def test_floats_are_those_of_llama_quantize(gguf, smollm2, reweight, text, tmp_path):
    """Ours goes through a folder of f32, so that nothing of the original file is left but its values."""
    llama("llama-quantize", "--allow-requantize", gguf, tmp_path / "theirs.gguf", "F16")
    reweight("convert", gguf, tmp_path / "f32", "--to", "f32")
    reweight("quantize", tmp_path / "f32", tmp_path / "ours.gguf", "--to", "gguf", "--scheme", "f16")
    assert reweight("diff", tmp_path / "ours.gguf", tmp_path / "theirs.gguf", "--json")["identical"] is True
    losses = [their_loss(tmp_path / name, text) for name in ("ours.gguf", "theirs.gguf")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def qwen2():
    return Qwen2ForCausalLM(Qwen2Config(hidden_size=576, intermediate_size=608, **SIZES))


def gemma2():
    config = Gemma2Config(hidden_size=288, intermediate_size=352, head_dim=32, query_pre_attn_scalar=32, **SIZES)
    return Gemma2ForCausalLM(config)


def mixtral():
    config = MixtralConfig(hidden_size=288, intermediate_size=352, num_local_experts=3, num_experts_per_tok=2, **SIZES)
    return MixtralForCausalLM(config)


@pytest.mark.parametrize("make", [qwen2, gemma2, mixtral], ids=lambda make: make.__name__)
def test_llama_cpp_runs_other_architectures(make, smollm2, reweight, text, tmp_path, measured):
    """Biases, norms that count from one, experts; K of 608 and 352. Random weights, SmolLM2's tokenizer."""
    torch.manual_seed(13)
    model = make().float()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    model.save_pretrained(tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.save_pretrained(tmp_path / "source")
    for scheme, bound in (("f32", 2e-3), ("q8_0", 2e-2)):
        file = tmp_path / f"{scheme}.gguf"
        reweight("quantize", tmp_path / "source", file, "--to", "gguf", "--scheme", scheme)
        ours, theirs = our_loss(reweight, file, text, tokenizer, tmp_path), their_loss(file, text)
        measured(f"{make.__name__} {scheme}: loss {ours:.4f}, llama.cpp {theirs:.4f}")
        assert theirs == pytest.approx(ours, abs=bound)


def test_llama_cpp_applies_an_adapter_as_we_do(smollm2, reweight, text, tmp_path, measured):
    """Its own converter's file, beside the weights there and in them here; queries and keys in its order of rows, embeddings turned."""
    torch.manual_seed(17)
    # Not tied: llama.cpp would multiply the factors of embeddings, turned as they are, into logits too.
    sizes = SIZES | {"tie_word_embeddings": False}
    model = LlamaForCausalLM(LlamaConfig(hidden_size=288, intermediate_size=352, head_dim=32, **sizes)).float()
    model.save_pretrained(tmp_path / "source")
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(tmp_path / "source")
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=12, target_modules=["q_proj", "k_proj", "down_proj", "embed_tokens"]))
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    script = next(ROOT.glob("target/llama.cpp/*/vendor/llama.cpp/convert_lora_to_gguf.py"))
    words = ["--base", tmp_path / "source", "--outfile", tmp_path / "lora.gguf", tmp_path / "adapter"]
    subprocess.run([sys.executable, script, *words], check=True, capture_output=True, timeout=300)
    reweight("quantize", tmp_path / "source", tmp_path / "base.gguf", "--to", "gguf", "--scheme", "f32")
    reweight("patch", "add", tmp_path / "base.gguf", tmp_path / "on.gguf", "--patch", tmp_path / "lora.gguf")
    beside = their_loss(tmp_path / "base.gguf", text, "--lora", tmp_path / "lora.gguf")
    merged, before = their_loss(tmp_path / "on.gguf", text), their_loss(tmp_path / "base.gguf", text)
    measured(f"LoRA: loss {before:.4f} without, {beside:.4f} beside the weights, {merged:.4f} in them")
    assert beside == pytest.approx(merged, abs=2e-3)
    assert abs(beside - before) > 0.05


def test_files_are_split_and_merged_as_llama_cpp_does(gguf, reweight, tmp_path):
    reweight("quantize", gguf, tmp_path / "one.gguf", "--to", "gguf", "--scheme", "q4_0")
    reweight("quantize", gguf, tmp_path / "ours", "--to", "gguf", "--scheme", "q4_0", "--max-shard-size", "40MB")
    first = sorted((tmp_path / "ours").glob("*.gguf"))[0]
    llama("llama-gguf-split", "--merge", first, tmp_path / "merged.gguf")
    assert reweight("diff", tmp_path / "one.gguf", tmp_path / "merged.gguf", "--json")["identical"] is True
    llama("llama-gguf-split", "--split", "--split-max-size", "40M", tmp_path / "one.gguf", tmp_path / "theirs")
    first = sorted(tmp_path.glob("theirs-*.gguf"))[0]
    assert first.name.startswith("theirs-00001-of-0000")
    assert reweight("diff", tmp_path / "one.gguf", first, "--json")["identical"] is True
    reweight("verify", tmp_path / "ours")
