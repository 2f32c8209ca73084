//! A tile of a packed matrix back to values.

use super::tile::{BLOCK, Line, ROWS, Tile, half_block};
use super::{PackedMatrix, Values};
use crate::lanes::{LANES, Lanes};

/// The tile's rows, `columns` values each: `(code - zero) * scale` with one rounding, or `level * scale`.
///
/// `codes` is scratch: it is left holding the tile's codes in rows of padded columns.
#[inline(always)]
pub(crate) fn dequantize<S: Tile>(s: S, matrix: &PackedMatrix, tile: usize, codes: &mut Vec<u8>, out: &mut [f32]) {
    let l = s.lanes();
    let layout = &matrix.layout;
    let padded = layout.padded_columns();
    codes.resize(ROWS * padded, 0);
    unpack(s, matrix, tile, codes);
    let levels = matrix.levels();
    let (mut scales, mut zeros) = ([0.0; ROWS], [0.0; ROWS]);
    for (index, (record, (columns, _))) in matrix.tile_records(tile).zip(layout.groups()).enumerate() {
        l.store(matrix.scales(s, record), &mut scales);
        l.store(matrix.zeros(s, record), &mut zeros);
        let start = index * layout.group_blocks * BLOCK;
        let rows = codes.chunks_exact(padded).zip(out.chunks_exact_mut(layout.columns));
        for ((codes, out), (&scale, &zero)) in rows.zip(scales.iter().zip(&zeros)) {
            let (codes, out) = (&codes[start..][..columns.len()], &mut out[columns.clone()]);
            if let Values::Codebook(_) = matrix.values {
                for (code, value) in codes.iter().zip(out) {
                    *value = levels[usize::from(code & 15)] * scale;
                }
            } else {
                affine(s, codes, scale, zero, out);
            }
        }
    }
}

#[inline(always)]
fn affine<S: Tile>(s: S, codes: &[u8], scale: f32, zero: f32, out: &mut [f32]) {
    let l = s.lanes();
    let (scale, zero) = (l.splat(scale), l.splat(zero));
    let (from, from_rest) = codes.as_chunks::<LANES>();
    let (to, to_rest) = out.as_chunks_mut::<LANES>();
    for (from, to) in from.iter().zip(to) {
        l.store(l.mul(l.sub(l.load_codes(from), zero), scale), to);
    }
    if !from_rest.is_empty() {
        let (mut short, mut wide) = ([0; LANES], [0.0; LANES]);
        short[..from_rest.len()].copy_from_slice(from_rest);
        l.store(l.mul(l.sub(l.load_codes(&short), zero), scale), &mut wide);
        to_rest.copy_from_slice(&wide[..to_rest.len()]);
    }
}

/// Codes of a tile in rows of padded columns.
#[inline(always)]
fn unpack<S: Tile>(s: S, matrix: &PackedMatrix, tile: usize, codes: &mut [u8]) {
    match matrix.layout.bits {
        2 => unpack_bits::<S, 2>(s, matrix, tile, codes),
        3 => unpack_bits::<S, 3>(s, matrix, tile, codes),
        4 => unpack_bits::<S, 4>(s, matrix, tile, codes),
        _ => unpack_bits::<S, 8>(s, matrix, tile, codes),
    }
}

#[inline(always)]
fn unpack_bits<S: Tile, const BITS: usize>(s: S, matrix: &PackedMatrix, tile: usize, codes: &mut [u8]) {
    let padded = matrix.layout.padded_columns();
    let mut chunks = [Line([0; 64]); 8];
    for (index, block) in matrix.tile_lines(tile).as_chunks::<BITS>().0.iter().enumerate() {
        let halves = [half_block::<S, BITS, 0>(s, block), half_block::<S, BITS, 1>(s, block)];
        for (codes, to) in halves.into_iter().flatten().zip(&mut chunks) {
            s.store(codes, to);
        }
        for (row, codes) in codes.chunks_exact_mut(padded).enumerate() {
            let to = &mut codes[index * BLOCK..][..BLOCK];
            for (to, chunk) in to.as_chunks_mut::<4>().0.iter_mut().zip(&chunks) {
                to.copy_from_slice(&chunk.0[4 * row..4 * row + 4]);
            }
        }
    }
}
