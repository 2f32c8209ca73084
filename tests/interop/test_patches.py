"""Patches against the tools they come from: PEFT's merged weights, and signatures by torch in f64.

The models are tiny and made here; every adapter is made, and merged, by PEFT itself.
"""

import copy
import json

import pytest
import torch
from folders import decompress
from gguf import GGUFReader
from gguf.quants import dequantize
from peft import LoraConfig, MissConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

LLAMA = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=99, max_position_embeddings=32, tie_word_embeddings=False)


class Net(nn.Module):
    """Convolutions of several kernels, an embedding, and a linear layer with a bias."""

    def __init__(self):
        super().__init__()
        self.config = {"model_type": "custom"}
        self.embed = nn.Embedding(17, 12)
        self.conv = nn.Conv2d(3, 8, 3)
        self.point = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.embed(x))


def llama():
    return LlamaForCausalLM(LlamaConfig(**LLAMA))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=61, n_positions=16))


PROJECTIONS = ["q_proj", "v_proj", "down_proj"]
CASES = {
    "lora": (llama, LoraConfig(r=4, lora_alpha=7, target_modules=PROJECTIONS)),
    "rslora": (llama, LoraConfig(r=8, lora_alpha=4, use_rslora=True, target_modules=PROJECTIONS)),
    "dora": (llama, LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=PROJECTIONS)),
    "patterns": (llama, LoraConfig(r=4, lora_alpha=8, target_modules=PROJECTIONS, rank_pattern={"q_proj": 2},
                                   alpha_pattern={r"layers\.1\.self_attn\.v_proj": 3, "down_proj": 5})),
    "saved": (llama, LoraConfig(r=2, target_modules=["k_proj"], modules_to_save=["lm_head"])),
    "transposed": (gpt2, LoraConfig(r=4, lora_alpha=6, fan_in_fan_out=True, target_modules=["c_attn", "c_proj"])),
    "transposed-dora": (gpt2, LoraConfig(r=4, lora_alpha=6, fan_in_fan_out=True, use_dora=True, target_modules=["c_attn"])),
    "bias": (gpt2, LoraConfig(r=4, fan_in_fan_out=True, bias="all", target_modules=["c_attn"])),
    "lora-bias": (Net, LoraConfig(r=3, lora_alpha=5, lora_bias=True, target_modules=["head"])),
    "convolution": (Net, LoraConfig(r=3, lora_alpha=5, target_modules=["conv", "point"])),
    "convolution-dora": (Net, LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=["conv"])),
    "embedding": (Net, LoraConfig(r=3, lora_alpha=5, target_modules=["embed", "head"])),
    "miss-mini": (llama, MissConfig(r=4, mini_r=8, init_weights="mini", target_modules=PROJECTIONS)),
    "miss-bat": (llama, MissConfig(r=8, init_weights="bat", target_modules=PROJECTIONS)),
    "miss": (llama, MissConfig(r=5, init_weights=False, target_modules=PROJECTIONS)),
}


def plain(state):
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


@pytest.fixture(params=CASES, ids=CASES)
def merged(request, tmp_path):
    """A base, an adapter of random values on it, and what PEFT makes of both."""
    make, config = CASES[request.param]
    torch.manual_seed(1)
    base = make()
    save_file(plain(base.state_dict()), tmp_path / "base.safetensors")
    tuned = get_peft_model(copy.deepcopy(base), copy.deepcopy(config))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    return tmp_path, plain(tuned.merge_and_unload().state_dict())


def test_merges_are_those_of_peft(merged, reweight, measured):
    folder, expected = merged
    reweight("patch", "add", folder / "base.safetensors", folder / "on.safetensors", "--patch", folder / "adapter")
    found, base = load_file(folder / "on.safetensors"), load_file(folder / "base.safetensors")
    assert found.keys() == expected.keys()
    changed = [name for name in base if not torch.equal(base[name], expected[name])]
    assert changed
    worst = max((found[name] - expected[name]).abs().max().item() / max(1.0, expected[name].abs().max().item())
                for name in expected)
    measured(f"{folder.name}: {len(changed)} tensors, worst {worst:.1e}")
    assert worst <= 1e-6
    reweight("patch", "remove", folder / "on.safetensors", folder / "off.safetensors", "--all")
    assert (folder / "off.safetensors").read_bytes() == (folder / "base.safetensors").read_bytes()


