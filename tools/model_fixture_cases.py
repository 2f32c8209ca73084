"""The cases of make-model-fixtures.py, as data: configurations, published tensor names, and what must show in the outputs.

A case has
    config      config.json as it is written; `architectures[0]` is the class it is made with
    names       the tensor names of published checkpoints, with every number between dots as `*`
    matters     changes of config.json that must show in the outputs (`...` removes a key)
    ignored     changes that must not
and where it needs them
    tokens      length of the input (32)
    weights_of  the case whose random numbers it shares
    same_as     the case whose outputs it must have, bit for bit
    rope_type   what the loader must have understood
    norm_centre the value norm weights scatter around (1)
    std         standard deviation of the weights of a module, by its name (0.2)
    rename      patterns and replacements from the names `save_pretrained` writes to published ones
    extra       tensors that published checkpoints carry besides
    unread      names that the loader reports as unexpected
    unseen      names that cannot show in the outputs
    load_as     the class to load it with, if another; load: further arguments
    init        arguments of the class it is made with
    one_segment for encoders: all token types are 0
"""

import torch

ATTENTION = """
    model.layers.*.input_layernorm.weight model.layers.*.post_attention_layernorm.weight
    model.layers.*.self_attn.q_proj.weight model.layers.*.self_attn.k_proj.weight model.layers.*.self_attn.v_proj.weight
    model.layers.*.self_attn.o_proj.weight"""
MLP = " model.layers.*.mlp.gate_proj.weight model.layers.*.mlp.up_proj.weight model.layers.*.mlp.down_proj.weight "
TIED = " model.embed_tokens.weight model.norm.weight "
UNTIED = TIED + " lm_head.weight "

QK_NORM = " model.layers.*.self_attn.q_norm.weight model.layers.*.self_attn.k_norm.weight "
QKV_BIAS = " model.layers.*.self_attn.q_proj.bias model.layers.*.self_attn.k_proj.bias model.layers.*.self_attn.v_proj.bias "
SANDWICH = " model.layers.*.pre_feedforward_layernorm.weight model.layers.*.post_feedforward_layernorm.weight "
EXPERTS = """
    model.layers.*.mlp.gate.weight model.layers.*.mlp.experts.*.gate_proj.weight model.layers.*.mlp.experts.*.up_proj.weight
    model.layers.*.mlp.experts.*.down_proj.weight"""
GPT2 = """
    wte.weight wpe.weight h.*.ln_1.weight h.*.ln_1.bias h.*.attn.c_attn.weight h.*.attn.c_attn.bias h.*.attn.c_proj.weight
    h.*.attn.c_proj.bias h.*.ln_2.weight h.*.ln_2.bias h.*.mlp.c_fc.weight h.*.mlp.c_fc.bias h.*.mlp.c_proj.weight
    h.*.mlp.c_proj.bias ln_f.weight ln_f.bias"""
BERT = """
    embeddings.word_embeddings.weight embeddings.position_embeddings.weight embeddings.token_type_embeddings.weight
    embeddings.LayerNorm.weight embeddings.LayerNorm.bias""" + "".join(
    f" encoder.layer.*.{module}.weight encoder.layer.*.{module}.bias "
    for module in "attention.self.query attention.self.key attention.self.value attention.output.dense attention.output.LayerNorm "
    "intermediate.dense output.dense output.LayerNorm".split()
)
POOLER = " pooler.dense.weight pooler.dense.bias "
MASKED_LM_HEAD = """
    cls.predictions.bias cls.predictions.transform.dense.weight cls.predictions.transform.dense.bias
    cls.predictions.transform.LayerNorm.gamma cls.predictions.transform.LayerNorm.beta"""
VIT = """
    embeddings.cls_token embeddings.position_embeddings embeddings.patch_embeddings.projection.weight
    embeddings.patch_embeddings.projection.bias layernorm.weight layernorm.bias""" + "".join(
    f" encoder.layer.*.{module}.weight encoder.layer.*.{module}.bias "
    for module in "layernorm_before attention.attention.query attention.attention.key attention.attention.value "
    "attention.output.dense layernorm_after intermediate.dense output.dense".split()
)


def prefixed(prefix: str, names: str) -> str:
    return " ".join(prefix + name for name in names.split()) + " "


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "rope_scaling": None,
    "rope_theta": 100.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": 96,
}


# The same numbers at different scales of position: wavelengths of the 8 frequencies are 6.3 to 353 tokens.
LLAMA3_ROPE = {
    "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64, "rope_type": "llama3",
}


