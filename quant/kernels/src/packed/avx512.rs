//! Tiles on AVX-512: a line is one register; products by VNNI where the machine has it.

#![expect(unsafe_code, reason = "loads and stores, and calls of intrinsics, which need what the token proves")]
#![expect(clippy::unused_self, reason = "`self` proves the features; its type may have no data to use")]

use std::arch::x86_64::{
    __m512, __m512i, _mm_cvtsi32_si128, _mm_loadu_si128, _mm512_add_epi16, _mm512_add_epi32, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
    _mm512_load_si512, _mm512_loadu_ps, _mm512_madd_epi16, _mm512_maddubs_epi16, _mm512_mullo_epi32, _mm512_or_si512,
    _mm512_permutex2var_ps, _mm512_permutexvar_ps, _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_srl_epi16, _mm512_srl_epi32, _mm512_store_si512, _mm512_sub_epi8,
};

use super::table::packed_kernels;
use super::tile::{Line, ROWS, Tile};
use crate::avx512::Avx512;

packed_kernels!($ "avx512", "maddubs", ["avx512f", "avx512bw", "avx512vl", "avx512dq", "bmi2"], MaddubsTile);

pub(crate) mod vnni {
    //! The same with VNNI.
    use super::{VnniTile, packed_kernels};
    packed_kernels!($ "avx512", "vnni",
        ["avx512f", "avx512bw", "avx512vl", "avx512dq", "bmi2", "avx512vnni"], VnniTile);
}

type MaddubsTile = Avx512Tile<false>;
type VnniTile = Avx512Tile<true>;

/// Proof of the features, of VNNI too where `VNNI`: made only by functions that have them enabled.
#[derive(Clone, Copy)]
struct Avx512Tile<const VNNI: bool>(Avx512);

impl Avx512Tile<false> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2")]
    fn new() -> Self {
        Self(Avx512::new())
    }
}

impl Avx512Tile<true> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx512vnni")]
    fn new() -> Self {
        Self(Avx512::new())
    }
}

/// Calls an intrinsic that touches no memory.
macro_rules! op {
    ($intrinsic:ident $(::<$imm:tt>)? ($($arg:expr),*)) => {
        // SAFETY: it needs AVX-512 f or bw, and the `self` of each method here proves them.
        unsafe { $intrinsic$(::<$imm>)?($($arg),*) }
    };
}

/// Running sums: with VNNI `total` alone, in 32 bits. Without, `low` and `high` in 16 bits (of lower and upper halves of
/// wide codes), settled into `total`.
#[derive(Clone, Copy)]
struct Sums {
    total: __m512i,
    low: __m512i,
    high: __m512i,
}

/// Numbers by the low five bits of their two's complement: those without the fifth bit.
static POSITIVE: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
/// And those with it.
static NEGATIVE: [f32; 16] =
    [-16.0, -15.0, -14.0, -13.0, -12.0, -11.0, -10.0, -9.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0];

#[inline(always)]
fn word(four: [i8; 4]) -> i32 {
    i32::from_le_bytes(four.map(i8::cast_unsigned))
}

impl<const VNNI: bool> Avx512Tile<VNNI> {
    #[inline(always)]
    fn line(self, from: &Line) -> __m512i {
        // SAFETY: the reference covers the 64 bytes that are read, and a `Line` is aligned to 64; `self` proves AVX-512.
        unsafe { _mm512_load_si512(std::ptr::from_ref(from).cast()) }
    }

    #[inline(always)]
    fn word_down<const J: usize>(self, v: __m512i) -> __m512i {
        let count = op!(_mm_cvtsi32_si128(8 * J as i32));
        op!(_mm512_srl_epi32(v, count))
    }
}

impl<const VNNI: bool> Tile for Avx512Tile<VNNI> {
    type Lanes = Avx512;
    type Bytes = __m512i;
    type Sums = Sums;
    type Table = __m512;

    const SIGNED_UNIT: f32 = 1.0;
    const PICKS: bool = true;

