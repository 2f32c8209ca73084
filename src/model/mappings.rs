//! Whose output channels each linear layer reads: what activation-aware scaling may fold, told from the table of architectures.

use std::ops::Range;

use reweight_kernels::Activation;
use reweight_quant::awq::{Consumer, Mapping, Previous, Sharing};

use super::architecture::{Experts, FeedForward, NormKind, Projections};
use super::block::{Block, Scratch};
use super::error::ModelError;
use super::feed_forward::{FeedForwardShape, MixtureShape, Shape};
use super::network::Network;
use super::observe::Nobody;

/// Tokens of the rows on which a fold is tried.
const TOKENS: usize = 16;

impl Network<'_> {
    /// Every place where channels can be scaled without changing what the model computes, block by block.
    ///
    /// Norms whose output is also added to what follows (post-norm encoders), and layers before an activation that does not commute
    /// with a factor, are not among them.
    #[must_use]
    pub fn mappings(&self) -> Vec<Mapping> {
        (0..self.n_blocks()).flat_map(|index| self.block_mappings(index)).collect()
    }

    /// Those of one block.
    #[must_use]
    pub fn block_mappings(&self, index: usize) -> Vec<Mapping> {
        let (architecture, plan) = (&self.plan.architecture, &self.plan.blocks[index]);
        let prefix = self.block_prefix(index);
        let of_block = Wiring { network: self, index, prefix: &prefix, transposed: architecture.transposed };
        let shape = &plan.attention;
        let (queries, keys) = (shape.n_heads * shape.head_dim, shape.n_key_heads * shape.head_dim);
        let (readers, values, outputs) = match architecture.projections {
            Projections::Separate(names) => (names.to_vec(), names[2], 0..keys),
            Projections::Fused(name) => (vec![name], name, queries + keys..queries + 2 * keys),
        };
        let mut mappings = Vec::new();
        if !architecture.post_norm {
            mappings.push(of_block.after_norm(architecture.attention_norm, &readers));
        }
        let sharing = Sharing { n_sharing: shape.n_heads / shape.n_key_heads, head_dim: shape.head_dim };
        mappings.push(Mapping { sharing, ..of_block.after_linear(values, outputs, architecture.attention_out) });
        let norm = (!architecture.post_norm).then_some(architecture.feed_forward_norm);
        match (&plan.feed_forward, &architecture.experts) {
            (Shape::Mixture(mixture), Some(experts)) => {
                of_block.experts(norm, experts, mixture.n_experts, &mut mappings);
            }
            (Shape::Mlp(shape) | Shape::Mixture(MixtureShape { expert: shape, .. }), _) => {
                of_block.feed_forward(norm, architecture.feed_forward, shape, &mut mappings);
            }
        }
        mappings
    }

    /// How far the output of a block is from that of another model's, relative to what the block adds: run in f32 on rows of noise.
    ///
    /// # Errors
    /// `ModelError` where either cannot be run.
    pub fn block_difference(&self, other: &Self, index: usize) -> Result<f64, ModelError> {
        let width = self.width();
        let mut state = index as u32 + 1;
        let noise = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 2.0
        };
        let rows: Vec<f32> = std::iter::repeat_with(noise).take(TOKENS * width).collect();
        let run = |network: &Self| -> Result<Vec<f32>, ModelError> {
            let mut block = Block::default();
            block.load(&network.tensors, network.kernels, &network.plan, index)?;
            let (turns, plan) = (network.turns(std::iter::once(TOKENS)), &network.plan.blocks[index]);
            let turns = plan.rope.and_then(|rope| turns.get(&(rope, TOKENS)));
            let mut out = rows.clone();
            block.apply(network.kernels, plan, turns, &mut out, &mut Scratch::default(), &Nobody);
            Ok(out)
        };
        let (a, b) = (run(self)?, run(other)?);
        let norm = |pairs: &mut dyn Iterator<Item = (&f32, &f32)>| -> f64 {
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
        };
        let (apart, added) = (norm(&mut a.iter().zip(&b)), norm(&mut a.iter().zip(&rows)));
        Ok(if apart == 0.0 { 0.0 } else { apart / added })
    }
}

