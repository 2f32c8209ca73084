//! What an instruction set provides for packed matrices: sixteen output rows by four input columns at a time.

use crate::lanes::Lanes;

/// Output rows whose codes are interleaved: one 32-bit lane each.
pub(crate) const ROWS: usize = 16;
/// Input columns of a block: of each bit of the codes, a block takes one [`Line`].
pub(crate) const BLOCK: usize = 32;
/// Blocks whose integer products are summed before they become f32: 128 columns at most, so that the sum of
/// `code * activation` stays below 2^24 and is exact in f32.
pub(crate) const SPAN_BLOCKS: usize = 4;

/// A cache line of packed codes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// Sixteen f32, one a row.
pub(crate) type Floats<S> = <<S as Tile>::Lanes as Lanes>::F;

/// A token that stands for an instruction set, as [`Lanes`], with what matrices need above it.
///
/// `Bytes` are 64 bytes: byte `4 * row + column`.
pub(crate) trait Tile: Copy {
    /// The token for f32 lanes.
    type Lanes: Lanes;
    /// 64 bytes.
    type Bytes: Copy;
    /// Running integer sums of sixteen rows.
    type Sums: Copy;
    /// Sixteen f32 levels, ready to be picked from.
    type Table: Copy;

    /// What [`Tile::signed`] multiplies its numbers by.
    const SIGNED_UNIT: f32;
    /// Whether [`Tile::pick`] is cheaper than a byte lookup and [`Tile::signed`].
    const PICKS: bool;

    /// The token for f32 lanes.
    fn lanes(self) -> Self::Lanes;
    /// The bytes of a line.
    fn load(self, from: &Line) -> Self::Bytes;
    /// The reverse of `load`.
    fn store(self, v: Self::Bytes, to: &mut Line);
    /// Each byte down by `n` bits; the upper `n` bits are undefined.
    fn down(self, v: Self::Bytes, n: u32) -> Self::Bytes;
    /// Each byte and `mask`.
    fn mask(self, v: Self::Bytes, mask: u8) -> Self::Bytes;
    /// The bits of both.
    fn join(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// a - b in each byte, wrapping.
    fn minus(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Each row's byte in all four columns.
    fn spread(self, rows: &[u8; ROWS]) -> Self::Bytes;
    /// The table's byte at each index below 16.
    fn lookup(self, table: &[u8; 16], indices: Self::Bytes) -> Self::Bytes;

    /// Sums of nothing.
    fn no_sums(self) -> Self::Sums;
    /// Adds to each row its four codes times four activations, exactly.
    ///
    /// Codes are below 16, or anything where `wide`. At most eight calls go between two of `settle`, or sixteen of
    /// codes below 8.
    fn dot(self, sums: Self::Sums, codes: Self::Bytes, x: [i8; 4], wide: bool) -> Self::Sums;
    /// Makes room for as many calls of `dot` again; `wide` is what it was there.
    fn settle(self, sums: Self::Sums, wide: bool) -> Self::Sums;
    /// The settled sums of both as f32; exact below 2^24.
    fn total(self, a: Self::Sums, b: Self::Sums) -> Floats<Self>;

    /// Column `J` of each row, as an unsigned number.
    fn unsigned<const J: usize>(self, v: Self::Bytes) -> Floats<Self>;
    /// Column `J` of each row, as a signed number times `SIGNED_UNIT`. Numbers are in -16..=15, or, where not `PICKS`,
    /// any.
    fn signed<const J: usize>(self, v: Self::Bytes) -> Floats<Self>;
    /// Prepares levels.
    fn table(self, levels: &[f32; 16]) -> Self::Table;
    /// The level that column `J` of each row names; indices are below 16.
    fn pick<const J: usize>(self, table: Self::Table, indices: Self::Bytes) -> Floats<Self>;
    /// a * b + c, rounded once or twice.
    fn mul_add(self, a: Floats<Self>, b: Floats<Self>, c: Floats<Self>) -> Floats<Self>;
}

/// Codes of columns `16 * HALF..16 * HALF + 16` of a block: four columns at a time.
///
/// `2` bits: one line a half, four columns to a bit pair. `3`: two fours of columns to a line; the last two fours are in the
/// upper bits of the three lines, which takes half the steps of planes of bits. `4`: two lines a half. `8`: four lines a half.
#[inline(always)]
pub(crate) fn half_block<S: Tile, const BITS: usize, const HALF: usize>(s: S, lines: &[Line; BITS]) -> [S::Bytes; 4] {
    let line = |index: usize| s.load(&lines[index]);
    match BITS {
        2 => pairs(s, line(HALF)),
        3 => {
            if HALF == 0 {
                let ([a, b], [c, d]) = (triples(s, line(0)), triples(s, line(1)));
                return [a, b, c, d];
            }
            let [e, f] = triples(s, line(2));
            let top = line(2);
            [e, f, parts(s, line(0), s.down(top, 4)), parts(s, line(1), s.down(top, 5))]
        }
        4 => {
            let (a, b) = (line(2 * HALF), line(2 * HALF + 1));
            [s.mask(a, 15), s.mask(s.down(a, 4), 15), s.mask(b, 15), s.mask(s.down(b, 4), 15)]
        }
        _ => [line(4 * HALF), line(4 * HALF + 1), line(4 * HALF + 2), line(4 * HALF + 3)],
    }
}

#[inline(always)]
fn pairs<S: Tile>(s: S, v: S::Bytes) -> [S::Bytes; 4] {
    [s.mask(v, 3), s.mask(s.down(v, 2), 3), s.mask(s.down(v, 4), 3), s.mask(s.down(v, 6), 3)]
}

#[inline(always)]
fn triples<S: Tile>(s: S, v: S::Bytes) -> [S::Bytes; 2] {
    [s.mask(v, 7), s.mask(s.down(v, 3), 7)]
}

/// The two bits above six, and the third of `top`.
#[inline(always)]
fn parts<S: Tile>(s: S, low: S::Bytes, top: S::Bytes) -> S::Bytes {
    s.join(s.mask(s.down(low, 6), 3), s.mask(top, 4))
}
