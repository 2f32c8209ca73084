"""GGUF files that the binary writes, read by the `gguf` package and by transformers.

What llama.cpp itself makes of them is in test_llama.py.
"""

import gguf as gguf_package
import pytest
import torch
from folders import differing, read
from gguf.quants import dequantize
from test_containers import gemma2, mixtral, qwen2
from transformers import AutoModelForCausalLM, AutoTokenizer

TYPES = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
STEMS = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_v": "self_attn.v_proj"}


def opened(file):
    return {tensor.name: tensor for tensor in gguf_package.GGUFReader(file).tensors}


def values(tensor) -> torch.Tensor:
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).reshape(tuple(reversed(tensor.shape.tolist())))


def write(make, folder):
    torch.manual_seed(11)
    model = make().bfloat16()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A Qwen2 whose rows are whole super-blocks."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=64, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return write(lambda: Qwen2ForCausalLM(config), tmp_path_factory.mktemp("wide") / "source")


@pytest.mark.parametrize("method", ["rtn", "search"])
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_dequantizes_to_our_values(wide, reweight, tmp_path, kind, method):
    words = ["--scheme", "f16", "--tensor", f"*_proj.weight={kind.lower()}", "--method", method]
    told = reweight("quantize", wide, tmp_path / "t.gguf", "--to", "gguf", "--json", *words)
    stored = opened(tmp_path / "t.gguf")
    reweight("convert", tmp_path / "t.gguf", tmp_path / "f32", "--to", "f32")
    found = read(tmp_path / "f32")
    expected = {
        f"model.layers.{layer}.{module}.weight": values(stored[f"blk.{layer}.{stem}.weight"])
        for layer in range(2)
        for stem, module in STEMS.items()
    }
    assert {stored[f"blk.0.{stem}.weight"].tensor_type.name for stem in STEMS} == {kind}
    assert differing(found, expected) == []
    source, told = read(wide), {row["name"]: row for row in told["tensors"]}
    for name, weight in expected.items():
        error = (weight.double() - source[name].double()).square().mean().item()
        if kind not in ("F16", "BF16"):
            # Errors are summed in f32 over 256 values before f64 takes them.
            assert told[name]["error_mse"] == pytest.approx(error, rel=1e-6)
            assert method == "rtn" or told[name]["error_mse"] <= told[name]["error_mse_rtn"]


@pytest.mark.parametrize("make", [qwen2, gemma2, mixtral], ids=lambda make: make.__name__)
def test_architectures_come_back_as_they_were(make, reweight, tmp_path):
    """Biases, norms that count from one, experts: written in f32, read by our own reader, which the suite checks elsewhere."""
    source = write(make, tmp_path / "source")
    reweight("quantize", source, tmp_path / "t.gguf", "--to", "gguf", "--scheme", "f32")
    reweight("convert", tmp_path / "t.gguf", tmp_path / "f32", "--to", "f32")
    found, expected = read(tmp_path / "f32"), {name: tensor.float() for name, tensor in read(source).items()}
    assert found.keys() == expected.keys()
    # Gemma's norms are stored plus one, in f32, and lose bits of what is much smaller.
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=2**-23 if "norm" in name else 0), name
    stored = opened(tmp_path / "t.gguf")
    if make is mixtral:
        assert stored["blk.0.ffn_up_exps.weight"].shape.tolist() == [288, 352, 3]
    if make is gemma2:
        norm = read(source)["model.norm.weight"].float() + 1
        assert torch.equal(values(stored["output_norm.weight"]), norm)


def test_transformers_reads_smollm2(smollm2, reweight, tmp_path, heldout):
    reweight("quantize", smollm2, tmp_path / "t.gguf", "--to", "gguf", "--scheme", "f32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="t.gguf", dtype=torch.float32)
    expected = {name: tensor.float() for name, tensor in read(smollm2).items()}
    assert differing(model.state_dict(), expected) == []
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="t.gguf")
    ours = AutoTokenizer.from_pretrained(smollm2)
    for text in [heldout[:5000], "<|im_start|>user\nnaïve 2024 🙂<|im_end|>\n", "  tabs\t\n"]:
        assert theirs(text).input_ids == ours(text).input_ids


def test_metadata_is_that_of_llama_cpps_own_file(gguf, smollm2, reweight, tmp_path):
    """The model was made by llama.cpp's converter; ours is made from a folder that was read from it."""
    reweight("quantize", smollm2, tmp_path / "t.gguf", "--to", "gguf", "--scheme", "q4_1")
    theirs, ours = (gguf_package.GGUFReader(file).fields for file in (gguf, tmp_path / "t.gguf"))
    about = ("general.", "GGUF.", "quantize.")
    told = {key: field.contents() for key, field in theirs.items() if not key.startswith(about)}
    found = {key: field.contents() for key, field in ours.items()}
    wrong = {key: (str(value)[:80], str(found.get(key))[:80]) for key, value in told.items() if found.get(key) != value}
    assert wrong == {}


@pytest.mark.parametrize("bits, kind", [(4, "Q4_0"), (5, "Q5_0"), (8, "Q8_0")])
def test_codes_become_blocks_without_loss(smollm2, reweight, tmp_path, bits, kind):
    reweight("quantize", smollm2, tmp_path / "ct", "--scheme", f"int{bits}-g32-sym", "--scale-dtype", "f16")
    reweight("convert", tmp_path / "ct", tmp_path / "t.gguf", "--to", "gguf")
    assert reweight("diff", tmp_path / "ct", tmp_path / "t.gguf", "--json", "--tensors", "*_proj*")["identical"] is True
    assert {tensor.tensor_type.name for name, tensor in opened(tmp_path / "t.gguf").items() if "ffn_up" in name} == {kind}
