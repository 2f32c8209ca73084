//! What softmax needs of an instruction set beyond [`Lanes`], and the exponential written over it.
//!
//! Tables differ in the last places here: a product and a sum are fused where the machine can. Each is within 2.5 ULP
//! of the exact exponential.

use crate::lanes::{LANES, Lanes, MAGIC};

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
    /// 2^(k - 127) for `MAGIC + k`, k an integer from 0 (which gives 0) to 254.
    fn power(self, shifted: Vector<Self>) -> Vector<Self>;
    /// Up to sixteen values, and `fill` in the lanes after them.
    fn load_some(self, from: &[f32], fill: f32) -> Vector<Self>;
    /// As many of the lanes as there is room for.
    fn store_some(self, v: Vector<Self>, to: &mut [f32]);
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

/// exp(t) for t within half an octave of 0: between 0.7 and 1.42.
#[inline(always)]
fn mantissa<S: Floats>(s: S, t: Vector<S>) -> Vector<S> {
    let l = s.lanes();
    let mut p = l.splat(C[4]);
    for c in [C[3], C[2], C[1], C[0], 1.0] {
        p = s.mul_add(p, t, l.splat(c));
    }
    p
}

/// exp(x) as a mantissa and a power of two relative to a fixed one, `2^exponent`. Nothing is subtracted from x, so that an
/// exponential is as exact far below the largest as near it; and that power costs nothing, being part of the number whose
/// addition rounds.
#[derive(Clone, Copy)]
pub(super) struct Frame<V> {
    magic: V,
    least: V,
    most: V,
}

/// Exponents above that of a frame which it reaches, and below.
const ABOVE: f32 = 100.0;
const BELOW: f32 = 127.0;

impl<V: Copy> Frame<V> {
    /// For an integer exponent of magnitude below 2^15.
    #[inline(always)]
    pub(super) fn new<S: Floats>(s: S, exponent: f32) -> Self
    where
        S::L: Lanes<F = V>,
    {
        let v = |x| s.lanes().splat(x);
        let x_at = |n: f32| n * std::f32::consts::LN_2;
        Self { magic: v(MAGIC + 127.0 - exponent), least: v(x_at(exponent - BELOW)), most: v(x_at(exponent + ABOVE)) }
    }

    /// The mantissa p and the power f with exp(x) = p f 2^exponent, to 2.5 ULP. Far below the frame f is 0. x must not lie
    /// above it; NaN gives a `p` of NaN.
    #[inline(always)]
    pub(super) fn exp<S: Floats>(self, s: S, x: V) -> (V, V)
    where
        S::L: Lanes<F = V>,
    {
        let l = s.lanes();
        // The order of the operands keeps a NaN.
        let x = l.max(self.least, x);
        let shifted = s.mul_add(x, l.splat(LOG2_E), self.magic);
        let t = s.reduce(x, l.sub(shifted, self.magic));
        (mantissa(s, t), s.power(shifted))
    }

    /// The same for any x: what lies above the frame counts as 2^100, which a sum shows.
    #[inline(always)]
    pub(super) fn exp_within<S: Floats>(self, s: S, x: V) -> (V, V)
    where
        S::L: Lanes<F = V>,
    {
        self.exp(s, s.lanes().min(self.most, x))
    }
}

/// exp(x) for x up to 0; what is below -110 counts as -110, which gives 0. NaN stays.
#[inline(always)]
pub(super) fn exp<S: Floats>(s: S, x: Vector<S>) -> Vector<S> {
    let l = s.lanes();
    // The order of the operands keeps a NaN.
    let x = l.max(l.splat(-110.0), x);
    let n = s.round(l.mul(x, l.splat(LOG2_E)));
    s.scale(mantissa(s, s.reduce(x, n)), n)
}
