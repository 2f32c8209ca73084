//! Many rows: lengths are checked, rows shared out to threads.

use rayon::prelude::*;

use super::row::{CHUNK, Options, Plan};
use super::span::{Source, Span};
use super::table::SoftmaxKernels;

/// Softmax of each row of `row_len` elements into `out`, with the best kernels and algorithm, on this thread.
///
/// Reads every element two or three times, in caches where rows fit, and writes it once or twice; [the module](super)
/// states special values and accuracy.
///
/// # Panics
/// As [`SoftmaxKernels::softmax`].
///
/// ```
/// let mut out = [0.0; 4];
/// reweight_kernels::softmax::softmax(&[0.0, 0.0, 1.0, f32::NEG_INFINITY], 2, &mut out);
/// assert_eq!(out, [0.5, 0.5, 1.0, 0.0]);
/// ```
pub fn softmax(x: &[f32], row_len: usize, out: &mut [f32]) {
    SoftmaxKernels::best().softmax(Source::F32(x), row_len, out, Options::default());
}

/// [`softmax`] with its results in the place of its input.
///
/// # Panics
/// As [`SoftmaxKernels::softmax_in_place`].
pub fn softmax_in_place(x: &mut [f32], row_len: usize) {
    SoftmaxKernels::best().softmax_in_place(x, row_len, Options::default());
}

/// What is done to a row, and whether that is softmax itself, which short rows have a pass of their own for.
type Row = (fn(Plan, Span<'_>), bool);

impl SoftmaxKernels {
    /// exp(x) / (sum of exp over the row), for rows of `row_len` elements.
    ///
    /// # Panics
    /// Unless `out` is as long as `x` and `row_len` divides that; 0 divides 0.
    pub fn softmax(&'static self, x: Source<'_>, row_len: usize, out: &mut [f32], options: Options) {
        self.rows(Some(x), row_len, out, options, (Plan::softmax, true));
    }

    /// [`SoftmaxKernels::softmax`] with its results in the place of its input.
    ///
    /// # Panics
    /// Unless `row_len` divides the length.
    pub fn softmax_in_place(&'static self, x: &mut [f32], row_len: usize, options: Options) {
        self.rows(None, row_len, x, options, (Plan::softmax, true));
    }

    /// x - ln(sum of exp over the row): two passes and a write where the algorithm has two passes, else three.
    ///
    /// # Panics
    /// As [`SoftmaxKernels::softmax`].
    pub fn log_softmax(&'static self, x: Source<'_>, row_len: usize, out: &mut [f32], options: Options) {
        self.rows(Some(x), row_len, out, options, (Plan::log_softmax, false));
    }

    /// [`SoftmaxKernels::log_softmax`] with its results in the place of its input.
    ///
    /// # Panics
    /// As [`SoftmaxKernels::softmax_in_place`].
    pub fn log_softmax_in_place(&'static self, x: &mut [f32], row_len: usize, options: Options) {
        self.rows(None, row_len, x, options, (Plan::log_softmax, false));
    }

    /// ln(sum of exp), one a row: one or two passes, nothing written but that.
    ///
    /// # Panics
    /// Unless `row_len` is at least 1 and `x` has `row_len` elements for each of `out`.
    pub fn log_sum_exp(&'static self, x: Source<'_>, row_len: usize, out: &mut [f32], options: Options) {
        assert!(row_len > 0, "a row has an element");
        assert_eq!(x.len(), row_len * out.len(), "a row for each result");
        let plan = Plan::new(self, options, row_len, out.len(), false);
        let one = |(i, out): (usize, &mut f32)| *out = plan.log_sum_exp(x.slice(i * row_len, row_len));
        if options.parallel {
            out.par_iter_mut().with_min_len(CHUNK.div_ceil(row_len)).enumerate().for_each(one);
        } else {
            out.iter_mut().enumerate().for_each(one);
        }
    }

    /// `StableMax` (arXiv 2501.04697): s(x) / (sum of s over the row), s(x) = x + 1 from 0 up and 1 / (1 - x) below. Two
    /// passes, one write. -inf gives 0; a row with +inf or NaN gives NaN and zeros, one with nothing above -inf NaN.
    ///
    /// # Panics
    /// As [`SoftmaxKernels::softmax`].
    pub fn stablemax(&'static self, x: Source<'_>, row_len: usize, out: &mut [f32], options: Options) {
        self.rows(Some(x), row_len, out, options, (Plan::stablemax, false));
    }

    /// ln of [`SoftmaxKernels::stablemax`]. Two passes, one write; its logarithms are computed one after the other, in
    /// f64, so it is the slowest here.
    ///
    /// # Panics
    /// As [`SoftmaxKernels::softmax`].
    pub fn log_stablemax(&'static self, x: Source<'_>, row_len: usize, out: &mut [f32], options: Options) {
        self.rows(Some(x), row_len, out, options, (Plan::log_stablemax, false));
    }

    /// One thing done to every row. Rows of a chunk or more share a thread pool each; shorter ones are shared out.
    fn rows(&'static self, source: Option<Source<'_>>, row_len: usize, out: &mut [f32], options: Options, row: Row) {
        assert!(source.is_none_or(|source| source.len() == out.len()), "a result for each element");
        if out.is_empty() {
            return;
        }
        assert!(row_len > 0 && out.len().is_multiple_of(row_len), "whole rows");
        let mut plan = Plan::new(self, options, row_len, out.len(), source.is_none());
        let at = |i: usize, len: usize| source.map(|source| source.slice(i, len));
        if options.parallel && row_len <= CHUNK {
            plan.parallel = false;
            let together = (CHUNK / row_len) * row_len;
            out.par_chunks_mut(together).enumerate().for_each(|(i, out)| {
                self.one_by_one(plan, Span { source: at(i * together, out.len()), out }, row_len, row);
            });
        } else {
            self.one_by_one(plan, Span { source, out }, row_len, row);
        }
    }

    /// Rows on this thread.
    fn one_by_one(&self, plan: Plan, rows: Span<'_>, row_len: usize, (row, may_be_short): Row) {
        let Span { source, mut out } = rows;
        let mut start = 0;
        while !out.is_empty() {
            let at = |len: usize| source.map(|source| source.slice(start, len));
            if may_be_short && plan.is_short(row_len) {
                let done = (self.short_rows)(at(out.len()), row_len, plan.together, out) * row_len;
                out = &mut out[done..];
                start += done;
                if out.is_empty() {
                    break;
                }
            }
            let at = |len: usize| source.map(|source| source.slice(start, len));
            let (first, rest) = out.split_at_mut(row_len);
            row(plan, Span { source: at(row_len), out: first });
            out = rest;
            start += row_len;
        }
        plan.fence();
    }
}
