//! Products with packed matrices: which kernel, on which threads, and what is added to them.

use rayon::prelude::*;

use super::activations::{F32Rows, Int8Rows};
use super::layout::Layout;
use super::matrix::PackedMatrix;
use super::table::PackedKernels;
use super::tile::ROWS;
use crate::dense::{Dense, Rows, RowsMut};
use crate::{best, by_name};

/// From so many rows of x on, products in f32 dequantize a panel of rows and multiply it as a dense matrix.
const DENSE_ROWS: usize = 24;
/// Values of a panel: half a megabyte, which stays in a core's own cache.
const PANEL_VALUES: usize = 1 << 17;
/// Bytes of the matrix below which a piece is not worth a thread.
const PIECE_BYTES: usize = 128 << 10;

/// In what form x meets the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// As it is. With `w` the dequantized weights, a result is within `n * eps * sum |w| |x|` of the exact one, where
    /// `n` is the number of columns and `eps` is 2^-23.
    F32,
    /// Rounded to 255 levels for each group (for each 128 columns of a longer group), symmetric about 0: an
    /// activation errs by at most 1/254 of its group's largest. Products are then summed as integers. A codebook whose
    /// levels are not small multiples of one unit errs by 1/254 of its largest level beside. The same bits on every
    /// table. Values must be finite.
    Int8,
}

/// What is added to a product: a patch that is applied while the model runs.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// `strength * matrix * x`: a second matrix of the same shape.
    Packed {
        /// The matrix.
        matrix: &'a PackedMatrix,
        /// What it is multiplied by.
        strength: f32,
    },
    /// `strength * up * (down * x)`, in f32.
    LowRank {
        /// `rank * columns` values, row after row.
        down: &'a [f32],
        /// `rows * rank` values, row after row.
        up: &'a [f32],
        /// What it is multiplied by.
        strength: f32,
    },
}

impl PackedMatrix {
    /// `y = matrix * x`. Reads the matrix once, on the threads of the current rayon pool; y does not depend on how many.
    ///
    /// # Panics
    /// Unless x has a value for each column and y for each row.
    pub fn matvec(&self, kernels: &PackedKernels, activations: Activations, x: &[f32], y: &mut [f32]) {
        assert_eq!((x.len(), y.len()), (self.columns(), self.rows()), "a column for each x, a row for each y");
        self.matmul_with(kernels, activations, &[], x, y);
    }

    /// [`PackedMatrix::matvec`] for each row of x: `columns` values each, and as many rows of y, `rows` values each.
    ///
    /// Up to 23 rows of x, and with int8 activations any number, multiply codes as they are, four rows of x at a time
    /// for each tile of the matrix. More rows in f32 dequantize panels of the matrix and multiply these
    /// with [`Dense`].
    ///
    /// # Panics
    /// Unless x holds whole rows, and y as many.
    pub fn matmul(&self, kernels: &PackedKernels, activations: Activations, x: &[f32], y: &mut [f32]) {
        self.matmul_with(kernels, activations, &[], x, y);
    }

    /// [`PackedMatrix::matmul`], plus the sides. Each side's matrix is read once too.
    ///
    /// # Panics
    /// As [`PackedMatrix::matmul`], and unless each side has this matrix's shape.
    pub fn matmul_with(
        &self,
        kernels: &PackedKernels,
        activations: Activations,
        sides: &[Side<'_>],
        x: &[f32],
        y: &mut [f32],
    ) {
        let (rows, columns) = (self.rows(), self.columns());
        let n = x.len() / columns;
        assert_eq!((x.len(), y.len()), (n * columns, n * rows), "whole rows of x, and as many of y");
        if n == 0 {
            return;
        }
        let mut terms = vec![Term::packed(kernels, activations, self, 1.0, n, x)];
        terms.extend(sides.iter().map(|side| Term::side(kernels, activations, self, side, n, x)));
        let mut tiles = vec![[0.0; ROWS]; self.layout.n_tiles() * n];
        let piece = piece_tiles(self, n >= DENSE_ROWS && activations == Activations::F32);
        let fill = |(index, out): (usize, &mut [[f32; ROWS]])| {
            let first = index * piece;
            for (number, term) in terms.iter().enumerate() {
                term.run(kernels, first..first + out.len() / n, number == 0, out);
            }
        };
        if piece >= self.layout.n_tiles() {
            fill((0, &mut tiles));
        } else {
            tiles.par_chunks_mut(piece * n).enumerate().for_each(fill);
        }
        for (index, tile) in tiles.chunks_exact(n).enumerate() {
            let place = index * ROWS..rows.min((index + 1) * ROWS);
            for (y, values) in y.chunks_exact_mut(rows).zip(tile) {
                y[place.clone()].copy_from_slice(&values[..place.len()]);
            }
        }
    }
}

/// Tiles that one task takes. The size decides nothing but the time: every row is multiplied alone.
fn piece_tiles(matrix: &PackedMatrix, dense: bool) -> usize {
    let n_tiles = matrix.layout.n_tiles();
    if dense {
        return (PANEL_VALUES / matrix.columns() / ROWS).clamp(1, 16);
    }
    let n_threads = rayon::current_num_threads();
    if n_threads == 1 {
        return n_tiles;
    }
    let least = n_tiles.div_ceil((matrix.bytes() / PIECE_BYTES).max(1));
    n_tiles.div_ceil(4 * n_threads).max(least)
}

/// One summand of a product, with x in the form it wants.
struct Term<'a> {
    strength: f32,
    factor: Factor<'a>,
}

