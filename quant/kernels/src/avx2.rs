//! Sixteen lanes as two registers of AVX2, with F16C and BMI2.

#![expect(unsafe_code, reason = "loads and stores, and calls of intrinsics, which need what the token proves")]
#![expect(clippy::unused_self, reason = "`self` proves the features; its type has no data")]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _CMP_GT_OQ, _CMP_UNORD_Q, _MM_HINT_T0, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32,
    _mm_loadl_epi64, _mm_loadu_si128, _mm_max_ps, _mm_max_ss, _mm_min_ps, _mm_min_ss, _mm_movehdup_ps, _mm_movehl_ps,
    _mm_prefetch, _mm_storeu_si128, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_blendv_epi8,
    _mm256_blendv_ps, _mm256_castps_si256, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_castsi256_si128,
    _mm256_cmp_ps, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi16, _mm256_cvtepu8_epi32, _mm256_cvtepu16_epi32,
    _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_div_ps, _mm256_extractf128_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_maddubs_epi16, _mm256_max_ps, _mm256_min_ps, _mm256_movehdup_ps, _mm256_mul_ps, _mm256_or_si256,
    _mm256_packus_epi16, _mm256_packus_epi32, _mm256_permute2f128_ps, _mm256_permute4x64_epi64,
    _mm256_permutevar8x32_epi32, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
    _mm256_shuffle_ps, _mm256_slli_epi16, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_epi32, _mm256_sub_ps, _pdep_u64, _pext_u64,
};

use crate::lanes::{LANES, Lanes, transpose_values};
use crate::table::simd_table;

simd_table!($ "avx2", ["avx2", "f16c", "bmi2"], Avx2);

/// Proof of the features: made only by functions that have them enabled.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    #[inline]
    #[target_feature(enable = "avx2,f16c,bmi2")]
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// Lanes 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(crate) struct F(pub(crate) __m256, pub(crate) __m256);

/// Calls an intrinsic that touches no memory.
macro_rules! op {
    ($intrinsic:ident $(::<$imm:tt>)? ($($arg:expr),*)) => {
        // SAFETY: it needs AVX2, F16C or BMI2, and the `self` of each method here proves them.
        unsafe { $intrinsic$(::<$imm>)?($($arg),*) }
    };
}

/// Folds eight lanes by halves, with the operation in its widths.
macro_rules! fold {
    ($v:expr, $four:ident, $one:ident) => {{
        let (low, high) = (op!(_mm256_castps256_ps128($v)), op!(_mm256_extractf128_ps::<1>($v)));
        let four = op!($four(low, high));
        let two = op!(_mm_movehl_ps(four, four));
        let two = op!($four(four, two));
        let one = op!(_mm_movehdup_ps(two));
        let one = op!($one(two, one));
        op!(_mm_cvtss_f32(one))
    }};
}

/// Folds four vectors by halves at once: what is left of two after a step shares a register in the next.
macro_rules! fold4 {
    ($s:expr, $v:expr, $join:ident) => {{
        let [a, b, c, d] = *$v;
        let (a, b) = (op!($join(a.0, a.1)), op!($join(b.0, b.1)));
        let (c, d) = (op!($join(c.0, c.1)), op!($join(d.0, d.1)));
        let (low, high) = (op!(_mm256_permute2f128_ps::<0x20>(a, b)), op!(_mm256_permute2f128_ps::<0x31>(a, b)));
        let ab = op!($join(low, high));
        let (low, high) = (op!(_mm256_permute2f128_ps::<0x20>(c, d)), op!(_mm256_permute2f128_ps::<0x31>(c, d)));
        let cd = op!($join(low, high));
        let (low, high) = (op!(_mm256_shuffle_ps::<0x44>(ab, cd)), op!(_mm256_shuffle_ps::<0xEE>(ab, cd)));
        let two = op!($join(low, high));
        let odd = op!(_mm256_movehdup_ps(two));
        let one = op!($join(two, odd));
        let mut lanes = [0.0; 8];
        $s.store_half(one, &mut lanes);
        [lanes[0], lanes[4], lanes[2], lanes[6]]
    }};
}

#[inline(always)]
fn load_8(from: &[u8; 8]) -> __m128i {
    // SAFETY: the reference covers the 8 bytes that are read, at any alignment; SSE2 is part of x86-64.
    unsafe { _mm_loadl_epi64(from.as_ptr().cast()) }
}

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

/// An array in two equal parts.
#[inline(always)]
fn halves<T, const HALF: usize>(whole: &[T]) -> (&[T; HALF], &[T; HALF]) {
    let (parts, _) = whole.as_chunks::<HALF>();
    (&parts[0], &parts[1])
}

