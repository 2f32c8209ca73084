//! Sixteen lanes as one register of AVX-512 (f, bw, vl, dq).

#![expect(unsafe_code, reason = "loads and stores, and calls of intrinsics, which need what the token proves")]
#![expect(clippy::unused_self, reason = "`self` proves the features; its type has no data")]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, __m512i, _CMP_GT_OQ, _CMP_UNORD_Q, _MM_HINT_T0, _mm_add_ps, _mm_add_ss,
    _mm_cvtss_f32, _mm_loadu_si128, _mm_movehdup_ps, _mm_movehl_ps, _mm_prefetch, _mm_storeu_ps, _mm_storeu_si128,
    _mm256_add_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_loadu_si256, _mm256_storeu_si256,
    _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512, _mm512_castps512_ps128,
    _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepi16_epi8, _mm512_cvtepi32_epi8,
    _mm512_cvtepi32_epi16, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi16, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32,
    _mm512_cvtph_ps, _mm512_cvtps_ph, _mm512_div_ps, _mm512_extractf32x8_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_maddubs_epi16, _mm512_mask_blend_ps, _mm512_mask_or_epi32, _mm512_maskz_compress_ps, _mm512_max_ps,
    _mm512_min_ps, _mm512_movehdup_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_packus_epi16, _mm512_packus_epi32,
    _mm512_permute_ps, _mm512_permutex2var_ps, _mm512_permutexvar_epi32, _mm512_reduce_max_ps, _mm512_reduce_min_ps,
    _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32, _mm512_shuffle_f32x4, _mm512_slli_epi16,
    _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_sub_ps,
    _pdep_u64, _pext_u64,
};

use crate::lanes::{LANES, Lanes};
use crate::table::simd_table;

simd_table!($ "avx512", ["avx512f", "avx512bw", "avx512vl", "avx512dq", "bmi2"], Avx512);

/// Proof of the features: made only by functions that have them enabled.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2")]
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// Calls an intrinsic that touches no memory.
macro_rules! op {
    ($intrinsic:ident $(::<$imm:tt>)? ($($arg:expr),*)) => {
        // SAFETY: it needs AVX-512 f, bw, vl, dq or BMI2, and the `self` of each method here proves them.
        unsafe { $intrinsic$(::<$imm>)?($($arg),*) }
    };
}

/// Folds four vectors by halves at once: what is left of two after a step shares a register in the next.
macro_rules! fold4 {
    ($v:expr, $join:ident) => {{
        let [a, b, c, d] = *$v;
        let (low, high) = (op!(_mm512_shuffle_f32x4::<0x44>(a, b)), op!(_mm512_shuffle_f32x4::<0xEE>(a, b)));
        let ab = op!($join(low, high));
        let (low, high) = (op!(_mm512_shuffle_f32x4::<0x44>(c, d)), op!(_mm512_shuffle_f32x4::<0xEE>(c, d)));
        let cd = op!($join(low, high));
        let (low, high) = (op!(_mm512_shuffle_f32x4::<0x88>(ab, cd)), op!(_mm512_shuffle_f32x4::<0xDD>(ab, cd)));
        let four = op!($join(low, high));
        let upper = op!(_mm512_permute_ps::<0xEE>(four));
        let two = op!($join(four, upper));
        let odd = op!(_mm512_movehdup_ps(two));
        let one = op!($join(two, odd));
        // The results are at the bottom of each quarter.
        let packed = op!(_mm512_maskz_compress_ps(0x1111, one));
        let packed = op!(_mm512_castps512_ps128(packed));
        let mut results = [0.0; 4];
        // SAFETY: the array has room for the four values that are written; SSE is part of x86-64.
        unsafe { _mm_storeu_ps(results.as_mut_ptr(), packed) };
        results
    }};
}

/// Where the bytes of four vectors belong after packing in 128-bit lanes: word `4 * lane + vector` holds lane `lane`.
const UNSHUFFLE: [i32; LANES] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

