//! The feed-forward part of a block: gated, plain, or a mixture of experts.

use reweight_kernels::{Activation, Kernels};

use super::architecture::{Experts, FeedForward};
use super::error::ModelError;
use super::linear::Linear;
use super::observe::Observe;
use super::tensors::Tensors;

/// Sizes and switches of one block's feed-forward part.
#[derive(Clone, Copy, Debug)]
pub(super) struct FeedForwardShape {
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) activation: Activation,
    pub(super) transposed: bool,
}

/// The layers of one.
#[derive(Debug, Default)]
pub(super) struct Mlp {
    /// Empty where gate and up are one layer, or nothing is gated.
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    /// Whether `up` holds gates first and factors after.
    fused: bool,
}

/// Memory for one window at a time.
#[derive(Debug, Default)]
pub(super) struct FeedForwardScratch {
    gate: Vec<f32>,
    up: Vec<f32>,
    rows: Vec<f32>,
    out: Vec<f32>,
    router: Vec<f32>,
    shared: Vec<f32>,
}

impl Mlp {
    pub(super) fn load(
        &mut self,
        tensors: &Tensors<'_>,
        kernels: &Kernels,
        kind: FeedForward,
        prefix: &str,
        shape: &FeedForwardShape,
    ) -> Result<(), ModelError> {
        let FeedForwardShape { width, inner, transposed, .. } = *shape;
        let load = |linear: &mut Linear, name: &str, sizes| {
            linear.load(tensors, kernels, &format!("{prefix}{name}"), sizes, transposed)
        };
        self.fused = matches!(kind, FeedForward::GatedFused(_));
        let down = match kind {
            FeedForward::Gated([gate, up, down]) => {
                load(self.gate.get_or_insert_default(), gate, (inner, width))?;
                load(&mut self.up, up, (inner, width))?;
                down
            }
            FeedForward::GatedFused([up, down]) => {
                load(&mut self.up, up, (2 * inner, width))?;
                down
            }
            FeedForward::Plain([up, down]) => {
                load(&mut self.up, up, (inner, width))?;
                down
            }
        };
        load(&mut self.down, down, (width, inner))
    }

    /// Applies the layers to rows; the result goes to `out`.
    fn apply(
        &self,
        kernels: &Kernels,
        shape: &FeedForwardShape,
        x: &[f32],
        (gate, up): (&mut Vec<f32>, &mut Vec<f32>),
        out: &mut Vec<f32>,
        observe: &dyn Observe,
    ) {
        let inner = if let Some(gate_layer) = &self.gate {
            observe.input(&[&gate_layer.name, &self.up.name], x, shape.width);
            gate_layer.apply_to(kernels, x, gate);
            self.up.apply_to(kernels, x, up);
            kernels.activate_gate(shape.activation, gate, up);
            gate
        } else {
            observe.input(&[&self.up.name], x, shape.width);
            self.up.apply_to(kernels, x, up);
            if self.fused {
                gate.clear();
                for row in up.chunks_exact_mut(2 * shape.inner) {
                    let (gates, factors) = row.split_at_mut(shape.inner);
                    kernels.activate_gate(shape.activation, gates, factors);
                    gate.extend_from_slice(gates);
                }
                gate
            } else {
                kernels.activate(shape.activation, up);
                up
            }
        };
        observe.input(&[&self.down.name], inner, shape.inner);
        if observe.only_inputs() {
            out.clear();
            out.resize(x.len(), 0.0);
            return;
        }
        self.down.apply_to(kernels, inner, out);
    }
}

/// A mixture: a router chooses a few experts for each token.
#[derive(Debug, Default)]
pub(super) struct Mixture {
    router: Linear,
    experts: Vec<Mlp>,
    shared: Option<(Mlp, Linear)>,
}

/// Sizes and switches of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct MixtureShape {
    pub(super) expert: FeedForwardShape,
    pub(super) n_experts: usize,
    /// Experts a token goes to.
    pub(super) n_chosen: usize,
    /// Whether their weights are made to sum to one.
    pub(super) normalize: bool,
    /// Width of the expert that always runs.
    pub(super) shared_inner: usize,
}

impl Mixture {
    pub(super) fn load(
        &mut self,
        tensors: &Tensors<'_>,
        kernels: &Kernels,
        kind: &Experts,
        prefix: &str,
        shape: &MixtureShape,
    ) -> Result<(), ModelError> {
        let width = shape.expert.width;
        self.router.load(tensors, kernels, &format!("{prefix}{}", kind.router), (shape.n_experts, width), false)?;
        self.experts.resize_with(shape.n_experts, Mlp::default);
        for (index, expert) in self.experts.iter_mut().enumerate() {
            let prefix = format!("{prefix}{}{index}.", kind.prefix);
            expert.load(tensors, kernels, FeedForward::Gated(kind.layers), &prefix, &shape.expert)?;
        }
        let Some((layers, gate)) = kind.shared else { return Ok(()) };
        if tensors.find(&format!("{prefix}{gate}.weight")).is_none() {
            self.shared = None;
            return Ok(());
        }
        let (shared, shared_gate) = self.shared.get_or_insert_default();
        let inner = FeedForwardShape { inner: shape.shared_inner, ..shape.expert };
        shared.load(tensors, kernels, FeedForward::Gated(layers), prefix, &inner)?;
        shared_gate.load(tensors, kernels, &format!("{prefix}{gate}"), (1, width), false)
    }

