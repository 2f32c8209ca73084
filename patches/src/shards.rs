//! A change that repeats one block along the inputs: Bone and its successor MiSS (Kang and Yin, arXiv 2409.15371).
//!
//! The block has `rank` rows of one value an output; W'[o, c] = W[o, c] + B[c mod rank, o]. With fewer outputs than the weight has (MiSS
//! `mini`) it is repeated along these as well.

/// The repeated block.
#[derive(Clone, Debug)]
pub struct Shards {
    /// `outputs` by `rank`.
    turned: Vec<f64>,
    rank: usize,
    columns: usize,
}

impl Shards {
    /// From a block of `rank` by `outputs` values, for a weight with `columns` inputs.
    #[must_use]
    pub fn new(block: &[f64], rank: usize, columns: usize) -> Self {
        let outputs = block.len() / rank.max(1);
        let turned = (0..outputs).flat_map(|output| (0..rank).map(move |row| block[row * outputs + output])).collect();
        Self { turned, rank, columns }
    }

    /// Rows of the block.
    #[must_use]
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// The same as a product: which inputs go to each row of the block, `rank` by columns, and the block, outputs by `rank`.
    #[must_use]
    pub fn factors(&self) -> (Vec<f32>, &[f64]) {
        let (rank, columns) = (self.rank, self.columns);
        let down = (0..rank).flat_map(|row| (0..columns).map(move |column| f32::from(column % rank == row)));
        (down.collect(), &self.turned)
    }

    /// Elements from `start` on, row-major.
    ///
    /// # Panics
    /// Where the range is outside.
    pub fn read(&self, start: usize, out: &mut [f64]) {
        let outputs = (self.turned.len() / self.rank.max(1)).max(1);
        for (offset, value) in out.iter_mut().enumerate() {
            let place = start + offset;
            let output = place / self.columns % outputs;
            *value = self.turned[output * self.rank + place % self.columns % self.rank];
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "values are moved, not computed")]
mod tests {
    use super::*;

    #[test]
    fn the_last_block_may_be_cut() {
        let shards = Shards::new(&[1.0, 2.0, 3.0, 4.0], 2, 3);
        let mut out = [0.0; 6];
        shards.read(0, &mut out);
        assert_eq!(out, [1.0, 3.0, 1.0, 2.0, 4.0, 2.0]);
        let mut repeated = [0.0; 12];
        shards.read(0, &mut repeated);
        assert_eq!([repeated[..6].to_vec(), repeated[6..].to_vec()], [out, out]);
    }
}
