//! What a configuration makes of a row of the table: sizes and switches of every block.

use reweight_kernels::Activation;

use super::architecture::{Architecture, Kind, NormKind};
use super::attention::AttentionShape;
use super::config::Config;
use super::error::ModelError;
use super::feed_forward::{FeedForwardShape, MixtureShape, Shape};
use super::rope::Rope;

/// The most blocks, and the most experts of one, that a configuration may claim; published models have a few hundred.
const MAX_COUNT: usize = 4096;

/// The longest head that a configuration may claim: rotations are made for it before a tensor is looked at.
const MAX_HEAD_DIM: usize = 65_536;

/// One block.
#[derive(Clone, Debug)]
pub(super) struct BlockPlan {
    pub(super) attention: AttentionShape,
    pub(super) feed_forward: Shape,
    /// Index of its rotation, if positions turn.
    pub(super) rope: Option<usize>,
}

/// A whole model.
#[derive(Clone, Debug)]
pub(super) struct NetworkPlan {
    pub(super) architecture: Architecture,
    pub(super) width: usize,
    pub(super) epsilon: f64,
    pub(super) blocks: Vec<BlockPlan>,
    /// The rotation of blocks that see everything, and of those that see a window.
    pub(super) ropes: Vec<Rope>,
    /// Positions it was made with; learned ones end there.
    pub(super) positions: usize,
    /// Logits are held within plus and minus this, smoothly.
    pub(super) logit_cap: Option<f32>,
    /// Whether the output layer is the token embedding.
    pub(super) tied: bool,
}

impl NetworkPlan {
    pub(super) fn of(config: Config<'_>, architecture: &Architecture) -> Result<Self, ModelError> {
        let width = config.size(&["hidden_size", "n_embd"])?;
        let n_blocks = count(config, &["num_hidden_layers", "n_layer"])?;
        let epsilon = config.float(&["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"])?;
        refuse(config)?;
        let (ropes, locals) = ropes(config, architecture, width)?;
        let blocks = (0..n_blocks)
            .map(|index| {
                let window = window(config, architecture, index)?;
                let rope = if !turns(config, architecture, index)? {
                    None
                } else if window.is_some() && locals {
                    Some(1)
                } else {
                    Some(0)
                };
                let mut attention = attention(config, architecture, width, window)?;
                if config.flag_or("scale_attn_by_inverse_layer_idx", false)? {
                    attention.scale /= (index + 1) as f32;
                }
                let feed_forward = feed_forward(config, architecture, width, index)?;
                Ok(BlockPlan { attention, feed_forward, rope })
            })
            .collect::<Result<_, ModelError>>()?;
        let tied = architecture.norm == NormKind::RmsOffset || architecture.transposed;
        Ok(Self {
            architecture: *architecture,
            width,
            epsilon,
            blocks,
            ropes,
            positions: config.size_or(config.first_of(&["max_position_embeddings", "n_positions"]), usize::MAX >> 1)?,
            logit_cap: config.float_if("final_logit_softcapping")?.map(|cap| cap as f32),
            tied: config.flag_or("tie_word_embeddings", tied)?,
        })
    }

    /// The shape of norms: their kind and epsilon.
    pub(super) fn norm(&self) -> (NormKind, f64) {
        (self.architecture.norm, self.epsilon)
    }
}

/// A number of things that are held apart.
fn count(config: Config<'_>, keys: &[&str]) -> Result<usize, ModelError> {
    let n = config.size(keys)?;
    if n <= MAX_COUNT { Ok(n) } else { Err(config.wrong(config.first_of(keys), format!("at most {MAX_COUNT}"))) }
}

/// Switches that change the arithmetic and that no known checkpoint of the table's rows needs.
fn refuse(config: Config<'_>) -> Result<(), ModelError> {
    if config.flag_or("use_bidirectional_attention", false)? {
        return Err(config.unsupported("a decoder whose tokens see those after them"));
    }
    match config.text_if("position_embedding_type")? {
        None | Some("absolute") => Ok(()),
        Some(other) => Err(config.unsupported(format!("position embedding {other:?}"))),
    }
}

fn head_dim(config: Config<'_>, width: usize) -> Result<usize, ModelError> {
    let n_heads = config.size(&["num_attention_heads", "n_head"])?;
    match config.size_if("head_dim")? {
        Some(dim) if dim <= MAX_HEAD_DIM => Ok(dim),
        Some(_) => Err(config.wrong("head_dim", format!("at most {MAX_HEAD_DIM}"))),
        None if width.is_multiple_of(n_heads) && width / n_heads <= MAX_HEAD_DIM => Ok(width / n_heads),
        None => Err(config.wrong(config.first_of(&["num_attention_heads", "n_head"]), format!("a divisor of {width}"))),
    }
}

/// Rotations, and whether blocks with a window have their own, the second.
fn ropes(config: Config<'_>, architecture: &Architecture, width: usize) -> Result<(Vec<Rope>, bool), ModelError> {
    if !architecture.rope {
        return Ok((Vec::new(), false));
    }
    let dim = head_dim(config, width)?;
    let global = Rope::of(config, dim, "full_attention")?;
    if let Some(base) = config.float_if("rope_local_base_freq")? {
        return Ok((vec![global, Rope::plain(dim, base)], true));
    }
    if config.part("rope_parameters").is_some_and(|all| all.part("sliding_attention").is_some()) {
        return Ok((vec![global, Rope::of(config, dim, "sliding_attention")?], true));
    }
    if architecture.full_every == Some(6) {
        // Gemma 3 where the configuration leaves its defaults out.
        return Ok((vec![global, Rope::plain(dim, 10_000.0)], true));
    }
    Ok((vec![global], false))
}

