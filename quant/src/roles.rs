//! What a tensor is for, told from its name and shape. Checkpoints carry no module types, so this is the one table.

use crate::store::Weight;

/// The part a tensor plays, as far as quantizing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The matrix of a linear layer: `[output, input]`.
    Linear,
    /// A table of vectors looked up by index.
    Embedding,
    /// A linear layer that gives the model's answer.
    Head,
    /// A linear layer that chooses experts.
    Router,
    /// A matrix stored transposed, `[input, output]`.
    Transposed,
    /// A kernel of three dimensions or more.
    Convolution,
    /// A vector: norm, bias.
    Vector,
    /// Not floating point, or not the weight of a module.
    Other,
}

/// Last part of the module name -> role. Sources: module names of transformers 5.23.
const MODULES: [(&str, Role); 22] = [
    ("lm_head", Role::Head),
    ("embed_out", Role::Head),
    ("score", Role::Head),
    ("classifier", Role::Head),
    ("qa_outputs", Role::Head),
    ("seq_relationship", Role::Head),
    ("decoder", Role::Head),
    ("output_projection", Role::Head),
    ("gate", Role::Router),
    ("router", Role::Router),
    ("shared_expert_gate", Role::Router),
    ("wte", Role::Embedding),
    ("wpe", Role::Embedding),
    ("word_embeddings", Role::Embedding),
    ("position_embeddings", Role::Embedding),
    ("token_type_embeddings", Role::Embedding),
    ("embed_tokens", Role::Embedding),
    ("embed_positions", Role::Embedding),
    ("tok_embeddings", Role::Embedding),
    ("position_embedding", Role::Embedding),
    ("relative_attention_bias", Role::Embedding),
    ("shared", Role::Embedding),
];

/// Model types whose blocks use `Conv1D`: linear layers with the matrix transposed.
/// Parts of a multimodal model's names that belong to something else than its language model. Names as in transformers 5.23 and in
/// checkpoints on model hubs.
const TOWERS: [&str; 14] = [
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "visual",
    "image_encoder",
    "audio_tower",
    "audio_model",
    "embed_vision",
    "embed_audio",
    "vision_embed_tokens",
    "multi_modal_projector",
    "mm_projector",
    "connector",
    "aligner",
];

/// The part of a tensor's name that says that it is not part of the language model, in a model of several towers.
#[must_use]
pub fn tower(name: &str) -> Option<&'static str> {
    TOWERS.into_iter().find(|tower| name.split('.').any(|part| part == *tower))
}

const TRANSPOSED_MODELS: [&str; 3] = ["gpt2", "openai-gpt", "imagegpt"];
const TRANSPOSED_MODULES: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];

/// The role of a weight in a model of that `model_type`.
#[must_use]
pub fn role(weight: &Weight, model_type: Option<&str>) -> Role {
    let Some(module) = weight.name.strip_suffix(".weight") else {
        return if weight.shape.len() == 1 { Role::Vector } else { Role::Other };
    };
    if !weight.is_float() {
        return Role::Other;
    }
    match weight.shape.len() {
        0 | 1 => return Role::Vector,
        2 => {}
        _ => return Role::Convolution,
    }
    let last = module.rsplit('.').next().unwrap_or(module);
    if model_type.is_some_and(|kind| TRANSPOSED_MODELS.contains(&kind)) && TRANSPOSED_MODULES.contains(&last) {
        return Role::Transposed;
    }
    if module == "output" {
        return Role::Head; // Llama's own release, before transformers renamed it.
    }
    let known = MODULES.iter().find(|(name, _)| *name == last).map(|(_, role)| *role);
    known.unwrap_or(if last.contains("norm") { Role::Vector } else { Role::Linear })
}

impl Role {
    /// Whether an engine holds it as a linear module, quantized or not.
    #[must_use]
    pub const fn is_linear_module(self) -> bool {
        matches!(self, Self::Linear | Self::Head | Self::Router)
    }

    /// Why a tensor of this role is copied; `None` for linear layers.
    #[must_use]
    pub const fn kept_because(self) -> Option<&'static str> {
        match self {
            Self::Linear => None,
            Self::Embedding => Some("embedding"),
            Self::Head => Some("output head"),
            Self::Router => Some("router"),
            Self::Transposed => Some("transposed (Conv1D)"),
            Self::Convolution => Some("not a matrix"),
            Self::Vector => Some("vector"),
            Self::Other => Some("not a float weight"),
        }
    }
}