enum Factor<'a> {
    Int8 { matrix: &'a PackedMatrix, x: Int8Rows },
    F32 { matrix: &'a PackedMatrix, x: F32Rows<'a> },
    Dense { matrix: &'a PackedMatrix, x: &'a [f32], n: usize },
    LowRank { up: &'a [f32], rank: usize, down_x: Vec<f32> },
}

impl<'a> Term<'a> {
    fn packed(
        kernels: &PackedKernels,
        activations: Activations,
        matrix: &'a PackedMatrix,
        strength: f32,
        n: usize,
        x: &'a [f32],
    ) -> Self {
        let layout: &Layout = &matrix.layout;
        let factor = match activations {
            Activations::Int8 => Factor::Int8 { matrix, x: Int8Rows::new(layout, n, x, kernels.quantize) },
            Activations::F32 if n >= DENSE_ROWS => Factor::Dense { matrix, x, n },
            Activations::F32 => Factor::F32 { matrix, x: F32Rows::new(layout, n, x) },
        };
        Self { strength, factor }
    }

    fn side(
        kernels: &PackedKernels,
        activations: Activations,
        main: &PackedMatrix,
        side: &Side<'a>,
        n: usize,
        x: &'a [f32],
    ) -> Self {
        let (rows, columns) = (main.rows(), main.columns());
        match *side {
            Side::Packed { matrix, strength } => {
                assert_eq!((matrix.rows(), matrix.columns()), (rows, columns), "a side of the same shape");
                Self::packed(kernels, activations, matrix, strength, n, x)
            }
            Side::LowRank { down, up, strength } => {
                let rank = down.len() / columns;
                assert_eq!((down.len(), up.len()), (rank * columns, rows * rank), "a rank both factors share");
                let row = |x| down.chunks_exact(columns).map(move |down| (kernels.dot_dense)(down, x));
                let down_x = x.chunks_exact(columns).flat_map(row).collect();
                Self { strength, factor: Factor::LowRank { up, rank, down_x } }
            }
        }
    }

    /// Puts the tiles of the product in `out`, or adds them to it.
    fn run(&self, kernels: &PackedKernels, tiles: std::ops::Range<usize>, is_first: bool, out: &mut [[f32; ROWS]]) {
        if is_first {
            return self.fill(kernels, tiles, out);
        }
        let mut own = vec![[0.0; ROWS]; out.len()];
        self.fill(kernels, tiles, &mut own);
        for (sum, value) in out.as_flattened_mut().iter_mut().zip(own.as_flattened()) {
            *sum += self.strength * value;
        }
    }

    fn fill(&self, kernels: &PackedKernels, tiles: std::ops::Range<usize>, out: &mut [[f32; ROWS]]) {
        match &self.factor {
            Factor::Int8 { matrix, x } => (kernels.run_int8)(matrix, tiles, x, out),
            Factor::F32 { matrix, x } => (kernels.run_f32)(matrix, tiles, x, out),
            Factor::Dense { matrix, x, n } => dense(kernels, matrix, tiles, *n, x, out),
            Factor::LowRank { up, rank, down_x } => {
                if *rank == 0 {
                    return;
                }
                let n = out.len() / tiles.len();
                for (tile, out) in tiles.zip(out.chunks_exact_mut(n)) {
                    let ups = up.chunks_exact(*rank).skip(tile * ROWS).take(ROWS);
                    for (row, up) in ups.enumerate() {
                        for (out, down_x) in out.iter_mut().zip(down_x.chunks_exact(*rank)) {
                            out[row] = (kernels.dot_dense)(up, down_x);
                        }
                    }
                }
            }
        }
    }
}

/// A panel in f32 times all rows of x.
fn dense(
    kernels: &PackedKernels,
    matrix: &PackedMatrix,
    tiles: std::ops::Range<usize>,
    n: usize,
    x: &[f32],
    out: &mut [[f32; ROWS]],
) {
    let columns = matrix.columns();
    let rows = tiles.start * ROWS..matrix.rows().min(tiles.end * ROWS);
    let mut panel = vec![0.0; rows.len() * columns];
    matrix.dequantize(kernels, rows.clone(), &mut panel);
    let mut product = vec![0.0; rows.len() * n];
    let mut weights = Dense::default();
    weights.reset(rows.len(), columns);
    weights.set_rows(Rows { values: &panel, stride: columns });
    let table = by_name(kernels.table).unwrap_or_else(best);
    let out_rows = RowsMut { values: &mut product, stride: rows.len() };
    weights.product(table, Rows { values: x, stride: columns }, n, out_rows);
    for (row, values) in product.chunks_exact(rows.len()).enumerate() {
        for (tile, values) in values.chunks(ROWS).enumerate() {
            out[tile * n + row][..values.len()].copy_from_slice(values);
        }
    }
}
