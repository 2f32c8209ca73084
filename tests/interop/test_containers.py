"""AutoAWQ and GPTQ folders, unpacked by code that is not ours.

AutoAWQ: compressed-tensors' own converter. GPTQ: the formula that AutoGPTQ and GPTQModel publish for their torch
kernels, written out below in torch, with version 1 zeros one less. Every value must have the same bits in f32.
"""

import json

import pytest
import torch
from compressed_tensors.entrypoints.convert import AutoAWQConverter, convert_checkpoint
from folders import decompress, differing, read
from transformers import Gemma2Config, Gemma2ForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen2Config, Qwen2ForCausalLM

SIZES = dict(vocab_size=64, num_hidden_layers=2, num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=64)


def qwen2():
    """Biases; K is 576 and 608, N is 192, 576 and 608: 608 is no multiple of 64."""
    return Qwen2ForCausalLM(Qwen2Config(hidden_size=576, intermediate_size=608, **SIZES))


def gemma2():
    """Norms that count from one."""
    return Gemma2ForCausalLM(Gemma2Config(hidden_size=288, intermediate_size=352, head_dim=32, **SIZES))


def mixtral():
    """Experts and a router, which stays as it is."""
    config = MixtralConfig(hidden_size=288, intermediate_size=352, num_local_experts=3, num_experts_per_tok=2, **SIZES)
    return MixtralForCausalLM(config)


@pytest.fixture(scope="module", params=[qwen2, gemma2, mixtral], ids=lambda make: make.__name__)
def source(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param.__name__) / "source"
    torch.manual_seed(7)
    model = request.param().bfloat16()
    with torch.no_grad():  # transformers starts biases at zero
        for name, tensor in model.named_parameters():
            if name.endswith("bias"):
                tensor.normal_()
    model.save_pretrained(folder)
    return folder


