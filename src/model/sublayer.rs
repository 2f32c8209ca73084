//! Halves of a block by themselves: what goes into attention or the feed-forward part, and what comes out.

use rayon::prelude::*;
use reweight_kernels::Kernels;

use super::block::{Block, Scratch};
use super::error::ModelError;
use super::hidden::HiddenStates;
use super::network::Network;

/// Half of a block, without its norms and its sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sublayer {
    /// Projections, attention, and the layer after it.
    Attention,
    /// The layers after it, or a mixture of experts.
    FeedForward,
}

impl Network<'_> {
    /// The half of a block that reads a tensor of that name: a norm before it, or one of its layers. `None` for other blocks' tensors.
    #[must_use]
    pub fn sublayer_after(&self, index: usize, norm: &str) -> Option<Sublayer> {
        let architecture = &self.plan.architecture;
        let name = norm.strip_prefix(&self.block_prefix(index))?.strip_suffix(".weight")?;
        if name == architecture.attention_norm {
            Some(Sublayer::Attention)
        } else if name == architecture.feed_forward_norm {
            Some(Sublayer::FeedForward)
        } else {
            None
        }
    }

    /// What goes into half of a block, from what goes into the block.
    ///
    /// # Errors
    /// As [`Network::run_block`].
    pub fn sublayer_inputs(
        &self,
        index: usize,
        sublayer: Sublayer,
        hidden: &HiddenStates,
    ) -> Result<HiddenStates, ModelError> {
        self.map_windows(index, hidden, |block, rows, scratch, at| block.inputs(at, sublayer, rows, scratch))
    }

    /// What half of a block gives, before it is normalized or added, for what goes into it.
    ///
    /// # Errors
    /// As [`Network::run_block`].
    pub fn sublayer_outputs(
        &self,
        index: usize,
        sublayer: Sublayer,
        inputs: &HiddenStates,
    ) -> Result<HiddenStates, ModelError> {
        self.map_windows(index, inputs, |block, rows, scratch, at| block.half(at, sublayer, rows, scratch))
    }

    /// The squared distance of what half of a block gives from `outputs`, in all.
    ///
    /// # Errors
    /// As [`Network::run_block`].
    pub fn sublayer_error(
        &self,
        index: usize,
        sublayer: Sublayer,
        inputs: &HiddenStates,
        outputs: &HiddenStates,
    ) -> Result<f64, ModelError> {
        let found = self.sublayer_outputs(index, sublayer, inputs)?;
        let windows: Vec<f64> = (0..found.n_windows())
            .into_par_iter()
            .map(|window| {
                let pairs = found.window(window).iter().zip(outputs.window(window));
                pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
            })
            .collect();
        Ok(windows.into_iter().sum())
    }

    /// Rows made from each window's rows with one block laid out.
    fn map_windows(
        &self,
        index: usize,
        hidden: &HiddenStates,
        make: impl Fn(&Block, &mut [f32], &mut Scratch, Place<'_>) + Sync,
    ) -> Result<HiddenStates, ModelError> {
        let width = self.width();
        let lengths = || (0..hidden.n_windows()).map(|window| hidden.window(window).len() / width);
        let mut made = HiddenStates::new(width, lengths())?;
        let mut block = Block::default();
        block.load(&self.tensors, self.kernels, &self.plan, index)?;
        let (turns, plan) = (self.turns(lengths()), &self.plan.blocks[index]);
        made.windows_mut().into_par_iter().enumerate().for_each_init(Scratch::default, |scratch, (window, rows)| {
            rows.copy_from_slice(hidden.window(window));
            let turns = plan.rope.and_then(|rope| turns.get(&(rope, rows.len() / width)));
            make(&block, rows, scratch, Place { kernels: self.kernels, plan, turns });
        });
        Ok(made)
    }
}

/// What a block needs beside its weights.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) plan: &'a super::plan::BlockPlan,
    pub(super) turns: Option<&'a super::rope::Turns>,
}