    fn apply(
        &self,
        kernels: &Kernels,
        shape: &MixtureShape,
        x: &[f32],
        scratch: &mut FeedForwardScratch,
        out: &mut Vec<f32>,
        observe: &dyn Observe,
    ) {
        let width = shape.expert.width;
        let FeedForwardScratch { gate, up, rows, out: expert_out, router, shared } = scratch;
        observe.input(&[&self.router.name], x, width);
        self.router.apply_to(kernels, x, router);
        let chosen = choose(router, shape);
        out.clear();
        out.resize(x.len(), 0.0);
        for (index, expert) in self.experts.iter().enumerate() {
            let tokens: Vec<(usize, f32)> = chosen
                .iter()
                .filter(|(_, expert, _)| *expert == index)
                .map(|(token, _, weight)| (*token, *weight))
                .collect();
            if tokens.is_empty() {
                continue;
            }
            rows.clear();
            for (token, _) in &tokens {
                rows.extend_from_slice(&x[token * width..][..width]);
            }
            expert.apply(kernels, &shape.expert, rows, (gate, up), expert_out, observe);
            for ((token, weight), result) in tokens.iter().zip(expert_out.chunks_exact(width)) {
                add_scaled(&mut out[token * width..][..width], result, *weight);
            }
        }
        let Some((layers, shared_gate)) = &self.shared else { return };
        let inner = FeedForwardShape { inner: shape.shared_inner, ..shape.expert };
        layers.apply(kernels, &inner, x, (gate, up), expert_out, observe);
        observe.input(&[&shared_gate.name], x, width);
        shared_gate.apply_to(kernels, x, shared);
        kernels.activate(Activation::Sigmoid, shared);
        for ((out, result), weight) in out.chunks_exact_mut(width).zip(expert_out.chunks_exact(width)).zip(shared) {
            add_scaled(out, result, *weight);
        }
    }
}

fn add_scaled(out: &mut [f32], result: &[f32], weight: f32) {
    for (out, result) in out.iter_mut().zip(result) {
        *out += weight * result;
    }
}

/// Token, expert and weight: the most probable experts of each token, of equal ones the first.
fn choose(logits: &[f32], shape: &MixtureShape) -> Vec<(usize, usize, f32)> {
    let mut chosen = Vec::new();
    for (token, logits) in logits.chunks_exact(shape.n_experts).enumerate() {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
        let mut ranked: Vec<(usize, f32)> = logits.iter().map(|x| (x - max).exp() / sum).enumerate().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.truncate(shape.n_chosen);
        let total: f32 = if shape.normalize { ranked.iter().map(|(_, p)| p).sum() } else { 1.0 };
        chosen.extend(ranked.into_iter().map(|(expert, p)| (token, expert, p / total)));
    }
    chosen
}

/// Either kind, with its shape.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Mlp(FeedForwardShape),
    Mixture(MixtureShape),
}

/// The feed-forward part of one block; both kinds keep their memory, because blocks of a model may differ.
#[derive(Debug, Default)]
pub(super) struct Part {
    mlp: Mlp,
    mixture: Mixture,
}

impl Part {
    pub(super) fn load(
        &mut self,
        tensors: &Tensors<'_>,
        kernels: &Kernels,
        (kind, experts): (FeedForward, Option<&Experts>),
        prefix: &str,
        shape: &Shape,
    ) -> Result<(), ModelError> {
        match (shape, experts) {
            (Shape::Mixture(shape), Some(experts)) => self.mixture.load(tensors, kernels, experts, prefix, shape),
            (Shape::Mlp(shape), _) | (Shape::Mixture(MixtureShape { expert: shape, .. }), None) => {
                self.mlp.load(tensors, kernels, kind, prefix, shape)
            }
        }
    }

    pub(super) fn apply(
        &self,
        kernels: &Kernels,
        shape: &Shape,
        x: &[f32],
        scratch: &mut FeedForwardScratch,
        out: &mut Vec<f32>,
        observe: &dyn Observe,
    ) {
        match shape {
            Shape::Mixture(shape) => self.mixture.apply(kernels, shape, x, scratch, out, observe),
            Shape::Mlp(shape) => {
                let FeedForwardScratch { gate, up, .. } = scratch;
                self.mlp.apply(kernels, shape, x, (gate, up), out, observe);
            }
        }
    }
}
