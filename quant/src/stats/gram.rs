//! Sums of x x^T, exact in a fixed unit like the other sums.

use reweight_kernels::{Dense, Kernels, Rows, RowsMut};

/// The upper triangle of a symmetric matrix of sums, row after row, in units of 2^-20: for magnitudes up to 2^43.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gram {
    width: usize,
    units: Vec<i64>,
}

const UNIT: f64 = 1.0 / (1_u64 << 20) as f64;

impl Gram {
    /// Zeros for vectors of so many values.
    #[must_use]
    pub fn zeros(width: usize) -> Self {
        Self { width, units: vec![0; width * (width + 1) / 2] }
    }

    /// From the units of an upper triangle; `None` unless there are as many as the width needs.
    #[must_use]
    pub fn from_units(width: usize, units: Vec<i64>) -> Option<Self> {
        (units.len() == width * (width + 1) / 2).then_some(Self { width, units })
    }

    /// The upper triangle in units of 2^-20.
    #[must_use]
    pub fn units(&self) -> &[i64] {
        &self.units
    }

    /// Rows and columns.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Entries of the mean over so many tokens, by row and column in any order.
    pub fn mean(&self, tokens: u64) -> impl Fn(usize, usize) -> f64 + Sync + '_ {
        let unit = UNIT / tokens.max(1) as f64;
        move |i, j| {
            let (i, j) = (i.min(j), i.max(j));
            // Rows before this one hold n, n - 1, ... entries.
            self.units[i * (2 * self.width - i + 1) / 2 + j - i] as f64 * unit
        }
    }

    /// The whole matrix, both triangles.
    #[must_use]
    pub fn matrix(&self) -> Vec<f64> {
        let n = self.width;
        let mut matrix = vec![0.0; n * n];
        let pairs = (0..n).flat_map(|i| (i..n).map(move |j| (i, j)));
        for ((i, j), units) in pairs.zip(&self.units) {
            let value = *units as f64 * UNIT;
            (matrix[i * n + j], matrix[j * n + i]) = (value, value);
        }
        matrix
    }

    /// The mean over so many tokens, both triangles, laid out for products.
    #[must_use]
    pub fn lay_out(&self, tokens: u64) -> Dense {
        let (n, mean) = (self.width, self.mean(tokens));
        let matrix: Vec<f32> = (0..n * n).map(|at| mean(at / n, at % n) as f32).collect();
        let mut dense = Dense::default();
        dense.reset(n, n);
        dense.set_rows(Rows { values: &matrix, stride: n });
        dense
    }

    /// Adds x x^T of each row. Products and their sums over the rows are taken in f32, then rounded to the unit.
    pub fn add_rows(&mut self, kernels: &Kernels, rows: &[f32]) {
        GramScratch::default().products(kernels, rows, self.width, |tile| self.add(kernels, tile));
    }

    /// Adds some rows of sums.
    pub(super) fn add(&mut self, kernels: &Kernels, tile: &GramTile<'_>) {
        let n = self.width;
        // Rows before this one hold n, n - 1, ... entries.
        let mut start = tile.first * (2 * n - tile.first + 1) / 2;
        for (i, sums) in tile.sums.chunks_exact(n).take(tile.height).enumerate() {
            let sums = &sums[..n - tile.first - i];
            kernels.add_units(1.0 / UNIT, &mut self.units[start..start + sums.len()], sums);
            start += sums.len();
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (units, other) in self.units.iter_mut().zip(&other.units) {
            *units = units.saturating_add(*other);
        }
    }
}

/// Some rows of the sums over one lot of rows.
pub(super) struct GramTile<'a> {
    first: usize,
    height: usize,
    /// From the diagonal on, last column first, as many values a row as the matrix has columns.
    sums: &'a [f32],
}

/// Buffers of one thread, to be used again.
#[derive(Debug, Default)]
pub(super) struct GramScratch {
    dense: Dense,
    reversed: Vec<f32>,
    transposed: Vec<f32>,
    tile: Vec<f32>,
}

impl GramScratch {
    /// Hands the sums of x x^T over rows to `take`, some rows of sums at a time.
    pub(super) fn products(
        &mut self,
        kernels: &Kernels,
        rows: &[f32],
        width: usize,
        mut take: impl FnMut(&GramTile<'_>),
    ) {
        /// Rows of sums that are made together.
        const TILE: usize = 240;
        /// Tokens whose values of a channel make up a line of memory.
        const LINE: usize = 16;
        let (n, n_rows) = (width, rows.len() / width);
        let Self { dense, reversed, transposed, tile } = self;
        dense.reset(n, n_rows);
        // Channels in reverse, so that the columns a tile of rows needs are the first ones.
        reversed.clear();
        reversed.extend_from_slice(rows);
        reversed.chunks_exact_mut(n).for_each(<[f32]>::reverse);
        dense.set_columns(Rows { values: reversed, stride: n });
        transposed.resize(TILE.min(n) * n_rows, 0.0);
        tile.resize(TILE.min(n) * n, 0.0);
        for first in (0..n).step_by(TILE) {
            let height = TILE.min(n - first);
            for (block, rows) in rows.chunks(LINE * n).enumerate() {
                let tokens = rows.len() / n;
                for channel in 0..height {
                    let line = &mut transposed[channel * n_rows + block * LINE..][..tokens];
                    for (to, row) in line.iter_mut().zip(rows.chunks_exact(n)) {
                        *to = row[first + channel];
                    }
                }
            }
            let x = Rows { values: transposed, stride: n_rows };
            let out = RowsMut { values: tile, stride: n };
            dense.product_part(kernels, x, height, out, n - first, n_rows);
            take(&GramTile { first, height, sums: tile });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Gram;
    use reweight_kernels::supported;

    #[test]
    fn sums_of_outer_products_are_the_formula() {
        let (n, n_rows) = (251, 37);
        let rows: Vec<f32> = (0..n * n_rows).map(|i| (i as f32 * 0.37).sin()).collect();
        for kernels in supported() {
            let mut gram = Gram::zeros(n);
            gram.add_rows(kernels, &rows);
            let matrix = gram.matrix();
            for i in 0..n {
                for j in 0..n {
                    let products = rows.chunks_exact(n).map(|row| f64::from(row[i]) * f64::from(row[j]));
                    let exact: f64 = products.sum();
                    // 37 products of at most 1 in f32, and half a unit.
                    assert!((matrix[i * n + j] - exact).abs() <= 37.0 * 37.0 * 6e-8 + 5e-7, "{i} {j}");
                }
            }
        }
    }
}
