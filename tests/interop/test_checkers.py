"""The checks of this suite, on folders whose every weight is known, and on spoilt ones."""

import itertools
import json

import pytest
import torch
from folders import decompress, difference, differing, read
from loading import language_model
from reference import Scheme, write
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

LINEARS = ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"] + [f"self_attn.{name}_proj" for name in "kqvo"]
MODULES = [f"model.layers.{layer}.{name}" for layer in range(2) for name in LINEARS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random Llama whose rows do not fill words: K is 96 and 168, N is 32, 96 and 168."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=96, intermediate_size=168, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny") / "source"
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits, group", itertools.product(range(2, 9), [24, None]))
def test_every_width_decompresses_to_what_was_meant(tiny, tmp_path, bits, group, symmetric):
    schemes = dict.fromkeys(MODULES, Scheme(bits, group, symmetric))
    meant = write(tiny, tmp_path / "t", schemes, ["lm_head"], dequantize=not symmetric)
    weights, rest = decompress(tmp_path / "t")
    assert weights.keys() == meant.keys()
    assert differing(weights, meant) == []
    assert differing(read(tiny), rest) == []
    model = language_model(tmp_path / "t")
    assert differing(model.state_dict(), meant | rest) == []
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_mixed_symmetric_groups_load(tiny, tmp_path):
    widths = itertools.cycle([Scheme(4, 24, True), Scheme(3, 12, True), Scheme(8, None, True)])
    meant = write(tiny, tmp_path / "t", dict(zip(MODULES, widths)), ["lm_head"])
    assert differing(language_model(tmp_path / "t").state_dict(), meant) == []


@pytest.mark.parametrize("name", ["weight_packed", "weight_scale", "weight_zero_point"])
def test_one_changed_bit_is_found(tiny, tmp_path, name):
    meant = write(tiny, tmp_path / "t", dict.fromkeys(MODULES, Scheme(3, 24, False)), ["lm_head"])
    file = tmp_path / "t/model.safetensors"
    tensors = load_file(file)
    spoilt = tensors[f"{MODULES[0]}.{name}"]
    spoilt.view(torch.int16)[0, 0] ^= 1
    save_file(tensors, file)
    found = differing(decompress(tmp_path / "t")[0], meant)
    assert len(found) == 1 and found[0].startswith(MODULES[0])


def test_a_float_linear_that_is_not_ignored_is_refused(tiny, tmp_path):
    write(tiny, tmp_path / "t", dict.fromkeys(MODULES[1:], Scheme(4, 24, True)), ["lm_head"])
    settings = json.loads((tmp_path / "t/config.json").read_text())
    settings["quantization_config"]["config_groups"]["group_0"]["targets"] = ["Linear"]
    (tmp_path / "t/config.json").write_text(json.dumps(settings))
    with pytest.raises(AssertionError, match=MODULES[0]):
        language_model(tmp_path / "t")


def test_signed_zeros_and_missing_tensors_are_differences():
    zero = torch.zeros(2)
    assert difference(zero, zero) == ""
    assert difference(-zero, zero)
    assert difference(None, zero) == "missing"
    assert difference(zero.double(), zero)
