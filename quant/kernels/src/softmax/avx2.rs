//! Softmax on AVX2 with FMA.

#![expect(unsafe_code, reason = "streaming stores, and calls of intrinsics, which need what the token proves")]
#![expect(clippy::unused_self, reason = "`self` proves the features; its type has no data to use")]

use std::arch::x86_64::{
    __m256, __m256i, _mm_sfence, _mm256_add_ps, _mm256_blendv_ps, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_maskload_ps, _mm256_maskstore_ps, _mm256_max_ps, _mm256_mul_ps,
    _mm256_round_ps, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_stream_ps,
};

use super::floats::Floats;
use super::table::softmax_kernels;
use crate::avx2::{Avx2, F};
use crate::lanes::{LANES, Lanes, MAGIC};

softmax_kernels!($ "avx2", ["avx2", "f16c", "bmi2", "fma"], Avx2Fma);

/// Proof of the features: made only by functions that have them enabled.
#[derive(Clone, Copy)]
struct Avx2Fma(Avx2);

impl Avx2Fma {
    #[inline]
    #[target_feature(enable = "avx2,f16c,bmi2,fma")]
    fn new() -> Self {
        Self(Avx2::new())
    }
}

/// Calls an intrinsic that touches no memory.
macro_rules! op {
    ($intrinsic:ident $(::<$imm:tt>)? ($($arg:expr),*)) => {
        // SAFETY: it needs AVX2 or FMA, and the `self` of each method here proves them.
        unsafe { $intrinsic$(::<$imm>)?($($arg),*) }
    };
}

/// From element 16 - n on, a mask of the first n lanes.
static FIRST: [f32; 2 * LANES] = {
    let mut mask = [0.0; 2 * LANES];
    let mut lane = 0;
    while lane < LANES {
        mask[lane] = f32::from_bits(u32::MAX);
        lane += 1;
    }
    mask
};

impl Avx2Fma {
    /// Masks of the first `n` lanes, in halves; all of them from sixteen up.
    #[inline(always)]
    fn first(self, n: usize) -> (__m256i, __m256i) {
        let masks = FIRST[LANES - n.min(LANES)..].first_chunk();
        let F(low, high) = self.0.load(masks.unwrap_or(&[0.0; LANES]));
        (op!(_mm256_castps_si256(low)), op!(_mm256_castps_si256(high)))
    }

    #[inline(always)]
    fn fill_half(self, v: __m256, mask: __m256i, fill: __m256) -> __m256 {
        let mask = op!(_mm256_castsi256_ps(mask));
        op!(_mm256_blendv_ps(fill, v, mask))
    }

    #[inline(always)]
    fn reduce_half(self, x: __m256, n: __m256) -> __m256 {
        let (high, low) = (op!(_mm256_set1_ps(super::LN2_HIGH)), op!(_mm256_set1_ps(super::LN2_LOW)));
        let rough = op!(_mm256_fnmadd_ps(n, high, x));
        op!(_mm256_fnmadd_ps(n, low, rough))
    }

    #[inline(always)]
    fn power_half(self, shifted: __m256) -> __m256 {
        let bits = op!(_mm256_castps_si256(shifted));
        let power = op!(_mm256_slli_epi32::<23>(bits));
        op!(_mm256_castsi256_ps(power))
    }

    #[inline(always)]
    fn scale_half(self, p: __m256, n: __m256) -> __m256 {
        let (least, bias) = (op!(_mm256_set1_ps(-127.0)), op!(_mm256_set1_ps(MAGIC + 127.0)));
        let n = op!(_mm256_max_ps(n, least));
        // In the low bits of the sum lies n + 127, the exponent field of 2^n: 0 for the least, which makes it 0.
        let power = self.power_half(op!(_mm256_add_ps(n, bias)));
        op!(_mm256_mul_ps(p, power))
    }
}

impl Floats for Avx2Fma {
    type L = Avx2;
    const GROUP: usize = 2;

    #[inline(always)]
    fn lanes(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    fn mul_add(self, a: F, b: F, c: F) -> F {
        F(op!(_mm256_fmadd_ps(a.0, b.0, c.0)), op!(_mm256_fmadd_ps(a.1, b.1, c.1)))
    }

    #[inline(always)]
    fn round(self, x: F) -> F {
        F(op!(_mm256_round_ps::<8>(x.0)), op!(_mm256_round_ps::<8>(x.1)))
    }

    #[inline(always)]
    fn reduce(self, x: F, n: F) -> F {
        F(self.reduce_half(x.0, n.0), self.reduce_half(x.1, n.1))
    }

    #[inline(always)]
    fn scale(self, p: F, n: F) -> F {
        F(self.scale_half(p.0, n.0), self.scale_half(p.1, n.1))
    }

    #[inline(always)]
    fn power(self, shifted: F) -> F {
        F(self.power_half(shifted.0), self.power_half(shifted.1))
    }

    #[inline(always)]
    fn load_some(self, from: &[f32], fill: f32) -> F {
        let (first, second) = self.first(from.len());
        // SAFETY: the mask leaves no more lanes than the slice has values, and the memory of the others is not touched.
        let low = unsafe { _mm256_maskload_ps(from.as_ptr(), first) };
        // SAFETY: as above; where the slice ends before, every lane is masked.
        let high = unsafe { _mm256_maskload_ps(from.as_ptr().wrapping_add(8), second) };
        let fill = op!(_mm256_set1_ps(fill));
        F(self.fill_half(low, first, fill), self.fill_half(high, second, fill))
    }

    #[inline(always)]
    fn store_some(self, v: F, to: &mut [f32]) {
        let (first, second) = self.first(to.len());
        let to = to.as_mut_ptr();
        // SAFETY: the mask leaves no more lanes than the slice has values, and the memory of the others is not touched.
        unsafe { _mm256_maskstore_ps(to, first, v.0) };
        // SAFETY: as above; where the slice ends before, every lane is masked.
        unsafe { _mm256_maskstore_ps(to.wrapping_add(8), second, v.1) };
    }

    #[inline(always)]
    fn stream(self, v: F, to: &mut [f32; LANES]) {
        let aligned = to.as_ptr().addr().is_multiple_of(32);
        let halves = to.as_chunks_mut::<8>().0;
        for (half, v) in halves.iter_mut().zip([v.0, v.1]) {
            if aligned {
                // SAFETY: the reference covers the eight values that are written, on 32 bytes as just tested.
                unsafe { _mm256_stream_ps(half.as_mut_ptr(), v) }
            } else {
                // SAFETY: the reference covers the eight values that are written, at any alignment.
                unsafe { _mm256_storeu_ps(half.as_mut_ptr(), v) }
            }
        }
    }

    #[inline(always)]
    fn fence(self) {
        op!(_mm_sfence());
    }
}
