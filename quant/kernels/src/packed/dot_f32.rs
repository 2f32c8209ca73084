//! Rows of a packed matrix times f32 activations.
//!
//! A weight becomes `code - zero` in f32, exactly, and meets its activation; products of a span are summed (in four
//! sums where there is one row of x), and the sum of each span times its scale is added to the row's result.

use std::ops::Range;

use super::activations::F32Rows;
use super::tile::{BLOCK, Floats, Line, ROWS, SPAN_BLOCKS, Tile, half_block};
use super::{PackedMatrix, Values};
use crate::lanes::{Lanes, chunks};

/// How far ahead codes are asked for.
const AHEAD: usize = 3 << 10;

/// Codes less the zeros of their rows, as signed bytes: up to 4 bits.
const SIGNED: u8 = 0;
/// Codes name signed bytes: up to 4 bits.
const LOOKUP: u8 = 1;
/// Codes name f32 levels: up to 4 bits.
const PICK: u8 = 2;
/// Codes as numbers, less the zeros of their rows.
const WIDE: u8 = 3;

/// Results of `tiles` for each row of x: `out[tile][row of x]`.
#[inline(always)]
pub(crate) fn run<S: Tile>(s: S, matrix: &PackedMatrix, tiles: Range<usize>, x: &F32Rows<'_>, out: &mut [[f32; ROWS]]) {
    let way = match &matrix.values {
        _ if matrix.layout.bits == 8 => WIDE,
        Values::Zeros => SIGNED,
        Values::Zero(_, levels) | Values::Codebook(levels) if levels.exact && !S::PICKS => LOOKUP,
        Values::Zero(..) | Values::Codebook(_) => PICK,
    };
    match (matrix.layout.bits, way) {
        (2, SIGNED) => run_bits::<S, 2, SIGNED>(s, matrix, tiles, x, out),
        (3, SIGNED) => run_bits::<S, 3, SIGNED>(s, matrix, tiles, x, out),
        (4, SIGNED) => run_bits::<S, 4, SIGNED>(s, matrix, tiles, x, out),
        (2, LOOKUP) => run_bits::<S, 2, LOOKUP>(s, matrix, tiles, x, out),
        (3, LOOKUP) => run_bits::<S, 3, LOOKUP>(s, matrix, tiles, x, out),
        (4, LOOKUP) => run_bits::<S, 4, LOOKUP>(s, matrix, tiles, x, out),
        (2, PICK) => run_bits::<S, 2, PICK>(s, matrix, tiles, x, out),
        (3, PICK) => run_bits::<S, 3, PICK>(s, matrix, tiles, x, out),
        (4, PICK) => run_bits::<S, 4, PICK>(s, matrix, tiles, x, out),
        (_, _) => run_bits::<S, 8, WIDE>(s, matrix, tiles, x, out),
    }
}

#[inline(always)]
fn run_bits<S: Tile, const BITS: usize, const WAY: u8>(
    s: S,
    matrix: &PackedMatrix,
    tiles: Range<usize>,
    x: &F32Rows<'_>,
    out: &mut [[f32; ROWS]],
) {
    for (tile, out) in tiles.zip(out.chunks_exact_mut(x.n_rows)) {
        let (fours, rest) = out.as_chunks_mut::<4>();
        let (twos, ones) = rest.as_chunks_mut::<2>();
        let mut row = 0;
        for out in fours {
            run_tile::<S, BITS, WAY, 4>(s, matrix, tile, x, row, out);
            row += 4;
        }
        for out in twos {
            run_tile::<S, BITS, WAY, 2>(s, matrix, tile, x, row, out);
            row += 2;
        }
        for out in ones.as_chunks_mut::<1>().0 {
            run_tile::<S, BITS, WAY, 1>(s, matrix, tile, x, row, out);
        }
    }
}

