//! A change that is a product of two thin matrices (LoRA), and rows scaled to a magnitude (DoRA).
//!
//! LoRA (Hu et al., arXiv 2106.09685): W' = W + s B A. DoRA (Liu et al., arXiv 2402.09353): W' = m / |W + s B A| (W + s B A), the norm
//! of each output. The change of DoRA is taken relative to the *base*, so that it adds up with others in any order.

use reweight_quant::kernels::vectorized;

/// `left` times `right`, laid out as the weight is: `rows` by `columns`.
#[derive(Clone, Debug)]
pub struct Product {
    /// `rows` by `rank`, the scale in it.
    left: Vec<f64>,
    /// `rank` by `columns`.
    right: Vec<f64>,
    rank: usize,
    columns: usize,
}

impl Product {
    /// From `a` (`rank` by `inputs`) and `b` (`outputs` by `rank`): the weight is `outputs` by `inputs`, or the other way round where
    /// `transposed`.
    ///
    /// # Panics
    /// Where the lengths do not fit the rank.
    #[must_use]
    pub fn new(a: Vec<f64>, b: Vec<f64>, rank: usize, scale: f64, transposed: bool) -> Self {
        assert!(rank > 0 && a.len().is_multiple_of(rank) && b.len().is_multiple_of(rank), "factors are whole rows");
        let scaled = |values: Vec<f64>| values.into_iter().map(|value| value * scale).collect();
        if transposed {
            let columns = b.len() / rank;
            let right = transpose(&b, columns, rank);
            Self { left: scaled(transpose(&a, rank, a.len() / rank)), right, rank, columns }
        } else {
            Self { columns: a.len() / rank, left: scaled(b), right: a, rank }
        }
    }

    /// The factor on the left, rows by rank, the scale in it.
    #[must_use]
    pub fn left(&self) -> &[f64] {
        &self.left
    }

    /// The factor on the right, rank by columns.
    #[must_use]
    pub fn right(&self) -> &[f64] {
        &self.right
    }

    /// Elements from `start` on, row-major.
    ///
    /// # Panics
    /// Where the range is outside.
    pub fn read(&self, start: usize, out: &mut [f64]) {
        vectorized(|| self.read_here(start, out));
    }

    #[inline(always)]
    fn read_here(&self, start: usize, out: &mut [f64]) {
        let mut place = start;
        let mut rest = out;
        while !rest.is_empty() {
            let (row, column) = (place / self.columns, place % self.columns);
            let span = (self.columns - column).min(rest.len());
            let (now, later) = rest.split_at_mut(span);
            now.fill(0.0);
            for (k, &factor) in self.left[row * self.rank..(row + 1) * self.rank].iter().enumerate() {
                let right = &self.right[k * self.columns + column..][..span];
                for (value, &other) in now.iter_mut().zip(right) {
                    *value += factor * other;
                }
            }
            place += span;
            rest = later;
        }
    }
}

/// A matrix of `rows` by `columns`, turned.
fn transpose(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// Factors that bring each output of a weight to its magnitude; known once the whole base was seen.
#[derive(Clone, Debug)]
pub struct Magnitudes {
    wanted: Vec<f64>,
    squares: Vec<f64>,
    columns: usize,
    by_column: bool,
}

impl Magnitudes {
    /// For a weight with `columns` elements a row, whose outputs are rows, or columns where `by_column`.
    #[must_use]
    pub fn new(magnitudes: Vec<f64>, columns: usize, by_column: bool) -> Self {
        Self { squares: vec![0.0; magnitudes.len()], wanted: magnitudes, columns, by_column }
    }

    fn output(&self, place: usize) -> usize {
        if self.by_column { place % self.columns } else { place / self.columns }
    }

    /// Takes in elements of W + s B A, in order.
    pub fn learn(&mut self, start: usize, sums: &[f64]) {
        for (offset, &sum) in sums.iter().enumerate() {
            let output = self.output(start + offset);
            self.squares[output] += sum * sum;
        }
    }

    /// Turns elements of W + s B A into elements of the change.
    pub fn finish(&self, start: usize, base: &[f64], sums: &mut [f64]) {
        for (offset, (sum, &base)) in sums.iter_mut().zip(base).enumerate() {
            let output = self.output(start + offset);
            let norm = self.squares[output].sqrt();
            // An output of nothing but zeros has no direction to be given a length.
            let factor = if norm == 0.0 { 1.0 } else { self.wanted[output] / norm };
            *sum = factor * *sum - base;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_round_give_the_same_matrix() {
        let a: Vec<f64> = (0..6).map(f64::from).collect();
        let b: Vec<f64> = (0..8).map(|value| f64::from(value) - 3.0).collect();
        let straight = Product::new(a.clone(), b.clone(), 2, 0.5, false);
        let turned = Product::new(a, b, 2, 0.5, true);
        let (mut whole, mut other) = (vec![0.0; 12], vec![0.0; 12]);
        straight.read(0, &mut whole);
        turned.read(0, &mut other);
        assert_eq!(transpose(&whole, 4, 3), other);
        let mut part = vec![0.0; 5];
        straight.read(4, &mut part);
        assert_eq!(part, whole[4..9]);
        // Row 1 is 0.5 * (-1 * (0, 1, 2) + 0 * (3, 4, 5)).
        assert_eq!(whole[3..6], [0.0, -0.5, -1.0]);
    }
}