#[inline(always)]
fn load_16(from: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes that are read, at any alignment; SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

#[inline(always)]
fn store_16(v: __m128i, to: &mut [u8; 16]) {
    // SAFETY: the reference covers the 16 bytes that are written, at any alignment; SSE2 is part of x86-64.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), v) }
}

impl Avx512 {
    #[inline(always)]
    fn load_32(self, from: &[u8; 32]) -> __m256i {
        // SAFETY: the reference covers the 32 bytes that are read, at any alignment; the token proves AVX.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_32(self, v: __m256i, to: &mut [u8; 32]) {
        // SAFETY: the reference covers the 32 bytes that are written, at any alignment; the token proves AVX.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    fn load_64(self, from: &[u8; 64]) -> __m512i {
        // SAFETY: the reference covers the 64 bytes that are read, at any alignment; the token proves AVX-512.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_64(self, v: __m512i, to: &mut [u8; 64]) {
        // SAFETY: the reference covers the 64 bytes that are written, at any alignment; the token proves AVX-512.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    fn bits(self, v: __m512) -> __m512i {
        op!(_mm512_castps_si512(v))
    }

    /// The fold of eight lanes by halves.
    #[inline(always)]
    fn sum_8(self, v: __m256) -> f32 {
        let (low, high) = (op!(_mm256_castps256_ps128(v)), op!(_mm256_extractf128_ps::<1>(v)));
        let four = op!(_mm_add_ps(low, high));
        let two = op!(_mm_movehl_ps(four, four));
        let two = op!(_mm_add_ps(four, two));
        let one = op!(_mm_movehdup_ps(two));
        let one = op!(_mm_add_ss(two, one));
        op!(_mm_cvtss_f32(one))
    }
}

impl Lanes for Avx512 {
    type F = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        // SAFETY: the reference covers the sixteen values that are read; the token proves AVX-512.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; LANES]) {
        // SAFETY: the reference covers the sixteen values that are written; the token proves AVX-512.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }

    /// Four perfect shuffles of the sixteen vectors: each moves the highest bit of a value's column below the lowest bit of its row.
    #[inline(always)]
    fn transpose(self, rows: [&[f32; LANES]; LANES], columns: &mut [[f32; LANES]; LANES]) {
        let low = op!(_mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
        let high = op!(_mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
        let mut v = rows.map(|row| self.load(row));
        for _ in 0..4 {
            let before = v;
            for i in 0..LANES / 2 {
                let (a, b) = (before[i], before[i + LANES / 2]);
                v[2 * i] = op!(_mm512_permutex2var_ps(a, low, b));
                v[2 * i + 1] = op!(_mm512_permutex2var_ps(a, high, b));
            }
        }
        columns.iter_mut().zip(v).for_each(|(column, v)| self.store(v, column));
    }

    #[inline(always)]
    fn where_positive(self, test: __m512, a: __m512, b: __m512) -> __m512 {
        let positive = op!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(test, self.splat(0.0)));
        op!(_mm512_mask_blend_ps(positive, b, a))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        let (low, high) = (op!(_mm512_castps512_ps256(a)), op!(_mm512_extractf32x8_ps::<1>(a)));
        let eight = op!(_mm256_add_ps(low, high));
        self.sum_8(eight)
    }

    #[inline(always)]
    fn least(self, a: __m512) -> f32 {
        op!(_mm512_reduce_min_ps(a))
    }

    #[inline(always)]
    fn greatest(self, a: __m512) -> f32 {
        op!(_mm512_reduce_max_ps(a))
    }

    #[inline(always)]
    fn sum4(self, v: &[__m512; 4]) -> [f32; 4] {
        fold4!(v, _mm512_add_ps)
    }

    #[inline(always)]
    fn least4(self, v: &[__m512; 4]) -> [f32; 4] {
        fold4!(v, _mm512_min_ps)
    }

    #[inline(always)]
    fn greatest4(self, v: &[__m512; 4]) -> [f32; 4] {
        fold4!(v, _mm512_max_ps)
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> __m512 {
        let wide = op!(_mm512_cvtepu16_epi32(self.load_32(from)));
        let bits = op!(_mm512_slli_epi32::<16>(wide));
        op!(_mm512_castsi512_ps(bits))
    }

    #[inline(always)]
    fn store_bf16(self, v: __m512, to: &mut [u8; 2 * LANES]) {
        let bits = self.bits(v);
        let upper = op!(_mm512_srli_epi32::<16>(bits));
        let (one, half, quiet) =
            (op!(_mm512_set1_epi32(1)), op!(_mm512_set1_epi32(0x7FFF)), op!(_mm512_set1_epi32(0x40)));
        let odd = op!(_mm512_and_si512(upper, one));
        let nudge = op!(_mm512_add_epi32(odd, half));
        let rounded = op!(_mm512_add_epi32(bits, nudge));
        let rounded = op!(_mm512_srli_epi32::<16>(rounded));
        let is_nan = op!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v));
        let result = op!(_mm512_mask_or_epi32(rounded, is_nan, upper, quiet));
        self.store_32(op!(_mm512_cvtepi32_epi16(result)), to);
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> __m512 {
        op!(_mm512_cvtph_ps(self.load_32(from)))
    }

    #[inline(always)]
    fn store_f16(self, v: __m512, to: &mut [u8; 2 * LANES]) {
        // 8: to nearest, half to even, whatever the current mode; no exceptions.
        self.store_32(op!(_mm512_cvtps_ph::<8>(v)), to);
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch of any address is a hint that reads nothing and cannot fault; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn load_codes(self, from: &[u8; LANES]) -> __m512 {
        let wide = op!(_mm512_cvtepu8_epi32(load_16(from)));
        op!(_mm512_cvtepi32_ps(wide))
    }

    #[inline(always)]
    fn store_codes(self, v: __m512, origin: __m512, to: &mut [u8; LANES]) {
        let codes = op!(_mm512_sub_epi32(self.bits(v), self.bits(origin)));
        store_16(op!(_mm512_cvtepi32_epi8(codes)), to);
    }

    #[inline(always)]
    fn store_codes4(self, v: [__m512; 4], origin: __m512, to: &mut [u8; 4 * LANES]) {
        let origin = self.bits(origin);
        let a = op!(_mm512_sub_epi32(self.bits(v[0]), origin));
        let b = op!(_mm512_sub_epi32(self.bits(v[1]), origin));
        let c = op!(_mm512_sub_epi32(self.bits(v[2]), origin));
        let d = op!(_mm512_sub_epi32(self.bits(v[3]), origin));
        // Codes are below 256, so that nothing saturates.
        let (ab, cd) = (op!(_mm512_packus_epi32(a, b)), op!(_mm512_packus_epi32(c, d)));
        let shuffled = op!(_mm512_packus_epi16(ab, cd));
        // SAFETY: the array covers the sixteen words that are read; the token proves AVX-512.
        let order = unsafe { _mm512_loadu_si512(UNSHUFFLE.as_ptr().cast()) };
        self.store_64(op!(_mm512_permutexvar_epi32(order, shuffled)), to);
    }

    #[inline(always)]
    fn gather_bits(self, bits: u8, eight_codes: u64) -> u64 {
        op!(_pext_u64(eight_codes, 0x0101_0101_0101_0101 * ((1 << bits) - 1)))
    }

    #[inline(always)]
    fn scatter_bits(self, bits: u8, packed: u64) -> u64 {
        op!(_pdep_u64(packed, 0x0101_0101_0101_0101 * ((1 << bits) - 1)))
    }

    #[inline(always)]
    fn pack_nibbles(self, codes: &[u8; 64], to: &mut [u8; 32]) {
        let (low, places) = (op!(_mm512_set1_epi16(0x0F0F)), op!(_mm512_set1_epi16(0x1001)));
        let codes = op!(_mm512_and_si512(self.load_64(codes), low));
        // First + 16 * second of each pair of bytes.
        let pairs = op!(_mm512_maddubs_epi16(codes, places));
        self.store_32(op!(_mm512_cvtepi16_epi8(pairs)), to);
    }

    #[inline(always)]
    fn unpack_nibbles(self, packed: &[u8; 32], to: &mut [u8; 64]) {
        let wide = op!(_mm512_cvtepu8_epi16(self.load_32(packed)));
        let moved = op!(_mm512_slli_epi16::<4>(wide));
        let both = op!(_mm512_or_si512(wide, moved));
        let low = op!(_mm512_set1_epi16(0x0F0F));
        self.store_64(op!(_mm512_and_si512(both, low)), to);
    }
}
