//! Softmax on AVX-512.

#![expect(unsafe_code, reason = "streaming stores, and calls of intrinsics, which need what the token proves")]

use std::arch::x86_64::{
    __m512, __mmask16, _mm_sfence, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps,
    _mm512_mask_loadu_ps, _mm512_mask_storeu_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps,
    _mm512_slli_epi32, _mm512_storeu_ps, _mm512_stream_ps,
};

use super::floats::Floats;
use super::table::softmax_kernels;
use crate::avx512::Avx512;
use crate::lanes::LANES;

softmax_kernels!($ "avx512", ["avx512f", "avx512bw", "avx512vl", "avx512dq", "bmi2"], Avx512);

/// Calls an intrinsic that touches no memory.
macro_rules! op {
    ($intrinsic:ident $(::<$imm:tt>)? ($($arg:expr),*)) => {
        // SAFETY: it needs AVX-512 f, and the `self` of each method here proves it.
        unsafe { $intrinsic$(::<$imm>)?($($arg),*) }
    };
}

/// The first `n` lanes; all of them from sixteen up.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1_u32 << n.min(LANES)) - 1) as __mmask16
}

impl Floats for Avx512 {
    type L = Self;
    const GROUP: usize = 8;

    #[inline(always)]
    fn lanes(self) -> Self {
        self
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<0>(x))
    }

    #[inline(always)]
    fn reduce(self, x: __m512, n: __m512) -> __m512 {
        let (high, low) = (op!(_mm512_set1_ps(super::LN2_HIGH)), op!(_mm512_set1_ps(super::LN2_LOW)));
        let rough = op!(_mm512_fnmadd_ps(n, high, x));
        op!(_mm512_fnmadd_ps(n, low, rough))
    }

    #[inline(always)]
    fn scale(self, p: __m512, n: __m512) -> __m512 {
        op!(_mm512_scalef_ps(p, n))
    }

    #[inline(always)]
    fn power(self, shifted: __m512) -> __m512 {
        let bits = op!(_mm512_castps_si512(shifted));
        let power = op!(_mm512_slli_epi32::<23>(bits));
        op!(_mm512_castsi512_ps(power))
    }

    #[inline(always)]
    fn load_some(self, from: &[f32], fill: f32) -> __m512 {
        let fill = op!(_mm512_set1_ps(fill));
        // SAFETY: the mask leaves no more lanes than the slice has values, and the memory of the others is not touched.
        unsafe { _mm512_mask_loadu_ps(fill, first(from.len()), from.as_ptr()) }
    }

    #[inline(always)]
    fn store_some(self, v: __m512, to: &mut [f32]) {
        // SAFETY: the mask leaves no more lanes than the slice has values, and the memory of the others is not touched.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), v) }
    }

    #[inline(always)]
    fn stream(self, v: __m512, to: &mut [f32; LANES]) {
        let to = to.as_mut_ptr();
        if to.addr().is_multiple_of(64) {
            // SAFETY: the reference covers the sixteen values that are written, on a line as just tested.
            unsafe { _mm512_stream_ps(to, v) }
        } else {
            // SAFETY: the reference covers the sixteen values that are written, at any alignment.
            unsafe { _mm512_storeu_ps(to, v) }
        }
    }

    #[inline(always)]
    fn fence(self) {
        op!(_mm_sfence());
    }
}
