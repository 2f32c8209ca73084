//! Error-compensating rounding: what rounding one column gets wrong, later columns make good.
//!
//! The columns are taken in order of descending second moment. With the Gram matrix of the inputs factored as `H = R R^T`, R upper
//! triangular in that order, the output error of a row of weight errors d is `|d R|^2`, and the k-th term of it vanishes where
//! `d_k = -sum_{i<k} d_i R_ik / R_kk`. Each weight is rounded after that much has been added to it. This gives the codes of
//! GPTQ (Frantar et al. 2022) without inverting H (the form is Babai's nearest plane; Chen et al. 2025, "The geometry of LLM quantization").
//!
//! Rounding itself is a kernel: [`Kernels::round_compensated`].

use rayon::prelude::*;
use reweight_kernels::{Kernels, Triangle};

use crate::stats::Gram;

/// Columns that are eliminated together.
const PANEL: usize = 64;

/// A factored Gram matrix.
#[derive(Clone, Debug)]
pub struct Factor {
    /// Columns from the most important to the least.
    order: Vec<usize>,
    /// `R_jk / R_kk` for j < k, column after column.
    ratios: Vec<f32>,
    /// `R_kk`.
    diagonal: Vec<f32>,
}

impl Factor {
    /// Factors the mean of x x^T, its rows and columns divided by `columns` and damped. `None` where no damping up to the
    /// mean of the diagonal makes it positive definite: it holds something that is no number.
    #[must_use]
    pub fn of(kernels: &Kernels, gram: &Gram, tokens: u64, columns: Option<&[f32]>, damping: f64) -> Option<Self> {
        let n = gram.width();
        let scale = |j: usize| columns.map_or(1.0, |columns| 1.0 / f64::from(columns[j]));
        let whole = gram.mean(tokens);
        let value = |i: usize, j: usize| whole(i, j) * scale(i) * scale(j);
        let diagonal: Vec<f64> = (0..n).map(|j| value(j, j)).collect();
        let mean = diagonal.iter().sum::<f64>() / n.max(1) as f64;
        if !mean.is_finite() || mean <= 0.0 {
            return None;
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]).then(a.cmp(b)));
        // Lower Cholesky of the matrix in reverse order is the upper factor in order.
        let mut damping = damping;
        while damping <= 1.0 {
            let mut lower = vec![0.0; n * n];
            lower.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
                let a = order[n - 1 - i];
                for (j, cell) in row[..=i].iter_mut().enumerate() {
                    *cell = value(a, order[n - 1 - j]);
                }
                row[i] += damping * mean;
            });
            if cholesky(kernels, &mut lower, n) {
                return Some(Self::from_lower(order, &lower));
            }
            damping = (damping * 10.0).max(1e-4);
        }
        None
    }

    fn from_lower(order: Vec<usize>, lower: &[f64]) -> Self {
        let n = order.len();
        // R_jk = L[n-1-j][n-1-k].
        let entry = |j: usize, k: usize| lower[(n - 1 - j) * n + (n - 1 - k)];
        let mut ratios = Vec::with_capacity(n * n.saturating_sub(1) / 2);
        for k in 0..n {
            let pivot = entry(k, k);
            ratios.extend((0..k).map(|j| (entry(j, k) / pivot) as f32));
        }
        let diagonal = (0..n).map(|k| entry(k, k) as f32).collect();
        Self { order, ratios, diagonal }
    }

    /// Bytes that factoring a matrix of that width takes.
    #[must_use]
    pub const fn bytes_needed(width: usize) -> usize {
        10 * width * width
    }

    /// The columns' order, and what earlier errors add to later columns.
    #[must_use]
    pub fn triangle(&self) -> Triangle<'_> {
        Triangle { order: &self.order, ratios: &self.ratios, diagonal: &self.diagonal }
    }
}

/// Replaces the lower triangle of a matrix by its Cholesky factor; `false` where it is not positive definite.
fn cholesky(kernels: &Kernels, a: &mut [f64], n: usize) -> bool {
    let mut panel = Vec::new();
    for start in (0..n).step_by(PANEL) {
        let end = (start + PANEL).min(n);
        let width = end - start;
        for i in start..end {
            for j in start..=i {
                let sum = a[i * n + j] - dot(&a[i * n + start..i * n + j], &a[j * n + start..j * n + j]);
                if i > j {
                    a[i * n + j] = sum / a[j * n + j];
                } else if sum > 0.0 && sum.is_finite() {
                    a[i * n + i] = sum.sqrt();
                } else {
                    return false;
                }
            }
        }
        let (head, below) = a.split_at_mut(end * n);
        let head = &head[start * n..];
        below.par_chunks_mut(n).for_each(|row| {
            for j in 0..width {
                let sum = row[start + j] - dot(&row[start..start + j], &head[j * n + start..j * n + start + j]);
                row[start + j] = sum / head[j * n + start + j];
            }
        });
        panel.clear();
        below.chunks(n).for_each(|row| panel.extend_from_slice(&row[start..end]));
        below.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            let (own, rest) = row.split_at_mut(end);
            kernels.subtract_products(&own[start..], &panel[..(i + 1) * width], &mut rest[..=i]);
        });
    }
    true
}