def settings(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def ours(reweight, folder, target):
    reweight("convert", folder, target, "--to", "f32")
    return read(target)


def fields(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Fields of `bits` bits down the columns of int32 words, least significant first, across words for 3 bits."""
    wide = words.long() & 0xFFFFFFFF
    ones = (wide[:, None, :] >> torch.arange(32)[None, :, None]) & 1
    stream = ones.reshape(-1, words.shape[1])
    return (stream.reshape(-1, bits, words.shape[1]) << torch.arange(bits)[None, :, None]).sum(1)


def gptq_weights(folder) -> tuple[dict, dict]:
    stored, config = read(folder), settings(folder)
    bits, offset = config["bits"], {"gptq": 1, "gptq_v2": 0}[config["checkpoint_format"]]
    weights = {}
    for module in [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]:
        part = {name: stored.pop(f"{module}.{name}") for name in ("qweight", "qzeros", "scales", "g_idx")}
        codes = fields(part["qweight"], bits)
        zeros = fields(part["qzeros"].T.contiguous(), bits).T + offset
        assert zeros.max() < 2**bits, "a zero that wraps"
        group = part["g_idx"].long()
        weight = (codes - zeros[group]).float() * part["scales"].float()[group]
        weights[f"{module}.weight"] = weight.T.contiguous()
    return weights, stored


FORMS = ("g32", "g32-sym", "channel", "channel-sym")


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_width_decompresses_to_our_values(source, reweight, tmp_path, bits):
    """By compressed-tensors: every form with biases and odd sizes, two forms with offset norms and with experts."""
    forms = FORMS if "qwen2" in str(source) else FORMS[1 + bits % 2 : 3 + bits % 2]
    for form in forms:
        target = tmp_path / form
        reweight("quantize", source, target, "--scheme", f"int{bits}-{form}", "--method", "rtn")
        weights, rest = decompress(target, torch.float32)
        found = ours(reweight, target, tmp_path / f"{form}-f32")
        assert len(weights) > 0
        assert differing(found, weights) == []
        assert differing(found, {name: tensor.float() for name, tensor in rest.items()}) == []


GPTQ = [("gptq", bits, "-sym") for bits in (2, 3, 4, 8)] + [("gptq-v2", bits, "") for bits in (2, 3, 4, 8)]


@pytest.mark.parametrize("to, bits, suffix", GPTQ)
def test_gptq_unpacks_to_our_values(source, reweight, tmp_path, to, bits, suffix):
    reweight("quantize", source, tmp_path / "t", "--to", to, "--scheme", f"int{bits}-g32{suffix}")
    weights, rest = gptq_weights(tmp_path / "t")
    found = ours(reweight, tmp_path / "t", tmp_path / "f32")
    assert len(weights) > 0
    assert differing(found, weights) == []
    assert differing(found, {name: tensor.float() for name, tensor in rest.items()}) == []
    assert {tensor.dtype for tensor in rest.values()} == {torch.float16}
    config = settings(tmp_path / "t")
    assert (config["bits"], config["group_size"], config["sym"], config["desc_act"]) == (bits, 32, suffix == "-sym", False)
    assert json.loads((tmp_path / "t/quantize_config.json").read_text()) == config


def test_gptq_groups_in_another_order_are_read(source, reweight, tmp_path):
    """What `desc_act` leaves: each column's group stands in `g_idx`."""
    from safetensors.torch import load_file, save_file

    reweight("quantize", source, tmp_path / "t", "--to", "gptq", "--scheme", "int4-g32-sym")
    tensors = load_file(tmp_path / "t/model.safetensors")
    for name in [name for name in tensors if name.endswith("g_idx")]:
        tensors[name] = tensors[name][torch.randperm(len(tensors[name]))]
    save_file(tensors, tmp_path / "t/model.safetensors")
    weights, _ = gptq_weights(tmp_path / "t")
    assert differing(ours(reweight, tmp_path / "t", tmp_path / "f32"), weights) == []
    reweight("convert", tmp_path / "t", tmp_path / "ct", "--to", "compressed-tensors", status=2)


@pytest.mark.parametrize("group", ["g32", "channel"])
def test_awq_converts_to_our_values(source, reweight, tmp_path, group):
    """The converter of compressed-tensors, then the decompression of compressed-tensors."""
    reweight("quantize", source, tmp_path / "t", "--to", "awq", "--scheme", f"int4-{group}")
    config = settings(tmp_path / "t")
    converter = AutoAWQConverter.from_autoawq_config(config)
    assert (config["bits"], config["version"], config["zero_point"]) == (4, "gemm", True)
    if group == "channel":  # it takes groups of a size alone
        tensors = read(tmp_path / "t")
        for module in [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]:
            codes, scales, zeros = (tensors.pop(f"{module}.{part}") for part in ("qweight", "scales", "qzeros"))
            weight, scale, zero = converter._convert_gemm_module(codes, scales, zeros)
            tensors[f"{module}.weight"] = (weight - zero).float() * scale.float()
        weights = {name: tensor.float() for name, tensor in tensors.items()}
    else:
        convert_checkpoint(tmp_path / "t", tmp_path / "theirs", converter, max_workers=1)
        weights, rest = decompress(tmp_path / "theirs", torch.float32)
        weights |= {name: tensor.float() for name, tensor in rest.items()}
    assert differing(ours(reweight, tmp_path / "t", tmp_path / "f32"), weights) == []


def test_their_conversion_and_ours_are_the_same_model(source, reweight, tmp_path):
    reweight("quantize", source, tmp_path / "t", "--to", "awq", "--scheme", "int4-g32")
    converter = AutoAWQConverter.from_autoawq_config(settings(tmp_path / "t"))
    convert_checkpoint(tmp_path / "t", tmp_path / "theirs", converter, max_workers=1)
    told = reweight("convert", tmp_path / "t", tmp_path / "ours", "--to", "compressed-tensors", "--json")
    assert told["values_digest"]
    theirs = read(tmp_path / "theirs")
    assert differing(read(tmp_path / "ours"), theirs) == []
    assert reweight("diff", tmp_path / "theirs", tmp_path / "ours", "--json")["identical"] is True
    reweight("convert", tmp_path / "theirs", tmp_path / "back", "--to", "awq")
    assert differing(read(tmp_path / "back"), read(tmp_path / "t")) == []


def test_smollm2_in_every_container(smollm2, reweight, tmp_path, measured):
    """`awq` and `gptq` fall back to one group for all: 64 divides 576."""
    reweight("quantize", smollm2, tmp_path / "awq", "--to", "awq")
    reweight("quantize", smollm2, tmp_path / "gptq", "--to", "gptq")
    assert settings(tmp_path / "awq")["group_size"] == settings(tmp_path / "gptq")["group_size"] == 64
    weights, _ = gptq_weights(tmp_path / "gptq")
    assert len(weights) == 7 * 30
    assert differing(ours(reweight, tmp_path / "gptq", tmp_path / "gptq-f32"), weights) == []
    convert_checkpoint(
        tmp_path / "awq", tmp_path / "theirs",
        AutoAWQConverter.from_autoawq_config(settings(tmp_path / "awq")), max_workers=1,
    )  # fmt: skip
    weights, _ = decompress(tmp_path / "theirs", torch.float32)
    assert differing(ours(reweight, tmp_path / "awq", tmp_path / "awq-f32"), weights) == []
