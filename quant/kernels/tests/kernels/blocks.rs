//! Block searches: every table against the scalar one, to the bit, and never worse than the whole range.

use reweight_kernels::{BLOCK_ROWS, BlockRows, BlockSearch, Kernels, OfRows, UnitGrid, by_name, supported};

use crate::random::Random;

const SEARCHES: [BlockSearch<'static>; 5] = [
    search(-8, 7, &[-8.6, -7.4, 7.6], true),
    search(-32, 31, &[-32.4, -31.6], false),
    search(-4, 3, &[], false),
    search(0, 15, &[14.2, 15.0, 15.8], true),
    search(0, 3, &[2.2, 2.8, 3.4], false),
];

const fn search(low: i32, high: i32, ends: &'static [f32], in_f16: bool) -> BlockSearch<'static> {
    BlockSearch { low, high, ends, near: &[[1.0, 0.98], [1.02, 0.99]], in_f16, negative_minimum: !in_f16 }
}

/// Rows of `len` columns: like weights, tiny, huge, zeros, one value, infinitesimal.
fn rows(random: &mut Random, len: usize) -> Vec<f32> {
    let mut rows = random.normals(BLOCK_ROWS * len, 0.05);
    for (row, scale) in [(1, 0.0), (2, 1e-30), (3, 1e30), (4, 1e-43), (5, -0.0)] {
        rows[row * len..][..len].iter_mut().for_each(|x| *x *= scale);
    }
    rows[6 * len..][..len].fill(-1.5);
    rows[7 * len..][..len].iter_mut().for_each(|x| *x = x.abs());
    rows
}

fn found(kernels: &Kernels, search: &BlockSearch<'_>, block: BlockRows<'_>) -> [OfRows; 2] {
    let [mut scales, mut minima] = [[0.0; BLOCK_ROWS]; 2];
    if search.low < 0 {
        kernels.symmetric_blocks(search, block, &mut scales);
    } else {
        kernels.affine_blocks(search, block, &mut scales, &mut minima);
    }
    [scales, minima]
}

fn snapped(kernels: &Kernels, search: &BlockSearch<'_>, block: BlockRows<'_>, found: &[OfRows; 2]) -> [OfRows; 2] {
    let units = found.map(|values| values.map(|x| (x / 9.3).abs()));
    let [mut scales, mut minima] = *found;
    if search.low < 0 {
        let grid = UnitGrid { low: -32, high: 31, reach: 2 };
        kernels.snap_blocks((search.low, search.high), grid, &units[0], block, &mut scales);
    } else {
        let grid = UnitGrid { low: 0, high: 63, reach: 1 };
        kernels.snap_affine_blocks(search.high, grid, units.each_ref(), block, [&mut scales, &mut minima]);
    }
    [scales, minima]
}

fn bits(values: [OfRows; 2]) -> [[u32; BLOCK_ROWS]; 2] {
    values.map(|values| values.map(f32::to_bits))
}

/// By the definition, in f64: row after row.
fn errors(search: &BlockSearch<'_>, rows: &[f32], weights: &[f32], [scales, minima]: &[OfRows; 2]) -> Vec<f64> {
    let one = |(row, values): (usize, &[f32])| {
        let (scale, minimum) = (f64::from(scales[row]), f64::from(minima[row]));
        let sum = |sum: f64, (x, w): (&f32, &f32)| {
            let x = f64::from(*x) - minimum;
            let code = if scale == 0.0 { 0.0 } else { (x / scale).round_ties_even() };
            let code = code.clamp(f64::from(search.low), f64::from(search.high));
            sum + f64::from(*w) * (code * scale - x).powi(2)
        };
        values.iter().zip(weights).fold(0.0, sum)
    };
    rows.chunks(weights.len()).enumerate().map(one).collect()
}

#[test]
fn every_table_finds_what_the_scalar_one_finds() {
    let scalar = by_name("scalar").expect("the scalar table runs everywhere");
    for seed in 0..20 {
        let mut random = Random::new(seed);
        for (len, search) in [16, 32].into_iter().flat_map(|len| SEARCHES.iter().map(move |search| (len, search))) {
            let values = rows(&mut random, len);
            let weights = if seed % 5 == 4 { vec![0.0; len] } else { random.weights(len) };
            let mut across = vec![[0.0; BLOCK_ROWS]; len];
            scalar.interleave(&values, len, &mut across);
            let block = BlockRows { values: &across, weights: &weights };
            let expected = found(scalar, search, block);
            let multiples = snapped(scalar, search, block, &expected);
            assert!(expected.iter().chain(&multiples).flatten().all(|x| x.is_finite()), "{search:?}");
            for kernels in supported() {
                let got = found(kernels, search, block);
                assert_eq!(bits(expected), bits(got), "{} {search:?} {len}", kernels.name);
                let got = snapped(kernels, search, block, &got);
                assert_eq!(bits(multiples), bits(got), "{} {search:?} {len}: snapped", kernels.name);
            }
        }
    }
}

#[test]
fn a_search_is_never_worse_than_the_whole_range() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        for search in &SEARCHES {
            let (values, weights) = (random.normals(BLOCK_ROWS * 32, 0.05), random.weights(32));
            let mut across = vec![[0.0; BLOCK_ROWS]; 32];
            for kernels in supported() {
                kernels.interleave(&values, 32, &mut across);
                let block = BlockRows { values: &across, weights: &weights };
                let whole = found(kernels, &BlockSearch { ends: &[], ..*search }, block);
                let (whole, found) = (errors(search, &values, &weights, &whole), found(kernels, search, block));
                for (row, (found, whole)) in errors(search, &values, &weights, &found).iter().zip(whole).enumerate() {
                    // Thirty-two terms summed in f32, each rounded three times.
                    let slack = whole * 64.0 * f64::from(f32::EPSILON);
                    assert!(*found <= whole + slack, "{} {search:?} row {row}: {found} {whole}", kernels.name);
                }
            }
        }
    }
}

#[test]
fn every_table_gives_the_same_codes_and_lays_rows_alike() {
    let scalar = by_name("scalar").expect("the scalar table runs everywhere");
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let values = rows(&mut random, 64);
        let (scales, minima) = (random.normals(4, 0.01), random.normals(4, 0.05));
        for kernels in supported() {
            for range in [(-8, 7), (0, 31), (-127, 127)] {
                let (mut expected, mut got) = ([0; 64], [0; 64]);
                for row in values.chunks(64) {
                    scalar.block_codes(range, row, &scales, &minima, &mut expected);
                    kernels.block_codes(range, row, &scales, &minima, &mut got);
                    assert_eq!(expected, got, "{} {range:?}", kernels.name);
                }
            }
            for n_rows in 0..=BLOCK_ROWS {
                let mut across = vec![[1.0; BLOCK_ROWS]; 48];
                kernels.interleave(&values[..n_rows * 64], 64, &mut across);
                for (column, lanes) in across.iter().enumerate() {
                    for (row, x) in lanes.iter().enumerate() {
                        let expected = if row < n_rows { values[row * 64 + column] } else { 0.0 };
                        assert_eq!(x.to_bits(), expected.to_bits(), "{} {row} {column}", kernels.name);
                    }
                }
            }
        }
    }
}
