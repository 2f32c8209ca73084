//! Reductions over slices: extent, squared error, the first value that is not finite.

use crate::lanes::{Chunks, LANES, Lanes, chunks};

/// The smallest and the largest value of a slice. Zero is reported as `+0`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// The least value.
    pub min: f32,
    /// The greatest value.
    pub max: f32,
}

impl Extent {
    /// The largest magnitude.
    #[must_use]
    pub const fn abs_max(self) -> f32 {
        self.min.abs().max(self.max.abs())
    }
}

/// Lanes whose least and greatest are those of the values and zero.
#[inline(always)]
pub(crate) fn extent_lanes<S: Lanes>(s: S, values: &[f32]) -> (S::F, S::F) {
    let (mut lo, mut hi) = (s.splat(0.0), s.splat(0.0));
    let Chunks { full, tail } = chunks(values);
    for v in full {
        let v = s.load(v);
        lo = s.min(v, lo);
        hi = s.max(v, hi);
    }
    if let Some(tail) = &tail {
        let v = s.load(tail);
        lo = s.min(v, lo);
        hi = s.max(v, hi);
    }
    (lo, hi)
}

#[inline(always)]
pub(crate) fn extent<S: Lanes>(s: S, values: &[f32]) -> Option<Extent> {
    let first = *values.first()?;
    let (mut lo, mut hi) = (s.splat(first), s.splat(first));
    let (full, rest) = values.as_chunks::<LANES>();
    for v in full {
        let v = s.load(v);
        lo = s.min(v, lo);
        hi = s.max(v, hi);
    }
    if !rest.is_empty() {
        let mut tail = [first; LANES];
        tail[..rest.len()].copy_from_slice(rest);
        let v = s.load(&tail);
        lo = s.min(v, lo);
        hi = s.max(v, hi);
    }
    // Which of -0 and +0 wins a comparison depends on their order; adding +0 gives +0 for both.
    Some(Extent { min: s.least(lo) + 0.0, max: s.greatest(hi) + 0.0 })
}

/// Block in which a value that is not finite is looked for one by one.
const FINITE_BLOCK: usize = 16 * LANES;

#[inline(always)]
pub(crate) fn first_non_finite<S: Lanes>(s: S, values: &[f32]) -> Option<usize> {
    let (blocks, _) = values.as_chunks::<FINITE_BLOCK>();
    let mut start = 0;
    for block in blocks {
        // x - x is +0 for a finite x and NaN otherwise, and a NaN stays in its lane.
        let mut acc = [s.splat(0.0); 4];
        for four in block.as_chunks::<LANES>().0.as_chunks::<4>().0 {
            for (acc, v) in acc.iter_mut().zip(four) {
                let v = s.load(v);
                *acc = s.add(*acc, s.sub(v, v));
            }
        }
        if s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3]))) != 0.0 {
            break;
        }
        start += FINITE_BLOCK;
    }
    values[start..].iter().position(|x| !x.is_finite()).map(|i| start + i)
}

/// One group's sum of `(a - b)^2 * weight`.
#[inline(always)]
fn group_error<S: Lanes, const WEIGHTED: bool>(s: S, a: &[f32], b: &[f32], weights: &[f32]) -> f32 {
    let mut acc = s.splat(0.0);
    let (ca, cb, cw) = (chunks(a), chunks(b), chunks(weights));
    for ((a, b), w) in ca.full.iter().zip(cb.full).zip(cw.full) {
        acc = s.add(acc, weighted_square::<S, WEIGHTED>(s, s.sub(s.load(a), s.load(b)), w));
    }
    if let (Some(a), Some(b), Some(w)) = (&ca.tail, &cb.tail, &cw.tail) {
        acc = s.add(acc, weighted_square::<S, WEIGHTED>(s, s.sub(s.load(a), s.load(b)), w));
    }
    s.sum(acc)
}

/// `(d * d) * weight`, or `d * d`.
#[inline(always)]
pub(crate) fn weighted_square<S: Lanes, const WEIGHTED: bool>(s: S, d: S::F, weight: &[f32; LANES]) -> S::F {
    let square = s.mul(d, d);
    if WEIGHTED { s.mul(square, s.load(weight)) } else { square }
}

#[inline(always)]
pub(crate) fn squared_error<S: Lanes>(s: S, group: usize, a: &[f32], b: &[f32], weights: Option<&[f32]>) -> f64 {
    let mut total = 0.0;
    let groups = a.chunks(group).zip(b.chunks(group));
    // Without weights the values stand in for them, unread.
    for ((a, b), w) in groups.zip(weights.unwrap_or(a).chunks(group)) {
        total += f64::from(if weights.is_some() {
            group_error::<S, true>(s, a, b, w)
        } else {
            group_error::<S, false>(s, a, b, w)
        });
    }
    total
}
