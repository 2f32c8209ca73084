//! Error-compensating rounding of rows side by side, and the products that factoring their Gram matrix takes.
//!
//! A lane is a row: sums over columns are taken in the columns' order in each lane, so every table gives the same bits.

use crate::grid::Grid;
use crate::lanes::{LANES, Lanes, MAGIC};

/// Rows that are rounded together.
pub const COMPENSATED_ROWS: usize = 32;

/// One value of every row.
pub type Column<T> = [T; COMPENSATED_ROWS];

/// Columns in the order in which they are rounded, and what the error of an earlier one adds to a later one: R of `H = R R^T`.
#[derive(Clone, Copy, Debug)]
pub struct Triangle<'a> {
    /// The columns.
    pub order: &'a [usize],
    /// `R_jk / R_kk` for j < k, column after column.
    pub ratios: &'a [f32],
    /// `R_kk`.
    pub diagonal: &'a [f32],
}

/// Rows with their grids, and what became of them.
#[derive(Clone, Debug)]
pub struct CompensatedRows {
    /// Weights by column, in the order of the matrix.
    pub weights: Vec<Column<f32>>,
    /// Scales by group.
    pub scales: Vec<Column<f32>>,
    /// Zeros by group, as codes.
    pub zeros: Vec<Column<f32>>,
    /// Codes by column.
    pub codes: Vec<Column<u8>>,
    /// Errors so far, in the order of rounding.
    errors: Vec<Column<f32>>,
}

impl CompensatedRows {
    /// Room for rows of so many columns in so many groups.
    #[must_use]
    pub fn new(columns: usize, groups: usize) -> Self {
        Self {
            weights: vec![[0.0; COMPENSATED_ROWS]; columns],
            scales: vec![[1.0; COMPENSATED_ROWS]; groups],
            zeros: vec![[0.0; COMPENSATED_ROWS]; groups],
            codes: vec![[0; COMPENSATED_ROWS]; columns],
            errors: vec![[0.0; COMPENSATED_ROWS]; columns],
        }
    }

    /// Whether rows have so many columns in groups of so many.
    pub(crate) fn fits(&self, columns: usize, group: usize) -> bool {
        let groups = columns.div_ceil(group.max(1));
        [self.weights.len(), self.codes.len(), self.errors.len()] == [columns; 3]
            && [self.scales.len(), self.zeros.len()] == [groups; 2]
    }
}

impl Triangle<'_> {
    /// Whether it is one of so many columns, whatever their order.
    pub(crate) fn fits(&self, columns: usize) -> bool {
        self.order.len() == columns
            && self.diagonal.len() == columns
            && self.ratios.len() == columns * columns.saturating_sub(1) / 2
            && self.order.iter().all(|column| *column < columns)
    }

    fn ratios_of(&self, k: usize) -> &[f32] {
        &self.ratios[k * k.saturating_sub(1) / 2..][..k]
    }
}

/// Vectors of a column.
const HALVES: usize = COMPENSATED_ROWS / LANES;

#[inline(always)]
fn load<S: Lanes>(s: S, column: &Column<f32>) -> [S::F; HALVES] {
    let halves = column.as_chunks::<LANES>().0;
    [s.load(&halves[0]), s.load(&halves[1])]
}

#[inline(always)]
fn store<S: Lanes>(s: S, values: [S::F; HALVES], column: &mut Column<f32>) {
    let halves = column.as_chunks_mut::<LANES>().0;
    for (value, half) in values.into_iter().zip(halves) {
        s.store(value, half);
    }
}

/// `sum_{j<k} d_j R_jk / R_kk`: even and odd j apart, then together.
#[inline(always)]
fn carried<S: Lanes>(s: S, ratios: &[f32], errors: &[Column<f32>]) -> [S::F; HALVES] {
    let mut sums = [[s.splat(0.0); HALVES]; 2];
    let (pairs, odd) = ratios.as_chunks::<2>();
    let (error_pairs, odd_error) = errors.as_chunks::<2>();
    for (ratios, errors) in pairs.iter().zip(error_pairs) {
        for ((sums, ratio), errors) in sums.iter_mut().zip(ratios).zip(errors) {
            let (ratio, errors) = (s.splat(*ratio), load(s, errors));
            for (sum, error) in sums.iter_mut().zip(errors) {
                *sum = s.add(*sum, s.mul(error, ratio));
            }
        }
    }
    if let (Some(ratio), Some(errors)) = (odd.first(), odd_error.first()) {
        let (ratio, errors) = (s.splat(*ratio), load(s, errors));
        for (sum, error) in sums[0].iter_mut().zip(errors) {
            *sum = s.add(*sum, s.mul(error, ratio));
        }
    }
    [s.add(sums[0][0], sums[1][0]), s.add(sums[0][1], sums[1][1])]
}

/// Adds the squares of a column to sums.
#[inline(always)]
fn add_squares(column: &Column<f32>, total: &mut Column<f64>) {
    for (total, left) in total.iter_mut().zip(column) {
        *total += f64::from(left * left);
    }
}

/// What codes stand for.
trait Values<S: Lanes>: Copy {
    /// The code whose value is nearest to a target, and that value.
    fn nearest(&self, s: S, target: S::F, scale: S::F, zero: S::F) -> (S::F, S::F);
}

