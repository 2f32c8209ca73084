//! What the searches of all blocks share: rows side by side, candidates, and how numbers are stored.

use half::f16;
use reweight_kernels::{BLOCK_ROWS, BlockRows, BlockSearch, Kernels, OfRows, PAIR};

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
    /// Few candidates, for columns that matter alike.
    Even,
    /// More candidates, where some columns matter more: then the best scale lies further from that of the whole range.
    Weighted,
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

/// First candidates, and those beside the best so far.
type Tried = (&'static [f32], &'static [[f32; PAIR]]);

/// Codes of blocks without a minimum, and what is tried.
///
/// Measured on six matrices of SmolLM2, in shares of the error of the ten to fourteen candidates that were tried before: evenly -8 1.007,
/// -16 1.001, -32 0.93, -4 1.002; by the weights of an importance matrix 0.991, 0.964, 0.93, 0.997.
pub(super) const fn symmetric(low: i32, in_f16: bool, effort: Effort) -> BlockSearch<'static> {
    let (ends, near): Tried = match (effort, low) {
        (Effort::Nearest, _) => (&[], &[]),
        (Effort::Even, -4) => (&[-4.5, -3.6, -2.9, 3.4], &[[0.96, 1.04]]),
        (Effort::Even, -8) => (&[-8.5, -7.3], &[[0.97, 1.03]]),
        (Effort::Even, -16) => (&[-16.4, -15.2], &[[0.98, 1.02]]),
        (Effort::Even, _) => (&[-32.4, -31.2, -30.2, 31.2], &[[0.985, 1.015]]),
        (Effort::Weighted, -4) => (&[-4.6, -3.9, -3.2, -2.6, 3.6, 2.8], &[[0.96, 1.04], [0.98, 1.02]]),
        (Effort::Weighted, -8) => (&[-8.6, -7.9, -7.2, -6.5, 7.5, 6.9], &[[0.97, 1.03], [0.985, 1.015]]),
        (Effort::Weighted, -16) => (&[-16.6, -15.8, -15.0, -14.2], &[[0.98, 1.02], [0.99, 1.01]]),
        (Effort::Weighted, _) => (&[-32.4, -31.2, -30.2, 31.2], &[[0.98, 1.02], [0.99, 1.01]]),
    };
    BlockSearch { low, high: -low - 1, ends, near, in_f16, negative_minimum: false }
}

/// Codes of blocks with a minimum, and what is tried.
///
/// Measured as above, on values with the heavy tails of Student's t: evenly 3 0.989, 15 1.008; by weights 0.994, 0.997; 31 0.997 both ways.
pub(super) const fn affine(high: i32, in_f16: bool, effort: Effort) -> BlockSearch<'static> {
    let (ends, near): Tried = match (effort, high) {
        (Effort::Nearest, _) => (&[], &[]),
        (_, 3) => (&[2.5, 3.2], &[[0.9, 1.1], [0.95, 1.05]]),
        (Effort::Even, 15) => (&[14.0, 15.2], &[[0.97, 1.03], [0.985, 1.015]]),
        (Effort::Weighted, 15) => (&[13.8, 14.6, 15.4, 16.2], &[[0.98, 1.02], [0.99, 1.01]]),
        (Effort::Even, _) => (&[29.0, 30.0, 30.8, 31.6], &[[0.985, 1.015], [0.993, 1.007]]),
        (Effort::Weighted, _) => (&[28.4, 29.2, 30.0, 30.6, 31.2, 31.8], &[[0.985, 1.015], [0.993, 1.007]]),
    };
    BlockSearch { low: 0, high, ends, near, in_f16, negative_minimum: !in_f16 }
}

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
