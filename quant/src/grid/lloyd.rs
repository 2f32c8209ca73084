//! A codebook of a few levels for each tensor (Lloyd 1982, "Least squares quantization in PCM"): levels are the means of the values nearest to
//! them, bounds lie half way between levels, turn by turn until nothing moves.
//!
//! Values are taken as shares of their group's largest magnitude, and where scales are searched, then as multiples of the scales found, twice.
//! A value weighs as much as its error will: the square of its scale, times the mean square of its input channel where statistics are given.
//! The fit runs over a histogram of 8192 bins, filled in a fixed order.

use rayon::prelude::*;
use reweight_kernels::Kernels;

use super::fit;
use super::table::Table;
use crate::store::Weight;

/// Bins of a histogram.
const N_BINS: usize = 8192;

/// The histogram goes from minus to plus this; what lies beyond counts at its ends.
const REACH: f32 = 2.0;

/// Elements that are looked at, about; more than enough for sixteen levels.
const SAMPLE: usize = 1 << 21;

/// Parts that are counted apart and added in order.
const N_PARTS: usize = 16;

/// Most turns; a hundred are enough for most tensors.
const N_TURNS: usize = 500;

/// The least scale as a share of the largest magnitude.
pub(super) const LEAST: f32 = 0.6;

/// Rounds of searching scales for the levels, and levels for the scales; the best levels seen are taken.
const N_ROUNDS: usize = 2;

/// Weights and weighted values by bin, and what the levels that the scales were found for leave.
struct Histogram {
    error: f64,
    mass: Vec<f64>,
    moment: Vec<f64>,
}

/// The levels of a tensor, ascending. `moments` are of the columns.
pub(super) fn fit(
    kernels: &Kernels,
    weight: &Weight,
    (bits, group): (u8, usize),
    moments: Option<&[f32]>,
    searched: bool,
) -> Vec<f32> {
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let by_largest = |values: &[f32], _: Option<&[f32]>| (largest(values), 0.0);
    let mut levels = settle(&count(kernels, weight, group, moments, &by_largest), bits);
    if !searched {
        return levels;
    }
    let mut best = (levels.clone(), f64::INFINITY);
    for _ in 0..=N_ROUNDS {
        let table = Table::nearest(levels.clone());
        let found = |values: &[f32], weights: Option<&[f32]>| match largest(values) {
            0.0 => (0.0, 0.0),
            base => {
                let scale = fit::scale(&table, (base, LEAST * base), values, weights);
                (scale, table.sums(scale, values, weights).error)
            }
        };
        let histogram = count(kernels, weight, group, moments, &found);
        if histogram.error < best.1 {
            best = (levels, histogram.error);
        }
        levels = settle(&histogram, bits);
    }
    best.0
}

/// The scale of some values with their weights, and what it leaves.
type ScaleOf<'a> = dyn Fn(&[f32], Option<&[f32]>) -> (f32, f64) + Sync + 'a;

/// Counts what groups are as multiples of their scales, which come with what they leave.
fn count(kernels: &Kernels, weight: &Weight, group: usize, moments: Option<&[f32]>, scale: &ScaleOf<'_>) -> Histogram {
    let (rows, columns) = (weight.rows(), weight.columns());
    let step = (rows * columns).div_ceil(SAMPLE).max(1);
    let taken = rows.div_ceil(step);
    let one = |part: usize| {
        let mut histogram = Histogram::new();
        let mut row = vec![0.0; columns];
        for at in (part * taken / N_PARTS..(part + 1) * taken / N_PARTS).map(|index| index * step) {
            weight.read_rows(kernels, at..at + 1, &mut row);
            // Quantizing will name what is not a number.
            if kernels.first_non_finite(&row).is_none() {
                for (index, values) in row.chunks(group).enumerate() {
                    let weights = moments.map(|moments| &moments[index * group..index * group + values.len()]);
                    let (scale, error) = scale(values, weights);
                    histogram.error += error;
                    histogram.add(values, weights, scale);
                }
            }
        }
        histogram
    };
    let parts: Vec<Histogram> = (0..N_PARTS).into_par_iter().map(one).collect();
    let mut total = Histogram::new();
    for part in parts {
        total.error += part.error;
        total.mass.iter_mut().zip(part.mass).for_each(|(total, mass)| *total += mass);
        total.moment.iter_mut().zip(part.moment).for_each(|(total, moment)| *total += moment);
    }
    total
}

impl Histogram {
    fn new() -> Self {
        Self { error: 0.0, mass: vec![0.0; N_BINS], moment: vec![0.0; N_BINS] }
    }

