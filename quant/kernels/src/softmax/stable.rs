//! `StableMax` (Prieto, Barsbey, Mediano & Birdal, arXiv 2501.04697, equation 7): s(x) = x + 1 from 0 up and 1 / (1 - x)
//! below stands where softmax has the exponential. It cannot overflow before x does, so nothing is subtracted first.

use super::floats::{Floats, Vector};
use super::span::{Source, Span};
use crate::lanes::Lanes;

/// s(x). -inf gives 0, +inf gives +inf.
#[inline(always)]
pub(super) fn s<S: Floats>(s: S, x: Vector<S>) -> Vector<S> {
    let l = s.lanes();
    let one = l.splat(1.0);
    l.where_positive(x, l.add(x, one), l.div(one, l.sub(one, x)))
}

/// ln s(x) = sign(x) ln(1 + |x|), less `log`: in f64, one element after the other.
#[inline(always)]
pub(super) fn log(span: Span<'_>, log: f64) {
    let Span { source, out } = span;
    let of = |x: f32| {
        let x = f64::from(x);
        (x.abs().ln_1p().copysign(x) - log) as f32
    };
    match source {
        None => out.iter_mut().for_each(|x| *x = of(*x)),
        Some(Source::F32(from)) => out.iter_mut().zip(from).for_each(|(out, x)| *out = of(*x)),
        Some(Source::Bf16(from)) => out
            .iter_mut()
            .zip(from.as_chunks::<2>().0)
            .for_each(|(out, x)| *out = of(half::bf16::from_le_bytes(*x).to_f32())),
        Some(Source::F16(from)) => out
            .iter_mut()
            .zip(from.as_chunks::<2>().0)
            .for_each(|(out, x)| *out = of(half::f16::from_le_bytes(*x).to_f32())),
    }
}
