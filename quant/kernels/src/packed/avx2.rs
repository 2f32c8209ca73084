//! Tiles on AVX2: a line is two registers; products by AVX-VNNI where the machine has it.

#![expect(unsafe_code, reason = "loads and stores, and calls of intrinsics, which need what the token proves")]
#![expect(clippy::unused_self, reason = "`self` proves the features; its type may have no data to use")]

use std::arch::x86_64::{
    __m256, __m256i, _mm_cvtsi32_si128, _mm_loadu_si128, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256,
    _mm256_blendv_ps, _mm256_broadcastsi128_si256, _mm256_castsi256_ps, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
    _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_load_si256, _mm256_loadu_ps, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_mullo_epi32, _mm256_or_si256, _mm256_permutevar8x32_ps, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32,
    _mm256_srl_epi16, _mm256_srl_epi32, _mm256_store_si256, _mm256_sub_epi8,
};

use super::table::packed_kernels;
use super::tile::{Line, ROWS, Tile};
use crate::avx2::{Avx2, F};

packed_kernels!($ "avx2", "maddubs", ["avx2", "f16c", "bmi2", "fma"], MaddubsTile);

pub(crate) mod vnni {
    //! The same with AVX-VNNI.
    use super::{VnniTile, packed_kernels};
    packed_kernels!($ "avx2", "vnni", ["avx2", "f16c", "bmi2", "fma", "avxvnni"], VnniTile);
}

type MaddubsTile = Avx2Tile<false>;
type VnniTile = Avx2Tile<true>;

/// Proof of the features, of AVX-VNNI too where `VNNI`: made only by functions that have them enabled.
#[derive(Clone, Copy)]
struct Avx2Tile<const VNNI: bool>(Avx2);

impl Avx2Tile<false> {
    #[inline]
    #[target_feature(enable = "avx2,f16c,bmi2,fma")]
    fn new() -> Self {
        Self(Avx2::new())
    }
}

impl Avx2Tile<true> {
    #[inline]
    #[target_feature(enable = "avx2,f16c,bmi2,fma,avxvnni")]
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

/// Rows 0..8 and 8..16.
#[derive(Clone, Copy)]
struct Bytes(__m256i, __m256i);

/// Running sums of eight rows: with AVX-VNNI `total` alone, in 32 bits. Without, `low` and `high` in 16 bits (of lower
/// and upper halves of wide codes), settled into `total`.
#[derive(Clone, Copy)]
struct Half {
    total: __m256i,
    low: __m256i,
    high: __m256i,
}

/// Rows 0..8 and 8..16.
#[derive(Clone, Copy)]
struct Sums(Half, Half);

/// Levels 0..8 and 8..16.
#[derive(Clone, Copy)]
struct Table(__m256, __m256);

/// For each column the shuffle that moves its byte to the top of each row's word and clears the rest.
static TO_TOP: [Line; 4] = [to_top(0), to_top(1), to_top(2), to_top(3)];

const fn to_top(column: usize) -> Line {
    let mut control = [0x80; 64];
    let mut row = 0;
    while row < ROWS {
        control[4 * row + 3] = (4 * (row % 4) + column) as u8;
        row += 1;
    }
    Line(control)
}

impl<const VNNI: bool> Avx2Tile<VNNI> {
    #[inline(always)]
    fn line(self, from: &Line) -> Bytes {
        let at = std::ptr::from_ref(from).cast::<__m256i>();
        // SAFETY: the reference covers the 64 bytes that are read in two halves, and a `Line` is aligned to 64; `self`
        // proves AVX.
        let low = unsafe { _mm256_load_si256(at) };
        // SAFETY: as above; the second half starts at 32, within the line.
        let high = unsafe { _mm256_load_si256(at.wrapping_add(1)) };
        Bytes(low, high)
    }

    #[inline(always)]
    fn word_down<const J: usize>(self, v: __m256i) -> __m256i {
        let count = op!(_mm_cvtsi32_si128(8 * J as i32));
        op!(_mm256_srl_epi32(v, count))
    }