def rope(scaling: dict, rope_type: str, matters: list, **config) -> dict:
    """The Llama case with scaled rotary angles; without the scaling, the outputs differ."""
    return {
        "config": LLAMA | {"rope_scaling": scaling} | config,
        "names": UNTIED + ATTENTION + MLP,
        "weights_of": "llama",
        "rope_type": rope_type,
        "matters": [{"rope_scaling": None}] + [{"rope_scaling": scaling | change} for change in matters],
    }


MISTRAL = {
    "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48, "max_position_embeddings": 64, "model_type": "mistral",
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-3, "rope_theta": 100.0,
    "sliding_window": 8, "tie_word_embeddings": False, "torch_dtype": "float32", "vocab_size": 96,
}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 32,
    "intermediate_size": 48, "max_position_embeddings": 64, "max_window_layers": 1, "model_type": "qwen2", "num_attention_heads": 4,
    "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-3, "rope_theta": 1000.0, "sliding_window": 8,
    "tie_word_embeddings": False, "torch_dtype": "float32", "use_sliding_window": False, "vocab_size": 96,
}
# 40 and 56 are no multiples of the lanes of any vector unit; heads are wider than hidden_size / num_attention_heads.
QWEN3 = QWEN2 | {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 16, "hidden_size": 40, "intermediate_size": 56,
    "max_window_layers": 2, "model_type": "qwen3", "num_hidden_layers": 2, "sliding_window": None,
}
SMOLLM3 = LLAMA | {
    "architectures": ["SmolLM3ForCausalLM"], "layer_types": ["full_attention"] * 4, "max_window_layers": 4, "model_type": "smollm3",
    "no_rope_layer_interval": 2, "no_rope_layers": [1, 0, 1, 0], "num_hidden_layers": 4, "pad_token_id": 0, "sliding_window": None,
    "tie_word_embeddings": True, "use_sliding_window": False,
}
del SMOLLM3["head_dim"]
GEMMA = {
    "architectures": ["GemmaForCausalLM"], "attention_bias": False, "bos_token_id": 2, "eos_token_id": 1, "head_dim": 16,
    "hidden_act": "gelu", "hidden_activation": None, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 64,
    "model_type": "gemma", "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 1, "pad_token_id": 0,
    "rms_norm_eps": 1e-3, "rope_scaling": None, "rope_theta": 100.0, "torch_dtype": "float32", "vocab_size": 96,
}
GEMMA2 = GEMMA | {
    "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "model_type": "gemma2", "num_hidden_layers": 3,
    "num_key_value_heads": 2, "query_pre_attn_scalar": 24, "sliding_window": 8,
}
GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": None, "bos_token_id": 2,
    "eos_token_id": 1, "final_logit_softcapping": None, "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 32,
    "intermediate_size": 48, "max_position_embeddings": 64, "model_type": "gemma3_text", "num_attention_heads": 4,
    "num_hidden_layers": 3, "num_key_value_heads": 1, "pad_token_id": 0, "query_pre_attn_scalar": 24, "rms_norm_eps": 1e-3,
    "rope_local_base_freq": 10.0, "rope_scaling": None, "rope_theta": 1000.0, "sliding_window": 8, "sliding_window_pattern": 2,
    "torch_dtype": "float32", "vocab_size": 96,
}
PHI3 = {
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "bos_token_id": 1, "embd_pdrop": 0.0, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 48, "intermediate_size": 40, "max_position_embeddings": 64, "model_type": "phi3",
    "num_attention_heads": 3, "num_hidden_layers": 2, "num_key_value_heads": 1, "original_max_position_embeddings": 64,
    "pad_token_id": 0, "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-3, "rope_scaling": None,
    "rope_theta": 100.0, "sliding_window": 12, "tie_word_embeddings": False, "torch_dtype": "float32", "vocab_size": 96,
}
PHI3_NAMES = UNTIED + """
    model.layers.*.input_layernorm.weight model.layers.*.post_attention_layernorm.weight model.layers.*.self_attn.qkv_proj.weight
    model.layers.*.self_attn.o_proj.weight model.layers.*.mlp.gate_up_proj.weight model.layers.*.mlp.down_proj.weight"""
