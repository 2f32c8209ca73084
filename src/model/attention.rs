//! Attention over one window: grouped queries, rotary positions, head norms, sliding windows, soft caps.
//!
//! Queries are taken in tiles, each against the keys it may see, so that scores of a whole window are never held.

use reweight_kernels::{Dense, Kernels, Rows, RowsMut};

use super::architecture::{Architecture, NormKind, Projections};
use super::error::ModelError;
use super::linear::Linear;
use super::norm::Norm;
use super::observe::Observe;
use super::rope::Turns;
use super::tensors::Tensors;

/// Queries whose scores are held together.
const TILE: usize = 96;

/// Sizes and switches of one block's attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionShape {
    pub(super) width: usize,
    pub(super) n_heads: usize,
    pub(super) n_key_heads: usize,
    pub(super) head_dim: usize,
    /// What scores are multiplied by.
    pub(super) scale: f32,
    /// Scores are held within plus and minus this, smoothly.
    pub(super) cap: Option<f32>,
    /// Whether a token sees only itself and those before it.
    pub(super) causal: bool,
    /// How many tokens a token sees, itself among them.
    pub(super) window: Option<usize>,
}

impl AttentionShape {
    fn queries(&self) -> usize {
        self.n_heads * self.head_dim
    }

    fn keys(&self) -> usize {
        self.n_key_heads * self.head_dim
    }
}

/// The layers of one block's attention.
#[derive(Debug, Default)]
pub(super) struct Attention {
    projections: Vec<Linear>,
    out: Linear,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
}

/// Memory for one window at a time.
#[derive(Debug, Default)]
pub(super) struct AttentionScratch {
    projected: Vec<f32>,
    context: Vec<f32>,
    scores: Vec<f32>,
    keys: Dense,
    values: Dense,
}

impl Attention {
    /// Reads the layers whose names begin with `prefix`.
    pub(super) fn load(
        &mut self,
        tensors: &Tensors<'_>,
        kernels: &Kernels,
        architecture: &Architecture,
        prefix: &str,
        shape: &AttentionShape,
        norm: (NormKind, f64),
    ) -> Result<(), ModelError> {
        let (queries, keys) = (shape.queries(), shape.keys());
        let layers: &[(&str, usize)] = match architecture.projections {
            Projections::Separate([query, key, value]) => &[(query, queries), (key, keys), (value, keys)],
            Projections::Fused(name) => &[(name, queries + 2 * keys)],
        };
        self.projections.resize_with(layers.len(), Linear::default);
        for (linear, (name, outputs)) in self.projections.iter_mut().zip(layers) {
            let sizes = (*outputs, shape.width);
            linear.load(tensors, kernels, &format!("{prefix}{name}"), sizes, architecture.transposed)?;
        }
        let name = format!("{prefix}{}", architecture.attention_out);
        self.out.load(tensors, kernels, &name, (shape.width, queries), architecture.transposed)?;
        let head_norm = |name: &str| {
            let name = format!("{prefix}{name}");
            let found = tensors.find(&format!("{name}.weight")).is_some();
            found.then(|| Norm::load(tensors, kernels, &name, shape.head_dim, norm)).transpose()
        };
        let [query, key] = architecture.head_norms;
        (self.query_norm, self.key_norm) = (head_norm(query)?, head_norm(key)?);
        Ok(())
    }

