//! `StatsQ`, the weight quantizer of OFQ (Liu, Liu and Cheng 2023, "Oscillation-free Quantization for Low-bit Vision Transformers", arXiv
//! 2302.02210; nbasyl/OFQ, `src/quantization/quantizer/statsq.py`).
//!
//! With m the mean of |w| over the values that share a scale, at b bits and n = 2^(b-1):
//!
//! ```text
//! s = 2 m,  u = clamp(w / s, -1, 1 - 10^-6),  w^ = s (round(u n - 1/2) + 1/2) / n
//! ```
//!
//! The levels are the halves -n + 1/2 .. n - 1/2 times the step s / n: as many above zero as below, none of them zero. `round` takes ties to
//! even. Codes are k = round(w / step - 1/2), held in -n .. n - 1, plus n; at one bit the published code leaves that range where w is at or below
//! -s (round(-3/2) is -2), here it gets the lowest level as at any other width.
//!
//! The factor 2 does not depend on b: it is the best one at one bit, cuts off more than it should from two bits on, and was meant for weights that
//! are trained with it. `-fit` takes the factor from [`FACTORS`] by the shape of the data, or searches the scale.

use std::f32::consts::SQRT_2;

/// Ratio of the root mean square to the mean magnitude, and for 1 to 8 bits the factor of the least squared error: of exponential power
/// distributions with exponents 8, 3, 2 (Gaussian), 1.5, 1.2, 1 (Laplace), 0.8 and 0.6. Made by `tools/make-statsq-table.py`.
const FACTORS: [(f32, [f32; 8]); 8] = [
    (1.1656, [2.00, 2.05, 2.13, 2.23, 2.31, 2.39, 2.47, 2.53]),
    (1.2087, [2.00, 2.27, 2.56, 2.82, 3.07, 3.31, 3.53, 3.74]),
    (1.2533, [2.00, 2.50, 2.94, 3.36, 3.77, 4.17, 4.56, 4.94]),
    (1.3031, [2.00, 2.71, 3.33, 3.94, 4.55, 5.16, 5.76, 6.35]),
    (1.3569, [2.00, 2.90, 3.74, 4.56, 5.40, 6.26, 7.13, 8.00]),
    (SQRT_2, [2.00, 3.08, 4.13, 5.22, 6.34, 7.50, 8.70, 9.93]),
    (1.5062, [2.00, 3.31, 4.72, 6.24, 7.87, 9.60, 11.44, 13.37]),
    (1.6754, [2.00, 3.66, 5.65, 8.01, 10.72, 13.78, 17.14, 20.81]),
];

/// The levels before the scale, ascending.
pub(super) fn levels(bits: u8) -> Vec<f32> {
    let half = half_levels(bits);
    (0..1_u16 << bits).map(|code| f32::from(code) + 0.5 - half).collect()
}

/// n = 2^(b-1).
pub(super) fn half_levels(bits: u8) -> f32 {
    f32::from(1_u8 << (bits - 1))
}

/// The step of the paper: 2 m / n, the mean summed in f64 and rounded once.
pub(super) fn step(bits: u8, values: &[f32]) -> f32 {
    2.0 * mean_magnitude(values) / half_levels(bits)
}

/// The step by [`FACTORS`], where the values are not all zero.
pub(super) fn fitted_step(bits: u8, values: &[f32]) -> f32 {
    let (mean, n) = (mean_magnitude(values), values.len() as f64);
    let square = values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>() / n;
    factor(bits, (square.sqrt() / f64::from(mean)) as f32) * mean / half_levels(bits)
}

/// Between the rows of the table, in proportion; its ends beyond them.
fn factor(bits: u8, shape: f32) -> f32 {
    let column = usize::from(bits - 1);
    let [first, .., last] = FACTORS;
    if shape.is_nan() || shape <= first.0 {
        return first.1[column];
    }
    for pair in FACTORS.windows(2) {
        let [(low, below), (high, above)] = [pair[0], pair[1]];
        if shape <= high {
            return below[column] + (above[column] - below[column]) * (shape - low) / (high - low);
        }
    }
    last.1[column]
}

/// The mean of |w|, summed in f64 in eight lanes and rounded once.
pub(super) fn mean_magnitude(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0_f64; 8];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += f64::from(value.abs()));
    }
    let sum = lanes.iter().sum::<f64>() + rest.iter().map(|value| f64::from(value.abs())).sum::<f64>();
    if values.is_empty() { 0.0 } else { (sum / values.len() as f64) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_lie_between_their_neighbours() {
        assert!((factor(3, 1.2533) - 2.94).abs() < 1e-6);
        assert!((factor(2, 1.38555) - 2.99).abs() < 1e-3);
        let ends = [(factor(4, 1.0), 2.23), (factor(4, 9.0), 8.01), (factor(1, 1.3), 2.0)];
        assert!(ends.iter().all(|(found, expected)| found.to_bits() == f32::to_bits(*expected)), "{ends:?}");
        assert!(factor(4, f32::NAN).is_finite());
    }

    #[test]
    fn levels_are_halves_about_zero() {
        assert_eq!(levels(1), [-0.5, 0.5]);
        assert_eq!(levels(2), [-1.5, -0.5, 0.5, 1.5]);
        assert_eq!((levels(8)[0], levels(8)[255], levels(8).len()), (-127.5, 127.5, 256));
    }
}
