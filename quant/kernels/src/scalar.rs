//! The portable table: sixteen lanes as an array. It defines what every other table must give.

use half::{bf16, f16};

use crate::lanes::{LANES, Lanes, transpose_values};
use crate::table::Kernels;
use crate::{blocks, compensate, confidence, convert, dequantize, pack, reduce, rtn, search, sums};

/// The definition of every kernel.
pub(crate) static SCALAR: Kernels = Kernels {
    name: "scalar",
    splits_products: false,
    bf16_to_f32: |bytes, out| convert::bf16_to_f32(Scalar, bytes, out),
    f16_to_f32: |bytes, out| convert::f16_to_f32(Scalar, bytes, out),
    f32_to_bf16: |values, out| convert::f32_to_bf16(Scalar, values, out),
    f32_to_f16: |values, out| convert::f32_to_f16(Scalar, values, out),
    first_non_finite: |values| reduce::first_non_finite(Scalar, values),
    extent: |values| reduce::extent(Scalar, values),
    squared_error: |group, a, b, weights| reduce::squared_error(Scalar, group, a, b, weights),
    rtn: |grid, group, row, weights, out| rtn::rtn(Scalar, grid, group, row, weights, out),
    rtn_bf16: |grid, group, bytes, weights, values, out| {
        rtn::rtn_bf16(Scalar, grid, group, bytes, weights, values, out)
    },
    search: |grid, group, row, weights, n, out| search::search(Scalar, grid, group, row, weights, n, out),
    pack: |bits, codes, out| pack::pack(Scalar, bits, codes, out),
    unpack: |bits, packed, codes| pack::unpack(Scalar, bits, packed, codes),
    dequantize: |group, codes, scales, zeros, out| {
        dequantize::dequantize(Scalar, group, codes, scales, zeros, out);
    },
    round_compensated: |grid, group, triangle, rows| compensate::round(Scalar, grid, group, triangle, rows),
    round_to_levels: |levels, group, triangle, rows| compensate::round_to_levels(Scalar, levels, group, triangle, rows),
    compensated_error: |triangle, differences, rows| compensate::error_of(Scalar, triangle, differences, rows),
    subtract_products: |row, others, from| compensate::subtract_products(Scalar, row, others, from),
    near_bounds: |by, group, row, scales, zeros| confidence::near_bounds(Scalar, by, group, row, scales, zeros),
    settle: |form, passes, doubts| confidence::settle(Scalar, form, passes, doubts),
    form_of: |form, errors| confidence::form_of(Scalar, form, errors),
    add_moments: |rows, abs, squares, part| sums::add_moments(Scalar, rows, abs, squares, part),
    add_units: |per_unit, units, added| sums::add_units(Scalar, per_unit, units, added),
    symmetric_blocks: |search, block, scales| blocks::symmetric(Scalar, search, block, scales),
    affine_blocks: |search, block, scales, minima| blocks::affine(Scalar, search, block, scales, minima),
    snap_blocks: |codes, grid, units, block, scales| blocks::snap(Scalar, codes, grid, units, block, scales),
    snap_affine_blocks: |high, grid, units, block, ranges| {
        blocks::snap_affine(Scalar, high, grid, units, block, ranges);
    },
    block_codes: |codes, values, scales, minima, out| blocks::codes(Scalar, codes, values, scales, minima, out),
    interleave: |rows, stride, out| blocks::interleave(Scalar, rows, stride, out),
};

/// Needs nothing of the machine.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type F = [f32; LANES];

macro_rules! lanewise {
    ($name:ident, |$a:ident, $b:ident| $body:expr) => {
        #[inline(always)]
        fn $name(self, mut a: F, b: F) -> F {
            for ($a, &$b) in a.iter_mut().zip(&b) {
                *$a = $body;
            }
            a
        }
    };
}

