//! Fog and spatter.

use super::blur::blurred;
use super::draws::Draws;
use super::plane::Plane;

/// A cloud over everything, dimmed to the image's own maximum.
pub(super) fn fog(x: &Plane, severity: usize, draws: &mut Draws) -> Plane {
    let (thickness, decay) = [(1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)][severity];
    let side = x.height.max(x.width).max(256).next_power_of_two();
    let cloud = plasma(side, decay, draws);
    let max = x.values.iter().copied().fold(0.0, f64::max);
    let value = |(place, x0): (usize, &f64)| {
        let cloud = cloud[place / x.width * side + place % x.width];
        (x0 + thickness * cloud) * max / (max + thickness)
    };
    x.with(x.values.iter().enumerate().map(value).collect())
}

/// A height map of 0 to 1 by diamonds and squares, `side` a power of two, row after row.
///
/// As published, a place strays by wobble^2 times a uniform number: `wibble * uniform(-wibble, wibble)`.
fn plasma(side: usize, decay: f64, draws: &mut Draws) -> Vec<f64> {
    let mut map = vec![0.0; side * side];
    let (mut step, mut wobble) = (side, 100.0f64);
    while step >= 2 {
        let half = step / 2;
        let n = side / step;
        let corner = |map: &[f64], i: usize, j: usize| map[(i % n) * step * side + (j % n) * step];
        let middle = |map: &[f64], i: usize, j: usize| map[((i % n) * step + half) * side + (j % n) * step + half];
        let mut stray = || wobble * (draws.uniform() * 2.0 * wobble - wobble);
        // Middles of squares, then of the edges above them, then of those left of them: each kind drawn in rows.
        for (i, j) in (0..n * n).map(|place| (place / n, place % n)) {
            let corners =
                corner(&map, i, j) + corner(&map, i + 1, j) + (corner(&map, i, j + 1) + corner(&map, i + 1, j + 1));
            map[(i * step + half) * side + j * step + half] = corners / 4.0 + stray();
        }
        for (i, j) in (0..n * n).map(|place| (place / n, place % n)) {
            let around =
                middle(&map, i, j) + middle(&map, i + n - 1, j) + (corner(&map, i, j) + corner(&map, i, j + 1));
            map[i * step * side + j * step + half] = around / 4.0 + stray();
        }
        for (i, j) in (0..n * n).map(|place| (place / n, place % n)) {
            let around =
                middle(&map, i, j) + middle(&map, i, j + n - 1) + (corner(&map, i, j) + corner(&map, i + 1, j));
            map[(i * step + half) * side + j * step] = around / 4.0 + stray();
        }
        step = half;
        wobble /= decay;
    }
    let min = map.iter().copied().fold(f64::INFINITY, f64::min);
    let max = map.iter().copied().fold(f64::NEG_INFINITY, f64::max) - min;
    map.into_iter().map(|x| (x - min) / max).collect()
}

/// Specks of mud.
pub(super) fn spatter(x: &Plane, severity: usize, draws: &mut Draws) -> Plane {
    let (mean, deviation, spread, threshold, edge) = [
        (0.65, 0.3, 4.0, 0.69, 0.6),
        (0.65, 0.3, 3.0, 0.68, 0.6),
        (0.65, 0.3, 2.0, 0.68, 0.5),
        (0.65, 0.3, 1.0, 0.65, 1.5),
        (0.67, 0.4, 1.0, 0.65, 1.5),
    ][severity];
    let liquid = x.with(draws.normals(x.values.len()).into_iter().map(|normal| mean + deviation * normal).collect());
    let mask = blurred(&liquid, spread).map(|x| f64::from(u8::from(*x > threshold)));
    let mask = blurred(&mask, edge).map(|x| if *x < 0.8 { 0.0 } else { *x });
    let mud = 63.0 / 255.0;
    x.with(x.values.iter().zip(&mask.values).map(|(x, mask)| x * (1.0 - mask) + mud * mask).collect())
}
