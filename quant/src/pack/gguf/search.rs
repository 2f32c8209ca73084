//! What the searches of all blocks share: rows side by side, candidates, and how numbers are stored.

use half::f16;
use reweight_kernels::{BLOCK_ROWS, BlockRows, BlockSearch, Kernels, OfRows};

/// Up to sixteen rows of one matrix, and how much errors in each column matter.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) kernels: &'static Kernels,
    pub(super) values: &'a [f32],
    pub(super) weights: &'a [f32],
    pub(super) effort: Effort,
}

/// How hard to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// The whole range.
    Nearest,
    /// Every candidate.
    Search,
}

impl<'a> Rows<'a> {
    /// Values of a row.
    pub(super) fn columns(&self) -> usize {
        self.weights.len()
    }

    /// Blocks of the same columns of all rows, side by side in `across`.
    pub(super) fn block<'b>(&self, start: usize, across: &'b mut [OfRows]) -> BlockRows<'b>
    where
        'a: 'b,
    {
        self.kernels.interleave(&self.values[start..], self.columns(), across);
        BlockRows { weights: &self.weights[start..][..across.len()], values: across }
    }

    /// Each row with its stored bytes, `bytes` of them for `len` values from `start` on.
    pub(super) fn each<'o, const B: usize>(
        &self,
        start: usize,
        len: usize,
        out: &'o mut [u8],
    ) -> impl Iterator<Item = (usize, &'a [f32], &'o mut [u8; B])> {
        let (columns, values) = (self.columns(), self.values);
        let bytes = columns / len * B;
        out.chunks_exact_mut(bytes).enumerate().filter_map(move |(row, out)| {
            let block = out.as_chunks_mut::<B>().0.get_mut(start / len)?;
            Some((row, &values[row * columns + start..][..len], block))
        })
    }
}

/// Codes of blocks without a minimum, and what is tried.
pub(super) const fn symmetric(low: i32, in_f16: bool, effort: Effort) -> BlockSearch<'static> {
    let (ends, near): (&[f32], &[f32]) = match (effort, low) {
        (Effort::Nearest, _) => (&[], &[]),
        (_, -4) => (&[-4.6, -4.2, -3.8, -3.4, -3.0, 4.0, 3.6, 3.2, 2.8, 2.4], NEAR),
        (_, -8) => (&[-8.6, -8.2, -7.8, -7.4, -7.0, 7.6, 7.2, 6.8], NEAR),
        (_, -16) => (&[-16.5, -16.0, -15.6, -15.2, 15.5, 15.2], NEAR),
        _ => (&[-32.4, -32.0, -31.6, -31.2, 31.4, 31.0], NEAR),
    };
    BlockSearch { low, high: -low - 1, ends, near, in_f16, negative_minimum: false }
}

/// Codes of blocks with a minimum, and what is tried.
pub(super) const fn affine(high: i32, in_f16: bool, effort: Effort) -> BlockSearch<'static> {
    let (ends, near): (&[f32], &[f32]) = match (effort, high) {
        (Effort::Nearest, _) => (&[], &[]),
        (_, 3) => (&[2.2, 2.5, 2.8, 3.1, 3.4, 3.7, 4.0, 4.4], NEAR),
        (_, 15) => (&[14.2, 14.6, 15.0, 15.4, 15.8, 16.2], NEAR),
        _ => (&[29.5, 30.0, 30.4, 30.8, 31.2, 31.6], NEAR),
    };
    BlockSearch { low: 0, high, ends, near, in_f16, negative_minimum: !in_f16 }
}

/// Beside the best of the first candidates, and it once more.
const NEAR: &[f32] = &[1.0, 0.985, 1.015, 1.0];

/// As a finite f16, which is what scales of blocks are stored as.
pub(super) fn stored(value: f32) -> f32 {
    f16::from_f32(value.clamp(-65504.0, 65504.0)).to_f32()
}

/// The bytes of a number that [`stored`] gave.
pub(super) fn f16_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// `1 / value`, or 0 where that is not finite.
pub(super) fn inverse(value: f32) -> f32 {
    let inverse = 1.0 / value;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Room for a block of each row.
pub(super) const fn room<const N: usize>() -> [OfRows; N] {
    [[0.0; BLOCK_ROWS]; N]
}
