//! Softmax in plain Rust. Nothing is fused: without the instruction that would be a call of a function for each product.

use super::floats::Floats;
use super::table::SoftmaxKernels;
use super::{map, passes, short};
use crate::lanes::LANES;
use crate::scalar::Scalar;

type F = [f32; LANES];

/// Softmax of the scalar table.
pub(super) static SCALAR: SoftmaxKernels = SoftmaxKernels {
    table: "scalar",
    max: |x| passes::max(Scalar, x),
    sum_exp: |x, max| passes::sum_exp(Scalar, x, max),
    sum_below: |x, exponent| passes::sum_below(Scalar, x, exponent),
    store_below: |span, exponent| passes::store_below(Scalar, span, exponent),
    online: |x| passes::online(Scalar, x),
    pairs: |x| passes::pairs(Scalar, x),
    stable_sum: |x| passes::stable_sum(Scalar, x),
    map: |op, span, store| map::map(Scalar, op, span, store),
    short_rows: |source, row_len, together, out| short::short_rows(Scalar, source, row_len, together, out),
    fence: || map::fence(Scalar),
};

impl Floats for Scalar {
    type L = Self;
    const GROUP: usize = 2;

    #[inline(always)]
    fn lanes(self) -> Self {
        self
    }

    #[inline(always)]
    fn mul_add(self, mut a: F, b: F, c: F) -> F {
        for ((a, b), c) in a.iter_mut().zip(&b).zip(&c) {
            *a = *a * b + c;
        }
        a
    }

    #[inline(always)]
    fn round(self, mut x: F) -> F {
        for x in &mut x {
            // Beyond 2^22 the sum would not round to an integer; such rows take another way, whatever is given here.
            *x = (*x + crate::lanes::MAGIC) - crate::lanes::MAGIC;
        }
        x
    }

    #[inline(always)]
    fn reduce(self, mut x: F, n: F) -> F {
        for (x, n) in x.iter_mut().zip(&n) {
            *x = (f64::from(*x) - f64::from(*n) * std::f64::consts::LN_2) as f32;
        }
        x
    }

    #[inline(always)]
    fn scale(self, mut p: F, n: F) -> F {
        for (p, n) in p.iter_mut().zip(&n) {
            let n = if *n > -127.0 { *n } else { -127.0 };
            // In the low bits of the sum lies n + 127, the exponent field of 2^n: 0 for the least, which makes it 0.
            *p *= f32::from_bits((n + (crate::lanes::MAGIC + 127.0)).to_bits() << 23);
        }
        p
    }

    #[inline(always)]
    fn power(self, mut shifted: F) -> F {
        for x in &mut shifted {
            *x = f32::from_bits(x.to_bits() << 23);
        }
        shifted
    }

    #[inline(always)]
    fn load_some(self, from: &[f32], fill: f32) -> F {
        let mut v = [fill; LANES];
        v[..from.len()].copy_from_slice(from);
        v
    }

    #[inline(always)]
    fn store_some(self, v: F, to: &mut [f32]) {
        to.copy_from_slice(&v[..to.len()]);
    }

    #[inline(always)]
    fn stream(self, v: F, to: &mut F) {
        *to = v;
    }

    #[inline(always)]
    fn fence(self) {}
}
