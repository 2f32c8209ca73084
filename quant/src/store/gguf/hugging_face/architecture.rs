//! What is known of each architecture, as data.
//!
//! Names and stored transformations follow llama.cpp's converter (`conversion/*.py` and `gguf/tensor_mapping.py`);
//! configuration keys follow transformers' configuration classes.

/// Names of the modules of a block: GGUF stem and Hugging Face module. A `*` stands for the number of an expert.
type Names = &'static [(&'static str, &'static str)];

/// One architecture of the `general.architecture` key.
pub(super) struct Architecture {
    /// The value of `general.architecture`.
    pub(super) name: &'static str,
    /// Whether this row is for files with experts.
    pub(super) has_experts: bool,
    /// `model_type` in `config.json`.
    pub(super) model_type: &'static str,
    /// The class in `architectures` of `config.json`.
    pub(super) class: &'static str,
    /// Modules that every block has, each with a `.weight`.
    pub(super) block: &'static [Names],
    /// What the converter changed besides names.
    pub(super) stored: Stored,
    /// Whether merges of a `SentencePiece` vocabulary follow the order of its tokens rather than their scores.
    pub(super) merges_by_id: bool,
    /// Configuration keys of this architecture alone.
    pub(super) extras: &'static [(&'static str, From)],
}

/// What the converter does to values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// Nothing.
    AsIs,
    /// It interleaves query and key rows, see `RowOrder::Interleaved`.
    InterleavedHeads,
    /// It adds one to norms.
    NormsPlusOne,
}

