//! Activation statistics: what went into each linear layer while a model ran over text.
//!
//! Of each input, over all tokens: their count, the sum of |x| and the sum of x^2 a channel (the moments), and, when asked,
//! the sum of x x^T (the Gram matrix). Layers that share an input share an entry. Sums are exact in a fixed unit, so that
//! statistics merge by addition: two halves of a text give the same file as the whole, byte for byte.

mod collect;
mod exact;
mod file;
mod gram;
pub mod imatrix;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use collect::Collector;
pub use exact::ExactSums;
pub use file::write_vectors;
pub use gram::Gram;

use crate::store::natural;

/// Statistics of a model's linear layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// One entry for each distinct input, by the name of the first layer that takes it.
    pub inputs: BTreeMap<Key, InputStatistics>,
    /// The entry of each layer, by the whole names of their weights.
    pub layers: BTreeMap<Key, Key>,
    /// Where they come from.
    pub provenance: Provenance,
}

/// A name in natural order: `layers.2` before `layers.10`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub String);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        natural::compare(&self.0, &other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct InputStatistics {
    /// Tokens seen. For an expert, those that were routed to it.
    pub tokens: u64,
    /// Sum of |x| a channel.
    pub abs_sum: ExactSums,
    /// Sum of x^2 a channel.
    pub square_sum: ExactSums,
    /// Sum of x x^T.
    pub gram: Option<Gram>,
}

/// Where statistics come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// BLAKE3 over the model's tensors.
    pub model: String,
    /// Tokens of a window, at most.
    pub context: usize,
    /// What was read, in the order of the digests.
    pub texts: Vec<TextProvenance>,
}

/// One text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TextProvenance {
    /// BLAKE3 over the tokens that were used.
    pub digest: String,
    /// How many they are.
    pub tokens: u64,
}

/// Why statistics cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// Another model, or other settings.
    #[error("{what} differs: {a} and {b}")]
    Differs {
        /// What is not the same.
        what: &'static str,
        /// On one side.
        a: String,
        /// On the other.
        b: String,
    },
    /// Entries of one side alone, or of other sizes.
    #[error("the input of {layer:?} is not the same on both sides")]
    Input {
        /// A layer that takes it.
        layer: String,
    },
}

impl Statistics {
    /// The entry of a layer, by the whole name of its weight.
    #[must_use]
    pub fn of_layer(&self, weight: &str) -> Option<&InputStatistics> {
        self.inputs.get(self.layers.get(&Key(weight.to_owned()))?)
    }

    /// BLAKE3 over what quantizing goes by: the entries, their tokens, moments and Gram matrices.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (key, input) in &self.inputs {
            hasher.update(key.0.as_bytes()).update(&[0]).update(&input.tokens.to_le_bytes());
            for value in input.abs_mean().into_iter().chain(input.second_moment()) {
                hasher.update(&value.to_le_bytes());
            }
            for units in input.gram.as_ref().map_or(&[][..], Gram::units) {
                hasher.update(&units.to_le_bytes());
            }
        }
        hasher.finalize().to_string()
    }

    /// Tokens of all texts.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.provenance.texts.iter().map(|text| text.tokens).sum()
    }

    /// Adds the statistics of other texts.
    ///
    /// # Errors
    /// `MergeError` where the two are not of the same model and settings. An expert that only one side ever chose is not an error.
    pub fn merge(&mut self, other: Self) -> Result<(), MergeError> {
        let (a, b) = (&self.provenance, &other.provenance);
        let differs = |what, a: String, b: String| Err(MergeError::Differs { what, a, b });
        if a.model != b.model {
            return differs("the model", a.model.clone(), b.model.clone());
        }
        if a.context != b.context {
            return differs("the context", a.context.to_string(), b.context.to_string());
        }
        for (key, input) in other.inputs {
            match self.inputs.get_mut(&key) {
                None => {
                    self.inputs.insert(key, input);
                }
                Some(own) if own.fits(&input) => own.merge(&input),
                Some(_) => return Err(MergeError::Input { layer: key.0 }),
            }
        }
        self.layers.extend(other.layers);
        self.provenance.texts.extend(other.provenance.texts);
        self.provenance.texts.sort();
        Ok(())
    }
}

impl InputStatistics {
    /// No tokens yet.
    #[must_use]
    pub fn new(width: usize, with_gram: bool) -> Self {
        Self {
            tokens: 0,
            abs_sum: ExactSums::zeros(width),
            square_sum: ExactSums::zeros(width),
            gram: with_gram.then(|| Gram::zeros(width)),
        }
    }

    /// Channels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.square_sum.len()
    }

    /// Mean of |x| a channel; zeros without tokens.
    #[must_use]
    pub fn abs_mean(&self) -> Vec<f64> {
        self.mean(&self.abs_sum)
    }

    /// Mean of x^2 a channel; zeros without tokens.
    #[must_use]
    pub fn second_moment(&self) -> Vec<f64> {
        self.mean(&self.square_sum)
    }

    fn mean(&self, sums: &ExactSums) -> Vec<f64> {
        let n = self.tokens.max(1) as f64;
        sums.values().into_iter().map(|sum| sum / n).collect()
    }

    fn fits(&self, other: &Self) -> bool {
        self.width() == other.width() && self.gram.is_some() == other.gram.is_some()
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.abs_sum.merge(&other.abs_sum);
        self.square_sum.merge(&other.square_sum);
        if let (Some(gram), Some(other)) = (&mut self.gram, &other.gram) {
            gram.merge(other);
        }
    }
}
