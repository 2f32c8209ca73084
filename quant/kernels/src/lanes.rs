//! Sixteen f32 lanes: the only thing an instruction set has to provide. Algorithms elsewhere are written over it.
//!
//! Every method is exact or rounds once, to nearest with ties to even, so any two implementations agree bit for bit.

/// How many lanes a vector has, in every table.
pub(crate) const LANES: usize = 16;

/// Adding this to a number of magnitude below 2^22 leaves round-half-even(number) in the low bits of the sum: 1.5 * 2^23.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// A token that stands for an instruction set: it exists only where that set may be used.
pub(crate) trait Lanes: Copy {
    /// Sixteen f32.
    type F: Copy;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// Sixteen values, lane 0 first.
    fn load(self, from: &[f32; LANES]) -> Self::F;
    /// The reverse of `load`.
    fn store(self, v: Self::F, to: &mut [f32; LANES]);
    /// a + b
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a - b
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a where `test` is above 0, else b.
    fn where_positive(self, test: Self::F, a: Self::F, b: Self::F) -> Self::F;
    /// a where a < b, else b.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// a where a > b, else b.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Sum of the lanes, folded by halves.
    fn sum(self, a: Self::F) -> f32;
    /// `sum` of each of four vectors, for less than four times the work.
    fn sum4(self, v: &[Self::F; 4]) -> [f32; 4];
    /// The least lane of a vector without NaN.
    fn least(self, a: Self::F) -> f32;
    /// The greatest lane of a vector without NaN.
    fn greatest(self, a: Self::F) -> f32;
    /// `least` of each of four vectors.
    fn least4(self, v: &[Self::F; 4]) -> [f32; 4];
    /// `greatest` of each of four vectors.
    fn greatest4(self, v: &[Self::F; 4]) -> [f32; 4];

    /// Sixteen rows of sixteen values as sixteen columns.
    fn transpose(self, rows: [&[f32; LANES]; LANES], columns: &mut [[f32; LANES]; LANES]);

    /// Widens sixteen little-endian bf16: bits move up, nothing else changes.
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> Self::F;
    /// Rounds to bf16. NaN keeps its upper bits and becomes quiet.
    fn store_bf16(self, v: Self::F, to: &mut [u8; 2 * LANES]);
    /// Widens sixteen little-endian f16. NaN becomes quiet.
    fn load_f16(self, from: &[u8; 2 * LANES]) -> Self::F;
    /// Rounds to f16. NaN keeps its upper bits and becomes quiet.
    fn store_f16(self, v: Self::F, to: &mut [u8; 2 * LANES]);
    /// Asks for the cache line at an address that may lie outside any object.
    fn prefetch(self, at: *const u8);

    /// Sixteen bytes as numbers.
    fn load_codes(self, from: &[u8; LANES]) -> Self::F;
    /// The low byte of `bits(v) - bits(origin)`, where both are integers plus `MAGIC`.
    fn store_codes(self, v: Self::F, origin: Self::F, to: &mut [u8; LANES]);
    /// `store_codes` of four vectors.
    fn store_codes4(self, v: [Self::F; 4], origin: Self::F, to: &mut [u8; 4 * LANES]);

    /// The low `bits` bits of eight bytes, side by side from bit 0; higher bits are zero.
    fn gather_bits(self, bits: u8, eight_codes: u64) -> u64;
    /// The reverse of `gather_bits`.
    fn scatter_bits(self, bits: u8, packed: u64) -> u64;
    /// 64 codes of 4 bits, two a byte.
    fn pack_nibbles(self, codes: &[u8; 64], to: &mut [u8; 32]);
    /// The reverse of `pack_nibbles`.
    fn unpack_nibbles(self, packed: &[u8; 32], to: &mut [u8; 64]);
}

/// `Lanes::transpose` value by value.
#[inline(always)]
pub(crate) fn transpose_values(rows: [&[f32; LANES]; LANES], columns: &mut [[f32; LANES]; LANES]) {
    for (lane, row) in rows.into_iter().enumerate() {
        for (column, x) in columns.iter_mut().zip(row) {
            column[lane] = *x;
        }
    }
}

/// A slice cut in vectors, with the short last one filled up with zeros.
pub(crate) struct Chunks<'a> {
    pub(crate) full: &'a [[f32; LANES]],
    pub(crate) tail: Option<[f32; LANES]>,
}

/// Cuts a slice in vectors.
#[inline(always)]
pub(crate) fn chunks(values: &[f32]) -> Chunks<'_> {
    let (full, rest) = values.as_chunks::<LANES>();
    if rest.is_empty() {
        return Chunks { full, tail: None };
    }
    let mut tail = [0.0; LANES];
    tail[..rest.len()].copy_from_slice(rest);
    Chunks { full, tail: Some(tail) }
}
