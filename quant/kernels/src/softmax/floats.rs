//! What softmax needs of an instruction set beyond [`Lanes`], and the exponential written over it.
//!
//! Tables differ in the last places here: a product and a sum are fused where the machine can. Each is within 2.5 ULP
//! of the exact exponential.

use crate::lanes::{LANES, Lanes};

/// A vector of the lanes that a token stands on.
pub(super) type Vector<S> = <<S as Floats>::L as Lanes>::F;

/// A token that adds to those of [`Lanes`].
pub(crate) trait Floats: Copy {
    /// The token it stands on.
    type L: Lanes;
    /// Vectors that are worked on together: as many as registers hold. A power of two, at most 8.
    const GROUP: usize;

    /// The token it stands on.
    fn lanes(self) -> Self::L;
    /// `a * b + c`, rounded once or twice.
    fn mul_add(self, a: Vector<Self>, b: Vector<Self>, c: Vector<Self>) -> Vector<Self>;
    /// To the nearest integer. Infinities and NaN stay.
    fn round(self, x: Vector<Self>) -> Vector<Self>;
    /// `x - n ln 2` for `n` the integer nearest to `x / ln 2`, below 2^16, to an ULP.
    fn reduce(self, x: Vector<Self>, n: Vector<Self>) -> Vector<Self>;
    /// `p * 2^n` for an integer `n` of at most 0; may be 0 from `n` = -127 down.
    fn scale(self, p: Vector<Self>, n: Vector<Self>) -> Vector<Self>;
    /// Stores around the caches where `to` lies on a line of 64 bytes, else plainly. [`Floats::fence`] goes after the last.
    fn stream(self, v: Vector<Self>, to: &mut [f32; LANES]);
    /// Orders what was streamed before what is stored later.
    fn fence(self);
}

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Coefficients of t to t^5 in exp(t) over half an octave around 0; those of `XNNPACK`'s kernels (`f32-raddextexp`).
const C: [f32; 5] = [
    f32::from_bits(0x3F7F_FFFB),
    f32::from_bits(0x3EFF_FEE3),
    f32::from_bits(0x3E2A_AD40),
    f32::from_bits(0x3D2B_9D0D),
    f32::from_bits(0x3C07_CFCE),
];

/// The pair (p, n) with exp(x) = p * 2^n, p between 0.7 and 1.42. Infinite and NaN give a `p` of NaN.
#[inline(always)]
pub(super) fn exp_pair<S: Floats>(s: S, x: Vector<S>) -> (Vector<S>, Vector<S>) {
    let l = s.lanes();
    let n = s.round(l.mul(x, l.splat(LOG2_E)));
    let t = s.reduce(x, n);
    let mut p = l.splat(C[4]);
    for c in [C[3], C[2], C[1], C[0], 1.0] {
        p = s.mul_add(p, t, l.splat(c));
    }
    (p, n)
}

/// exp(x) for x up to 0; what is below -110 counts as -110, which gives 0. NaN stays.
#[inline(always)]
pub(super) fn exp<S: Floats>(s: S, x: Vector<S>) -> Vector<S> {
    let l = s.lanes();
    // The order of the operands keeps a NaN.
    let (p, n) = exp_pair(s, l.max(l.splat(-110.0), x));
    s.scale(p, n)
}