/// `(code - zero) * scale`.
#[derive(Clone, Copy)]
struct Affine<S: Lanes> {
    least: S::F,
    most: S::F,
    magic: S::F,
    one: S::F,
}

impl<S: Lanes> Values<S> for Affine<S> {
    #[inline(always)]
    fn nearest(&self, s: S, target: S::F, scale: S::F, zero: S::F) -> (S::F, S::F) {
        let place = s.add(s.mul(target, s.div(self.one, scale)), zero);
        // Bounds are whole numbers, so they may come before rounding, which then sees small numbers alone.
        let bounded = s.min(s.max(place, self.least), self.most);
        let code = s.sub(s.add(bounded, self.magic), self.magic);
        (code, s.mul(s.sub(code, zero), scale))
    }
}

/// `level[code] * scale`, for few levels.
#[derive(Clone, Copy)]
struct Table<'a> {
    levels: &'a [f32],
    bounds: &'a [f32],
}

impl<S: Lanes> Values<S> for Table<'_> {
    #[inline(always)]
    fn nearest(&self, s: S, target: S::F, scale: S::F, _: S::F) -> (S::F, S::F) {
        let place = s.div(target, scale);
        let (mut code, mut level) = (s.splat(0.0), s.splat(self.levels[0]));
        for (index, (bound, next)) in self.bounds.iter().zip(&self.levels[1..]).enumerate() {
            let above = s.sub(place, s.splat(*bound));
            code = s.where_positive(above, s.splat((index + 1) as f32), code);
            level = s.where_positive(above, s.splat(*next), level);
        }
        (code, s.mul(level, scale))
    }
}

#[inline(always)]
pub(crate) fn round<S: Lanes>(
    s: S,
    grid: Grid,
    group: usize,
    triangle: Triangle<'_>,
    rows: &mut CompensatedRows,
) -> Column<f64> {
    let (least, most) = (s.splat(0.0), s.splat(f32::from(grid.code_max())));
    round_by(s, Affine { least, most, magic: s.splat(MAGIC), one: s.splat(1.0) }, group, triangle, rows)
}

#[inline(always)]
pub(crate) fn round_to_levels<S: Lanes>(
    s: S,
    (levels, bounds): (&[f32], &[f32]),
    group: usize,
    triangle: Triangle<'_>,
    rows: &mut CompensatedRows,
) -> Column<f64> {
    round_by(s, Table { levels, bounds }, group, triangle, rows)
}

#[inline(always)]
fn round_by<S: Lanes, V: Values<S>>(
    s: S,
    values: V,
    group: usize,
    triangle: Triangle<'_>,
    rows: &mut CompensatedRows,
) -> Column<f64> {
    let mut total = [0.0; COMPENSATED_ROWS];
    let (mut rounded, mut left) = ([0.0; COMPENSATED_ROWS], [0.0; COMPENSATED_ROWS]);
    for (k, &column) in triangle.order.iter().enumerate() {
        let carried = carried(s, triangle.ratios_of(k), &rows.errors[..k]);
        let (scales, zeros) = (load(s, &rows.scales[column / group]), load(s, &rows.zeros[column / group]));
        let weights = load(s, &rows.weights[column]);
        let diagonal = s.splat(triangle.diagonal[k]);
        let (mut codes, mut errors, mut lefts) = (weights, weights, weights);
        for half in 0..HALVES {
            let target = s.add(weights[half], carried[half]);
            let (code, value) = values.nearest(s, target, scales[half], zeros[half]);
            codes[half] = code;
            errors[half] = s.sub(weights[half], value);
            lefts[half] = s.mul(s.sub(target, value), diagonal);
        }
        store(s, codes, &mut rounded);
        store(s, errors, &mut rows.errors[k]);
        store(s, lefts, &mut left);
        for (code, rounded) in rows.codes[column].iter_mut().zip(&rounded) {
            *code = *rounded as u8;
        }
        add_squares(&left, &mut total);
    }
    total
}

#[inline(always)]
pub(crate) fn error_of<S: Lanes>(
    s: S,
    triangle: Triangle<'_>,
    differences: &[Column<f32>],
    rows: &mut CompensatedRows,
) -> Column<f64> {
    let mut total = [0.0; COMPENSATED_ROWS];
    let mut left = [0.0; COMPENSATED_ROWS];
    for (k, &column) in triangle.order.iter().enumerate() {
        let carried = carried(s, triangle.ratios_of(k), &rows.errors[..k]);
        rows.errors[k] = differences[column];
        let (own, diagonal) = (load(s, &differences[column]), s.splat(triangle.diagonal[k]));
        let lefts = [0, 1].map(|half| s.mul(s.add(own[half], carried[half]), diagonal));
        store(s, lefts, &mut left);
        add_squares(&left, &mut total);
    }
    total
}

/// Lanes of a sum in f64.
const WIDE: usize = 8;

#[inline(always)]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WIDE>(), b.as_chunks::<WIDE>());
    let mut lanes = [0.0; WIDE];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let [a0, a1, a2, a3, a4, a5, a6, a7] = lanes;
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    ((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7)) + rest
}

#[inline(always)]
pub(crate) fn subtract_products<S: Lanes>(_: S, row: &[f64], others: &[f64], from: &mut [f64]) {
    for (from, other) in from.iter_mut().zip(others.chunks_exact(row.len().max(1))) {
        *from -= dot(row, other);
    }
}