def test_bf16_is_rounded_once(reweight, tmp_path):
    """W + s B A in f64, then to bf16: what PEFT gives only where it merges in f32 without a cast of the product."""
    torch.manual_seed(2)
    base = llama().bfloat16()
    save_file(plain(base.state_dict()), tmp_path / "base.safetensors")
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], init_lora_weights=False)
    tuned = get_peft_model(copy.deepcopy(base).float(), config)
    tuned.save_pretrained(tmp_path / "adapter")
    reweight("patch", "add", tmp_path / "base.safetensors", tmp_path / "on.safetensors", "--patch", tmp_path / "adapter")
    found, adapter = load_file(tmp_path / "on.safetensors"), load_file(tmp_path / "adapter/adapter_model.safetensors")
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj"
        a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"].double() for part in "AB")
        expected = (base.state_dict()[f"{name}.weight"].double() + 1.5 * (b @ a)).to(torch.bfloat16)
        # torch rounds f64 to bf16 by way of f32; no sum here lies so close to a tie that it shows.
        assert torch.equal(found[f"{name}.weight"], expected)


@pytest.mark.parametrize("projection", ["tensor", "row"])
def test_signatures_are_those_of_the_definition(projection, reweight, tmp_path, measured):
    torch.manual_seed(3)
    nets = [Net().state_dict()]
    nets += [{name: tensor + torch.randn_like(tensor) * 0.05 for name, tensor in nets[0].items()} for _ in range(2)]
    for name, net in zip(["pretrained", "clean", "robust"], nets, strict=True):
        save_file(plain(net), tmp_path / f"{name}.safetensors")
    sources = [word for name in ["pretrained", "clean", "robust"] for word in (f"--{name}", tmp_path / f"{name}.safetensors")]
    reweight("patch", "extract", *sources, tmp_path / "s.patch", "--layers", "all", "--bits", "f32", "--projection", projection)
    signature = load_file(tmp_path / "s.patch")
    worst = 0.0
    for name in nets[0]:
        pretrained, clean, robust = (net[name].double() for net in nets)
        shape = (1, -1) if projection == "tensor" else (pretrained.shape[0], -1)
        u, v = (clean - pretrained).reshape(shape), (robust - pretrained).reshape(shape)
        expected = v - (u * v).sum(1, keepdim=True) / (u * u).sum(1, keepdim=True) * u
        difference = signature[f"{name}:delta"].double().reshape(shape) - expected
        # A row of one element lies along its direction whole: what is left is rounding, held to the size of v.
        worst = max(worst, (difference.abs().max() / v.abs().max()).item())
    measured(f"signature, {projection}: worst {worst:.1e}")
    assert worst <= 1e-6


def test_what_cannot_be_reproduced_is_refused(reweight, tmp_path):
    base = llama()
    save_file(plain(base.state_dict()), tmp_path / "base.safetensors")
    config = LoraConfig(r=4, target_modules=["q_proj"])
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    settings = json.loads(path.read_text())
    for key, value in [("init_lora_weights", "pissa"), ("peft_type", "IA3"), ("use_qalora", True)]:
        path.write_text(json.dumps(settings | {key: value}))
        words = ("patch", "add", tmp_path / "base.safetensors", tmp_path / "x.safetensors", "--patch", tmp_path / "adapter")
        reweight(*words, status=2)
        assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("make", [llama, Net], ids=lambda make: make.__name__)