/// A sum of products in eight lanes, added in a fixed order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::Factor;
    use crate::stats::Gram;
    use reweight_kernels::{COMPENSATED_ROWS as LANES, CompensatedRows, Grid, ScaleFormat, best, supported};

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// Inputs whose channels are mixtures of a few sources, so that they correlate.
    fn inputs(n: usize, tokens: usize) -> Vec<f32> {
        let (sources, mix, own) = (noise(tokens * 5, 1), noise(5 * n, 2), noise(tokens * n, 3));
        (0..tokens * n)
            .map(|i| {
                let (t, c) = (i / n, i % n);
                let shared: f32 = (0..5).map(|s| sources[t * 5 + s] * mix[s * n + c]).sum();
                (shared + 0.2 * own[i]) * (1.0 + (c % 7) as f32)
            })
            .collect()
    }

    #[test]
    fn the_error_is_that_of_the_outputs_and_less_than_that_of_the_nearest_codes() {
        let (n, tokens, group) = (150, 400, 32);
        let x = inputs(n, tokens);
        let mut gram = Gram::zeros(n);
        gram.add_rows(best(), &x);
        let factor = Factor::of(best(), &gram, tokens as u64, None, 0.0).expect("the inputs have full rank");
        let grid = Grid::new(3, false, ScaleFormat::F32).expect("three bits are a grid");
        let mut lanes = CompensatedRows::new(n, n.div_ceil(group));
        let w = noise(n * LANES, 4);
        for (j, weights) in lanes.weights.iter_mut().enumerate() {
            weights.copy_from_slice(&w[j * LANES..][..LANES]);
        }
        lanes.scales.fill([2.0 / 7.0; LANES]);
        lanes.zeros.fill([3.0; LANES]);
        let value = |code: u8| (f32::from(code) - 3.0) * (2.0 / 7.0);
        let output_error = |differences: &[[f32; LANES]], r: usize| -> f64 {
            let rows = x.chunks_exact(n);
            let errors = rows.map(|x| x.iter().zip(differences).map(|(x, d)| f64::from(x * d[r])).sum::<f64>());
            errors.map(|error| error * error).sum::<f64>() / tokens as f64
        };
        let found = best().round_compensated(grid, group, factor.triangle(), &mut lanes);
        for kernels in supported() {
            let mut other = lanes.clone();
            other.codes.fill([9; LANES]);
            let again = kernels.round_compensated(grid, group, factor.triangle(), &mut other);
            assert_eq!(again.map(f64::to_bits), found.map(f64::to_bits), "{kernels:?}");
            assert_eq!(other.codes, lanes.codes, "{kernels:?}");
        }
        let differences: Vec<[f32; LANES]> = lanes
            .weights
            .iter()
            .zip(&lanes.codes)
            .map(|(w, codes)| std::array::from_fn(|r| w[r] - value(codes[r])))
            .collect();
        let nearest: Vec<[f32; LANES]> = lanes
            .weights
            .iter()
            .map(|w| w.map(|w| w - value((w * 3.5 + 3.0).round_ties_even().clamp(0.0, 7.0) as u8)))
            .collect();
        let again = best().compensated_error(factor.triangle(), &differences, &mut lanes);
        let of_nearest = best().compensated_error(factor.triangle(), &nearest, &mut lanes);
        let mut sums = [0.0; 2];
        for r in 0..LANES {
            let exact = output_error(&differences, r);
            assert!((found[r] - exact).abs() < 1e-3 * exact, "{r}: {} and {exact}", found[r]);
            assert!((again[r] - exact).abs() < 1e-3 * exact, "{r}: {} and {exact}", again[r]);
            let exact = output_error(&nearest, r);
            assert!((of_nearest[r] - exact).abs() < 1e-3 * exact, "{r}: {} and {exact}", of_nearest[r]);
            sums[0] += found[r];
            sums[1] += of_nearest[r];
        }
        assert!(sums[0] < 0.5 * sums[1], "{sums:?}");
    }

    #[test]
    fn columns_that_never_fire_do_no_harm() {
        let n = 70;
        let mut x = inputs(n, 30);
        x.chunks_exact_mut(n).for_each(|row| row[3] = 0.0);
        let mut gram = Gram::zeros(n);
        gram.add_rows(best(), &x);
        let factor = Factor::of(best(), &gram, 30, None, 0.01).expect("damping makes it definite");
        assert!(factor.ratios.iter().chain(&factor.diagonal).all(|value| value.is_finite()));
        assert!(Factor::of(best(), &Gram::zeros(n), 30, None, 0.01).is_none());
    }
}