LONGROPE = {
    "long_factor": [1.5, 2.0, 3.0, 5.0, 8.0, 12.0], "short_factor": [1.0, 1.05, 1.2, 1.4, 1.7, 2.1], "type": "longrope",
}
# Layer 0 is dense by the step, 1 has experts, 2 is dense by the step, 3 by the list.
QWEN3_MOE = QWEN3 | {
    "architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 2, "head_dim": 12, "hidden_size": 32, "intermediate_size": 24,
    "mlp_only_layers": [3], "model_type": "qwen3_moe", "moe_intermediate_size": 16, "norm_topk_prob": True, "num_experts": 6,
    "num_experts_per_tok": 2, "num_hidden_layers": 4, "output_router_logits": False, "router_aux_loss_coef": 0.001,
}
QWEN2_MOE = QWEN2 | {
    "architectures": ["Qwen2MoeForCausalLM"], "decoder_sparse_step": 1, "mlp_only_layers": [], "model_type": "qwen2_moe",
    "moe_intermediate_size": 16, "norm_topk_prob": False, "num_experts": 6, "num_experts_per_tok": 2, "num_hidden_layers": 2,
    "output_router_logits": False, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 24,
}
MIXTRAL = MISTRAL | {
    "architectures": ["MixtralForCausalLM"], "intermediate_size": 24, "model_type": "mixtral", "num_experts_per_tok": 2,
    "num_local_experts": 4, "output_router_logits": False, "router_aux_loss_coef": 0.02, "sliding_window": None,
}
GPT2_CONFIG = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 95, "embd_pdrop": 0.1,
    "eos_token_id": 95, "initializer_range": 0.02, "layer_norm_epsilon": 1e-3, "model_type": "gpt2", "n_ctx": 40, "n_embd": 32,
    "n_head": 4, "n_layer": 2, "n_positions": 40, "resid_pdrop": 0.1, "vocab_size": 96,
}
BERT_CONFIG = {
    "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48, "layer_norm_eps": 1e-3, "max_position_embeddings": 40,
    "model_type": "bert", "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 0, "position_embedding_type": "absolute",
    "type_vocab_size": 2, "vocab_size": 96,
}
LABELS = {"id2label": {str(i): f"LABEL_{i}" for i in range(10)}, "label2id": {f"LABEL_{i}": i for i in range(10)}}
VIT_CONFIG = {
    "architectures": ["ViTForImageClassification"], "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0, "hidden_size": 32, "image_size": 16, "initializer_range": 0.02, "intermediate_size": 48,
    "layer_norm_eps": 1e-3, "model_type": "vit", "num_attention_heads": 4, "num_channels": 1, "num_hidden_layers": 2, "patch_size": 4,
    "qkv_bias": True,
} | LABELS
DEIT_CONFIG = VIT_CONFIG | {
    "architectures": ["DeiTForImageClassificationWithTeacher"], "model_type": "deit", "num_channels": 3,
}
# A key bias adds the same to every score of a query, which softmax takes away again.
KEY_BIAS = r".*\.(attention|self)\.key\.bias"