/// One tile for `M` rows of x, the first of them `row`.
#[inline(always)]
fn run_tile<S: Tile, const BITS: usize, const WAY: u8, const M: usize>(
    s: S,
    matrix: &PackedMatrix,
    tile: usize,
    x: &F32Rows<'_>,
    row: usize,
    out: &mut [[f32; ROWS]; M],
) {
    let l = s.lanes();
    let n_blocks = matrix.layout.n_blocks();
    let mut blocks = matrix.tile_lines(tile).as_chunks::<BITS>().0;
    let mut xs: [&[[f32; BLOCK]]; M] = std::array::from_fn(|m| &x.blocks[(row + m) * n_blocks..][..n_blocks]);
    let mut acc = [l.splat(0.0); M];
    let unit = match WAY {
        SIGNED => 1.0 / S::SIGNED_UNIT,
        LOOKUP => matrix.unit() / S::SIGNED_UNIT,
        _ => 1.0,
    };
    let unit = l.splat(unit);
    let levels = s.table(matrix.levels());
    for (record, (_, group_blocks)) in matrix.tile_records(tile).zip(matrix.layout.groups()) {
        let scale = matrix.scales(s, record);
        let zero = Zero { bytes: s.spread(matrix.zero_bytes(record)), numbers: matrix.zeros(s, record) };
        let (mut group, rest) = blocks.split_at(group_blocks);
        blocks = rest;
        while !group.is_empty() {
            let (span, rest) = group.split_at(group.len().min(SPAN_BLOCKS));
            group = rest;
            let sums = sum_span::<S, BITS, WAY, M>(s, (matrix.signed_levels(), levels), zero, span, &mut xs);
            for m in 0..M {
                let sum = if WAY == SIGNED || WAY == LOOKUP { l.mul(sums[m], unit) } else { sums[m] };
                acc[m] = s.mul_add(sum, scale, acc[m]);
            }
        }
    }
    for (acc, out) in acc.into_iter().zip(out) {
        l.store(acc, out);
    }
}

/// The zeros of a group's rows.
#[derive(Clone, Copy)]
struct Zero<B, F> {
    bytes: B,
    numbers: F,
}

/// Sums of products over a span, whose blocks are taken off `xs`.
#[inline(always)]
fn sum_span<S: Tile, const BITS: usize, const WAY: u8, const M: usize>(
    s: S,
    (byte_levels, levels): (&[u8; 16], S::Table),
    zero: Zero<S::Bytes, Floats<S>>,
    span: &[[Line; BITS]],
    xs: &mut [&[[f32; BLOCK]]; M],
) -> [Floats<S>; M] {
    let l = s.lanes();
    let mut sums = [[l.splat(0.0); 4]; M];
    let x: [_; M] = xs.map(|x| x.split_at(span.len()));
    for (index, block) in span.iter().enumerate() {
        for line in block {
            l.prefetch(std::ptr::from_ref(line).cast::<u8>().wrapping_add(AHEAD));
        }
        let halves = [half_block::<S, BITS, 0>(s, block), half_block::<S, BITS, 1>(s, block)];
        for (half, chunks) in halves.into_iter().enumerate() {
            for (chunk, codes) in chunks.into_iter().enumerate() {
                let codes = match WAY {
                    SIGNED => s.minus(codes, zero.bytes),
                    LOOKUP => s.lookup(byte_levels, codes),
                    _ => codes,
                };
                let weights = match WAY {
                    SIGNED | LOOKUP => {
                        [s.signed::<0>(codes), s.signed::<1>(codes), s.signed::<2>(codes), s.signed::<3>(codes)]
                    }
                    PICK => [
                        s.pick::<0>(levels, codes),
                        s.pick::<1>(levels, codes),
                        s.pick::<2>(levels, codes),
                        s.pick::<3>(levels, codes),
                    ],
                    _ => [
                        l.sub(s.unsigned::<0>(codes), zero.numbers),
                        l.sub(s.unsigned::<1>(codes), zero.numbers),
                        l.sub(s.unsigned::<2>(codes), zero.numbers),
                        l.sub(s.unsigned::<3>(codes), zero.numbers),
                    ],
                };
                for m in 0..M {
                    let first = 16 * half + 4 * chunk;
                    let x = &x[m].0[index];
                    for (j, weight) in weights.into_iter().enumerate() {
                        // Fewer sums a row where there are more rows: there are four in all.
                        let sum = &mut sums[m][j % (4 / M)];
                        *sum = s.mul_add(weight, l.splat(x[first + j]), *sum);
                    }
                }
            }
        }
    }
    *xs = x.map(|(_, rest)| rest);
    sums.map(|[a, b, c, d]| l.add(l.add(a, b), l.add(c, d)))
}

/// Sum of a * b, sixteen sums folded by halves.
#[inline(always)]
pub(crate) fn dense<S: Tile>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let l = s.lanes();
    let (a, b) = (chunks(a), chunks(b));
    let mut sums = [l.splat(0.0); 4];
    let pairs = a.full.iter().chain(&a.tail).zip(b.full.iter().chain(&b.tail));
    for (index, (a, b)) in pairs.enumerate() {
        sums[index % 4] = s.mul_add(l.load(a), l.load(b), sums[index % 4]);
    }
    l.sum(l.add(l.add(sums[0], sums[1]), l.add(sums[2], sums[3])))
}
