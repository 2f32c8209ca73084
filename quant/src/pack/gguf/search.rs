//! Ranges of one block with the least weighted squared error. What both kinds of block search in.
//!
//! A candidate range gives codes; for those codes the best scale (and minimum) is a weighted least-squares fit. The error that
//! decides is that of what will be stored. Rounding to nearest on the whole range is always a candidate.

use half::f16;

/// Candidates for a symmetric scale, on each side of the range that just holds the largest value, in tenths of a code.
const SYMMETRIC_STEPS: i32 = 9;
/// Candidates for an affine range, each a twentieth of a code wider than the last.
const AFFINE_STEPS: i32 = 36;
/// The narrowest affine range tried, in codes off the whole.
const AFFINE_FIRST: f32 = -0.9;

/// Values of a block and how much their errors matter.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) x: &'a [f32],
    pub(super) w: &'a [f32],
}

/// How hard to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// The whole range.
    Nearest,
    /// Every candidate.
    Search,
}

/// As a finite f16, which is what scales of blocks are stored as.
pub(super) fn stored(value: f32) -> f32 {
    f16::from_f32(value.clamp(-65504.0, 65504.0)).to_f32()
}

/// The bytes of a number that [`stored`] gave.
pub(super) fn f16_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// The nearest code within bounds; zero where the scale is none.
pub(super) fn code(value: f32, inverse: f32, low: i32, high: i32) -> i32 {
    let nearest = (value * inverse).round_ties_even();
    (nearest as i32).clamp(low, high)
}

/// `1 / value`, or 0 for 0.
pub(super) fn inverse(value: f32) -> f32 {
    let inverse = 1.0 / value;
    if inverse.is_finite() { inverse } else { 0.0 }
}

impl Block<'_> {
    /// Error of codes `low..=high` times a scale.
    pub(super) fn symmetric_error(&self, scale: f32, low: i32, high: i32) -> f32 {
        let inverse = inverse(scale);
        self.x.iter().zip(self.w).fold(0.0, |sum, (&x, &w)| {
            let difference = scale * code(x, inverse, low, high) as f32 - x;
            sum + w * difference * difference
        })
    }

    /// Error of codes `0..=high` times a scale, plus a minimum.
    pub(super) fn affine_error(&self, scale: f32, minimum: f32, high: i32) -> f32 {
        let inverse = inverse(scale);
        self.x.iter().zip(self.w).fold(0.0, |sum, (&x, &w)| {
            let difference = scale * code(x - minimum, inverse, 0, high) as f32 + minimum - x;
            sum + w * difference * difference
        })
    }

    /// The scale for codes `low..=high` (`-low` is the larger), rounded by `round`, and its error.
    pub(super) fn symmetric(&self, low: i32, high: i32, effort: Effort, round: impl Fn(f32) -> f32) -> (f32, f32) {
        let largest = self.x.iter().fold(0.0_f32, |most, x| if x.abs() > most.abs() { *x } else { most });
        if largest == 0.0 {
            return (0.0, 0.0);
        }
        let mut best = (0.0, f32::INFINITY);
        let mut consider = |scale: f32| {
            let scale = round(scale);
            let error = self.symmetric_error(scale, low, high);
            if error < best.1 {
                best = (scale, error);
            }
        };
        consider(largest / low as f32);
        if effort == Effort::Search {
            for side in [low as f32, high as f32] {
                for step in -SYMMETRIC_STEPS..=SYMMETRIC_STEPS {
                    let inverse = inverse(largest) * (side + side.signum() * 0.1 * step as f32);
                    if let Some(scale) = self.fit_symmetric(inverse, low, high) {
                        consider(scale);
                    }
                }
            }
        }
        if best.1.is_finite() { best } else { (0.0, self.symmetric_error(0.0, low, high)) }
    }

    /// The least-squares scale of the codes that an inverse scale gives.
    fn fit_symmetric(&self, inverse: f32, low: i32, high: i32) -> Option<f32> {
        let (mut xq, mut qq) = (0.0, 0.0);
        for (&x, &w) in self.x.iter().zip(self.w) {
            let q = code(x, inverse, low, high) as f32;
            xq += w * x * q;
            qq += w * q * q;
        }
        (qq > 0.0).then(|| xq / qq)
    }

    /// Scale and minimum for codes `0..=high`, rounded by `round`, and their error. With `min_negative` the minimum is at most 0.
    pub(super) fn affine(
        &self,
        high: i32,
        min_negative: bool,
        effort: Effort,
        round: impl Fn(f32, f32) -> (f32, f32),
    ) -> (f32, f32) {
        let bound = if min_negative { 0.0 } else { f32::INFINITY };
        let low = self.x.iter().copied().fold(f32::INFINITY, f32::min).min(bound);
        let top = self.x.iter().copied().fold(f32::NEG_INFINITY, f32::max).max(low);
        let mut best = (0.0, low, f32::INFINITY);
        let mut consider = |scale: f32, minimum: f32| {
            let (scale, minimum) = round(scale, minimum);
            let error = self.affine_error(scale, minimum, high);
            if error < best.2 {
                best = (scale, minimum, error);
            }
        };
        consider((top - low) / high as f32, low);
        if effort == Effort::Search && top > low {
            for step in 0..=AFFINE_STEPS {
                let inverse = (AFFINE_FIRST + 0.05 * step as f32 + high as f32) / (top - low);
                if let Some((scale, minimum)) = self.fit_affine(inverse, low, high, min_negative) {
                    consider(scale, minimum);
                }
            }
        }
        (best.0, best.1)
    }

    /// The least-squares scale and minimum of the codes that a range gives.
    fn fit_affine(&self, inverse: f32, low: f32, high: i32, min_negative: bool) -> Option<(f32, f32)> {
        let [mut w_sum, mut x_sum, mut q_sum, mut xq, mut qq] = [0.0_f32; 5];
        for (&x, &w) in self.x.iter().zip(self.w) {
            let q = code(x - low, inverse, 0, high) as f32;
            w_sum += w;
            x_sum += w * x;
            q_sum += w * q;
            xq += w * x * q;
            qq += w * q * q;
        }
        let determinant = w_sum * qq - q_sum * q_sum;
        if determinant <= 0.0 {
            return None;
        }
        let scale = (w_sum * xq - x_sum * q_sum) / determinant;
        let minimum = (qq * x_sum - q_sum * xq) / determinant;
        if min_negative && minimum > 0.0 {
            return (qq > 0.0).then(|| (xq / qq, 0.0));
        }
        (scale > 0.0).then_some((scale, minimum))
    }
}
