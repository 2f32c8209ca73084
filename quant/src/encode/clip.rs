//! Ranges clipped by output error, as published with AWQ: values of a group beyond a share of its largest magnitude are cut off, if that
//! leaves less error in what the group adds to the outputs.
//!
//! The shares are 1, 0.95, .. 0.55 (mit-han-lab/llm-awq, `auto_clip.py`: 20 steps, at most half). It measures on 512 tokens; here the
//! Gram matrix of the group's inputs tells the same for all of them. Queries and keys are not clipped, there and here.

use reweight_kernels::{Kernels, RowCodes};

use crate::grid::Coder;
use crate::stats::InputStatistics;
use crate::store::Weight;

/// Shares that are tried, a twentieth apart.
const N_SHARES: usize = 10;

/// Parts of the names of layers that are left alone.
const UNCLIPPED: [&str; 5] = ["q_", "k_", "query", "key", "Wqkv"];

/// Mean of x x^T over the inputs of each group of columns.
#[derive(Clone, Debug)]
pub struct GroupGrams {
    group: usize,
    columns: usize,
    values: Vec<f32>,
}

impl GroupGrams {
    /// Of the scaled matrix; `None` for layers that are not clipped, and without a Gram matrix.
    #[must_use]
    pub fn of(input: &InputStatistics, weight: &Weight, group: usize) -> Option<Self> {
        let columns = weight.columns();
        if input.width() != columns || UNCLIPPED.iter().any(|part| weight.name.contains(part)) {
            return None;
        }
        let mean = input.gram.as_ref()?.mean(input.tokens);
        let factors = weight.scaling.as_ref().and_then(|scaling| scaling.columns());
        let factor = |j: usize| factors.map_or(1.0, |factors| f64::from(factors[j]));
        let mut values = Vec::with_capacity(columns * group);
        for first in (0..columns).step_by(group) {
            let group = first..(first + group).min(columns);
            for i in group.clone() {
                values.extend(group.clone().map(|j| (mean(i, j) / (factor(i) * factor(j))) as f32));
            }
        }
        Some(Self { group, columns, values })
    }

    /// The squared error that the errors of one group's weights leave in the output.
    fn error(&self, first: usize, differences: &[f32], products: &mut Vec<f32>) -> f64 {
        let n = differences.len();
        products.clear();
        products.resize(n, 0.0);
        for (difference, row) in differences.iter().zip(self.values[first * self.group..].chunks_exact(n)) {
            products.iter_mut().zip(row).for_each(|(sum, value)| *sum += difference * value);
        }
        products.iter().zip(differences).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }
}

/// Codes of a row whose groups are clipped where that helps.
pub(super) fn clip(
    kernels: &Kernels,
    (coder, group): (&Coder, usize),
    row: &[f32],
    grams: &GroupGrams,
    out: &mut RowCodes<'_>,
) {
    assert!(row.len() == grams.columns && group == grams.group, "the Gram matrices of the same groups");
    let (mut best, mut least) = (row.to_vec(), vec![f64::INFINITY; row.len().div_ceil(group)]);
    let (mut tried, mut found, mut products) = (row.to_vec(), vec![0.0; row.len()], Vec::new());
    for step in 0..N_SHARES {
        let share = 1.0 - step as f32 / 20.0;
        for (tried, row) in tried.chunks_mut(group).zip(row.chunks(group)) {
            let bound = row.iter().fold(0.0_f32, |most, value| most.max(value.abs())) * share;
            tried.iter_mut().zip(row).for_each(|(tried, value)| *tried = value.clamp(-bound, bound));
        }
        coder.rtn(kernels, group, &tried, None, out);
        coder.dequantize(kernels, group, (out.codes, out.scales, out.zeros), &mut found);
        found.iter_mut().zip(row).for_each(|(found, value)| *found -= value);
        for (index, least) in least.iter_mut().enumerate() {
            let columns = index * group..((index + 1) * group).min(row.len());
            let error = grams.error(columns.start, &found[columns.clone()], &mut products);
            if error < *least {
                *least = error;
                best[columns.clone()].copy_from_slice(&tried[columns]);
            }
        }
    }
    coder.rtn(kernels, group, &best, None, out);
}

#[cfg(test)]
mod tests {
    use reweight_kernels::{Grid, RowCodes, ScaleFormat, best};

    use crate::grid::Coder;

    use super::{GroupGrams, clip};

    /// One weight far out on a silent channel: cutting it off costs nothing and makes the steps of the others smaller.
    #[test]
    fn an_outlier_that_nobody_hears_is_cut_off() {
        let kernels = best();
        let (group, grid) = (8, Grid::new(3, false, ScaleFormat::F32).expect("a grid"));
        let row = [0.1, -0.2, 0.3, 1.0, -0.35, 0.25, -0.15, 0.05];
        let mut values = vec![0.0; group * group];
        (0..group).filter(|i| *i != 3).for_each(|i| values[i * group + i] = 1.0);
        let grams = GroupGrams { group, columns: group, values };
        let (mut codes, mut scales, mut zeros) = ([0; 8], [0.0; 1], [0; 1]);
        let mut out = RowCodes { codes: &mut codes, scales: &mut scales, zeros: &mut zeros };
        kernels.rtn(grid, group, &row, None, &mut out);
        let plain = out.scales[0];
        clip(kernels, (&Coder::on_integers(grid), group), &row, &grams, &mut out);
        assert!(out.scales[0] < plain, "{} is not below {plain}", out.scales[0]);
    }
}