/// Whether a block turns its queries and keys.
fn turns(config: Config<'_>, architecture: &Architecture, index: usize) -> Result<bool, ModelError> {
    if let Some(layers) = config.sizes_if("no_rope_layers")? {
        // 1 stands for a block that turns, whatever the name says.
        return Ok(architecture.rope && layers.get(index).is_none_or(|turns| *turns != 0));
    }
    let interval = config.size_if("no_rope_layer_interval")?;
    Ok(architecture.rope && interval.is_none_or(|interval| !(index + 1).is_multiple_of(interval)))
}

/// How many tokens a token of a block sees, if not all before it.
fn window(config: Config<'_>, architecture: &Architecture, index: usize) -> Result<Option<usize>, ModelError> {
    let Some(window) = config.size_if("sliding_window")? else { return Ok(None) };
    let slides = if let Some(types) = config.texts_if("layer_types")? {
        match types.get(index).copied() {
            Some("sliding_attention") => true,
            Some("full_attention") => false,
            _ => return Err(config.wrong("layer_types", "`full_attention` or `sliding_attention` for every block")),
        }
    } else if architecture.window_is_optional {
        config.flag_or("use_sliding_window", false)? && index >= config.size_or("max_window_layers", 28)?
    } else if let Some(n) = architecture.full_every {
        let n = config.size_or(config.first_of(&["sliding_window_pattern", "_sliding_window_pattern"]), n)?;
        !(index + 1).is_multiple_of(n)
    } else {
        true
    };
    Ok(slides.then_some(window))
}

fn attention(
    config: Config<'_>,
    architecture: &Architecture,
    width: usize,
    window: Option<usize>,
) -> Result<AttentionShape, ModelError> {
    let n_heads = config.size(&["num_attention_heads", "n_head"])?;
    let n_key_heads = config.size_or("num_key_value_heads", n_heads)?;
    if !n_heads.is_multiple_of(n_key_heads) {
        return Err(config.wrong("num_key_value_heads", format!("a divisor of {n_heads}")));
    }
    let head_dim = head_dim(config, width)?;
    let scales = config.flag_or("scale_attn_weights", true)?;
    let scalar = config.float_or("query_pre_attn_scalar", if scales { head_dim as f64 } else { 1.0 })?;
    Ok(AttentionShape {
        width,
        n_heads,
        n_key_heads,
        head_dim,
        scale: scalar.powf(-0.5) as f32,
        cap: config.float_if("attn_logit_softcapping")?.map(|cap| cap as f32),
        causal: architecture.kind == Kind::Decoder,
        window,
    })
}

fn feed_forward(
    config: Config<'_>,
    architecture: &Architecture,
    width: usize,
    index: usize,
) -> Result<Shape, ModelError> {
    let activation = activation(config, architecture)?;
    let inner = match config.size_if(config.first_of(&["intermediate_size", "n_inner"]))? {
        Some(inner) => inner,
        None if architecture.transposed => 4 * width,
        None => return Err(config.wrong("intermediate_size", "a number of 1 and more")),
    };
    let plain = FeedForwardShape { width, inner, activation, transposed: architecture.transposed };
    let keys = ["num_local_experts", "num_experts"];
    let Some(kind) = architecture.experts.as_ref().filter(|_| config.get(config.first_of(&keys)).is_some()) else {
        return Ok(Shape::Mlp(plain));
    };
    let n_experts = count(config, &keys)?;
    let dense = config.sizes_if("mlp_only_layers")?.is_some_and(|layers| layers.contains(&index));
    if dense || !(index + 1).is_multiple_of(config.size_or("decoder_sparse_step", 1)?) {
        return Ok(Shape::Mlp(plain));
    }
    let n_chosen = config.size(&["num_experts_per_tok"])?;
    if n_chosen > n_experts {
        return Err(config.wrong("num_experts_per_tok", format!("at most {n_experts}")));
    }
    Ok(Shape::Mixture(MixtureShape {
        expert: FeedForwardShape { inner: config.size_or("moe_intermediate_size", inner)?, ..plain },
        n_experts,
        n_chosen,
        normalize: kind.normalize || config.flag_or("norm_topk_prob", false)?,
        shared_inner: config.size_or("shared_expert_intermediate_size", inner)?,
    }))
}

fn activation(config: Config<'_>, architecture: &Architecture) -> Result<Activation, ModelError> {
    let key = config.first_of(&["hidden_activation", "hidden_act", "activation_function"]);
    let name = match config.text_if(key)? {
        // The first Gemma checkpoints say `gelu` and were trained with its tanh form.
        Some("gelu") if architecture.norm == NormKind::RmsOffset => architecture.activation,
        name => name.unwrap_or(architecture.activation),
    };
    Ok(match name {
        "silu" | "swish" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        _ => return Err(config.wrong(key, "silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu or relu")),
    })
}
