//! 3 rows by 32 outputs in 12 registers: 12 fused products for 4 loads of weights and 3 broadcasts.

#![expect(unsafe_code, reason = "loads and stores, and the entry that turns features on")]

use std::arch::x86_64::{_mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps};

use super::{Kernel, Lane, PANEL, Tile};

const ROWS: usize = 3;

/// The kernel, where the machine fuses products too, as every one with AVX2 so far does.
pub(super) fn kernel() -> Option<Kernel> {
    let detected = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    detected.then_some(|tile| {
        // SAFETY: handed out only where AVX2 and FMA were detected, above.
        unsafe { enter(tile) }
    })
}

#[target_feature(enable = "avx2,fma")]
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
        _ => rows::<2>(tile, row),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn rows<const N: usize>(tile: &mut Tile<'_>, first: usize) {
    let mut sums = [[_mm256_setzero_ps(); 4]; N];
    let stride = tile.x_stride;
    let x = &tile.x[first * stride..];
    for (input, Lane(weights)) in tile.panel.iter().enumerate() {
        let mut xs = [_mm256_setzero_ps(); N];
        for (row, to) in xs.iter_mut().enumerate() {
            // SAFETY: `first + row` is below `tile.rows` and `input` below the panel's length; `Tile::check` holds `x` to be that long.
            let x = unsafe { x.get_unchecked(row * stride + input) };
            *to = _mm256_broadcast_ss(x);
        }
        for (quarter, weights) in weights.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: the reference covers the eight values that are read.
            let weights = unsafe { _mm256_loadu_ps(weights.as_ptr()) };
            for (sums, x) in sums.iter_mut().zip(&xs) {
                sums[quarter] = _mm256_fmadd_ps(*x, weights, sums[quarter]);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        let mut results = [0.0; PANEL];
        for (out, sum) in results.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
            // SAFETY: the reference covers the eight values that are written.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
        }
        tile.put(first + row, &results);
    }
}