    fn add(&mut self, values: &[f32], weights: Option<&[f32]>, scale: f32) {
        if scale == 0.0 {
            return;
        }
        let square = f64::from(scale) * f64::from(scale);
        for (index, value) in values.iter().enumerate() {
            let place = value / scale;
            let bin = (((place + REACH) * (N_BINS as f32 / (2.0 * REACH))) as usize).min(N_BINS - 1);
            let mass = square * weights.map_or(1.0, |weights| f64::from(weights[index]));
            self.mass[bin] += mass;
            self.moment[bin] += mass * f64::from(place);
        }
    }
}

/// Levels for a histogram: at first where they are dense as the cube root of the mass (Panter and Dite 1951), then turn by turn.
fn settle(histogram: &Histogram, bits: u8) -> Vec<f32> {
    let n = 1_usize << bits;
    let center = |bin: usize| f64::from(2.0 * REACH) * (bin as f64 + 0.5) / N_BINS as f64 - f64::from(REACH);
    let density: f64 = histogram.mass.iter().map(|mass| mass.cbrt()).sum();
    if density == 0.0 || !density.is_finite() {
        return (0..n).map(|level| (2 * level) as f32 / (n - 1) as f32 - 1.0).collect();
    }
    let mut levels = Vec::with_capacity(n);
    let mut below = 0.0;
    for (bin, mass) in histogram.mass.iter().enumerate() {
        below += mass.cbrt();
        while levels.len() < n && below >= density * (levels.len() as f64 + 0.5) / n as f64 {
            levels.push(center(bin));
        }
    }
    levels.resize(n, center(N_BINS - 1));
    let (mass, moment) = (sums_below(&histogram.mass), sums_below(&histogram.moment));
    for _ in 0..N_TURNS {
        if turn(&mass, &moment, &mut levels) < 1e-9 {
            break;
        }
    }
    levels.into_iter().map(|level| level as f32).collect()
}

/// Sums over all bins below each.
fn sums_below(bins: &[f64]) -> Vec<f64> {
    let sums = bins.iter().scan(0.0, |sum, bin| {
        *sum += bin;
        Some(*sum)
    });
    std::iter::once(0.0).chain(sums).collect()
}

/// One turn; returns how far the levels moved at most. Bins that a bound cuts count in part: else levels come to rest too early.
fn turn(mass: &[f64], moment: &[f64], levels: &mut [f64]) -> f64 {
    let at = |sums: &[f64], place: f64| {
        let bins = ((place + f64::from(REACH)) * N_BINS as f64 / f64::from(2.0 * REACH)).clamp(0.0, N_BINS as f64);
        let bin = (bins as usize).min(N_BINS - 1);
        sums[bin] + (sums[bin + 1] - sums[bin]) * (bins - bin as f64)
    };
    let between = levels.windows(2).map(|pair| f64::midpoint(pair[0], pair[1]));
    let ends: Vec<[f64; 2]> =
        between.chain([f64::INFINITY]).map(|place| [at(mass, place), at(moment, place)]).collect();
    let (mut start, mut moved) = ([0.0; 2], 0.0_f64);
    for (level, end) in levels.iter_mut().zip(ends) {
        let own = end[0] - start[0];
        if own > 0.0 {
            let mean = (end[1] - start[1]) / own;
            moved = moved.max((mean - *level).abs());
            *level = mean;
        }
        start = end;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The optimum of a normal distribution: Max 1960, "Quantizing for minimum distortion", table I.
    #[test]
    fn levels_of_a_normal_distribution_are_those_of_the_literature() {
        const FOUR: [f32; 4] = [-1.510, -0.4528, 0.4528, 1.510];
        const EIGHT: [f32; 8] = [-2.152, -1.344, -0.7560, -0.2451, 0.2451, 0.7560, 1.344, 2.152];
        let unit = 0.25;
        let mut histogram = Histogram::new();
        for bin in 0..N_BINS {
            let place = f64::from(2.0 * REACH) * (bin as f64 + 0.5) / N_BINS as f64 - f64::from(REACH);
            histogram.mass[bin] = (-0.5 * (place / unit).powi(2)).exp();
            histogram.moment[bin] = histogram.mass[bin] * place;
        }
        for (bits, expected) in [(2, FOUR.as_slice()), (3, EIGHT.as_slice())] {
            let found = settle(&histogram, bits);
            for (found, expected) in found.iter().zip(expected) {
                // Four digits are printed there; a bin is 0.002 of the deviation.
                assert!((found / unit as f32 - expected).abs() < 2e-3, "{found} {expected}");
            }
        }
    }

    #[test]
    fn nothing_to_fit_gives_levels_all_the_same() {
        let histogram = Histogram::new();
        let found = settle(&histogram, 2);
        let expected = [-1.0, -1.0 / 3.0, 1.0 / 3.0, 1.0];
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
    }
}