/// Folds the upper half of the lanes onto the lower, four times.
#[inline(always)]
fn fold(mut lanes: F, join: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

impl Lanes for Scalar {
    type F = F;

    lanewise!(add, |a, b| *a + b);
    lanewise!(sub, |a, b| *a - b);
    lanewise!(mul, |a, b| *a * b);
    lanewise!(div, |a, b| *a / b);
    lanewise!(min, |a, b| if *a < b { *a } else { b });
    lanewise!(max, |a, b| if *a > b { *a } else { b });

    #[inline(always)]
    fn where_positive(self, test: F, mut a: F, b: F) -> F {
        for ((a, b), test) in a.iter_mut().zip(&b).zip(&test) {
            *a = if *test > 0.0 { *a } else { *b };
        }
        a
    }

    #[inline(always)]
    fn transpose(self, rows: [&[f32; LANES]; LANES], columns: &mut [[f32; LANES]; LANES]) {
        transpose_values(rows, columns);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> F {
        *from
    }

    #[inline(always)]
    fn store(self, v: F, to: &mut [f32; LANES]) {
        *to = v;
    }

    #[inline(always)]
    fn sum(self, a: F) -> f32 {
        fold(a, |x, y| x + y)
    }

    #[inline(always)]
    fn least(self, a: F) -> f32 {
        fold(a, |x, y| if x < y { x } else { y })
    }

    #[inline(always)]
    fn greatest(self, a: F) -> f32 {
        fold(a, |x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    fn sum4(self, v: &[F; 4]) -> [f32; 4] {
        [self.sum(v[0]), self.sum(v[1]), self.sum(v[2]), self.sum(v[3])]
    }

    #[inline(always)]
    fn least4(self, v: &[F; 4]) -> [f32; 4] {
        [self.least(v[0]), self.least(v[1]), self.least(v[2]), self.least(v[3])]
    }

    #[inline(always)]
    fn greatest4(self, v: &[F; 4]) -> [f32; 4] {
        [self.greatest(v[0]), self.greatest(v[1]), self.greatest(v[2]), self.greatest(v[3])]
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> F {
        let mut v = [0.0; LANES];
        for (x, pair) in v.iter_mut().zip(from.as_chunks::<2>().0) {
            *x = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
        }
        v
    }

    #[inline(always)]
    fn store_bf16(self, v: F, to: &mut [u8; 2 * LANES]) {
        for (x, pair) in v.iter().zip(to.as_chunks_mut::<2>().0) {
            *pair = bf16::from_f32(*x).to_le_bytes();
        }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> F {
        let mut v = [0.0; LANES];
        for (x, pair) in v.iter_mut().zip(from.as_chunks::<2>().0) {
            *x = f16::from_le_bytes(*pair).to_f32();
        }
        v
    }

    #[inline(always)]
    fn store_f16(self, v: F, to: &mut [u8; 2 * LANES]) {
        for (x, pair) in v.iter().zip(to.as_chunks_mut::<2>().0) {
            *pair = f16::from_f32(*x).to_le_bytes();
        }
    }

    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}

    #[inline(always)]
    fn load_codes(self, from: &[u8; LANES]) -> F {
        let mut v = [0.0; LANES];
        for (x, code) in v.iter_mut().zip(from) {
            *x = f32::from(*code);
        }
        v
    }

    #[inline(always)]
    fn store_codes(self, v: F, origin: F, to: &mut [u8; LANES]) {
        for ((code, x), o) in to.iter_mut().zip(&v).zip(&origin) {
            *code = x.to_bits().wrapping_sub(o.to_bits()) as u8;
        }
    }

    #[inline(always)]
    fn store_codes4(self, v: [F; 4], origin: F, to: &mut [u8; 4 * LANES]) {
        for (v, to) in v.into_iter().zip(to.as_chunks_mut::<LANES>().0) {
            self.store_codes(v, origin, to);
        }
    }

    #[inline(always)]
    fn gather_bits(self, bits: u8, eight_codes: u64) -> u64 {
        let mut joined = eight_codes & (0x0101_0101_0101_0101 * ((1 << bits) - 1));
        // Bytes join to pairs, pairs to quarters, quarters to one run: 8, 16, 32 bits apart before each step.
        for (apart, low) in [(8, 0x00FF_00FF_00FF_00FF), (16, 0x0000_FFFF_0000_FFFF), (32, 0x0000_0000_FFFF_FFFF)] {
            let run = u32::from(bits) * (apart / 8);
            joined = (joined & low) | ((joined & !low) >> (apart - run));
        }
        joined
    }

    #[inline(always)]
    fn scatter_bits(self, bits: u8, packed: u64) -> u64 {
        let mut split = packed;
        for apart in [32, 16, 8] {
            let run = u32::from(bits) * (apart / 8);
            // The low `run` bits of every field of `2 * apart` bits stay, the next `run` move up to `apart`.
            let mut low = (1 << run) - 1;
            let mut field = 2 * apart;
            while field < 64 {
                low |= low << field;
                field *= 2;
            }
            split = (split & low) | ((split & (low << run)) << (apart - run));
        }
        split
    }

    #[inline(always)]
    fn pack_nibbles(self, codes: &[u8; 64], to: &mut [u8; 32]) {
        for (byte, pair) in to.iter_mut().zip(codes.as_chunks::<2>().0) {
            *byte = (pair[0] & 15) | (pair[1] << 4);
        }
    }

    #[inline(always)]
    fn unpack_nibbles(self, packed: &[u8; 32], to: &mut [u8; 64]) {
        for (pair, byte) in to.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
            *pair = [byte & 15, byte >> 4];
        }
    }
}
