//! Activation-aware scaling of channels (AWQ; Lin et al. 2023, arXiv 2306.00978), folded into the model.
//!
//! A channel that carries large activations is multiplied in every layer that reads it and divided where it is made, so that rounding
//! hurts it less and the model computes the same. A [`Mapping`] says who makes a channel and who reads it; [`Search`] finds
//! the factors by the error that quantizing leaves, measured with the second moments of the inputs; [`fold()`] turns
//! them into [`Scaling`](crate::store::Scaling)s.

mod fold;
pub mod paper;
mod search;

pub use fold::{Fold, fold};
pub use search::{Chosen, Form, Objective, Search};

use std::ops::Range;

/// Who makes some channels and who reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The name of the module that makes them.
    pub name: String,
    /// The block it belongs to.
    pub block: usize,
    /// Where the channels are divided.
    pub previous: Previous,
    /// Every layer that reads them.
    pub consumers: Vec<Consumer>,
    /// Which of the readers' channels are one channel of the maker.
    pub sharing: Sharing,
}

/// What makes channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Previous {
    /// A norm: its weight, or one plus its weight, is divided, and its bias.
    Norm {
        /// Whole name.
        weight: String,
        /// Whole name, where it has one.
        bias: Option<String>,
        /// Whether it multiplies by one plus the weight.
        offset: bool,
    },
    /// A linear layer: some of its outputs are divided.
    Linear {
        /// Whole name.
        weight: String,
        /// Whole name, where it has one.
        bias: Option<String>,
        /// The outputs.
        outputs: Range<usize>,
        /// Whether the weight stands as `[input, output]`.
        transposed: bool,
    },
}

/// A layer that reads channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Whole name of its weight.
    pub weight: String,
    /// Whether it stands as `[input, output]`.
    pub transposed: bool,
}

/// Heads of queries that share a head of values read the same channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Heads that share one; 1 where every channel is its own.
    pub n_sharing: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

impl Sharing {
    /// Every channel is its own.
    pub const NONE: Self = Self { n_sharing: 1, head_dim: 1 };

    /// The maker's channel that a reader's channel is.
    #[must_use]
    pub const fn made(self, read: usize) -> usize {
        read / (self.n_sharing * self.head_dim) * self.head_dim + read % self.head_dim
    }
}
