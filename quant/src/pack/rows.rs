//! A quantized matrix row by row, from which every container is laid out; and matrices of words turned over.

use std::array::from_fn;

use rayon::prelude::*;

use reweight_kernels::Kernels;

use crate::grid::ternary;
use crate::scheme::{Levels, Scheme};
use crate::tensor::Dtype;

/// Bytes of a band of output rows that one thread turns over: what it writes stays in its cache.
const BAND_BYTES: usize = 1 << 17;

/// Bytes of one row of `columns` codes: whole words of 32 bits.
#[must_use]
pub const fn packed_bytes(columns: usize, bits: u8) -> usize {
    (columns * bits as usize).div_ceil(32) * 4
}

/// Packs a row of codes to [`Scheme::row_bytes`].
pub(crate) fn pack_codes(kernels: &Kernels, scheme: Scheme, codes: &[u8], bytes: &mut [u8]) {
    match scheme.levels() {
        Levels::Ternary => ternary::pack(codes, bytes),
        _ => kernels.pack(scheme.bits(), codes, bytes),
    }
}

/// The reverse of [`pack_codes`].
pub(crate) fn unpack_codes(kernels: &Kernels, scheme: Scheme, bytes: &[u8], codes: &mut [u8]) {
    match scheme.levels() {
        Levels::Ternary => ternary::unpack(bytes, codes),
        _ => kernels.unpack(scheme.bits(), bytes, codes),
    }
}

/// The shape and the scheme of a quantized matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Output channels.
    pub rows: usize,
    /// Input channels; at least one.
    pub columns: usize,
    /// Bits, group, symmetry. The group divides the columns.
    pub scheme: Scheme,
}

impl Matrix {
    /// Groups of a row.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.columns.checked_div(self.scheme.group_len(self.columns)).unwrap_or(0)
    }

    /// Bytes of a packed row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.scheme.row_bytes(self.columns)
    }
}

/// Codes, scales and zeros of a matrix, one row after the other. Reused from tensor to tensor.
#[derive(Debug, Default)]
pub struct CodedRows {
    /// [`Matrix::row_bytes`] a row: value i at bit i b, least significant first.
    pub packed: Vec<u8>,
    /// A scale a group, as stored.
    pub scales: Vec<u8>,
    /// A zero a group, as a code.
    pub zeros: Vec<u8>,
    /// What codes stand for, where they are no integers.
    pub levels: Vec<f32>,
}

impl CodedRows {
    /// Makes room for a matrix.
    pub fn resize(&mut self, matrix: Matrix, scale_dtype: Dtype) {
        let groups = matrix.rows * matrix.groups();
        self.packed.resize(matrix.rows * matrix.row_bytes(), 0);
        self.scales.resize(groups * scale_dtype.bytes(), 0);
        self.zeros.resize(groups, 0);
    }
}

/// Turns a matrix of `W`-byte elements over: element (row, column) of `from` becomes (column, row) of `to`.
///
/// Cost: reads and writes each byte once, on the threads of the current pool.
///
/// # Panics
/// Unless both hold `rows * columns` elements.
pub(super) fn transpose<const W: usize>(rows: usize, columns: usize, from: &[u8], to: &mut [u8]) {
    assert_eq!((from.len(), to.len()), (rows * columns * W, rows * columns * W), "both hold the matrix");
    if from.is_empty() {
        return;
    }
    let band = (BAND_BYTES / (rows * W)).max(1);
    to.par_chunks_mut(band * rows * W).enumerate().for_each(|(index, to)| {
        let first = index * band;
        let width = to.len() / (rows * W);
        for row in 0..rows {
            let line = &from[(row * columns + first) * W..][..width * W];
            for (column, element) in line.as_chunks::<W>().0.iter().enumerate() {
                to[(column * rows + row) * W..][..W].copy_from_slice(element);
            }
        }
    });
}

/// [`transpose`] of elements of 2 or 4 bytes.
pub(super) fn transpose_elements(bytes: usize, rows: usize, columns: usize, from: &[u8], to: &mut [u8]) {
    match bytes {
        2 => transpose::<2>(rows, columns, from, to),
        _ => transpose::<4>(rows, columns, from, to),
    }
}

/// The word at an index; zero past the end.
pub(super) fn word_at(words: &[u8], index: usize) -> u32 {
    let at = |byte: usize| words.get(index * 4 + byte).copied().unwrap_or(0);
    u32::from_le_bytes(from_fn(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_over_moves_every_element() {
        for (rows, columns) in [(1, 1), (3, 5), (64, 33), (700, 130), (0, 4), (4, 0)] {
            let from: Vec<u8> = (0..(rows * columns) as u32).flat_map(u32::to_le_bytes).collect();
            let mut to = vec![0; from.len()];
            transpose::<4>(rows, columns, &from, &mut to);
            for row in 0..rows {
                for column in 0..columns {
                    assert_eq!(word_at(&to, column * rows + row), word_at(&from, row * columns + column));
                }
            }
        }
    }
}