    #[inline(always)]
    fn dot_8(self, mut s: Half, codes: __m256i, x: __m256i, wide: bool) -> Half {
        if VNNI {
            // SAFETY: `VNNI` makes `self` the proof of AVX-VNNI.
            s.total = unsafe { _mm256_dpbusd_avx_epi32(s.total, codes, x) };
        } else if wide {
            // Halves of a code are below 16, as narrow codes are.
            let (mask, four) = (op!(_mm256_set1_epi8(15)), op!(_mm_cvtsi32_si128(4)));
            let upper = op!(_mm256_srl_epi16(codes, four));
            let (lower, upper) = (op!(_mm256_and_si256(codes, mask)), op!(_mm256_and_si256(upper, mask)));
            let (low, high) = (op!(_mm256_maddubs_epi16(lower, x)), op!(_mm256_maddubs_epi16(upper, x)));
            s.low = op!(_mm256_add_epi16(s.low, low));
            s.high = op!(_mm256_add_epi16(s.high, high));
        } else {
            // Eight sums of two products below 15 * 128 stay below 2^15.
            let low = op!(_mm256_maddubs_epi16(codes, x));
            s.low = op!(_mm256_add_epi16(s.low, low));
        }
        s
    }

    #[inline(always)]
    fn settle_8(self, mut s: Half, wide: bool) -> Half {
        if VNNI {
            return s;
        }
        let ones = op!(_mm256_set1_epi16(1));
        let low = op!(_mm256_madd_epi16(s.low, ones));
        s.total = op!(_mm256_add_epi32(s.total, low));
        if wide {
            let sixteens = op!(_mm256_set1_epi16(16));
            let high = op!(_mm256_madd_epi16(s.high, sixteens));
            s.total = op!(_mm256_add_epi32(s.total, high));
        }
        let zero = op!(_mm256_setzero_si256());
        Half { total: s.total, low: zero, high: zero }
    }

    #[inline(always)]
    fn total_8(self, a: Half, b: Half) -> __m256 {
        let sum = op!(_mm256_add_epi32(a.total, b.total));
        op!(_mm256_cvtepi32_ps(sum))
    }

    #[inline(always)]
    fn unsigned_8<const J: usize>(self, v: __m256i) -> __m256 {
        let low = op!(_mm256_set1_epi32(0xFF));
        let column = op!(_mm256_and_si256(self.word_down::<J>(v), low));
        op!(_mm256_cvtepi32_ps(column))
    }

    #[inline(always)]
    fn signed_8(self, v: __m256i, to_top: __m256i) -> __m256 {
        let top = op!(_mm256_shuffle_epi8(v, to_top));
        op!(_mm256_cvtepi32_ps(top))
    }

    /// The permutation reads the low three bits of each word; the fourth, moved to the top, chooses the half.
    #[inline(always)]
    fn pick_8<const J: usize>(self, table: Table, indices: __m256i) -> __m256 {
        let words = self.word_down::<J>(indices);
        let (low, high) =
            (op!(_mm256_permutevar8x32_ps(table.0, words)), op!(_mm256_permutevar8x32_ps(table.1, words)));
        let upper = op!(_mm256_slli_epi32::<28>(words));
        let upper = op!(_mm256_castsi256_ps(upper));
        op!(_mm256_blendv_ps(low, high, upper))
    }
}

impl<const VNNI: bool> Tile for Avx2Tile<VNNI> {
    type Lanes = Avx2;
    type Bytes = Bytes;
    type Sums = Sums;
    type Table = Table;

    const SIGNED_UNIT: f32 = 16_777_216.0;
    const PICKS: bool = false;

