//! The portable tile: bytes and sums as arrays.

use super::table::PackedKernels;
use super::tile::{Line, ROWS, Tile};
use super::{activations, dequantize, dot_f32, dot_int8};
use crate::lanes::{LANES, Lanes};
use crate::scalar::Scalar;

/// The definition of every kernel.
pub(crate) static SCALAR: PackedKernels = PackedKernels {
    table: "scalar",
    dot: "plain",
    quantize: |x, span, to| activations::quantize(ScalarTile, x, span, to),
    run_int8: |matrix, tiles, x, out| dot_int8::run(ScalarTile, matrix, tiles, x, out),
    run_f32: |matrix, tiles, x, out| dot_f32::run(ScalarTile, matrix, tiles, x, out),
    dequantize: |matrix, tile, codes, out| dequantize::dequantize(ScalarTile, matrix, tile, codes, out),
    dot_dense: |a, b| dot_f32::dense(ScalarTile, a, b),
};

/// Needs nothing of the machine.
#[derive(Clone, Copy)]
struct ScalarTile;

type F = <Scalar as Lanes>::F;

#[inline(always)]
fn each(mut v: Line, f: impl Fn(u8) -> u8) -> Line {
    for byte in &mut v.0 {
        *byte = f(*byte);
    }
    v
}

#[inline(always)]
fn both(mut a: Line, b: Line, f: impl Fn(u8, u8) -> u8) -> Line {
    for (a, &b) in a.0.iter_mut().zip(&b.0) {
        *a = f(*a, b);
    }
    a
}

impl Tile for ScalarTile {
    type Lanes = Scalar;
    type Bytes = Line;
    type Sums = [i32; ROWS];
    type Table = F;

    const SIGNED_UNIT: f32 = 1.0;
    const PICKS: bool = true;

    #[inline(always)]
    fn lanes(self) -> Scalar {
        Scalar
    }

    #[inline(always)]
    fn load(self, from: &Line) -> Line {
        *from
    }

    #[inline(always)]
    fn store(self, v: Line, to: &mut Line) {
        *to = v;
    }

    #[inline(always)]
    fn down(self, v: Line, n: u32) -> Line {
        each(v, |byte| byte >> n)
    }

    #[inline(always)]
    fn mask(self, v: Line, mask: u8) -> Line {
        each(v, |byte| byte & mask)
    }

    #[inline(always)]
    fn join(self, a: Line, b: Line) -> Line {
        both(a, b, |a, b| a | b)
    }

    #[inline(always)]
    fn minus(self, a: Line, b: Line) -> Line {
        both(a, b, u8::wrapping_sub)
    }

    #[inline(always)]
    fn spread(self, rows: &[u8; ROWS]) -> Line {
        Line(std::array::from_fn(|i| rows[i / 4]))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], indices: Line) -> Line {
        each(indices, |index| table[usize::from(index & 15)])
    }

    #[inline(always)]
    fn no_sums(self) -> [i32; ROWS] {
        [0; ROWS]
    }

    #[inline(always)]
    fn dot(self, mut sums: [i32; ROWS], codes: Line, x: [i8; 4], _wide: bool) -> [i32; ROWS] {
        for (sum, four) in sums.iter_mut().zip(codes.0.as_chunks::<4>().0) {
            for (&code, &x) in four.iter().zip(&x) {
                *sum += i32::from(code) * i32::from(x);
            }
        }
        sums
    }

    #[inline(always)]
    fn settle(self, sums: [i32; ROWS], _wide: bool) -> [i32; ROWS] {
        sums
    }

    #[inline(always)]
    fn total(self, a: [i32; ROWS], b: [i32; ROWS]) -> F {
        std::array::from_fn(|row| (a[row] + b[row]) as f32)
    }

    #[inline(always)]
    fn unsigned<const J: usize>(self, v: Line) -> F {
        std::array::from_fn(|row| f32::from(v.0[4 * row + J]))
    }

    #[inline(always)]
    fn signed<const J: usize>(self, v: Line) -> F {
        std::array::from_fn(|row| f32::from(v.0[4 * row + J].cast_signed()))
    }

    #[inline(always)]
    fn table(self, levels: &[f32; 16]) -> F {
        *levels
    }

    #[inline(always)]
    fn pick<const J: usize>(self, table: F, indices: Line) -> F {
        std::array::from_fn(|row| table[usize::from(indices.0[4 * row + J] & 15)])
    }

    #[inline(always)]
    fn mul_add(self, a: F, b: F, mut c: F) -> F {
        for i in 0..LANES {
            c[i] += a[i] * b[i];
        }
        c
    }
}