def test_adapters_of_a_difference_are_the_best_of_their_rank(make, reweight, tmp_path, measured):
    """Singular values by torch in f64, and PEFT, which loads the folder and merges it."""
    torch.manual_seed(7)
    rank, base = 5, make()
    new = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in new.parameters():
            # One part of low rank, as tuning leaves it, under noise without any.
            flat = torch.randn_like(parameter).reshape(parameter.shape[0], -1)
            thin = torch.randn(flat.shape[0], 3) @ torch.randn(3, flat.shape[1])
            parameter.add_((0.05 * thin + 0.02 * flat).reshape(parameter.shape))
    save_file(plain(base.state_dict()), tmp_path / "base.safetensors")
    save_file(plain(new.state_dict()), tmp_path / "new.safetensors")
    words = ("patch", "diff", tmp_path / "base.safetensors", tmp_path / "new.safetensors", tmp_path / "adapter")
    told = {row["name"]: row for row in reweight(*words, "--rank", rank, "--json")["tensors"]}
    tuned = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter")
    merged = plain(tuned.merge_and_unload().state_dict())
    worst_energy = worst_weight = 0.0
    for name, row in told.items():
        change = (new.state_dict()[name].double() - base.state_dict()[name].double())
        if change.ndim < 2:
            assert row["singular_values"] is None and torch.equal(merged[name], base.state_dict()[name])
            continue
        u, s, v = torch.linalg.svd(change.reshape(change.shape[0], -1), full_matrices=False)
        energy = s[:rank].square().sum().item()
        worst_energy = max(worst_energy, abs(row["energy_kept"] - energy) / energy, abs(row["energy"] / s.square().sum().item() - 1))
        best = (u[:, :rank] * s[:rank] @ v[:rank]).reshape(change.shape)
        found = merged[name].double() - base.state_dict()[name].double()
        worst_weight = max(worst_weight, ((found - best).norm() / best.norm()).item())
    measured(f"rank {rank} of {make.__name__}: energy within {worst_energy:.1e} of torch's, merged weights within {worst_weight:.1e}")
    assert worst_energy <= 1e-5
    assert worst_weight <= 1e-4


def adapter_of_llama(folder, sizes):
    """A LoRA of rank 4 on the down projections, and what it adds to each."""
    tensors, changes = {}, {}
    for name, (rows, columns) in sizes.items():
        a, b = torch.randn(4, columns) * 0.1, torch.randn(rows, 4) * 0.1
        tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        changes[f"{name}.weight"] = 2.0 * (b.double() @ a.double())
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return changes


@pytest.mark.parametrize("scheme", ["int4-g32", "int3-g64-sym", "q4_0", "q8_0", "q5_1"])
def test_quantized_weights_move_as_far_as_is_told(scheme, reweight, tmp_path, measured):
    """What is told to survive, from values that compressed-tensors and the gguf package read."""
    torch.manual_seed(5)
    is_gguf = scheme.startswith("q")
    if is_gguf:
        reweight("quantize", "demo", tmp_path / "base.gguf", "--to", "gguf", "--scheme", scheme)
        base, on = tmp_path / "base.gguf", tmp_path / "on.gguf"

        def values(path):
            stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
            names = {f"model.layers.{name.split('.')[1]}.mlp.down_proj.weight": name for name in stored if "ffn_down" in name}
            return {name: torch.tensor(dequantize(stored[source].data, stored[source].tensor_type)).double()
                    for name, source in names.items()}
    else:
        base, on = tmp_path / "base", tmp_path / "on"
        reweight("quantize", "demo", base, "--scheme", scheme)

        def values(path):
            return {name: tensor.double() for name, tensor in decompress(path, torch.float32)[0].items() if "down_proj" in name}

    before = values(base)
    changes = adapter_of_llama(tmp_path / "lora", {name.removesuffix(".weight"): value.shape for name, value in before.items()})
    told = reweight("patch", "add", base, on, "--patch", f"{tmp_path / 'lora'}=0.5", "--json")["patches"][0]["survived"]
    after = values(on)
    wanted = sum((0.5 * change).square().sum().item() for change in changes.values())
    lost = sum((after[name] - before[name] - 0.5 * change).square().sum().item() for name, change in changes.items())
    measured(f"{scheme}: {told:.4f} of a change survives")
    assert wanted > 0 and abs(told - (1 - lost / wanted)) < 1e-4
    assert told > 0.5
    reweight("patch", "remove", on, tmp_path / f"off{base.suffix}", "--all")
    if is_gguf:
        assert (tmp_path / "off.gguf").read_bytes() == base.read_bytes()