    #[inline(always)]
    fn lanes(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn load(self, from: &Line) -> __m512i {
        self.line(from)
    }

    #[inline(always)]
    fn store(self, v: __m512i, to: &mut Line) {
        // SAFETY: the reference covers the 64 bytes that are written, and a `Line` is aligned to 64.
        unsafe { _mm512_store_si512(std::ptr::from_mut(to).cast(), v) }
    }

    #[inline(always)]
    fn down(self, v: __m512i, n: u32) -> __m512i {
        let count = op!(_mm_cvtsi32_si128(n as i32));
        op!(_mm512_srl_epi16(v, count))
    }

    #[inline(always)]
    fn mask(self, v: __m512i, mask: u8) -> __m512i {
        let mask = op!(_mm512_set1_epi8(mask.cast_signed()));
        op!(_mm512_and_si512(v, mask))
    }

    #[inline(always)]
    fn join(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn minus(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_sub_epi8(a, b))
    }

    #[inline(always)]
    fn spread(self, rows: &[u8; ROWS]) -> __m512i {
        // SAFETY: the array covers the 16 bytes that are read, at any alignment; SSE2 is part of x86-64.
        let rows = unsafe { _mm_loadu_si128(rows.as_ptr().cast()) };
        let words = op!(_mm512_cvtepu8_epi32(rows));
        let ones = op!(_mm512_set1_epi32(0x0101_0101));
        op!(_mm512_mullo_epi32(words, ones))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], indices: __m512i) -> __m512i {
        // SAFETY: the array covers the 16 bytes that are read, at any alignment; SSE2 is part of x86-64.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        let table = op!(_mm512_broadcast_i32x4(table));
        op!(_mm512_shuffle_epi8(table, indices))
    }

    #[inline(always)]
    fn no_sums(self) -> Sums {
        let zero = op!(_mm512_setzero_si512());
        Sums { total: zero, low: zero, high: zero }
    }

    #[inline(always)]
    fn dot(self, mut s: Sums, codes: __m512i, x: [i8; 4], wide: bool) -> Sums {
        let x = op!(_mm512_set1_epi32(word(x)));
        if VNNI {
            // SAFETY: `VNNI` makes `self` the proof of AVX-512 VNNI.
            s.total = unsafe { _mm512_dpbusd_epi32(s.total, codes, x) };
        } else if wide {
            // Halves of a code are below 16, as narrow codes are.
            let low = op!(_mm512_maddubs_epi16(self.mask(codes, 15), x));
            let high = op!(_mm512_maddubs_epi16(self.mask(self.down(codes, 4), 15), x));
            s.low = op!(_mm512_add_epi16(s.low, low));
            s.high = op!(_mm512_add_epi16(s.high, high));
        } else {
            // Eight sums of two products below 15 * 128 stay below 2^15, and sixteen of two below 7 * 128.
            let low = op!(_mm512_maddubs_epi16(codes, x));
            s.low = op!(_mm512_add_epi16(s.low, low));
        }
        s
    }

    #[inline(always)]
    fn settle(self, mut s: Sums, wide: bool) -> Sums {
        if VNNI {
            return s;
        }
        let ones = op!(_mm512_set1_epi16(1));
        let low = op!(_mm512_madd_epi16(s.low, ones));
        s.total = op!(_mm512_add_epi32(s.total, low));
        if wide {
            let sixteens = op!(_mm512_set1_epi16(16));
            let high = op!(_mm512_madd_epi16(s.high, sixteens));
            s.total = op!(_mm512_add_epi32(s.total, high));
        }
        let zero = op!(_mm512_setzero_si512());
        Sums { total: s.total, low: zero, high: zero }
    }

    #[inline(always)]
    fn total(self, a: Sums, b: Sums) -> __m512 {
        let sum = op!(_mm512_add_epi32(a.total, b.total));
        op!(_mm512_cvtepi32_ps(sum))
    }

    #[inline(always)]
    fn unsigned<const J: usize>(self, v: __m512i) -> __m512 {
        let low = op!(_mm512_set1_epi32(0xFF));
        let column = op!(_mm512_and_si512(self.word_down::<J>(v), low));
        op!(_mm512_cvtepi32_ps(column))
    }

    #[inline(always)]
    fn signed<const J: usize>(self, v: __m512i) -> __m512 {
        // The permutation reads the low five bits of each word.
        // SAFETY: the array covers the sixteen values that are read; `self` proves AVX-512.
        let high = unsafe { _mm512_loadu_ps(POSITIVE.as_ptr()) };
        // SAFETY: as above.
        let low = unsafe { _mm512_loadu_ps(NEGATIVE.as_ptr()) };
        op!(_mm512_permutex2var_ps(high, self.word_down::<J>(v), low))
    }

    #[inline(always)]
    fn table(self, levels: &[f32; 16]) -> __m512 {
        // SAFETY: the array covers the sixteen values that are read; `self` proves AVX-512.
        unsafe { _mm512_loadu_ps(levels.as_ptr()) }
    }

    #[inline(always)]
    fn pick<const J: usize>(self, table: __m512, indices: __m512i) -> __m512 {
        // The permutation reads the low four bits of each word; those above are of the next column.
        op!(_mm512_permutexvar_ps(self.word_down::<J>(indices), table))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
}
