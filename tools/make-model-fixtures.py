#!/usr/bin/env python3
"""Tiny random models of every architecture of the forward pass, with what transformers makes of them.

    python3 tools/make-model-fixtures.py [CASE...]      needs torch, transformers, safetensors, numpy

Writes tests/fixtures/models/CASE/{config.json,model.safetensors,expected.safetensors}. Weights are f16 numbers stored as F16, so that
the files stay small; transformers loads the folder as any other, in f32, and computes the expected values from it. Seeds are fixed:
the same versions give the same bytes. Every tensor is perturbed once to see that the result depends on it.
"""
import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageClassification

ROOT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "models"
TOKENS = 40
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
             vocab_size=96, max_position_embeddings=128)
LLAMA = dict(model_type="llama", architectures=["LlamaForCausalLM"], hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
             tie_word_embeddings=False, **SMALL)


def llama(**changes):
    return {**LLAMA, **changes}


def like(model_type, architecture, **changes):
    return {**LLAMA, "model_type": model_type, "architectures": [architecture], **changes}


YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
LONG = dict(type="longrope", short_factor=[1.0 + 0.1 * i for i in range(4)], long_factor=[2.0 + 0.5 * i for i in range(4)])
GEMMA = dict(tie_word_embeddings=True, head_dim=16, hidden_activation="gelu_pytorch_tanh", hidden_act="gelu_pytorch_tanh")
CASES = {
    "llama": llama(),
    "llama-tied": llama(tie_word_embeddings=True, num_key_value_heads=1, head_dim=12),
    "llama-rope-parameters": {**{k: v for k, v in LLAMA.items() if k != "rope_theta"},
                              "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "rope-linear": llama(rope_scaling={"type": "linear", "factor": 3.0}),
    "rope-dynamic": llama(rope_scaling={"type": "dynamic", "factor": 2.0}, max_position_embeddings=16),
    "rope-llama3": llama(rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                       "original_max_position_embeddings": 16}),
    "rope-yarn": llama(rope_scaling=YARN),
    "mistral": like("mistral", "MistralForCausalLM", sliding_window=11),
    "qwen2": like("qwen2", "Qwen2ForCausalLM", tie_word_embeddings=True),
    "qwen2-window": like("qwen2", "Qwen2ForCausalLM", use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen3": like("qwen3", "Qwen3ForCausalLM", head_dim=16),
    "smollm3": like("smollm3", "SmolLM3ForCausalLM", num_hidden_layers=4, no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0],
                    intermediate_size=32, pad_token_id=0),
    "gemma": like("gemma", "GemmaForCausalLM", **GEMMA),
    "gemma2": like("gemma2", "Gemma2ForCausalLM", **GEMMA, sliding_window=7, attn_logit_softcapping=5.0, final_logit_softcapping=4.0,
                   query_pre_attn_scalar=24),
    "gemma3": like("gemma3_text", "Gemma3ForCausalLM", **{**GEMMA, "num_hidden_layers": 3}, sliding_window=7, sliding_window_pattern=3,
                   query_pre_attn_scalar=24, rope_theta=100000.0, rope_local_base_freq=10000.0,
                   rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "phi3": like("phi3", "Phi3ForCausalLM", partial_rotary_factor=0.5, sliding_window=13, pad_token_id=0),
    "phi3-longrope-short": like("phi3", "Phi3ForCausalLM", rope_scaling=LONG, original_max_position_embeddings=64, pad_token_id=0),
    "phi3-longrope-long": like("phi3", "Phi3ForCausalLM", rope_scaling=LONG, original_max_position_embeddings=16, pad_token_id=0),
    "mixtral": like("mixtral", "MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2),
    "qwen2-moe": like("qwen2_moe", "Qwen2MoeForCausalLM", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
                      shared_expert_intermediate_size=40, norm_topk_prob=False, decoder_sparse_step=1, mlp_only_layers=[]),
    "qwen3-moe": like("qwen3_moe", "Qwen3MoeForCausalLM", head_dim=16, num_hidden_layers=3, num_experts=4, num_experts_per_tok=2,
                      moe_intermediate_size=24, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[1]),
    "gpt2": dict(model_type="gpt2", architectures=["GPT2LMHeadModel"], n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=96,
                 activation_function="gelu_new", layer_norm_epsilon=1e-5),
    "bert": dict(model_type="bert", architectures=["BertModel"], hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                 intermediate_size=48, vocab_size=96, max_position_embeddings=64, type_vocab_size=2, hidden_act="gelu",
                 layer_norm_eps=1e-12),
    "vit": dict(model_type="vit", architectures=["ViTForImageClassification"], hidden_size=32, num_hidden_layers=2,
                num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=4, num_channels=1, hidden_act="gelu",
                layer_norm_eps=1e-12, id2label={str(i): f"class {i}" for i in range(5)}),
    "deit": dict(model_type="deit", architectures=["DeiTForImageClassificationWithTeacher"], hidden_size=32, num_hidden_layers=2,
                 num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=4, num_channels=3, hidden_act="gelu",
                 layer_norm_eps=1e-12, id2label={str(i): f"class {i}" for i in range(5)}),
}


def loader(config):
    if config["model_type"] == "bert":
        return AutoModel
    if config["model_type"] == "vit":
        return AutoModelForImageClassification
    if config["model_type"] == "deit":
        return transformers.DeiTForImageClassificationWithTeacher
    return AutoModelForCausalLM


def randomize(tensors, generator):
    """f16 numbers large enough that every term of the forward pass is felt."""
    for name, tensor in tensors.items():
        values = torch.randn(tensor.shape, generator=generator)
        is_norm = "norm" in name.lower() or ".ln_" in name
        if is_norm and name.endswith("weight"):
            scale, offset = 0.3, 1.0
        elif tensor.dim() < 2:
            scale, offset = 0.2, 0.0
        elif "embed" in name or "wte" in name or "wpe" in name or "token" in name:
            scale, offset = 0.5, 0.0
        else:
            scale, offset = 0.25, 0.0
        tensors[name] = (values * scale + offset).half()
    return tensors


def published(config, names):
    """Names as published checkpoints have them; transformers 5 holds experts as one tensor and saves them apart."""
    fused = [name for name in names if ".experts." in name and "proj" in name and not any(c.isdigit() for c in name.split("experts.")[1])]
    assert not fused, f"{config['model_type']} saves fused experts: {fused}"


def outputs(folder, config, inputs):
    model = loader(config).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        result = model(**inputs)
    if config["model_type"] == "bert":
        return {"last_hidden_state": result.last_hidden_state[0], "mean_pooled": result.last_hidden_state[0].mean(0)}
    return {"logits": result.logits[0]}


def make(case, config):
    folder = ROOT / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    generator = torch.Generator().manual_seed(sum(case.encode()))
    torch.manual_seed(1)
    auto = AutoConfig.from_pretrained(folder)
    model = loader(config)
    model = model.from_config(auto) if hasattr(model, "from_config") else model(auto)
    scratch = folder / "scratch"
    model.float().save_pretrained(scratch)
    tensors = load_file(scratch / "model.safetensors")
    shutil.rmtree(scratch)
    published(config, tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    randomize(tensors, generator)
    weights = folder / "model.safetensors"
    save_file(tensors, weights, {"format": "pt"})
    if "image_size" in config:
        shape = (1, config["num_channels"], config["image_size"], config["image_size"])
        inputs = {"pixel_values": torch.randn(shape, generator=generator)}
    else:
        inputs = {"input_ids": torch.randint(0, config["vocab_size"], (1, TOKENS), generator=generator)}
    expected = outputs(folder, config, inputs)
    key = next(iter(expected))
    for name in tensors:
        changed = dict(tensors)
        changed[name] = tensors[name] * 1.5 + 0.25
        save_file(changed, weights, {"format": "pt"})
        moved = (outputs(folder, config, inputs)[key] - expected[key]).abs().max().item()
        # A bias of keys moves every score of a query alike, which softmax does not see.
        assert moved > 1e-2 or name.endswith(("k_proj.bias", "key.bias")), f"{case}: {name} moves the result by {moved}"
    save_file(tensors, weights, {"format": "pt"})
    kept = {name: tensor[0].contiguous() for name, tensor in inputs.items()}
    provenance = {"transformers": transformers.__version__, "torch": torch.__version__, "seed": str(sum(case.encode()))}
    save_file({**kept, **{name: value.contiguous() for name, value in expected.items()}}, folder / "expected.safetensors", provenance)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 200_000, f"{case}: {size} bytes"
    print(f"{case}: {len(tensors)} tensors, {size} bytes")


def main():
    transformers.logging.set_verbosity_error()
    for case in sys.argv[1:] or CASES:
        make(case, CASES[case])


if __name__ == "__main__":
    main()
