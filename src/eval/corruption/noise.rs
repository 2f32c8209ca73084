//! Noise: gaussian, shot, impulse, speckle.

use super::draws::Draws;
use super::plane::Plane;

/// x + N(0, c^2).
pub(super) fn gaussian(x: &Plane, severity: usize, draws: &mut Draws) -> Plane {
    let c = [0.08, 0.12, 0.18, 0.26, 0.38][severity];
    let normals = draws.normals(x.values.len());
    x.with(x.values.iter().zip(normals).map(|(x, normal)| x + normal * c).collect())
}

/// Poisson(c x) / c.
pub(super) fn shot(x: &Plane, severity: usize, draws: &mut Draws) -> Plane {
    let c = [60.0, 25.0, 12.0, 5.0, 3.0][severity];
    x.map(|x| poisson(x * c, draws.uniform()) / c)
}

/// The least k whose cumulative probability reaches `u`.
fn poisson(mean: f64, u: f64) -> f64 {
    let (mut k, mut probability) = (0.0, (-mean).exp());
    let mut sum = probability;
    // Rounding may leave the sum a little below 1 for ever: by then terms are nothing.
    while sum < u && probability > 0.0 {
        k += 1.0;
        probability *= mean / k;
        sum += probability;
    }
    k
}

/// A share c of the pixels becomes 0 or 1, each half of the time: all first draws before all second ones.
pub(super) fn impulse(x: &Plane, severity: usize, draws: &mut Draws) -> Plane {
    let c = [0.03, 0.06, 0.09, 0.17, 0.27][severity];
    let (flips, salts) = (draws.uniforms(x.values.len()), draws.uniforms(x.values.len()));
    let pixel = |((x, flip), salt): ((&f64, f64), f64)| match (flip <= c, salt <= 0.5) {
        (false, _) => *x,
        (true, true) => 1.0,
        (true, false) => 0.0,
    };
    x.with(x.values.iter().zip(flips).zip(salts).map(pixel).collect())
}

/// x + x N(0, c^2).
pub(super) fn speckle(x: &Plane, severity: usize, draws: &mut Draws) -> Plane {
    let c = [0.15, 0.2, 0.35, 0.45, 0.6][severity];
    let normals = draws.normals(x.values.len());
    x.with(x.values.iter().zip(normals).map(|(x, normal)| x + x * normal * c).collect())
}
