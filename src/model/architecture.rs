//! How the blocks of each architecture are wired: one row of names and switches each, no code.
//!
//! Sources: the modelling files of transformers 5.23 by the same `model_type`. Everything that a configuration can switch
//! is read there; a row holds only what is fixed by the architecture. Biases are taken where the files have them.

/// What a model does with its last hidden states, and with what it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Tokens in, the next token out; each token sees those before it.
    Decoder,
    /// Tokens in, hidden states out; every token sees all.
    TextEncoder,
    /// An image in, classes out.
    ImageEncoder,
}

/// How activations are normalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormKind {
    /// Divided by the root mean square, times a weight.
    Rms,
    /// As `Rms`, times one plus the weight.
    RmsOffset,
    /// Mean removed, divided by the standard deviation, times a weight, plus a bias.
    Layer,
}

/// Where queries, keys and values come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Projections {
    /// Three layers.
    Separate([&'static str; 3]),
    /// One layer with their outputs one after the other.
    Fused(&'static str),
}

/// The feed-forward part.
#[derive(Clone, Copy, Debug)]
pub(super) enum FeedForward {
    /// gate, up, down: `down(act(gate x) * up x)`.
    Gated([&'static str; 3]),
    /// gate and up in one layer, gate first; down.
    GatedFused([&'static str; 2]),
    /// up, down: `down(act(up x))`.
    Plain([&'static str; 2]),
}

/// A mixture of experts in place of the feed-forward part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Experts {
    pub(super) router: &'static str,
    /// Before the number of an expert.
    pub(super) prefix: &'static str,
    pub(super) layers: [&'static str; 3],
    /// Whether the weights of the chosen experts are made to sum to one, where the configuration does not say.
    pub(super) normalize: bool,
    /// An expert that always runs, and the layer that weighs it.
    pub(super) shared: Option<([&'static str; 3], &'static str)>,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own that some architecture throws")]
pub(super) struct Architecture {
    /// Values of `model_type`.
    pub(super) model_types: &'static [&'static str],
    pub(super) kind: Kind,
    /// What names may begin with: the first under which the token embedding stands.
    pub(super) prefixes: &'static [&'static str],
    /// Before the number of a block.
    pub(super) layers: &'static str,
    /// The embedding of tokens, or of patches.
    pub(super) embedding: &'static str,
    /// Learned positions.
    pub(super) positions: Option<&'static str>,
    /// Learned kinds of token: all are of kind 0.
    pub(super) token_types: Option<&'static str>,
    pub(super) embedding_norm: Option<&'static str>,
    /// Tokens put before the patches of an image.
    pub(super) class_tokens: &'static [&'static str],
    /// Whether embeddings are multiplied by the root of the width.
    pub(super) scale_embedding: bool,
    pub(super) norm: NormKind,
    /// Whether a part's sum with its input is normalized, instead of its input.
    pub(super) post_norm: bool,
    pub(super) attention_norm: &'static str,
    /// A norm on what the attention gives, before it is added.
    pub(super) attention_out_norm: Option<&'static str>,
    pub(super) feed_forward_norm: &'static str,
    pub(super) feed_forward_out_norm: Option<&'static str>,
    pub(super) projections: Projections,
    pub(super) attention_out: &'static str,
    /// Norms of each head's queries and keys, where the files have them.
    pub(super) head_norms: [&'static str; 2],
    pub(super) feed_forward: FeedForward,
    pub(super) experts: Option<Experts>,
    /// Whether weights stand as `[input, output]`.
    pub(super) transposed: bool,
    pub(super) rope: bool,
    pub(super) final_norm: Option<&'static str>,
    /// The output layers by full name; where the files have none, the token embedding, if the configuration ties it.
    pub(super) heads: &'static [&'static str],
    /// The activation, where the configuration does not name one.
    pub(super) activation: &'static str,
    /// Whether a sliding window applies only where `use_sliding_window` says so, from the block `max_window_layers` on.
    pub(super) window_is_optional: bool,
    /// Which blocks see a sliding window where neither `layer_types` nor the above says: every one, or all but each n-th.
    pub(super) full_every: Option<usize>,
}

const LLAMA: Architecture = Architecture {
    model_types: &["llama", "mistral"],
    kind: Kind::Decoder,
    prefixes: &["model.", ""],
    layers: "layers.",
    embedding: "embed_tokens.weight",
    positions: None,
    token_types: None,
    embedding_norm: None,
    class_tokens: &[],
    scale_embedding: false,
    norm: NormKind::Rms,
    post_norm: false,
    attention_norm: "input_layernorm",
    attention_out_norm: None,
    feed_forward_norm: "post_attention_layernorm",
    feed_forward_out_norm: None,
    projections: Projections::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    attention_out: "self_attn.o_proj",
    head_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    feed_forward: FeedForward::Gated(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    experts: None,
    transposed: false,
    rope: true,
    final_norm: Some("norm"),
    heads: &["lm_head"],
    activation: "silu",
    window_is_optional: false,
    full_every: None,
};

const QWEN2: Architecture = Architecture {
    model_types: &["qwen2", "qwen3", "smollm3", "qwen2_vl_text", "qwen2_5_vl_text"],
    window_is_optional: true,
    ..LLAMA
};

const QWEN_MOE: Architecture = Architecture {
    model_types: &["qwen2_moe", "qwen3_moe"],
    experts: Some(Experts {
        router: "mlp.gate",
        prefix: "mlp.experts.",
        layers: ["gate_proj", "up_proj", "down_proj"],
        normalize: false,
        shared: Some((
            ["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"],
            "mlp.shared_expert_gate",
        )),
    }),
    ..QWEN2
};

const MIXTRAL: Architecture = Architecture {
    model_types: &["mixtral"],
    experts: Some(Experts {
        router: "block_sparse_moe.gate",
        prefix: "block_sparse_moe.experts.",
        layers: ["w1", "w3", "w2"],
        normalize: true,
        shared: None,
    }),
    ..LLAMA
};

const GEMMA: Architecture = Architecture {
    model_types: &["gemma"],
    scale_embedding: true,
    norm: NormKind::RmsOffset,
    activation: "gelu_pytorch_tanh",
    ..LLAMA
};

const GEMMA2: Architecture = Architecture {
    model_types: &["gemma2"],
    attention_out_norm: Some("post_attention_layernorm"),
    feed_forward_norm: "pre_feedforward_layernorm",
    feed_forward_out_norm: Some("post_feedforward_layernorm"),
    full_every: Some(2),
    ..GEMMA
};

const GEMMA3: Architecture = Architecture { model_types: &["gemma3_text"], full_every: Some(6), ..GEMMA2 };

const PHI3: Architecture = Architecture {
    model_types: &["phi3"],
    projections: Projections::Fused("self_attn.qkv_proj"),
    feed_forward: FeedForward::GatedFused(["mlp.gate_up_proj", "mlp.down_proj"]),
    ..LLAMA
};

const GPT2: Architecture = Architecture {
    model_types: &["gpt2"],
    prefixes: &["transformer.", ""],
    layers: "h.",
    embedding: "wte.weight",
    positions: Some("wpe.weight"),
    norm: NormKind::Layer,
    attention_norm: "ln_1",
    feed_forward_norm: "ln_2",
    projections: Projections::Fused("attn.c_attn"),
    attention_out: "attn.c_proj",
    feed_forward: FeedForward::Plain(["mlp.c_fc", "mlp.c_proj"]),
    transposed: true,
    rope: false,
    final_norm: Some("ln_f"),
    activation: "gelu_new",
    ..LLAMA
};

const BERT: Architecture = Architecture {
    model_types: &["bert"],
    kind: Kind::TextEncoder,
    prefixes: &["bert.", ""],
    layers: "encoder.layer.",
    embedding: "embeddings.word_embeddings.weight",
    positions: Some("embeddings.position_embeddings.weight"),
    token_types: Some("embeddings.token_type_embeddings.weight"),
    embedding_norm: Some("embeddings.LayerNorm"),
    norm: NormKind::Layer,
    post_norm: true,
    attention_norm: "attention.output.LayerNorm",
    feed_forward_norm: "output.LayerNorm",
    projections: Projections::Separate(["attention.self.query", "attention.self.key", "attention.self.value"]),
    attention_out: "attention.output.dense",
    feed_forward: FeedForward::Plain(["intermediate.dense", "output.dense"]),
    rope: false,
    final_norm: None,
    heads: &[],
    activation: "gelu",
    ..LLAMA
};

const VIT: Architecture = Architecture {
    model_types: &["vit"],
    kind: Kind::ImageEncoder,
    prefixes: &["vit.", ""],
    embedding: "embeddings.patch_embeddings.projection.weight",
    positions: Some("embeddings.position_embeddings"),
    token_types: None,
    embedding_norm: None,
    class_tokens: &["embeddings.cls_token"],
    post_norm: false,
    attention_norm: "layernorm_before",
    feed_forward_norm: "layernorm_after",
    projections: Projections::Separate([
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ]),
    final_norm: Some("layernorm"),
    heads: &["classifier"],
    ..BERT
};

const DEIT: Architecture = Architecture {
    model_types: &["deit"],
    prefixes: &["deit.", ""],
    class_tokens: &["embeddings.cls_token", "embeddings.distillation_token"],
    heads: &["cls_classifier", "distillation_classifier"],
    ..VIT
};

impl Architecture {
    /// The same as the language model of a multimodal one.
    pub(super) fn as_tower(self) -> Self {
        let prefixes = &["language_model.model.", "model.language_model.", "model.text_model.", "model."];
        let heads = if self.heads.is_empty() { self.heads } else { &["lm_head", "language_model.lm_head"] };
        Self { prefixes, heads, ..self }
    }
}

const TABLE: [Architecture; 12] = [LLAMA, QWEN2, QWEN_MOE, MIXTRAL, GEMMA, GEMMA2, GEMMA3, PHI3, GPT2, BERT, VIT, DEIT];

/// The row of a `model_type`.
pub(super) fn find(model_type: &str) -> Option<Architecture> {
    TABLE.into_iter().find(|row| row.model_types.contains(&model_type))
}

/// Every known `model_type`.
#[must_use]
pub fn known() -> Vec<&'static str> {
    TABLE.iter().flat_map(|row| row.model_types).copied().collect()
}
