//! Rows of a packed matrix times int8 activations.
//!
//! Within a span the products `code * activation` are summed as integers, exactly. A span adds
//! `(sum - zero * activation sum) * (scale * activation scale)` to its row's result: the first factor is exact in f32
//! for zeros that are multiples of 1/2, and nothing is fused, so that every table gives the same bits.

use std::ops::Range;

use super::activations::Int8Rows;
use super::tile::{BLOCK, Floats, Line, ROWS, SPAN_BLOCKS, Tile, half_block};
use super::{PackedMatrix, Values};
use crate::lanes::Lanes;

/// How far ahead codes are asked for: on a virtual machine that hides its prefetcher, without it a third of the
/// bandwidth is lost.
const AHEAD: usize = 3 << 10;

/// Results of `tiles` for each row of x: `out[tile][row of x]`.
#[inline(always)]
pub(crate) fn run<S: Tile>(s: S, matrix: &PackedMatrix, tiles: Range<usize>, x: &Int8Rows, out: &mut [[f32; ROWS]]) {
    let codebook = matches!(matrix.values, Values::Codebook(_));
    match (matrix.layout.bits, codebook) {
        (2, false) => run_bits::<S, 2, false>(s, matrix, tiles, x, out),
        (3, false) => run_bits::<S, 3, false>(s, matrix, tiles, x, out),
        (4, false) => run_bits::<S, 4, false>(s, matrix, tiles, x, out),
        (2, true) => run_bits::<S, 2, true>(s, matrix, tiles, x, out),
        (3, true) => run_bits::<S, 3, true>(s, matrix, tiles, x, out),
        (4, true) => run_bits::<S, 4, true>(s, matrix, tiles, x, out),
        (_, _) => run_bits::<S, 8, false>(s, matrix, tiles, x, out),
    }
}

#[inline(always)]
fn run_bits<S: Tile, const BITS: usize, const CODEBOOK: bool>(
    s: S,
    matrix: &PackedMatrix,
    tiles: Range<usize>,
    x: &Int8Rows,
    out: &mut [[f32; ROWS]],
) {
    for (tile, out) in tiles.zip(out.chunks_exact_mut(x.n_rows)) {
        let (fours, rest) = out.as_chunks_mut::<4>();
        let (twos, ones) = rest.as_chunks_mut::<2>();
        let mut row = 0;
        for out in fours {
            run_tile::<S, BITS, CODEBOOK, 4>(s, matrix, tile, x, row, out);
            row += 4;
        }
        for out in twos {
            run_tile::<S, BITS, CODEBOOK, 2>(s, matrix, tile, x, row, out);
            row += 2;
        }
        for out in ones.as_chunks_mut::<1>().0 {
            run_tile::<S, BITS, CODEBOOK, 1>(s, matrix, tile, x, row, out);
        }
    }
}

/// One tile for `M` rows of x, the first of them `row`.
#[inline(always)]
fn run_tile<S: Tile, const BITS: usize, const CODEBOOK: bool, const M: usize>(
    s: S,
    matrix: &PackedMatrix,
    tile: usize,
    x: &Int8Rows,
    row: usize,
    out: &mut [[f32; ROWS]; M],
) {
    let l = s.lanes();
    let layout = &matrix.layout;
    let (n_blocks, n_spans) = (layout.n_blocks(), layout.n_spans());
    let mut blocks = matrix.tile_lines(tile).as_chunks::<BITS>().0;
    let mut xs: [&[[i8; BLOCK]]; M] = std::array::from_fn(|m| &x.blocks[(row + m) * n_blocks..][..n_blocks]);
    let mut spans: [_; M] = std::array::from_fn(|m| x.spans[(row + m) * n_spans..][..n_spans].iter());
    let mut acc = [l.splat(0.0); M];
    for (record, (_, group_blocks)) in matrix.tile_records(tile).zip(layout.groups()) {
        let (scale, zero) = (matrix.scales(s, record), matrix.zeros(s, record));
        let (mut group, rest) = blocks.split_at(group_blocks);
        blocks = rest;
        while !group.is_empty() {
            let (span, rest) = group.split_at(group.len().min(SPAN_BLOCKS));
            group = rest;
            let sums = sum_span::<S, BITS, CODEBOOK, M>(s, matrix, span, &mut xs);
            for m in 0..M {
                let Some(x) = spans[m].next() else { continue };
                let sum = l.sub(sums[m], l.mul(zero, l.splat(x.sum)));
                acc[m] = l.add(acc[m], l.mul(sum, l.mul(scale, l.splat(x.scale))));
            }
        }
    }
    for (acc, out) in acc.into_iter().zip(out) {
        l.store(if CODEBOOK { l.mul(acc, l.splat(matrix.unit())) } else { acc }, out);
    }
}

/// Sums of products over a span, whose blocks are taken off `xs`.
#[inline(always)]
fn sum_span<S: Tile, const BITS: usize, const CODEBOOK: bool, const M: usize>(
    s: S,
    matrix: &PackedMatrix,
    span: &[[Line; BITS]],
    xs: &mut [&[[i8; BLOCK]]; M],
) -> [Floats<S>; M] {
    let wide = BITS == 8 || CODEBOOK;
    // Four products of a block go to each sum, so that codes below 8 have room for a span.
    let settles_once = BITS < 4 && !wide;
    // Two sums a row, so that a product need not wait for the one before.
    let mut sums = [[s.no_sums(); 2]; M];
    let mut x: [_; M] = std::array::from_fn(|m| {
        let (span, rest) = xs[m].split_at(span.len());
        xs[m] = rest;
        span.iter()
    });
    for block in span {
        for line in block {
            s.lanes().prefetch(std::ptr::from_ref(line).cast::<u8>().wrapping_add(AHEAD));
        }
        let x: [&[[i8; 4]; 8]; M] = std::array::from_fn(|m| match x[m].next().map(|x| x.as_chunks::<4>().0) {
            Some(fours) => fours.first_chunk::<8>().unwrap_or(&[[0; 4]; 8]),
            None => &[[0; 4]; 8],
        });
        add_half::<S, BITS, CODEBOOK, M, 0>(s, matrix, block, &x, &mut sums);
        add_half::<S, BITS, CODEBOOK, M, 1>(s, matrix, block, &x, &mut sums);
        if !settles_once {
            settle::<S, M>(s, wide, &mut sums);
        }
    }
    if settles_once {
        settle::<S, M>(s, wide, &mut sums);
    }
    sums.map(|[a, b]| s.total(a, b))
}

#[inline(always)]
fn settle<S: Tile, const M: usize>(s: S, wide: bool, sums: &mut [[S::Sums; 2]; M]) {
    for sum in sums.as_flattened_mut() {
        *sum = s.settle(*sum, wide);
    }
}

/// Adds the products of half a block.
#[inline(always)]
fn add_half<S: Tile, const BITS: usize, const CODEBOOK: bool, const M: usize, const HALF: usize>(
    s: S,
    matrix: &PackedMatrix,
    block: &[Line; BITS],
    x: &[&[[i8; 4]; 8]; M],
    sums: &mut [[S::Sums; 2]; M],
) {
    for (chunk, codes) in half_block::<S, BITS, HALF>(s, block).into_iter().enumerate() {
        let codes = if CODEBOOK { s.lookup(matrix.unsigned_levels(), codes) } else { codes };
        for m in 0..M {
            let sum = &mut sums[m][chunk % 2];
            *sum = s.dot(*sum, codes, x[m][4 * HALF + chunk], BITS == 8 || CODEBOOK);
        }
    }
}
