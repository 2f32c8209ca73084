//! What goes into the first block: tokens, or patches of an image.

use reweight_kernels::{Dense, Kernels, Rows, RowsMut};
use reweight_quant::store::Weight;

use super::architecture::Kind;
use super::config::Config;
use super::error::ModelError;
use super::norm::Norm;
use super::plan::NetworkPlan;
use super::tensors::Tensors;

/// Rows of a table of vectors, read when they are wanted.
pub(super) struct TokenEmbedding<'a> {
    tokens: &'a Weight,
    positions: Option<Vec<f32>>,
    /// Rows for kinds of token.
    token_types: Option<Vec<f32>>,
    norm: Option<Norm>,
    scale: Option<f32>,
}

impl<'a> TokenEmbedding<'a> {
    pub(super) fn open(
        tensors: &Tensors<'a>,
        kernels: &Kernels,
        plan: &NetworkPlan,
        config: Config<'_>,
    ) -> Result<Self, ModelError> {
        let architecture = &plan.architecture;
        let vocabulary = config.size(&["vocab_size"])?;
        let tokens = tensors.get(&tensors.full(architecture.embedding), &[vocabulary, plan.width])?;
        let positions = architecture.positions.map(|name| {
            let weight = tensors.get(&tensors.full(name), &[plan.positions, plan.width])?;
            Ok::<_, ModelError>(weight.values(kernels))
        });
        let token_types = architecture.token_types.map(|name| {
            let kinds = config.size_or("type_vocab_size", 2)?;
            let weight = tensors.get(&tensors.full(name), &[kinds, plan.width])?;
            Ok::<_, ModelError>(weight.values(kernels))
        });
        let norm = architecture
            .embedding_norm
            .map(|name| Norm::load(tensors, kernels, &tensors.full(name), plan.width, plan.norm()));
        Ok(Self {
            tokens,
            positions: positions.transpose()?,
            token_types: token_types.transpose()?,
            norm: norm.transpose()?,
            scale: architecture.scale_embedding.then(|| (plan.width as f32).sqrt()),
        })
    }

    /// Rows of the table.
    pub(super) fn vocabulary(&self) -> usize {
        self.tokens.rows()
    }

    /// How many kinds of token there are.
    pub(super) fn n_kinds(&self) -> usize {
        self.token_types.as_ref().map_or(0, |rows| rows.len() / self.tokens.columns())
    }

    /// Writes the vectors of a window of tokens, of their kinds, or all of kind 0.
    pub(super) fn write(&self, kernels: &Kernels, tokens: &[u32], kinds: Option<&[u32]>, out: &mut [f32]) {
        let width = self.tokens.columns();
        for (position, (token, out)) in tokens.iter().zip(out.chunks_exact_mut(width)).enumerate() {
            let token = *token as usize;
            self.tokens.read_rows(kernels, token..token + 1, out);
            if let Some(scale) = self.scale {
                for x in out.iter_mut() {
                    *x *= scale;
                }
            }
            let kind = kinds.map_or(0, |kinds| kinds[position] as usize);
            let kind = self.token_types.as_ref().map(|rows| &rows[kind * width..][..width]);
            let position = self.positions.as_ref().map(|rows| &rows[position * width..][..width]);
            for row in [position, kind].into_iter().flatten() {
                out.iter_mut().zip(row).for_each(|(x, row)| *x += row);
            }
        }
        if let Some(norm) = &self.norm {
            norm.apply(out);
        }
    }
}

/// Patches of an image times a matrix, with class tokens before and learned positions added.
pub(super) struct PatchEmbedding {
    dense: Dense,
    bias: Vec<f32>,
    class_tokens: Vec<f32>,
    positions: Vec<f32>,
    channels: usize,
    side: usize,
    patch: usize,
}

impl PatchEmbedding {
    pub(super) fn open(
        tensors: &Tensors<'_>,
        kernels: &Kernels,
        plan: &NetworkPlan,
        config: Config<'_>,
    ) -> Result<Self, ModelError> {
        let (side, patch) = (config.size_or("image_size", 224)?, config.size_or("patch_size", 16)?);
        let channels = config.size_or("num_channels", 3)?;
        if !side.is_multiple_of(patch) {
            return Err(config.wrong("patch_size", format!("a divisor of {side}")));
        }
        let name = tensors.full(plan.architecture.embedding);
        let weight = tensors.get(&name, &[plan.width, channels, patch, patch])?;
        let inputs = channels * patch * patch;
        let mut dense = Dense::default();
        dense.reset(plan.width, inputs);
        dense.set_rows(Rows { values: &weight.values(kernels), stride: inputs });
        let bias_name = format!("{}bias", name.trim_end_matches("weight"));
        let bias = tensors.vector_if(kernels, &bias_name, plan.width)?.unwrap_or_else(|| vec![0.0; plan.width]);
        let mut class_tokens = Vec::new();
        for token in plan.architecture.class_tokens {
            let weight = tensors.get(&tensors.full(token), &[1, 1, plan.width])?;
            class_tokens.extend(weight.values(kernels));
        }
        let n_tokens = plan.architecture.class_tokens.len() + (side / patch).pow(2);
        let positions = plan.architecture.positions.unwrap_or_default();
        let positions = tensors.get(&tensors.full(positions), &[1, n_tokens, plan.width])?.values(kernels);
        Ok(Self { dense, bias, class_tokens, positions, channels, side, patch })
    }

    /// Tokens of an image.
    pub(super) fn n_tokens(&self) -> usize {
        self.positions.len() / self.bias.len()
    }

    /// Values of an image: channels, rows, columns.
    pub(super) fn image_len(&self) -> usize {
        self.channels * self.side * self.side
    }

    /// Writes the vectors of an image of `image_len` values.
    pub(super) fn write(&self, kernels: &Kernels, image: &[f32], out: &mut [f32]) {
        let (width, across) = (self.bias.len(), self.side / self.patch);
        let inputs = self.channels * self.patch * self.patch;
        let mut patches = Vec::with_capacity(across * across * inputs);
        for place in 0..across * across {
            let (top, left) = (place / across * self.patch, place % across * self.patch);
            for line in 0..self.channels * self.patch {
                let (channel, y) = (line / self.patch, top + line % self.patch);
                patches.extend_from_slice(&image[(channel * self.side + y) * self.side + left..][..self.patch]);
            }
        }
        let (classes, rest) = out.split_at_mut(self.class_tokens.len());
        classes.copy_from_slice(&self.class_tokens);
        let x = Rows { values: &patches, stride: inputs };
        self.dense.product(kernels, x, across * across, RowsMut { values: &mut *rest, stride: width });
        for row in rest.chunks_exact_mut(width) {
            row.iter_mut().zip(&self.bias).for_each(|(x, bias)| *x += bias);
        }
        out.iter_mut().zip(&self.positions).for_each(|(x, position)| *x += position);
    }
}

/// Either.
pub(super) enum Embedding<'a> {
    Tokens(TokenEmbedding<'a>),
    Patches(PatchEmbedding),
}

impl<'a> Embedding<'a> {
    pub(super) fn open(
        tensors: &Tensors<'a>,
        kernels: &Kernels,
        plan: &NetworkPlan,
        config: Config<'_>,
    ) -> Result<Self, ModelError> {
        if plan.architecture.kind == Kind::ImageEncoder {
            return PatchEmbedding::open(tensors, kernels, plan, config).map(Self::Patches);
        }
        TokenEmbedding::open(tensors, kernels, plan, config).map(Self::Tokens)
    }
}