    #[inline(always)]
    fn lanes(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    fn load(self, from: &Line) -> Bytes {
        self.line(from)
    }

    #[inline(always)]
    fn store(self, v: Bytes, to: &mut Line) {
        let at = std::ptr::from_mut(to).cast::<__m256i>();
        // SAFETY: the reference covers the 64 bytes that are written in two halves, and a `Line` is aligned to 64;
        // `self` proves AVX.
        unsafe { _mm256_store_si256(at, v.0) };
        // SAFETY: as above; the second half starts at 32, within the line.
        unsafe { _mm256_store_si256(at.wrapping_add(1), v.1) };
    }

    #[inline(always)]
    fn down(self, v: Bytes, n: u32) -> Bytes {
        let count = op!(_mm_cvtsi32_si128(n as i32));
        Bytes(op!(_mm256_srl_epi16(v.0, count)), op!(_mm256_srl_epi16(v.1, count)))
    }

    #[inline(always)]
    fn mask(self, v: Bytes, mask: u8) -> Bytes {
        let mask = op!(_mm256_set1_epi8(mask.cast_signed()));
        Bytes(op!(_mm256_and_si256(v.0, mask)), op!(_mm256_and_si256(v.1, mask)))
    }

    #[inline(always)]
    fn join(self, a: Bytes, b: Bytes) -> Bytes {
        Bytes(op!(_mm256_or_si256(a.0, b.0)), op!(_mm256_or_si256(a.1, b.1)))
    }

    #[inline(always)]
    fn minus(self, a: Bytes, b: Bytes) -> Bytes {
        Bytes(op!(_mm256_sub_epi8(a.0, b.0)), op!(_mm256_sub_epi8(a.1, b.1)))
    }

    #[inline(always)]
    fn spread(self, rows: &[u8; ROWS]) -> Bytes {
        let (mut first, mut second) = ([0; 16], [0; 16]);
        first[..8].copy_from_slice(&rows[..8]);
        second[..8].copy_from_slice(&rows[8..]);
        let ones = op!(_mm256_set1_epi32(0x0101_0101));
        // SAFETY: the array covers the 16 bytes that are read, at any alignment; SSE2 is part of x86-64.
        let first = unsafe { _mm_loadu_si128(first.as_ptr().cast()) };
        // SAFETY: as above.
        let second = unsafe { _mm_loadu_si128(second.as_ptr().cast()) };
        let (first, second) = (op!(_mm256_cvtepu8_epi32(first)), op!(_mm256_cvtepu8_epi32(second)));
        Bytes(op!(_mm256_mullo_epi32(first, ones)), op!(_mm256_mullo_epi32(second, ones)))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], indices: Bytes) -> Bytes {
        // SAFETY: the array covers the 16 bytes that are read, at any alignment; SSE2 is part of x86-64.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        let table = op!(_mm256_broadcastsi128_si256(table));
        Bytes(op!(_mm256_shuffle_epi8(table, indices.0)), op!(_mm256_shuffle_epi8(table, indices.1)))
    }

    #[inline(always)]
    fn no_sums(self) -> Sums {
        let zero = op!(_mm256_setzero_si256());
        let half = Half { total: zero, low: zero, high: zero };
        Sums(half, half)
    }

    #[inline(always)]
    fn dot(self, s: Sums, codes: Bytes, x: [i8; 4], wide: bool) -> Sums {
        let x = op!(_mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned))));
        Sums(self.dot_8(s.0, codes.0, x, wide), self.dot_8(s.1, codes.1, x, wide))
    }

    #[inline(always)]
    fn settle(self, s: Sums, wide: bool) -> Sums {
        Sums(self.settle_8(s.0, wide), self.settle_8(s.1, wide))
    }

    #[inline(always)]
    fn total(self, a: Sums, b: Sums) -> F {
        F(self.total_8(a.0, b.0), self.total_8(a.1, b.1))
    }

    #[inline(always)]
    fn unsigned<const J: usize>(self, v: Bytes) -> F {
        F(self.unsigned_8::<J>(v.0), self.unsigned_8::<J>(v.1))
    }

    #[inline(always)]
    fn signed<const J: usize>(self, v: Bytes) -> F {
        let to_top = self.line(&TO_TOP[J]);
        F(self.signed_8(v.0, to_top.0), self.signed_8(v.1, to_top.1))
    }

    #[inline(always)]
    fn table(self, levels: &[f32; 16]) -> Table {
        let at = levels.as_ptr();
        // SAFETY: the array covers sixteen values, and the first eight are read; `self` proves AVX.
        let low = unsafe { _mm256_loadu_ps(at) };
        // SAFETY: as above, and the last eight are read.
        let high = unsafe { _mm256_loadu_ps(at.wrapping_add(8)) };
        Table(low, high)
    }

    #[inline(always)]
    fn pick<const J: usize>(self, table: Table, indices: Bytes) -> F {
        F(self.pick_8::<J>(table, indices.0), self.pick_8::<J>(table, indices.1))
    }

    #[inline(always)]
    fn mul_add(self, a: F, b: F, c: F) -> F {
        F(op!(_mm256_fmadd_ps(a.0, b.0, c.0)), op!(_mm256_fmadd_ps(a.1, b.1, c.1)))
    }
}
