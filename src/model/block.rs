//! One block: attention and feed-forward, with their norms and sums.

use reweight_kernels::Kernels;

use super::attention::{Attention, AttentionScratch};
use super::error::ModelError;
use super::feed_forward::{FeedForwardScratch, Part};
use super::norm::Norm;
use super::observe::{Nobody, Observe};
use super::plan::{BlockPlan, NetworkPlan};
use super::rope::Turns;
use super::sublayer::{Place, Sublayer};
use super::tensors::Tensors;

/// The layers of one block. Its memory is used again for the next.
#[derive(Debug, Default)]
pub(super) struct Block {
    attention: Attention,
    feed_forward: Part,
    attention_norm: Norm,
    attention_out_norm: Option<Norm>,
    feed_forward_norm: Norm,
    feed_forward_out_norm: Option<Norm>,
    post_norm: bool,
}

/// Memory for one window at a time.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    attention: AttentionScratch,
    feed_forward: FeedForwardScratch,
    normed: Vec<f32>,
    out: Vec<f32>,
    /// A copy of a window whose own rows are to stay.
    pub(super) rows: Vec<f32>,
}

impl Block {
    /// Reads the block of that number.
    pub(super) fn load(
        &mut self,
        tensors: &Tensors<'_>,
        kernels: &Kernels,
        plan: &NetworkPlan,
        index: usize,
    ) -> Result<(), ModelError> {
        let (architecture, block) = (&plan.architecture, &plan.blocks[index]);
        let prefix = tensors.full(&format!("{}{index}.", architecture.layers));
        let norm = |name: &str| Norm::load(tensors, kernels, &format!("{prefix}{name}"), plan.width, plan.norm());
        self.attention_norm = norm(architecture.attention_norm)?;
        self.attention_out_norm = architecture.attention_out_norm.map(norm).transpose()?;
        self.feed_forward_norm = norm(architecture.feed_forward_norm)?;
        self.feed_forward_out_norm = architecture.feed_forward_out_norm.map(norm).transpose()?;
        self.post_norm = architecture.post_norm;
        self.attention.load(tensors, kernels, architecture, &prefix, &block.attention, plan.norm())?;
        let kind = (architecture.feed_forward, architecture.experts.as_ref());
        self.feed_forward.load(tensors, kernels, kind, &prefix, &block.feed_forward)
    }

    /// Passes one window through the block, in place.
    pub(super) fn apply(
        &self,
        kernels: &Kernels,
        plan: &BlockPlan,
        turns: Option<&Turns>,
        x: &mut [f32],
        scratch: &mut Scratch,
        observe: &dyn Observe,
    ) {
        let Scratch { attention, feed_forward, normed, out, .. } = scratch;
        self.enter(&self.attention_norm, x, normed);
        self.attention.apply((kernels, observe), &plan.attention, turns, normed, attention, out);
        self.leave(&self.attention_norm, self.attention_out_norm.as_ref(), out, x);
        self.enter(&self.feed_forward_norm, x, normed);
        self.feed_forward.apply(kernels, &plan.feed_forward, normed, feed_forward, out, observe);
        self.leave(&self.feed_forward_norm, self.feed_forward_out_norm.as_ref(), out, x);
    }

    /// Rows that go into the block become what goes into one half of it.
    pub(super) fn inputs(&self, at: Place<'_>, sublayer: Sublayer, x: &mut [f32], scratch: &mut Scratch) {
        let Scratch { attention, normed, out, .. } = scratch;
        self.enter(&self.attention_norm, x, normed);
        if sublayer == Sublayer::FeedForward {
            self.attention.apply((at.kernels, &Nobody), &at.plan.attention, at.turns, normed, attention, out);
            self.leave(&self.attention_norm, self.attention_out_norm.as_ref(), out, x);
            self.enter(&self.feed_forward_norm, x, normed);
        }
        x.copy_from_slice(normed);
    }

    /// Rows that go into one half of the block become what it gives.
    pub(super) fn half(&self, at: Place<'_>, sublayer: Sublayer, x: &mut [f32], scratch: &mut Scratch) {
        let Scratch { attention, feed_forward, out, .. } = scratch;
        match sublayer {
            Sublayer::Attention => {
                self.attention.apply((at.kernels, &Nobody), &at.plan.attention, at.turns, x, attention, out);
            }
            Sublayer::FeedForward => {
                self.feed_forward.apply(at.kernels, &at.plan.feed_forward, x, feed_forward, out, &Nobody);
            }
        }
        x.copy_from_slice(out);
    }

    /// What a part of the block takes in.
    fn enter(&self, norm: &Norm, x: &[f32], normed: &mut Vec<f32>) {
        normed.clear();
        normed.extend_from_slice(x);
        if !self.post_norm {
            norm.apply(normed);
        }
    }

    /// Adds what a part gave.
    fn leave(&self, norm: &Norm, out_norm: Option<&Norm>, out: &mut [f32], x: &mut [f32]) {
        if let Some(norm) = out_norm {
            norm.apply(out);
        }
        for (x, out) in x.iter_mut().zip(out) {
            *x += *out;
        }
        if self.post_norm {
            norm.apply(x);
        }
    }
}
