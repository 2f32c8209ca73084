//! Blurs: gaussian, glass, defocus, zoom.

use super::draws::Draws;
use super::plane::Plane;

/// A gaussian of standard deviation c in both directions.
///
/// MNIST-C calls scikit-image with `multichannel=True` on an image without channels, which blurs columns alone; the formula
/// is meant here.
pub(super) fn gaussian(x: &Plane, severity: usize, _: &mut Draws) -> Plane {
    blurred(x, [1.0, 2.0, 3.0, 4.0, 6.0][severity])
}

/// Blurred, cut to bytes, pixels swapped with neighbours here and there, blurred again.
pub(super) fn glass(x: &Plane, severity: usize, draws: &mut Draws) -> Plane {
    let (sigma, delta, times) = [(0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)][severity];
    let mut x = blurred(x, sigma).map(|x| (x * 255.0).floor() / 255.0);
    let (height, width) = (x.height as i64, x.width as i64);
    for _ in 0..times {
        for row in (delta + 1..=height - delta).rev() {
            for column in (delta + 1..=width - delta).rev() {
                if draws.uniform() < 0.5 {
                    let (right, down) = (draws.whole(-delta, delta), draws.whole(-delta, delta));
                    let place = |row: i64, column: i64| (row * width + column) as usize;
                    x.values.swap(place(row, column), place(row + down, column + right));
                }
            }
        }
    }
    blurred(&x, sigma)
}

/// The mean over a disk whose edge is smoothed.
pub(super) fn defocus(x: &Plane, severity: usize, _: &mut Draws) -> Plane {
    let (radius, sigma) = [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)][severity];
    let (reach, smoothing) = if radius <= 8 { (8, 1) } else { (radius, 2) };
    let side = (2 * reach + 1) as usize;
    let inside = |place: usize| {
        let (row, column) = ((place / side) as i64 - reach, (place % side) as i64 - reach);
        f64::from(u8::from(row * row + column * column <= radius * radius))
    };
    let disk = Plane { height: side, width: side, values: (0..side * side).map(inside).collect() };
    let sum: f64 = disk.values.iter().sum();
    let disk = separable(&disk.map(|x| x / sum), &gaussian_weights(sigma, smoothing), reflected);
    let reach = reach as usize;
    let value = |place: usize| {
        let (row, column) = (place / x.width, place % x.width);
        let mut total = 0.0;
        for down in 0..side {
            let from = reflected((row + down) as i64 - reach as i64, x.height);
            for right in 0..side {
                total += disk.at(down, right) * x.at(from, reflected((column + right) as i64 - reach as i64, x.width));
            }
        }
        total
    };
    x.with((0..x.values.len()).map(value).collect())
}

/// The mean of the image and of itself, enlarged by and by.
pub(super) fn zoom(x: &Plane, severity: usize, _: &mut Draws) -> Plane {
    // Steps as numpy's `arange` makes them of the published bounds; the first includes its upper one by rounding.
    let (step, n) = [(0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11)][severity];
    let mut sums = x.values.clone();
    for index in 0..n {
        let zoomed = enlarged(x, 1.0 + f64::from(index) * step);
        sums.iter_mut().zip(&zoomed.values).for_each(|(sum, x)| *sum += x);
    }
    x.with(sums).map(|x| x / f64::from(n + 1))
}

/// The middle of an image, enlarged to its size: corners on corners, linear between pixels.
fn enlarged(x: &Plane, factor: f64) -> Plane {
    // Ceil and rounding as the published code has them, for each side.
    let axis = |n: usize| {
        let cut = (n as f64 / factor).ceil() as usize;
        let out = (cut as f64 * factor).round_ties_even() as usize;
        let ratio = if out > 1 { (cut as f64 - 1.0) / (out as f64 - 1.0) } else { 1.0 };
        ((n - cut) / 2, cut, (out.saturating_sub(n)) / 2, ratio)
    };
    let ((top, rows, skip_rows, down), (left, columns, skip_columns, right)) = (axis(x.height), axis(x.width));
    let between = |at: f64, n: usize| {
        let low = (at.floor() as usize).min(n - 1);
        (low, (low + 1).min(n - 1), at - low as f64)
    };
    let value = |place: usize| {
        let (low_row, high_row, row_part) = between((place / x.width + skip_rows) as f64 * down, rows);
        let (low, high, part) = between((place % x.width + skip_columns) as f64 * right, columns);
        let line = |row: usize| x.at(top + row, left + low) * (1.0 - part) + x.at(top + row, left + high) * part;
        line(low_row) * (1.0 - row_part) + line(high_row) * row_part
    };
    x.with((0..x.values.len()).map(value).collect())
}

/// A gaussian in both directions, cut at four standard deviations; beyond the edge is the edge's value.
pub(super) fn blurred(x: &Plane, sigma: f64) -> Plane {
    let weights = gaussian_weights(sigma, (4.0 * sigma + 0.5) as usize);
    separable(x, &weights, |at, n| at.clamp(0, n as i64 - 1) as usize)
}

/// exp(-k^2 / 2 sigma^2) for k of -reach to reach, of sum 1.
fn gaussian_weights(sigma: f64, reach: usize) -> Vec<f64> {
    let weights: Vec<f64> = (0..=2 * reach)
        .map(|index| {
            let k = index as f64 - reach as f64;
            (-0.5 * k * k / (sigma * sigma)).exp()
        })
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Weights along columns, then along rows. `beyond` tells which value stands for one outside.
fn separable(x: &Plane, weights: &[f64], beyond: impl Fn(i64, usize) -> usize) -> Plane {
    let reach = (weights.len() / 2) as i64;
    let sum = |at: usize, n: usize, value: &dyn Fn(usize) -> f64| {
        let terms = weights.iter().enumerate();
        terms.map(|(index, weight)| weight * value(beyond(at as i64 + index as i64 - reach, n))).sum::<f64>()
    };
    let places = || (0..x.values.len()).map(|place| (place / x.width, place % x.width));
    let first = places().map(|(row, column)| sum(row, x.height, &|row| x.at(row, column)));
    let first = x.with(first.collect());
    let second = places().map(|(row, column)| sum(column, x.width, &|column| first.at(row, column)));
    x.with(second.collect())
}

/// Mirrored at the middle of the outermost pixels, over and over.
fn reflected(at: i64, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let period = 2 * (n as i64 - 1);
    let at = at.rem_euclid(period);
    at.min(period - at) as usize
}