/// An array in two equal parts.
#[inline(always)]
fn halves_mut<T, const HALF: usize>(whole: &mut [T]) -> (&mut [T; HALF], &mut [T; HALF]) {
    let (low, high) = whole.split_at_mut(HALF);
    (&mut low.as_chunks_mut().0[0], &mut high.as_chunks_mut().0[0])
}

impl Avx2 {
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
    fn load_half(self, from: &[f32; 8]) -> __m256 {
        // SAFETY: the reference covers the eight values that are read; the token proves AVX.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store_half(self, v: __m256, to: &mut [f32; 8]) {
        // SAFETY: the reference covers the eight values that are written; the token proves AVX.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn pick_positive(self, test: __m256, a: __m256, b: __m256) -> __m256 {
        let zero = op!(_mm256_set1_ps(0.0));
        let positive = op!(_mm256_cmp_ps::<_CMP_GT_OQ>(test, zero));
        op!(_mm256_blendv_ps(b, a, positive))
    }

    /// `bits(v) - bits(origin)` as 32-bit numbers.
    #[inline(always)]
    fn above(self, v: __m256, origin: __m256) -> __m256i {
        let (v, origin) = (op!(_mm256_castps_si256(v)), op!(_mm256_castps_si256(origin)));
        op!(_mm256_sub_epi32(v, origin))
    }

