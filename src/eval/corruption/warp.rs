//! Shear, rotation, scale and translation: where each pixel is read, linear between pixels, nothing beyond the edge.

use super::draws::Draws;
use super::plane::Plane;

/// Sheared about the middle by c radians, to one side or the other.
pub(super) fn shear(x: &Plane, severity: usize, draws: &mut Draws) -> Plane {
    let c = [0.2, 0.4, 0.6, 0.8, 1.0][severity] * draws.sign();
    // As scikit-image had it when MNIST-C was made (0.14): later releases take tangents.
    centered(x, [[1.0, -c.sin()], [0.0, c.cos()]])
}

/// Turned about the middle by c radians, to one side or the other.
pub(super) fn rotate(x: &Plane, severity: usize, draws: &mut Draws) -> Plane {
    let c = [0.2, 0.4, 0.6, 0.8, 1.0][severity] * draws.sign();
    centered(x, [[c.cos(), -c.sin()], [c.sin(), c.cos()]])
}

/// Shrunk about the middle.
pub(super) fn scale(x: &Plane, severity: usize, _: &mut Draws) -> Plane {
    let c = 1.0 / [0.9, 0.8, 0.7, 0.6, 0.5][severity];
    centered(x, [[c, 0.0], [0.0, c]])
}

/// Moved by c pixels in each direction, to one side or the other.
pub(super) fn translate(x: &Plane, severity: usize, draws: &mut Draws) -> Plane {
    let c = severity as f64 + 1.0;
    let (right, down) = (c * draws.sign(), c * draws.sign());
    warped(x, [[1.0, 0.0], [0.0, 1.0]], [right, down])
}

/// A matrix over (column, row) that leaves the middle where it is.
fn centered(x: &Plane, matrix: [[f64; 2]; 2]) -> Plane {
    let middle = [(x.width as f64 - 1.0) / 2.0, (x.height as f64 - 1.0) / 2.0];
    let shift = |line: usize| middle[line] - matrix[line][0] * middle[0] - matrix[line][1] * middle[1];
    warped(x, matrix, [shift(0), shift(1)])
}

fn warped(x: &Plane, matrix: [[f64; 2]; 2], shift: [f64; 2]) -> Plane {
    let read = |row: f64, column: f64| {
        let inside = row >= 0.0 && column >= 0.0 && row < x.height as f64 && column < x.width as f64;
        if inside { x.at(row as usize, column as usize) } else { 0.0 }
    };
    let value = |place: usize| {
        let (to_row, to_column) = ((place / x.width) as f64, (place % x.width) as f64);
        let at = |line: usize| matrix[line][0] * to_column + matrix[line][1] * to_row + shift[line];
        let (column, row) = (at(0), at(1));
        let (low_row, low_column) = (row.floor(), column.floor());
        let (down, right) = (row - low_row, column - low_column);
        let line = |row: f64| read(row, low_column) * (1.0 - right) + read(row, column.ceil()) * right;
        line(low_row) * (1.0 - down) + line(row.ceil()) * down
    };
    x.with((0..x.values.len()).map(value).collect())
}
