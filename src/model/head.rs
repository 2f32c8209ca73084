//! From last hidden states to logits, in slices of the vocabulary.

use std::ops::Range;

use rayon::prelude::*;
use reweight_kernels::{Dense, Kernels, Rows, RowsMut};
use reweight_quant::store::Weight;

use super::error::ModelError;
use super::hidden::HiddenStates;
use super::plan::NetworkPlan;
use super::tensors::{Tensors, check, lay_out_rounded};

/// Outputs that are laid out together.
const SLICE: usize = 8192;

/// The output layer of a model: a row of logits for each row of hidden states.
pub struct Head<'a> {
    weight: &'a Weight,
    bias: Option<Vec<f32>>,
    cap: Option<f32>,
}

/// Some outputs of a head, laid out for products. Its memory is used again for the next.
#[derive(Debug, Default)]
pub struct HeadSlice {
    dense: Dense,
    range: Range<usize>,
}

impl HeadSlice {
    /// Which outputs they are.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

impl<'a> Head<'a> {
    pub(super) fn open(
        tensors: &Tensors<'a>,
        kernels: &Kernels,
        plan: &NetworkPlan,
        name: &str,
        tied_to: Option<&str>,
    ) -> Result<Self, ModelError> {
        let own = tensors.find(&format!("{name}.weight"));
        let missing =
            || ModelError::MissingTensor { path: tensors.model.path().to_owned(), tensor: format!("{name}.weight") };
        let tied = tied_to.and_then(|tied| tensors.find(tied));
        let weight = if plan.tied { tied.or(own) } else { own }.ok_or_else(missing)?;
        check(weight, &[weight.rows(), plan.width])?;
        let bias = tensors.vector_if(kernels, &format!("{name}.bias"), weight.rows())?;
        Ok(Self { weight, bias, cap: plan.logit_cap })
    }

    /// Logits of a row.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.weight.rows()
    }

    /// The outputs in slices, in order.
    pub fn slices(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let n = self.n_outputs();
        (0..n).step_by(SLICE).map(move |start| start..n.min(start + SLICE))
    }

    /// Lays out one slice. Cost: reads its weights once.
    pub fn lay_out(&self, kernels: &Kernels, range: Range<usize>, slice: &mut HeadSlice) {
        lay_out_rounded(kernels, self.weight, range.clone(), None, &mut slice.dense);
        slice.range = range;
    }

    /// Logits of one slice for some rows of hidden states, one row after the other.
    pub fn logits(&self, kernels: &Kernels, slice: &HeadSlice, rows: &[f32], out: &mut Vec<f32>) {
        let (inputs, outputs) = (slice.dense.inputs(), slice.dense.outputs());
        let n_rows = rows.len() / inputs;
        out.resize(n_rows * outputs, 0.0);
        let x = Rows { values: rows, stride: inputs };
        slice.dense.product(kernels, x, n_rows, RowsMut { values: out, stride: outputs });
        if let Some(bias) = &self.bias {
            let bias = &bias[slice.range()];
            out.chunks_exact_mut(outputs).for_each(|row| row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias));
        }
        if let Some(cap) = self.cap {
            kernels.soft_cap(cap, out);
        }
    }

    /// All logits of some rows: for short rows and small vocabularies.
    #[must_use]
    pub fn all_logits(&self, kernels: &Kernels, rows: &[f32]) -> Vec<f32> {
        let n_rows = rows.len() / self.weight.columns();
        let n = self.n_outputs();
        let mut all = vec![0.0; n_rows * n];
        let (mut slice, mut part) = (HeadSlice::default(), Vec::new());
        for range in self.slices() {
            self.lay_out(kernels, range.clone(), &mut slice);
            self.logits(kernels, &slice, rows, &mut part);
            for (row, part) in all.chunks_exact_mut(n).zip(part.chunks_exact(range.len())) {
                row[range.clone()].copy_from_slice(part);
            }
        }
        all
    }
}

/// Means of the output layers of an image classifier over its class tokens, one image a row.
pub(super) fn classify(kernels: &Kernels, heads: &[(Head<'_>, usize)], hidden: &HiddenStates) -> Vec<Vec<f32>> {
    let rows = (0..hidden.n_windows()).into_par_iter();
    rows.map(|window| {
        let mut sums: Vec<f32> = Vec::new();
        for (head, token) in heads {
            let row = &hidden.window(window)[token * hidden.width()..][..hidden.width()];
            let logits = head.all_logits(kernels, row);
            if sums.is_empty() {
                sums = logits;
            } else {
                sums.iter_mut().zip(logits).for_each(|(sum, logit)| *sum += logit);
            }
        }
        for sum in &mut sums {
            *sum /= heads.len() as f32;
        }
        sums
    })
    .collect()
}

/// Whether a tensor of an output layer is there.
pub(super) fn exists(tensors: &Tensors<'_>, name: &str) -> bool {
    tensors.find(&format!("{name}.weight")).is_some()
}