    /// Bytes of 32 numbers below 256, in order.
    #[inline(always)]
    fn narrow(self, a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
        let (ab, cd) = (op!(_mm256_packus_epi32(a, b)), op!(_mm256_packus_epi32(c, d)));
        let shuffled = op!(_mm256_packus_epi16(ab, cd));
        // Packing works within 128-bit lanes: word 4 * lane + vector holds half `lane` of a vector.
        let order = op!(_mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        op!(_mm256_permutevar8x32_epi32(shuffled, order))
    }

    /// bf16 of eight lanes, as 32-bit numbers.
    #[inline(always)]
    fn round_bf16(self, v: __m256) -> __m256i {
        let bits = op!(_mm256_castps_si256(v));
        let upper = op!(_mm256_srli_epi32::<16>(bits));
        let (one, half, quiet) =
            (op!(_mm256_set1_epi32(1)), op!(_mm256_set1_epi32(0x7FFF)), op!(_mm256_set1_epi32(0x40)));
        let odd = op!(_mm256_and_si256(upper, one));
        let nudge = op!(_mm256_add_epi32(odd, half));
        let rounded = op!(_mm256_add_epi32(bits, nudge));
        let rounded = op!(_mm256_srli_epi32::<16>(rounded));
        let is_nan = op!(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        let is_nan = op!(_mm256_castps_si256(is_nan));
        let quieted = op!(_mm256_or_si256(upper, quiet));
        op!(_mm256_blendv_epi8(rounded, quieted, is_nan))
    }

    #[inline(always)]
    fn widen_bf16(self, halves: __m128i) -> __m256 {
        let wide = op!(_mm256_cvtepu16_epi32(halves));
        let bits = op!(_mm256_slli_epi32::<16>(wide));
        op!(_mm256_castsi256_ps(bits))
    }

    #[inline(always)]
    fn widen_codes(self, codes: __m128i) -> __m256 {
        let wide = op!(_mm256_cvtepu8_epi32(codes));
        op!(_mm256_cvtepi32_ps(wide))
    }

    /// First + 16 * second of sixteen pairs of bytes, as 16-bit numbers.
    #[inline(always)]
    fn join_nibbles(self, codes: &[u8; 32]) -> __m256i {
        let (low, places) = (op!(_mm256_set1_epi16(0x0F0F)), op!(_mm256_set1_epi16(0x1001)));
        let codes = op!(_mm256_and_si256(self.load_32(codes), low));
        op!(_mm256_maddubs_epi16(codes, places))
    }

    #[inline(always)]
    fn split_nibbles(self, packed: &[u8; 16], to: &mut [u8; 32]) {
        let wide = op!(_mm256_cvtepu8_epi16(load_16(packed)));
        let moved = op!(_mm256_slli_epi16::<4>(wide));
        let both = op!(_mm256_or_si256(wide, moved));
        let low = op!(_mm256_set1_epi16(0x0F0F));
        self.store_32(op!(_mm256_and_si256(both, low)), to);
    }
}

macro_rules! lanewise {
    ($name:ident, $intrinsic:ident) => {
        #[inline(always)]
        fn $name(self, a: F, b: F) -> F {
            F(op!($intrinsic(a.0, b.0)), op!($intrinsic(a.1, b.1)))
        }
    };
}

impl Lanes for Avx2 {
    type F = F;

    lanewise!(add, _mm256_add_ps);
    lanewise!(sub, _mm256_sub_ps);
    lanewise!(mul, _mm256_mul_ps);
    lanewise!(div, _mm256_div_ps);
    lanewise!(min, _mm256_min_ps);
    lanewise!(max, _mm256_max_ps);

    #[inline(always)]
    fn transpose(self, rows: [&[f32; LANES]; LANES], columns: &mut [[f32; LANES]; LANES]) {
        transpose_values(rows, columns);
    }

    #[inline(always)]
    fn where_positive(self, test: F, a: F, b: F) -> F {
        F(self.pick_positive(test.0, a.0, b.0), self.pick_positive(test.1, a.1, b.1))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        let v = op!(_mm256_set1_ps(x));
        F(v, v)
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> F {
        let (low, high) = halves(from);
        F(self.load_half(low), self.load_half(high))
    }

    #[inline(always)]
    fn store(self, v: F, to: &mut [f32; LANES]) {
        let (low, high) = halves_mut(to);
        self.store_half(v.0, low);
        self.store_half(v.1, high);
    }

    #[inline(always)]
    fn sum(self, a: F) -> f32 {
        let eight = op!(_mm256_add_ps(a.0, a.1));
        fold!(eight, _mm_add_ps, _mm_add_ss)
    }

    #[inline(always)]
    fn least(self, a: F) -> f32 {
        let eight = op!(_mm256_min_ps(a.0, a.1));
        fold!(eight, _mm_min_ps, _mm_min_ss)
    }

    #[inline(always)]
    fn greatest(self, a: F) -> f32 {
        let eight = op!(_mm256_max_ps(a.0, a.1));
        fold!(eight, _mm_max_ps, _mm_max_ss)
    }

    #[inline(always)]
    fn sum4(self, v: &[F; 4]) -> [f32; 4] {
        fold4!(self, v, _mm256_add_ps)
    }

    #[inline(always)]
    fn least4(self, v: &[F; 4]) -> [f32; 4] {
        fold4!(self, v, _mm256_min_ps)
    }

    #[inline(always)]
    fn greatest4(self, v: &[F; 4]) -> [f32; 4] {
        fold4!(self, v, _mm256_max_ps)
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> F {
        let (low, high) = halves(from);
        F(self.widen_bf16(load_16(low)), self.widen_bf16(load_16(high)))
    }

    #[inline(always)]
    fn store_bf16(self, v: F, to: &mut [u8; 2 * LANES]) {
        let shuffled = op!(_mm256_packus_epi32(self.round_bf16(v.0), self.round_bf16(v.1)));
        self.store_32(op!(_mm256_permute4x64_epi64::<0b11_01_10_00>(shuffled)), to);
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> F {
        let (low, high) = halves(from);
        F(op!(_mm256_cvtph_ps(load_16(low))), op!(_mm256_cvtph_ps(load_16(high))))
    }

    #[inline(always)]
    fn store_f16(self, v: F, to: &mut [u8; 2 * LANES]) {
        let (low, high) = halves_mut(to);
        // 0: to nearest, half to even, whatever the current mode.
        store_16(op!(_mm256_cvtps_ph::<0>(v.0)), low);
        store_16(op!(_mm256_cvtps_ph::<0>(v.1)), high);
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch of any address is a hint that reads nothing and cannot fault; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn load_codes(self, from: &[u8; LANES]) -> F {
        let (low, high) = halves(from);
        F(self.widen_codes(load_8(low)), self.widen_codes(load_8(high)))
    }

    #[inline(always)]
    fn store_codes(self, v: F, origin: F, to: &mut [u8; LANES]) {
        let (low, high) = (self.above(v.0, origin.0), self.above(v.1, origin.1));
        store_16(op!(_mm256_castsi256_si128(self.narrow(low, high, low, high))), to);
    }

    #[inline(always)]
    fn store_codes4(self, v: [F; 4], origin: F, to: &mut [u8; 4 * LANES]) {
        let [a, b, c, d] = v;
        let origin = origin.0;
        let (low, high) = halves_mut(to);
        let first =
            [self.above(a.0, origin), self.above(a.1, origin), self.above(b.0, origin), self.above(b.1, origin)];
        self.store_32(self.narrow(first[0], first[1], first[2], first[3]), low);
        let last = [self.above(c.0, origin), self.above(c.1, origin), self.above(d.0, origin), self.above(d.1, origin)];
        self.store_32(self.narrow(last[0], last[1], last[2], last[3]), high);
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
        let (low, high) = halves(codes);
        let shuffled = op!(_mm256_packus_epi16(self.join_nibbles(low), self.join_nibbles(high)));
        self.store_32(op!(_mm256_permute4x64_epi64::<0b11_01_10_00>(shuffled)), to);
    }

    #[inline(always)]
    fn unpack_nibbles(self, packed: &[u8; 32], to: &mut [u8; 64]) {
        let (low, high) = halves(packed);
        let (to_low, to_high) = halves_mut(to);
        self.split_nibbles(low, to_low);
        self.split_nibbles(high, to_high);
    }
}
