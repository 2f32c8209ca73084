//! A change that multiplies: Bone and MiSS with `init_weights = "bat"` (Kang and Yin, arXiv 2409.15371).
//!
//! The weight is cut in squares of `rank` by `rank`; `W'_ij = W_ij + W_ij B_i + B_i`, one B for each run of outputs. Applied to what other patches left
//! it would depend on their order, so W is the *base*: the change adds up with others as DoRA's does.

/// The squares, and the base once it was seen.
#[derive(Clone, Debug)]
pub struct Affine {
    /// One square after the other, row-major.
    squares: Vec<f64>,
    rank: usize,
    columns: usize,
    base: Vec<f64>,
}

impl Affine {
    /// From squares of `rank` by `rank`, for a weight with `columns` inputs, a multiple of the rank.
    #[must_use]
    pub const fn new(squares: Vec<f64>, rank: usize, columns: usize) -> Self {
        Self { squares, rank, columns, base: Vec::new() }
    }

    /// Takes in elements of the base, in order. All of them are kept: a square reaches over elements that are computed apart.
    pub fn learn(&mut self, base: &[f64]) {
        self.base.extend_from_slice(base);
    }

    /// Elements of the change from `start` on, row-major; the whole base was seen.
    ///
    /// # Panics
    /// Where the range is outside.
    pub fn read(&self, start: usize, out: &mut [f64]) {
        let rank = self.rank;
        for (offset, value) in out.iter_mut().enumerate() {
            let (row, column) = ((start + offset) / self.columns, (start + offset) % self.columns);
            let square = &self.squares[row / rank * rank * rank..][..rank * rank];
            let first = row * self.columns + column / rank * rank;
            let products = self.base[first..first + rank].iter().zip(square.chunks_exact(rank));
            let product: f64 = products.map(|(weight, line)| weight * line[column % rank]).sum();
            *value = product + square[row % rank * rank + column % rank];
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "small whole numbers")]
mod tests {
    use super::*;

    #[test]
    fn squares_multiply_their_outputs() {
        // Two outputs of two squares each: W = [1 2 | 3 4; 5 6 | 7 8], B = [1 0; 2 -1].
        let mut affine = Affine::new(vec![1.0, 0.0, 2.0, -1.0], 2, 4);
        affine.learn(&[1.0, 2.0, 3.0, 4.0]);
        affine.learn(&[5.0, 6.0, 7.0, 8.0]);
        let mut out = [0.0; 8];
        affine.read(0, &mut out);
        // Rows of W B + B: (1 + 4 + 1, -2 + 0), (3 + 8 + 1, -4), (5 + 12 + 2, -6 - 1), (7 + 16 + 2, -8 - 1).
        assert_eq!(out, [6.0, -2.0, 12.0, -4.0, 19.0, -7.0, 25.0, -9.0]);
        let mut part = [0.0; 3];
        affine.read(3, &mut part);
        assert_eq!(part, out[3..6]);
    }
}