    /// Attention of one window of normalized rows; the result, before it is added, goes to `out`.
    pub(super) fn apply(
        &self,
        (kernels, observe): (&Kernels, &dyn Observe),
        shape: &AttentionShape,
        turns: Option<&Turns>,
        x: &[f32],
        scratch: &mut AttentionScratch,
        out: &mut Vec<f32>,
    ) {
        let n_tokens = x.len() / shape.width;
        let (queries, keys) = (shape.queries(), shape.keys());
        let stride = queries + 2 * keys;
        scratch.projected.resize(n_tokens * stride, 0.0);
        let mut offset = 0;
        let names: Vec<&str> = self.projections.iter().map(|linear| linear.name.as_str()).collect();
        observe.input(&names, x, shape.width);
        for linear in &self.projections {
            linear.apply(kernels, x, RowsMut { values: &mut scratch.projected[offset..], stride });
            offset += linear.outputs();
        }
        self.prepare(shape, turns, &mut scratch.projected);
        scratch.context.resize(n_tokens * queries, 0.0);
        for head in 0..shape.n_key_heads {
            attend(kernels, shape, head, scratch, n_tokens);
        }
        observe.input(&[&self.out.name], &scratch.context, queries);
        self.out.apply_to(kernels, &scratch.context, out);
    }

    /// Norms, turns and scale of queries and keys, in place.
    fn prepare(&self, shape: &AttentionShape, turns: Option<&Turns>, projected: &mut [f32]) {
        let (queries, keys) = (shape.queries(), shape.keys());
        for (position, token) in projected.chunks_exact_mut(queries + 2 * keys).enumerate() {
            let (query, rest) = token.split_at_mut(queries);
            let key = &mut rest[..keys];
            if let Some(norm) = &self.query_norm {
                norm.apply(query);
            }
            if let Some(norm) = &self.key_norm {
                norm.apply(key);
            }
            if let Some(turns) = turns {
                query.chunks_exact_mut(shape.head_dim).for_each(|head| turns.turn(position, head));
                key.chunks_exact_mut(shape.head_dim).for_each(|head| turns.turn(position, head));
            }
            for x in query {
                *x *= shape.scale;
            }
        }
    }
}

/// All queries that share one head of keys and values.
fn attend(kernels: &Kernels, shape: &AttentionShape, key_head: usize, scratch: &mut AttentionScratch, n_tokens: usize) {
    let (queries, keys, dim) = (shape.queries(), shape.keys(), shape.head_dim);
    let stride = queries + 2 * keys;
    let AttentionScratch { projected, context, scores, keys: key_matrix, values } = scratch;
    key_matrix.reset(n_tokens, dim);
    key_matrix.set_rows(Rows { values: &projected[queries + key_head * dim..], stride });
    values.reset(dim, n_tokens);
    values.set_columns(Rows { values: &projected[queries + keys + key_head * dim..], stride });
    scores.resize(TILE * n_tokens, 0.0);
    let share = shape.n_heads / shape.n_key_heads;
    for head in key_head * share..(key_head + 1) * share {
        for first in (0..n_tokens).step_by(TILE) {
            let n_rows = TILE.min(n_tokens - first);
            let seen = if shape.causal { first + n_rows } else { n_tokens };
            let x = Rows { values: &projected[first * stride + head * dim..], stride };
            let tile = RowsMut { values: &mut *scores, stride: n_tokens };
            key_matrix.product_part(kernels, x, n_rows, tile, seen, dim);
            for (row, scores) in scores.chunks_exact_mut(n_tokens).take(n_rows).enumerate() {
                weigh(kernels, shape, first + row, &mut scores[..seen]);
            }
            let x = Rows { values: scores, stride: n_tokens };
            let out = RowsMut { values: &mut context[first * queries + head * dim..], stride: queries };
            values.product_part(kernels, x, n_rows, out, dim, seen);
        }
    }
}

/// Scores of one query to weights that sum to one over what it may see, and are zero elsewhere.
fn weigh(kernels: &Kernels, shape: &AttentionShape, position: usize, scores: &mut [f32]) {
    let end = if shape.causal { position + 1 } else { scores.len() };
    let start = shape.window.map_or(0, |window| end.saturating_sub(window));
    scores[..start].fill(0.0);
    scores[end..].fill(0.0);
    let scores = &mut scores[start..end];
    if let Some(cap) = shape.cap {
        kernels.soft_cap(cap, scores);
    }
    let sum = kernels.exponentials(kernels.greatest(scores), scores);
    let share = (1.0 / sum) as f32;
    for score in scores {
        *score *= share;
    }
}