CASES = {
    "llama": {
        "config": LLAMA,
        "names": UNTIED + ATTENTION + MLP,
        "matters": [{"rope_theta": 10000.0}, {"rms_norm_eps": 1e-6}, {"hidden_act": "gelu"}],
    },
    # head_dim left to hidden_size / num_attention_heads, with biases everywhere
    "llama-tied": {
        "config": {key: value for key, value in LLAMA.items() if key != "head_dim"}
        | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        "names": TIED + ATTENTION + MLP + (ATTENTION + MLP).replace("_proj.weight", "_proj.bias"),
        "matters": [{"rms_norm_eps": 1e-6}],
    },
    # `type` is the older name of `rope_type`
    "rope-linear": rope({"factor": 2.0, "type": "linear"}, "linear", [{"factor": 3.0}]),
    "rope-llama3": rope(LLAMA3_ROPE, "llama3", [
        {"factor": 4.0}, {"high_freq_factor": 2.0}, {"low_freq_factor": 2.0}, {"original_max_position_embeddings": 128},
    ], max_position_embeddings=512),
    "llama-rope-parameters": {
        "config": {key: value for key, value in LLAMA.items() if key not in ("rope_scaling", "rope_theta", "torch_dtype")}
        | {"dtype": "float32", "max_position_embeddings": 512, "rope_parameters": LLAMA3_ROPE | {"rope_theta": 100.0}},
        "names": UNTIED + ATTENTION + MLP,
        "weights_of": "llama",
        "same_as": "rope-llama3",
        "rope_type": "llama3",
        "matters": [{"rope_parameters": LLAMA3_ROPE | {"rope_theta": 1000.0}}],
    },
    "rope-yarn": rope(
        {"factor": 4.0, "original_max_position_embeddings": 512, "rope_type": "yarn"}, "yarn",
        [{"factor": 2.0}, {"beta_fast": 64}, {"beta_slow": 4}, {"truncate": False}, {"attention_factor": 1.0}],
        max_position_embeddings=2048,
    ),
    "rope-yarn-mscale": rope(
        {"beta_fast": 16, "beta_slow": 2, "factor": 4.0, "mscale": 1.2, "mscale_all_dim": 0.7, "original_max_position_embeddings": 512,
         "truncate": False, "type": "yarn"}, "yarn",
        [{"mscale": 0.7}, {"mscale_all_dim": 1.2}, {"truncate": True}], max_position_embeddings=2048,
    ),
    # longer than max_position_embeddings, so that the base changes
    "rope-dynamic": rope({"factor": 2.0, "type": "dynamic"}, "dynamic", [{"factor": 4.0}], max_position_embeddings=16),
    "mistral": {
        "config": MISTRAL,
        "names": UNTIED + ATTENTION + MLP,
        "matters": [{"sliding_window": 7}, {"sliding_window": 9}, {"sliding_window": None}],
    },
    "qwen2": {
        "config": QWEN2,
        "names": UNTIED + ATTENTION + MLP + QKV_BIAS,
        "matters": [{"use_sliding_window": True}],
        "ignored": [{"sliding_window": 4}, {"max_window_layers": 0}],
    },
    # layers from max_window_layers on have a window
    "qwen2-window": {
        "config": QWEN2 | {"use_sliding_window": True, "tie_word_embeddings": True},
        "names": TIED + ATTENTION + MLP + QKV_BIAS,
        "matters": [{"max_window_layers": 0}, {"max_window_layers": 2}, {"sliding_window": 7}, {"use_sliding_window": False}],
    },
    "qwen3": {"config": QWEN3, "names": UNTIED + ATTENTION + MLP + QK_NORM, "matters": [{"rms_norm_eps": 1e-6}]},
    "smollm3": {
        "config": SMOLLM3,
        "names": TIED + ATTENTION + MLP,
        "matters": [{"no_rope_layers": [1, 1, 1, 1]}, {"no_rope_layers": [0, 1, 0, 1]}],
        "ignored": [{"no_rope_layer_interval": 3}, {"no_rope_layers": ...}],
    },
    "gemma": {
        "config": GEMMA,
        "names": TIED + ATTENTION + MLP,
        "norm_centre": 0.0,
        "matters": [{"rms_norm_eps": 1e-6}, {"hidden_act": "silu"}],
        "ignored": [{"hidden_act": "gelu_pytorch_tanh"}, {"hidden_activation": "relu"}],
    },
    "gemma2": {
        "config": GEMMA2,
        "names": TIED + ATTENTION + MLP + SANDWICH,
        "norm_centre": 0.0,
        "matters": [
            {"attn_logit_softcapping": None}, {"final_logit_softcapping": None}, {"query_pre_attn_scalar": 16},
            {"sliding_window": 7}, {"sliding_window": 9}, {"sliding_window": 64}, {"rms_norm_eps": 1e-6},
        ],
        "ignored": [{"hidden_act": "silu"}],
    },
    "gemma3": {
        "config": GEMMA3,
        "names": TIED + ATTENTION + MLP + SANDWICH + QK_NORM,
        "norm_centre": 0.0,
        "rope_type": None,
        "matters": [
            {"query_pre_attn_scalar": 16}, {"sliding_window": 9}, {"sliding_window_pattern": 3}, {"rope_theta": 10.0},
            {"rope_local_base_freq": 1000.0}, {"rms_norm_eps": 1e-6},
        ],
    },
    # scaling applies to the layers without a window only
    "gemma3-rope-scaling": {
        "config": GEMMA3 | {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
        "names": TIED + ATTENTION + MLP + SANDWICH + QK_NORM,
        "weights_of": "gemma3",
        "norm_centre": 0.0,
        "rope_type": None,
        "matters": [{"rope_scaling": None}],
    },
    "phi3": {
        "config": PHI3,
        "names": PHI3_NAMES,
        "matters": [{"partial_rotary_factor": 1.0}, {"sliding_window": None}, {"sliding_window": 13}],
    },
    # at most original_max_position_embeddings tokens: the short factors
    "phi3-longrope-short": {
        "config": PHI3 | {"rope_scaling": LONGROPE, "original_max_position_embeddings": 24, "max_position_embeddings": 96,
                          "sliding_window": 64},
        "names": PHI3_NAMES,
        "tokens": 24,
        "rope_type": "longrope",
        "matters": [{"rope_scaling": None}, {"max_position_embeddings": 24}, {"original_max_position_embeddings": 23}],
        "ignored": [{"rope_scaling": LONGROPE | {"long_factor": [1.0] * 6}}],
    },
    # one token more: the long factors
    "phi3-longrope-long": {
        "config": PHI3 | {"rope_scaling": LONGROPE, "original_max_position_embeddings": 24, "max_position_embeddings": 96,
                          "sliding_window": 64},
        "names": PHI3_NAMES,
        "tokens": 25,
        "rope_type": "longrope",
        "matters": [{"rope_scaling": None}, {"max_position_embeddings": 24}, {"original_max_position_embeddings": 25}],
        "ignored": [{"rope_scaling": LONGROPE | {"short_factor": [1.0] * 6}}],
    },
    "mixtral": {
        "config": MIXTRAL,
        "names": UNTIED + ATTENTION + """
            model.layers.*.block_sparse_moe.gate.weight model.layers.*.block_sparse_moe.experts.*.w1.weight
            model.layers.*.block_sparse_moe.experts.*.w2.weight model.layers.*.block_sparse_moe.experts.*.w3.weight""",
        "std": {"gate": 0.4},
        "load": {"experts_implementation": "eager"},
        "matters": [{"num_experts_per_tok": 1}, {"num_experts_per_tok": 3}],
    },
    "qwen2-moe": {
        "config": QWEN2_MOE,
        "names": UNTIED + ATTENTION + QKV_BIAS + EXPERTS + """
            model.layers.*.mlp.shared_expert_gate.weight model.layers.*.mlp.shared_expert.gate_proj.weight
            model.layers.*.mlp.shared_expert.up_proj.weight model.layers.*.mlp.shared_expert.down_proj.weight""",
        "std": {"gate": 0.4},
        "load": {"experts_implementation": "eager"},
        "matters": [{"norm_topk_prob": True}, {"num_experts_per_tok": 1}],
        "ignored": [{"intermediate_size": 64}],
    },
    "qwen3-moe": {
        "config": QWEN3_MOE,
        "names": UNTIED + ATTENTION + MLP + QK_NORM + EXPERTS,
        "std": {"gate": 0.4},
        "load": {"experts_implementation": "eager"},
        "matters": [{"norm_topk_prob": False}, {"num_experts_per_tok": 1}],
    },
    # the names of openai-community/gpt2, with its causal masks
    "gpt2": {
        "config": GPT2_CONFIG,
        "names": GPT2 + " h.*.attn.bias ",
        "rename": [(r"^transformer\.", "")],
        "extra": {f"h.{i}.attn.bias": lambda _: torch.ones(40, 40).tril()[None, None] for i in range(2)},
        "unseen": r"h\.\d\.attn\.bias",
        "matters": [{"layer_norm_epsilon": 1e-6}, {"activation_function": "relu"}],
    },
    # the names of distilgpt2 and of what is trained with transformers
    "gpt2-prefixed": {
        "config": GPT2_CONFIG | {"n_inner": 40, "scale_attn_by_inverse_layer_idx": True},
        "names": prefixed("transformer.", GPT2),
        "matters": [{"scale_attn_by_inverse_layer_idx": False}],
    },
    "bert": {
        "config": BERT_CONFIG,
        "names": BERT + POOLER,
        "unseen": KEY_BIAS,
        "matters": [{"layer_norm_eps": 1e-6}, {"hidden_act": "relu"}],
    },
    "bert-no-pooler": {
        "config": BERT_CONFIG,
        "names": BERT,
        "load": {"add_pooling_layer": False},
        "init": {"add_pooling_layer": False},
        "one_segment": True,
        "unseen": KEY_BIAS,
    },
    # the names of bert-base-uncased: a prefix, gamma and beta, and a head that an encoder has no use for
    "bert-masked-lm": {
        "config": BERT_CONFIG | {"architectures": ["BertForMaskedLM"]},
        "names": prefixed("bert.", BERT.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"))
        + MASKED_LM_HEAD,
        "rename": [(r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta")],
        "load_as": "BertModel",
        "load": {"add_pooling_layer": False},
        "unread": r"cls\..*",
        "unseen": KEY_BIAS + r"|cls\..*",
    },
    "vit": {
        "config": VIT_CONFIG,
        "names": prefixed("vit.", VIT) + "classifier.weight classifier.bias",
        "unseen": KEY_BIAS,
        "matters": [{"layer_norm_eps": 1e-6}, {"hidden_act": "relu"}],
    },
    "deit": {
        "config": DEIT_CONFIG,
        "names": prefixed("deit.", VIT + " embeddings.distillation_token ")
        + "cls_classifier.weight cls_classifier.bias distillation_classifier.weight distillation_classifier.bias",
        "unseen": KEY_BIAS,
        "matters": [{"layer_norm_eps": 1e-6}, {"hidden_act": "relu"}],
    },
}
