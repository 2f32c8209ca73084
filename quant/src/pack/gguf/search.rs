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

/// The nearest code within bounds, ties to even; zero where the scale is none.
pub(super) fn code(value: f32, inverse: f32, low: i32, high: i32) -> i32 {
    level(value, inverse, low as f32, high as f32) as i32
}

/// [`code`] as a float. Adding 1.5 * 2^23 leaves no bits below one; processors without a rounding instruction call a function
/// for `round_ties_even`, which made the search four times as slow.
fn level(value: f32, inverse: f32, low: f32, high: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    ((value * inverse).max(low).min(high) + SHIFT) - SHIFT
}

/// Sums over a block in eight lanes, folded by halves: one order whatever the machine, and one that vectors keep.
#[inline(always)]
fn sums<const K: usize>(block: &Block<'_>, term: impl Fn(f32, f32) -> [f32; K]) -> [f32; K] {
    const LANES: usize = 8;
    let mut lanes = [[0.0_f32; LANES]; K];
    for (x, w) in block.x.as_chunks::<LANES>().0.iter().zip(block.w.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            for (lanes, term) in lanes.iter_mut().zip(term(x[lane], w[lane])) {
                lanes[lane] += term;
            }
        }
    }
    lanes.map(|[a, b, c, d, e, f, g, h]| ((a + e) + (c + g)) + ((b + f) + (d + h)))
}

/// `1 / value`, or 0 for 0.
pub(super) fn inverse(value: f32) -> f32 {
    let inverse = 1.0 / value;
    if inverse.is_finite() { inverse } else { 0.0 }
}

impl Block<'_> {
    /// Error of codes `low..=high` times a scale.
    pub(super) fn symmetric_error(&self, scale: f32, low: i32, high: i32) -> f32 {
        let (inverse, low, high) = (inverse(scale), low as f32, high as f32);
        let [sum] = sums(self, |x, w| {
            let difference = scale * level(x, inverse, low, high) - x;
            [w * difference * difference]
        });
        sum
    }

    /// Error of codes `0..=high` times a scale, plus a minimum.
    pub(super) fn affine_error(&self, scale: f32, minimum: f32, high: i32) -> f32 {
        let (inverse, high) = (inverse(scale), high as f32);
        let [sum] = sums(self, |x, w| {
            let difference = scale * level(x - minimum, inverse, 0.0, high) + minimum - x;
            [w * difference * difference]
        });
        sum
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
        let (low, high) = (low as f32, high as f32);
        let [xq, qq] = sums(self, |x, w| {
            let q = level(x, inverse, low, high);
            [w * x * q, w * q * q]
        });
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
        // Where no candidate's error is finite, a block of the minimum as it can be stored.
        let (scale, minimum) = round(0.0, low);
        let mut best = (scale, minimum, f32::INFINITY);
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
        let high = high as f32;
        let [w_sum, x_sum, q_sum, xq, qq] = sums(self, |x, w| {
            let q = level(x - low, inverse, 0.0, high);
            [w, w * x, w * q, w * x * q, w * q * q]
        });
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
