//! 12 rows by 32 outputs in 24 registers: 24 fused products for 2 loads of weights and 12 broadcasts.

#![expect(unsafe_code, reason = "loads and stores, and the entry that turns features on")]

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::{Kernel, Lane, PANEL, Tile};

const ROWS: usize = 12;

/// The kernel, where the machine can run it.
pub(super) fn kernel() -> Option<Kernel> {
    std::arch::is_x86_feature_detected!("avx512f").then_some(|tile| {
        // SAFETY: handed out only where AVX-512 F was detected, above.
        unsafe { enter(tile) }
    })
}

#[target_feature(enable = "avx512f")]
fn enter(tile: &mut Tile<'_>) {
    tile.check();
    let mut row = 0;
    while row + ROWS <= tile.rows {
        rows::<ROWS>(tile, row);
        row += ROWS;
    }
    match tile.rows - row {
        0 => {}
        1 => rows::<1>(tile, row),
        2 => rows::<2>(tile, row),
        3 => rows::<3>(tile, row),
        4 => rows::<4>(tile, row),
        5 => rows::<5>(tile, row),
        6 => rows::<6>(tile, row),
        7 => rows::<7>(tile, row),
        8 => rows::<8>(tile, row),
        9 => rows::<9>(tile, row),
        10 => rows::<10>(tile, row),
        _ => rows::<11>(tile, row),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn rows<const N: usize>(tile: &mut Tile<'_>, first: usize) {
    let mut sums = [[_mm512_setzero_ps(); 2]; N];
    let stride = tile.x_stride;
    let x = &tile.x[first * stride..];
    for (input, Lane(weights)) in tile.panel.iter().enumerate() {
        // SAFETY: the first 16 of 32 weights.
        let low = unsafe { _mm512_loadu_ps(weights.as_ptr()) };
        // SAFETY: the last 16 of 32 weights.
        let high = unsafe { _mm512_loadu_ps(weights[PANEL / 2..].as_ptr()) };
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `first + row` is below `tile.rows` and `input` below the panel's length; `Tile::check` holds `x` to be that long.
            let x = unsafe { x.get_unchecked(row * stride + input) };
            let x = _mm512_set1_ps(*x);
            sums[0] = _mm512_fmadd_ps(x, low, sums[0]);
            sums[1] = _mm512_fmadd_ps(x, high, sums[1]);
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        if tile.outputs == PANEL {
            let out = &mut tile.out[(first + row) * tile.out_stride..][..PANEL];
            for (out, sum) in out.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
                let sum = if tile.add {
                    // SAFETY: the reference covers the sixteen values that are read.
                    _mm512_add_ps(unsafe { _mm512_loadu_ps(out.as_ptr()) }, *sum)
                } else {
                    *sum
                };
                // SAFETY: the reference covers the sixteen values that are written.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
            }
        } else {
            let mut results = [0.0; PANEL];
            for (out, sum) in results.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
                // SAFETY: the reference covers the sixteen values that are written.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
            }
            tile.put(first + row, &results);
        }
    }
}
