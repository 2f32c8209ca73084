//! Rounding that is sure of most weights: nearest codes, but weights near a decision boundary take whichever of two codes is better for
//! the outputs.
//!
//! With G the mean of x x^T of the inputs, a row with errors e errs by `e^T G e` at its output. Moving weight j to the code on the other side of
//! its boundary changes that by `d (2 (G e)_j + d G_jj)`, d being the difference of the two values: it is moved where that is below 0,
//! given everything moved before, column after column. It is coordinate descent (as in `QuantEase`, Behdin et al. 2023, arXiv 2309.01885)
//! held to the weights that OFQ (arXiv 2302.02210) calls of low confidence, which cost least to move; only they need a row of G.

use std::ops::Range;

use reweight_kernels::{Doubts, Kernels, QuadraticForm};

use super::rows::{NonFinite, Scratch, Stored};
use super::{Recipe, TensorError};
use crate::importance::Importance;
use crate::store::Weight;

/// Steps from a decision boundary within which a weight is in doubt.
const BAND: f32 = 0.1;

/// How often the weights in doubt are gone over.
const PASSES: usize = 1;

/// Rows of a tensor by which its output error is told.
const ROWS_JUDGED: usize = 16;

/// Codes of some rows, and the doubts about them.
#[derive(Debug, Default)]
pub(super) struct Block {
    doubts: Doubts,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
}

impl Scratch<'_> {
    /// Consecutive rows, their weights in doubt decided together so that a row of the form is read for all of them.
    pub(super) fn settled(
        &mut self,
        kernels: &Kernels,
        weight: &Weight,
        rows: Range<usize>,
        recipe: &Recipe<'_>,
        (importance, form): (&Importance, &QuadraticForm),
        stored: &mut Stored<'_>,
    ) -> Result<TensorError, NonFinite> {
        let (columns, groups) = (self.row.len(), self.scales.len());
        let group = recipe.scheme.group_len(columns);
        let mut block = std::mem::take(&mut self.block);
        block.begin();
        let mut total = TensorError { output: Some(0.0), output_rtn: Some(0.0), ..TensorError::default() };
        let step = weight.rows().div_ceil(ROWS_JUDGED);
        let judged = |row: usize| row.is_multiple_of(step);
        let share = weight.rows() as f64 / weight.rows().div_ceil(step) as f64;
        let row_factor = |row: usize| weight.scaling.as_ref().map_or(1.0, |scaling| f64::from(scaling.row(row)));
        for row in rows.clone() {
            self.read(kernels, weight, row)?;
            if judged(row) {
                self.rtn_original(kernels, weight, row, recipe, &importance.moments);
                let mut errors = self.original_errors(kernels, weight, row, group);
                errors.resize(form.stride(), 0.0);
                let output_rtn = kernels.form_of(form, &errors) * share / row_factor(row).powi(2);
                total.add(TensorError { output_rtn: Some(output_rtn), ..TensorError::default() });
            }
            total.squared_rtn += self.rtn_here(kernels, recipe);
            self.choose(kernels, recipe, Some(&importance.scaled_moments));
            total.near_bounds += self.near_bounds(kernels, recipe);
            let grid = (self.scales.as_slice(), self.zeros.as_slice());
            let coded = (self.row.as_slice(), self.codes.as_slice());
            self.coder.doubts((group, BAND), coded, grid, form.stride(), &mut block.doubts);
            block.keep(&self.codes, grid);
        }
        kernels.settle(form, PASSES, &mut block.doubts);
        block.take();
        for (index, row) in rows.enumerate() {
            weight.read_rows(kernels, row..row + 1, &mut self.row);
            self.codes.copy_from_slice(&block.codes[index * columns..][..columns]);
            self.scales.copy_from_slice(&block.scales[index * groups..][..groups]);
            self.zeros.copy_from_slice(&block.zeros[index * groups..][..groups]);
            total.squared += self.squared(kernels, group);
            if judged(row) {
                let errors = &block.doubts.errors[index * form.stride()..][..form.stride()];
                let output = kernels.form_of(form, errors) * share / row_factor(row).powi(2);
                total.add(TensorError { output: Some(output), ..TensorError::default() });
            }
            self.store(kernels, recipe, index, stored);
        }
        self.block = block;
        Ok(total)
    }
}

impl Block {
    /// Without rows.
    fn begin(&mut self) {
        self.codes.clear();
        self.scales.clear();
        self.zeros.clear();
        let Doubts { errors, columns, steps, taken, ends } = &mut self.doubts;
        errors.clear();
        columns.clear();
        steps.clear();
        taken.clear();
        ends.clear();
    }

    fn keep(&mut self, codes: &[u8], (scales, zeros): (&[f32], &[u8])) {
        self.codes.extend_from_slice(codes);
        self.scales.extend_from_slice(scales);
        self.zeros.extend_from_slice(zeros);
    }

    /// Takes the codes that were decided for.
    fn take(&mut self) {
        let Doubts { columns, steps, taken, ends, .. } = &self.doubts;
        let width = self.codes.len() / ends.len().max(1);
        let mut first = 0;
        for (codes, end) in self.codes.chunks_exact_mut(width.max(1)).zip(ends) {
            for at in (first..*end).filter(|at| taken[*at]) {
                let code = &mut codes[columns[at] as usize];
                // The step was turned when it was taken.
                *code = if steps[at] < 0.0 { *code + 1 } else { *code - 1 };
            }
            first = *end;
        }
    }
}
