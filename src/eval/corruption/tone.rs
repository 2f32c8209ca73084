//! Contrast, brightness, coarser pixels and values, inverted parts, a dotted line.

use super::draws::Draws;
use super::plane::Plane;

/// (x - mean) c + mean.
pub(super) fn contrast(x: &Plane, severity: usize, _: &mut Draws) -> Plane {
    let c = [0.4, 0.3, 0.2, 0.1, 0.05][severity];
    let mean = x.values.iter().sum::<f64>() / x.values.len() as f64;
    x.map(|x| (x - mean) * c + mean)
}

/// x + c.
pub(super) fn brightness(x: &Plane, severity: usize, _: &mut Draws) -> Plane {
    let c = [0.1, 0.2, 0.3, 0.4, 0.5][severity];
    x.map(|x| x + c)
}

/// To 2^bits levels.
pub(super) fn quantize(x: &Plane, severity: usize, _: &mut Draws) -> Plane {
    let levels = [31.0, 15.0, 7.0, 3.0, 1.0][severity];
    // Whole bytes times whole levels: one rounding before the one that is meant.
    x.map(|x| (x * 255.0 * levels / 255.0).round_ties_even() / levels)
}

/// To a share c of the rows and columns and back, by boxes as Pillow has them.
pub(super) fn pixelate(x: &Plane, severity: usize, _: &mut Draws) -> Plane {
    let c = [0.6, 0.5, 0.4, 0.3, 0.25][severity];
    let small = |n: usize| ((n as f64 * c) as usize).max(1);
    let bytes = x.map(|x| (x * 255.0).round());
    let across = resized(&bytes, x.height, small(x.width));
    let down = resized(&across, small(x.height), across.width);
    let across = resized(&down, down.height, x.width);
    resized(&across, x.height, x.width).map(|byte| byte / 255.0)
}

/// One side of an image in bytes to another number of pixels: the mean over each box, to whole bytes.
fn resized(x: &Plane, height: usize, width: usize) -> Plane {
    let mean = |index: usize, (from, to): (usize, usize), value: &dyn Fn(usize) -> f64| {
        let scale = from as f64 / to as f64;
        let (reach, center) = (scale.max(1.0) / 2.0, (index as f64 + 0.5) * scale);
        let first = (center - reach + 0.5).max(0.0) as usize;
        let end = ((center + reach + 0.5) as usize).min(from);
        let inside = |at: &usize| {
            let place = (*at as f64 - center + 0.5) / scale.max(1.0);
            place > -0.5 && place <= 0.5
        };
        let places: Vec<usize> = (first..end).filter(inside).collect();
        // Pillow's weights are whole numbers of 2^-22, and a half rounds up.
        let weight = ((1 << 22) as f64 / places.len().max(1) as f64 + 0.5).floor();
        ((places.iter().map(|at| value(*at)).sum::<f64>() * weight + (1 << 21) as f64) / (1 << 22) as f64).floor()
    };
    let value = |place: usize| {
        let (row, column) = (place / width, place % width);
        if width == x.width {
            mean(row, (x.height, height), &|row| x.at(row, column))
        } else {
            mean(column, (x.width, width), &|column| x.at(row, column))
        }
    };
    Plane { height, width, values: (0..height * width).map(value).collect() }
}

/// The left and the right quarter inverted.
pub(super) fn stripe(x: &Plane, _: usize, _: &mut Draws) -> Plane {
    let quarter = x.width / 4;
    let inverted = |column: usize| column < quarter || column >= x.width - quarter;
    let pixel = |(place, x0): (usize, &f64)| if inverted(place % x.width) { 1.0 - x0 } else { *x0 };
    x.with(x.values.iter().enumerate().map(pixel).collect())
}

/// 1 - x.
pub(super) fn inverse(x: &Plane, _: usize, _: &mut Draws) -> Plane {
    x.map(|x| 1.0 - x)
}

/// A line from edge to edge in pieces of two columns, fading within 2.3 rows.
pub(super) fn dotted_line(x: &Plane, _: usize, draws: &mut Draws) -> Plane {
    let end = x.width - 1;
    let (first, last) = (draws.whole(0, x.height as i64 - 1) as f64, draws.whole(0, x.height as i64 - 1) as f64);
    let slope = if end == 0 { 0.0 } else { (last - first) / end as f64 };
    let pixel = |(place, x0): (usize, &f64)| {
        let (row, column) = ((place / x.width) as f64, place % x.width);
        // Every second pair of columns, and not the last column.
        if column / 2 % 2 == 0 || column >= end {
            return *x0;
        }
        let distance = (row - (slope * column as f64 + first)).abs().min(2.3 - 1e-10);
        x0 + ((1.0 - distance / 2.3).ln() + 1.0).clamp(0.0, 1.0)
    };
    x.with(x.values.iter().enumerate().map(pixel).collect())
}