/// Names of one block.
struct Wiring<'a> {
    network: &'a Network<'a>,
    index: usize,
    prefix: &'a str,
    transposed: bool,
}

impl Wiring<'_> {
    fn full(&self, name: &str) -> String {
        format!("{}{name}.weight", self.prefix)
    }

    fn bias(&self, name: &str) -> Option<String> {
        let name = format!("{}{name}.bias", self.prefix);
        self.network.tensors.find(&name).is_some().then_some(name)
    }

    fn mapping(&self, name: &str, previous: Previous, readers: &[&str]) -> Mapping {
        let consumer = |name: &&str| Consumer { weight: self.full(name), transposed: self.transposed };
        Mapping {
            name: format!("{}{name}", self.prefix),
            block: self.index,
            previous,
            consumers: readers.iter().map(consumer).collect(),
            sharing: Sharing::NONE,
        }
    }

    fn after_norm(&self, norm: &str, readers: &[&str]) -> Mapping {
        let offset = self.network.plan.architecture.norm == NormKind::RmsOffset;
        let previous = Previous::Norm { weight: self.full(norm), bias: self.bias(norm), offset };
        self.mapping(norm, previous, readers)
    }

    fn after_linear(&self, layer: &str, outputs: Range<usize>, reader: &str) -> Mapping {
        let (weight, bias, transposed) = (self.full(layer), self.bias(layer), self.transposed);
        self.mapping(layer, Previous::Linear { weight, bias, outputs, transposed }, &[reader])
    }

    fn feed_forward(
        &self,
        norm: Option<&str>,
        kind: FeedForward,
        shape: &FeedForwardShape,
        mappings: &mut Vec<Mapping>,
    ) {
        let n = shape.inner;
        let (readers, inner) = match kind {
            FeedForward::Gated([gate, up, down]) => (vec![gate, up], Some((up, 0..n, down))),
            FeedForward::GatedFused([up, down]) => (vec![up], Some((up, n..2 * n, down))),
            // A positive factor passes through a rectifier, and through no other activation.
            FeedForward::Plain([up, down]) => {
                let commutes = shape.activation == Activation::Relu;
                (vec![up], commutes.then_some((up, 0..n, down)))
            }
        };
        mappings.extend(norm.map(|norm| self.after_norm(norm, &readers)));
        mappings.extend(inner.map(|(up, outputs, down)| self.after_linear(up, outputs, down)));
    }

    /// A mixture: the router and every expert read what the norm gives.
    fn experts(&self, norm: Option<&str>, kind: &Experts, n_experts: usize, mappings: &mut Vec<Mapping>) {
        let [gate, up, down] = kind.layers;
        let mut readers = vec![kind.router.to_owned()];
        let mut inner = Vec::new();
        for index in 0..n_experts {
            let layer = |name: &str| format!("{}{index}.{name}", kind.prefix);
            readers.extend([layer(gate), layer(up)]);
            inner.push((layer(up), layer(down)));
        }
        if let Some(([gate, up, down], weigher)) = kind.shared
            && self.network.tensors.find(&self.full(weigher)).is_some()
        {
            readers.extend([gate, up, weigher].map(str::to_owned));
            inner.push((up.to_owned(), down.to_owned()));
        }
        let readers: Vec<&str> = readers.iter().map(String::as_str).collect();
        mappings.extend(norm.map(|norm| self.after_norm(norm, &readers)));
        for (up, down) in &inner {
            let outputs = self.network.tensors.find(&self.full(up)).map_or(0, reweight_quant::store::Weight::rows);
            mappings.push(self.after_linear(up, 0..outputs, down));
        }
    }
}
