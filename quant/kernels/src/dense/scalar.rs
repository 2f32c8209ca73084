//! The portable kernel: 4 rows by 32 outputs, products rounded before they are added.

use super::{Lane, PANEL, Tile};

pub(super) fn tile(tile: &mut Tile<'_>) {
    tile.check();
    let mut row = 0;
    while row + 4 <= tile.rows {
        rows::<4>(tile, row);
        row += 4;
    }
    while row < tile.rows {
        rows::<1>(tile, row);
        row += 1;
    }
}

fn rows<const N: usize>(tile: &mut Tile<'_>, first: usize) {
    let mut sums = [[0.0_f32; PANEL]; N];
    for (input, Lane(weights)) in tile.panel.iter().enumerate() {
        for (row, sums) in sums.iter_mut().enumerate() {
            let x = tile.x[(first + row) * tile.x_stride + input];
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += x * weight;
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        tile.put(first + row, sums);
    }
}
