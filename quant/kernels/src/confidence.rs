//! Weights near a decision boundary: how many there are, and deciding them by what they do to outputs.
//!
//! Sums run over sixteen lanes of columns and are folded once, so every table gives the same bits.

use crate::lanes::{LANES, Lanes, MAGIC};

/// Values whose place on the grid lies less than `band` steps from where rounding goes the other way.
///
/// The place is `value / scale + zero + offset`, held between 0 and the largest code: beyond them nothing is decided.
#[inline(always)]
pub(crate) fn near_bounds<S: Lanes>(
    s: S,
    (code_max, offset, band): (u8, f32, f32),
    group: usize,
    row: &[f32],
    scales: &[f32],
    zeros: &[u8],
) -> usize {
    let (least, most, magic) = (s.splat(0.0), s.splat(f32::from(code_max)), s.splat(MAGIC));
    let (one, bound) = (s.splat(1.0), s.splat(0.5 - band));
    let mut near = s.splat(0.0);
    for ((values, scale), zero) in row.chunks(group).zip(scales).zip(zeros) {
        let (inverse, zero) = (s.splat(1.0 / scale), s.splat(f32::from(*zero) + offset));
        let (full, rest) = values.as_chunks::<LANES>();
        // What fills up the last vector lies far beyond the last code.
        let mut tail = [f32::INFINITY; LANES];
        tail[..rest.len()].copy_from_slice(rest);
        let tail = if rest.is_empty() { &[][..] } else { std::slice::from_ref(&tail) };
        for values in full.iter().chain(tail) {
            let place = s.min(s.max(s.add(s.mul(s.load(values), inverse), zero), least), most);
            let off = s.sub(place, s.sub(s.add(place, magic), magic));
            let distance = s.max(off, s.sub(least, off));
            near = s.add(near, s.where_positive(s.sub(distance, bound), one, least));
        }
    }
    s.sum(near) as usize
}

#[cfg(test)]
mod tests {
    use crate::supported;

    #[test]
    fn what_is_near_a_boundary_is_what_the_formula_says() {
        // Places are counted from 0; at three bits boundaries lie at 1/2, .. 6 + 1/2.
        for n in [1_usize, 15, 16, 17, 64, 150] {
            for (group, offset) in [(8, 0.0), (48, 0.0), (48, 3.5), (n, 0.0)] {
                let row: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7391).sin() * 3.0).collect();
                let n_groups = n.div_ceil(group);
                let scales: Vec<f32> = (0..n_groups).map(|g| 0.5 + 0.1 * g as f32).collect();
                let zeros: Vec<u8> = (0..n_groups).map(|g| if offset > 0.0 { 0 } else { (g % 8) as u8 }).collect();
                for band in [0.0, 0.005, 0.1, 0.4] {
                    let near = |(i, value): (usize, &f32)| {
                        let place = f64::from(value / scales[i / group]) + f64::from(zeros[i / group]) + offset;
                        (0..7).any(|code| (place - (f64::from(code) + 0.5)).abs() < f64::from(band))
                    };
                    let expected = row.iter().enumerate().filter(|pair| near(*pair)).count();
                    for kernels in supported() {
                        let by = (7, offset as f32, band);
                        let found = kernels.near_bounds(by, group, &row, (&scales, &zeros));
                        assert_eq!(
                            found, expected,
                            "{kernels:?}: {n} in groups of {group}, offset {offset}, band {band}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn beyond_the_last_code_nothing_is_decided() {
        let row = [9.5, 7.5, 7.0, 6.5, -0.5, -1.5, 1e30, -1e30];
        for kernels in supported() {
            assert_eq!(kernels.near_bounds((7, 0.0, 0.1), 8, &row, (&[1.0], &[0])), 1, "{kernels:?}");
        }
    }
}
