//! Sums over many rows: in f32 over a few rows, then in f64, or as whole numbers of a fixed unit, so that their order does not count.
//!
//! Plain loops over slices; each table compiles them for its instruction set. Every result is exact or rounded element by element, so all
//! tables give the same bits.

use crate::lanes::Lanes;

/// Rows whose sums are taken in f32 before they are added in f64.
const ROWS: usize = 8;

/// Adds |x| and x^2 of each column of `rows` to the sums. `part` holds as many values as both.
#[inline(always)]
pub(crate) fn add_moments<L: Lanes>(_: L, rows: &[f32], abs: &mut [f64], squares: &mut [f64], part: &mut [f32]) {
    let width = abs.len();
    let (abs_part, squares_part) = part.split_at_mut(width);
    for rows in rows.chunks(ROWS * width) {
        abs_part.fill(0.0);
        squares_part.fill(0.0);
        for row in rows.chunks_exact(width) {
            for ((x, abs), square) in row.iter().zip(&mut *abs_part).zip(&mut *squares_part) {
                *abs += x.abs();
                *square += x * x;
            }
        }
        abs.iter_mut().zip(&*abs_part).for_each(|(sum, part)| *sum += f64::from(*part));
        squares.iter_mut().zip(&*squares_part).for_each(|(sum, part)| *sum += f64::from(*part));
    }
}

/// Adds sums in reverse order as whole numbers of units of `1 / per_unit`, each rounded, ties to even; sums that are not finite, and totals
/// beyond 64 bits, saturate.
#[inline(always)]
pub(crate) fn add_units<L: Lanes>(_: L, per_unit: f64, units: &mut [i64], sums: &[f32]) {
    /// Added to a smaller number, leaves a whole number in the low bits: 1.5 * 2^52.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    let largest = sums.iter().fold(0.0, |largest: f32, sum| largest.max(sum.abs()));
    let finite = sums.iter().fold(true, |all, sum| all & sum.is_finite());
    // What is added and what it is added to stay far from the ends of their types.
    let total = units.iter().fold(0, |most: u64, units| most | units.unsigned_abs());
    if finite && f64::from(largest) * per_unit < (1_u64 << 51) as f64 && total < 1 << 62 {
        for (units, sum) in units.iter_mut().zip(sums.iter().rev()) {
            let rounded = f64::from(*sum) * per_unit + ROUNDER;
            *units = units.wrapping_add((rounded.to_bits() as i64).wrapping_sub(ROUNDER.to_bits() as i64));
        }
        return;
    }
    for (units, sum) in units.iter_mut().zip(sums.iter().rev()) {
        *units = units.saturating_add((f64::from(*sum) * per_unit).round_ties_even() as i64);
    }
}

#[cfg(test)]
mod tests {
    use crate::supported;

    #[test]
    fn every_table_gives_the_same_sums() {
        let rows: Vec<f32> = (0..37 * 21).map(|i| (i as f32 * 0.37).sin() * 100.0).collect();
        for sums in [vec![1e-7, -3.5e5, 2.0, 1.5 / 1024.0, -0.0], vec![f32::INFINITY, f32::NAN, -1e30, 4.0, 1.0]] {
            let mut expected: Option<(Vec<f64>, Vec<i64>)> = None;
            for kernels in supported() {
                let (mut abs, mut squares, mut units) = (vec![0.5; 37], vec![0.25; 37], vec![7, -9, i64::MAX, 0, 3]);
                kernels.add_moments(&rows, &mut abs, &mut squares);
                kernels.add_units(1024.0, &mut units, &sums);
                abs.extend(squares);
                let found = (abs, units);
                assert_eq!(expected.get_or_insert_with(|| found.clone()), &found, "{}", kernels.name);
            }
        }
    }

    #[test]
    fn units_are_added_in_reverse_and_saturate() {
        for kernels in supported() {
            let mut units = vec![1, 2, i64::MAX - 1];
            kernels.add_units(2.0, &mut units, &[10.0, 0.75, -1.0]);
            assert_eq!(units, [-1, 4, i64::MAX], "{}", kernels.name);
        }
    }
}