/// Where the value of a configuration key comes from. Strings are key suffixes after the architecture's prefix.
#[derive(Clone, Copy)]
pub(super) enum From {
    /// A count that must be there.
    Count(&'static str),
    /// A count, else `null`.
    CountOrNull(&'static str),
    /// A number, else `null`.
    FloatOrNull(&'static str),
    /// Elements of a head, for classes whose default is not the quotient of hidden size and heads.
    HeadDim,
    /// Fixed.
    Flag(bool),
    /// Fixed.
    Number(u32),
    /// Fixed.
    Text(&'static str),
    /// Whether the first block has this tensor.
    HasTensor(&'static str),
    /// Gemma: attention scores are divided by the root of the head's length; but of `hidden / heads` in the largest
    /// model, which is told by its number of blocks (llama.cpp `src/models/gemma2.cpp` and `gemma3.cpp`).
    GemmaQueryScale {
        /// Blocks of the largest model.
        n_layers_largest: usize,
    },
    /// Gemma 3: every sixth layer attends to everything, the others to a window.
    GemmaLayerTypes,
}

/// Modules outside blocks.
pub(super) const GLOBAL: Names =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

const ATTENTION: Names = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
];
const QK_NORM: Names = &[("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")];
const FUSED_ATTENTION: Names =
    &[("attn_norm", "input_layernorm"), ("attn_qkv", "self_attn.qkv_proj"), ("attn_output", "self_attn.o_proj")];
const MLP_NORM: Names = &[("ffn_norm", "post_attention_layernorm")];
const MLP: Names = &[("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")];
const FUSED_MLP: Names = &[("ffn_up", "mlp.gate_up_proj"), ("ffn_down", "mlp.down_proj")];
const SANDWICH_NORMS: Names = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
const MIXTRAL_EXPERTS: Names = &[
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("ffn_gate_exps", "block_sparse_moe.experts.*.w1"),
    ("ffn_down_exps", "block_sparse_moe.experts.*.w2"),
    ("ffn_up_exps", "block_sparse_moe.experts.*.w3"),
];
const QWEN_EXPERTS: Names = &[
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.experts.*.gate_proj"),
    ("ffn_up_exps", "mlp.experts.*.up_proj"),
    ("ffn_down_exps", "mlp.experts.*.down_proj"),
];
const SHARED_EXPERT: Names = &[
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

/// What rows that say nothing else share.
const PLAIN: Architecture = Architecture {
    name: "",
    has_experts: false,
    model_type: "",
    class: "",
    block: &[ATTENTION, MLP_NORM, MLP],
    stored: Stored::AsIs,
    merges_by_id: false,
    extras: &[("hidden_act", From::Text("silu"))],
};

/// The architectures that are read, for people. `llama` covers Llama, Mistral, Mixtral, SmolLM and their kin.
pub const KNOWN_ARCHITECTURES: [&str; 9] =
    ["llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "phi3"];

/// One row per architecture, with and without experts apart.
pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
        stored: Stored::InterleavedHeads,
        extras: &[
            ("head_dim", From::HeadDim),
            ("hidden_act", From::Text("silu")),
            ("attention_bias", From::HasTensor("attn_output.bias")),
            ("mlp_bias", From::HasTensor("ffn_down.bias")),
        ],
        ..PLAIN
    },
    Architecture {
        name: "llama",
        has_experts: true,
        model_type: "mixtral",
        class: "MixtralForCausalLM",
        block: &[ATTENTION, MLP_NORM, MIXTRAL_EXPERTS],
        stored: Stored::InterleavedHeads,
        extras: &[
            ("hidden_act", From::Text("silu")),
            ("num_local_experts", From::Count("expert_count")),
            ("num_experts_per_tok", From::Count("expert_used_count")),
            ("sliding_window", From::CountOrNull("attention.sliding_window")),
        ],
        ..PLAIN
    },
    Architecture { name: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", ..PLAIN },
    Architecture {
        name: "qwen2moe",
        has_experts: true,
        model_type: "qwen2_moe",
        class: "Qwen2MoeForCausalLM",
        block: &[ATTENTION, MLP_NORM, QWEN_EXPERTS, SHARED_EXPERT],
        extras: &[
            ("hidden_act", From::Text("silu")),
            ("num_experts", From::Count("expert_count")),
            ("num_experts_per_tok", From::Count("expert_used_count")),
            ("moe_intermediate_size", From::Count("expert_feed_forward_length")),
            ("shared_expert_intermediate_size", From::Count("expert_shared_feed_forward_length")),
            // llama.cpp does not normalise the weights of the chosen experts for this architecture.
            ("norm_topk_prob", From::Flag(false)),
            ("decoder_sparse_step", From::Number(1)),
        ],
        ..PLAIN
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        block: &[ATTENTION, QK_NORM, MLP_NORM, MLP],
        extras: &[
            ("head_dim", From::HeadDim),
            ("hidden_act", From::Text("silu")),
            ("attention_bias", From::HasTensor("attn_output.bias")),
        ],
        ..PLAIN
    },
    Architecture {
        name: "qwen3moe",
        has_experts: true,
        model_type: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        block: &[ATTENTION, QK_NORM, MLP_NORM, QWEN_EXPERTS],
        extras: &[
            ("head_dim", From::HeadDim),
            ("hidden_act", From::Text("silu")),
            ("attention_bias", From::HasTensor("attn_output.bias")),
            ("num_experts", From::Count("expert_count")),
            ("num_experts_per_tok", From::Count("expert_used_count")),
            ("moe_intermediate_size", From::Count("expert_feed_forward_length")),
            // llama.cpp does normalise here.
            ("norm_topk_prob", From::Flag(true)),
            ("decoder_sparse_step", From::Number(1)),
        ],
        ..PLAIN
    },
    Architecture {
        name: "gemma",
        model_type: "gemma",
        class: "GemmaForCausalLM",
        stored: Stored::NormsPlusOne,
        merges_by_id: true,
        extras: &[
            ("head_dim", From::HeadDim),
            ("hidden_act", From::Text("gelu_pytorch_tanh")),
            ("hidden_activation", From::Text("gelu_pytorch_tanh")),
            ("attention_bias", From::Flag(false)),
        ],
        ..PLAIN
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        block: &[ATTENTION, SANDWICH_NORMS, MLP],
        stored: Stored::NormsPlusOne,
        merges_by_id: true,
        extras: &[
            ("head_dim", From::HeadDim),
            ("hidden_act", From::Text("gelu_pytorch_tanh")),
            ("hidden_activation", From::Text("gelu_pytorch_tanh")),
            ("attention_bias", From::Flag(false)),
            ("attn_logit_softcapping", From::FloatOrNull("attn_logit_softcapping")),
            ("final_logit_softcapping", From::FloatOrNull("final_logit_softcapping")),
            ("sliding_window", From::Count("attention.sliding_window")),
            ("query_pre_attn_scalar", From::GemmaQueryScale { n_layers_largest: 46 }),
        ],
        ..PLAIN
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        block: &[ATTENTION, QK_NORM, SANDWICH_NORMS, MLP],
        stored: Stored::NormsPlusOne,
        merges_by_id: true,
        extras: &[
            ("head_dim", From::HeadDim),
            ("hidden_activation", From::Text("gelu_pytorch_tanh")),
            ("attention_bias", From::Flag(false)),
            ("final_logit_softcapping", From::FloatOrNull("final_logit_softcapping")),
            ("sliding_window", From::Count("attention.sliding_window")),
            ("layer_types", From::GemmaLayerTypes),
            ("query_pre_attn_scalar", From::GemmaQueryScale { n_layers_largest: 62 }),
        ],
        ..PLAIN
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        block: &[FUSED_ATTENTION, MLP_NORM, FUSED_MLP],
        extras: &[
            ("hidden_act", From::Text("silu")),
            ("sliding_window", From::CountOrNull("attention.sliding_window")),
            ("original_max_position_embeddings", From::CountOrNull("rope.scaling.original_context_length")),
        ],
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_for_people_is_the_table() {
        let mut names: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
        names.dedup();
        assert_eq!(names, KNOWN_ARCHITECTURES);
    }
}
