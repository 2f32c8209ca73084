//! The best approximation of a matrix by one of low rank: its greatest singular values with their vectors.
//!
//! Lanczos on the product of the matrix with itself turned, on its smaller side, every vector made orthogonal to all before it (Golub and Van Loan,
//! "Matrix Computations", 10.3): the tridiagonal matrix T that comes of k steps has eigenvalues near the squares of the greatest singular values, and
//! `beta_k` times `|s_k|` bounds how far each is off, `s_k` the last element of its eigenvector. Steps go on until these bounds, added up, are below 1e-8 of the
//! energy that is kept; after as many steps as the smaller side is long there is nothing left to find, so that it always ends. Where the vectors span
//! a space that the matrix does not leave, a new one is drawn outside it; then what was found is all only if no energy is left.
//!
//! Sums are in f64 and in one order, whatever the number of threads.

use rayon::prelude::*;
use reweight_quant::kernels::vectorized;

/// Parts of the rows whose sums are added up in order.
const PARTS: usize = 32;
/// Bounds of the kept eigenvalues, relative to their sum.
const TOLERANCE: f64 = 1e-8;
/// Energy, relative to all, that is nothing but rounding.
const NOTHING: f64 = 1e-14;

/// A matrix in f32.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// From values row by row.
    ///
    /// # Panics
    /// Where their number is not that of the elements.
    #[must_use]
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), rows * columns, "a matrix of {rows} by {columns}");
        Self { rows, columns, values }
    }

    /// Sum of squares.
    #[must_use]
    pub fn energy(&self) -> f64 {
        self.values.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
    }

    fn turned(&self) -> Self {
        let values = (0..self.columns)
            .flat_map(|column| (0..self.rows).map(move |row| self.values[row * self.columns + column]));
        Self { rows: self.columns, columns: self.rows, values: values.collect() }
    }

    /// The matrix times a vector.
    fn times(&self, vector: &[f64]) -> Vec<f64> {
        self.values.par_chunks(self.columns).map(|row| vectorized(|| dot(row, vector))).collect()
    }

    /// The matrix turned, times the matrix, times a vector.
    fn squared_times(&self, vector: &[f64]) -> Vec<f64> {
        let part = self.rows.div_ceil(PARTS) * self.columns;
        let sums: Vec<Vec<f64>> = self
            .values
            .par_chunks(part)
            .map(|rows| {
                vectorized(|| {
                    let mut sum = vec![0.0; self.columns];
                    for row in rows.chunks_exact(self.columns) {
                        add(&mut sum, dot(row, vector), row);
                    }
                    sum
                })
            })
            .collect();
        sums.iter().fold(vec![0.0; self.columns], |mut total, sum| {
            total.iter_mut().zip(sum).for_each(|(total, value)| *total += value);
            total
        })
    }
}

/// What is kept of a matrix: `left` times `right`.
#[derive(Clone, Debug)]
pub struct Truncated {
    /// The greatest singular values, falling.
    pub values: Vec<f64>,
    /// Rows by rank: singular vectors times the root of their value.
    pub left: Vec<f32>,
    /// Rank by columns: singular vectors times the root of their value.
    pub right: Vec<f32>,
}

/// The best approximation of that rank, or of as many singular values as there are.
///
/// Cost: the matrix is read once a step; steps are a few times the rank where the singular values fall, and more where they are alike.
///
/// # Panics
/// Where the rank is 0 or the matrix has no element.
#[must_use]
pub fn truncate(matrix: &Matrix, rank: usize) -> Truncated {
    assert!(rank > 0 && !matrix.values.is_empty(), "there is something to keep");
    let wide = matrix.columns > matrix.rows;
    let turned = wide.then(|| matrix.turned());
    let tall = turned.as_ref().unwrap_or(matrix);
    let vectors = eigenvectors(tall, rank.min(tall.columns));
    let mut triplets: Vec<Triplet> = vectors.into_iter().map(|short| Triplet::of(tall.times(&short), short)).collect();
    triplets.sort_by(|a, b| b.value.total_cmp(&a.value));
    let (long, short) = (|triplet: &Triplet, at| triplet.long(at), |triplet: &Triplet, at| triplet.short(at));
    let (left, right) = if wide {
        (by_row(&triplets, matrix.rows, short), by_column(&triplets, matrix.columns, long))
    } else {
        (by_row(&triplets, matrix.rows, long), by_column(&triplets, matrix.columns, short))
    };
    Truncated { values: triplets.iter().map(|triplet| triplet.value).collect(), left, right }
}

/// A singular value, its vector on the longer side, as long as the value, and that on the shorter side, of length 1.
struct Triplet {
    value: f64,
    long: Vec<f64>,
    short: Vec<f64>,
}

impl Triplet {
    fn of(long: Vec<f64>, short: Vec<f64>) -> Self {
        Self { value: inner(&long, &long).sqrt(), long, short }
    }

    /// An element of the longer vector, with the root of the value.
    fn long(&self, at: usize) -> f32 {
        let root = if self.value > 0.0 { self.value.sqrt() } else { 1.0 };
        (self.long[at] / root) as f32
    }

    /// An element of the shorter one, with the root of the value.
    fn short(&self, at: usize) -> f32 {
        (self.short[at] * self.value.sqrt()) as f32
    }
}

fn by_row(triplets: &[Triplet], rows: usize, element: impl Fn(&Triplet, usize) -> f32) -> Vec<f32> {
    (0..rows)
        .flat_map(|row| triplets.iter().map(move |triplet| (triplet, row)))
        .map(|(t, row)| element(t, row))
        .collect()
}

fn by_column(triplets: &[Triplet], columns: usize, element: impl Fn(&Triplet, usize) -> f32) -> Vec<f32> {
    let places = triplets.iter().flat_map(|triplet| (0..columns).map(move |column| (triplet, column)));
    places.map(|(triplet, column)| element(triplet, column)).collect()
}

/// Makes a vector shorter or longer.
fn divide(vector: &mut [f64], length: f64) {
    for value in vector {
        *value /= length;
    }
}

/// Eigenvectors of the matrix turned times itself, for the greatest eigenvalues.
fn eigenvectors(matrix: &Matrix, rank: usize) -> Vec<Vec<f64>> {
    let n = matrix.columns;
    let total = matrix.energy();
    let (mut basis, mut diagonal, mut beside): (Vec<Vec<f64>>, Vec<f64>, Vec<f64>) =
        (Vec::new(), Vec::new(), Vec::new());
    let mut draws = Draws(0x9e37_79b9_7f4a_7c15);
    let mut next = draws.unit(n, &basis);
    let (mut look_at, mut was_left) = (2 * rank + 8, false);
    loop {
        let mut after = matrix.squared_times(&next);
        diagonal.push(inner(&after, &next));
        basis.push(next);
        let length = orthogonal(&mut after, &basis);
        let leaves = length > NOTHING * total;
        was_left |= !leaves;
        let k = basis.len();
        if k == n || k >= look_at || !leaves {
            let (values, s) = tridiagonal(&diagonal, &beside);
            let mut order: Vec<usize> = (0..k).collect();
            order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
            order.truncate(rank);
            let kept: f64 = order.iter().map(|&index| values[index]).sum();
            let bounds: f64 = order.iter().map(|&index| (length * s[(k - 1) * k + index]).abs()).sum();
            let rest = total - values.iter().sum::<f64>();
            let found = k >= rank && bounds <= TOLERANCE * kept && (!was_left || rest <= 1e-10 * total);
            if k == n || found || total == 0.0 {
                return order.iter().map(|&index| combined(&basis, |step| s[step * k + index])).collect();
            }
            look_at = look_at.max(k + 1 + k / 3);
        }
        if leaves {
            divide(&mut after, length);
            beside.push(length);
            next = after;
        } else {
            beside.push(0.0);
            next = draws.unit(n, &basis);
        }
    }
}

/// A sum of vectors with weights.
fn combined(basis: &[Vec<f64>], weight: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut sum = vec![0.0; basis[0].len()];
    for (step, vector) in basis.iter().enumerate() {
        let weight = weight(step);
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += weight * value);
    }
    sum
}

/// Takes out of a vector what lies in a basis, twice, so that rounding leaves nothing of it; gives the length of the rest.
fn orthogonal(vector: &mut [f64], basis: &[Vec<f64>]) -> f64 {
    for _ in 0..2 {
        for other in basis {
            let share = inner(vector, other);
            vector.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
        }
    }
    inner(vector, vector).sqrt()
}

/// Numbers that look drawn and are always the same (Marsaglia's xorshift).
struct Draws(u64);

impl Draws {
    fn draw(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
    }

    /// A vector of length 1 outside a basis that is not complete.
    fn unit(&mut self, n: usize, basis: &[Vec<f64>]) -> Vec<f64> {
        loop {
            let mut vector: Vec<f64> = (0..n).map(|_| self.draw()).collect();
            let before = inner(&vector, &vector).sqrt();
            let length = orthogonal(&mut vector, basis);
            if length > 1e-8 * before {
                divide(&mut vector, length);
                // Once more, now that it is as long as the others.
                let length = orthogonal(&mut vector, basis);
                divide(&mut vector, length);
                return vector;
            }
        }
    }
}

/// Eigenvalues of a symmetric tridiagonal matrix and its eigenvectors, `s[row * n + index]`: implicit QL with Wilkinson's shift (Bowdler, Martin,
/// Reinsch and Wilkinson, Numerische Mathematik 11, 1968).
fn tridiagonal(diagonal: &[f64], beside: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let n = diagonal.len();
    let (mut d, mut e) = (diagonal.to_vec(), beside.to_vec());
    e.resize(n, 0.0);
    // Turned while it grows: a rotation then works on two rows.
    let mut turned = vec![0.0; n * n];
    (0..n).for_each(|index| turned[index * n + index] = 1.0);
    for first in 0..n {
        // Each step halves the number of digits that are wrong; 60 are never reached.
        for _ in 0..60 {
            let small = |m: &usize| e[*m].abs() <= f64::EPSILON * (d[*m].abs() + d[*m + 1].abs());
            let last = (first..n - 1).find(small).unwrap_or(n - 1);
            if last == first {
                break;
            }
            sweep(&mut d, &mut e, &mut turned, (first, last));
        }
    }
    let s = (0..n).flat_map(|row| (0..n).map(move |index| (row, index))).map(|(row, index)| turned[index * n + row]);
    let s = s.collect();
    (d, s)
}

/// One step of QL on rows `first` to `last`.
fn sweep(d: &mut [f64], e: &mut [f64], turned: &mut [f64], (first, last): (usize, usize)) {
    let n = d.len();
    let g = (d[first + 1] - d[first]) / (2.0 * e[first]);
    let r = g.hypot(1.0);
    let mut g = d[last] - d[first] + e[first] / (g + r.copysign(g));
    let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
    for i in (first..last).rev() {
        let (f, b) = (s * e[i], c * e[i]);
        let r = f.hypot(g);
        e[i + 1] = r;
        if r == 0.0 {
            d[i + 1] -= p;
            e[last] = 0.0;
            return;
        }
        (s, c) = (f / r, g / r);
        g = d[i + 1] - p;
        let r = (d[i] - g) * s + 2.0 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        let (upper, lower) = turned.split_at_mut((i + 1) * n);
        for (a, b) in upper[i * n..].iter_mut().zip(&mut lower[..n]) {
            (*a, *b) = (c * *a - s * *b, s * *a + c * *b);
        }
    }
    d[first] -= p;
    e[first] = g;
    e[last] = 0.0;
}

/// Products are summed in eight lanes.
#[inline(always)]
fn dot(row: &[f32], vector: &[f64]) -> f64 {
    let (rows, row_rest) = row.as_chunks::<8>();
    let (vectors, rest) = vector.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for (row, vector) in rows.iter().zip(vectors) {
        for lane in 0..8 {
            lanes[lane] += f64::from(row[lane]) * vector[lane];
        }
    }
    let rest: f64 = row_rest.iter().zip(rest).map(|(&a, b)| f64::from(a) * b).sum();
    lanes.iter().sum::<f64>() + rest
}

#[inline(always)]
fn add(sum: &mut [f64], factor: f64, row: &[f32]) {
    for (sum, &value) in sum.iter_mut().zip(row) {
        *sum += factor * f64::from(value);
    }
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    vectorized(|| {
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
        let mut lanes = [0.0; 8];
        for (a, b) in a.iter().zip(b) {
            for lane in 0..8 {
                lanes[lane] += a[lane] * b[lane];
            }
        }
        lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(kept: &Truncated, (rows, columns): (usize, usize)) -> Vec<f64> {
        let n = kept.values.len();
        let element = |row: usize, column: usize| -> f64 {
            (0..n).map(|k| f64::from(kept.left[row * n + k]) * f64::from(kept.right[k * columns + column])).sum()
        };
        (0..rows * columns).map(|place| element(place / columns, place % columns)).collect()
    }

    fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
        let mut draws = Draws(seed);
        Matrix::new(rows, columns, (0..rows * columns).map(|_| draws.draw() as f32).collect())
    }

    #[test]
    fn at_full_rank_it_is_the_matrix() {
        for (rows, columns) in [(1, 1), (1, 7), (9, 1), (12, 12), (30, 17), (17, 30)] {
            let matrix = random(rows, columns, 7);
            let kept = truncate(&matrix, rows.min(columns));
            for (found, expected) in product(&kept, (rows, columns)).iter().zip(&matrix.values) {
                assert!((found - f64::from(*expected)).abs() < 1e-6, "{rows} by {columns}: {found} for {expected}");
            }
            let energy: f64 = kept.values.iter().map(|value| value * value).sum();
            assert!((energy / matrix.energy() - 1.0).abs() < 1e-12, "{rows} by {columns}");
        }
    }

    #[test]
    fn singular_values_of_any_multiplicity_are_found() {
        // A diagonal: 3 three times, 1 in all other places.
        let n = 40;
        let value =
            |place: usize| if place.is_multiple_of(n + 1) { if place / n < 3 { 3.0 } else { 1.0 } } else { 0.0 };
        let matrix = Matrix::new(n, n, (0..n * n).map(value).collect());
        let kept = truncate(&matrix, 5);
        for (found, expected) in kept.values.iter().zip([3.0, 3.0, 3.0, 1.0, 1.0]) {
            assert!((found - expected).abs() < 1e-9, "{:?}", kept.values);
        }
    }

    #[test]
    fn a_product_of_thin_matrices_is_found_in_few_steps_and_nothing_stays_nothing() {
        let (a, b) = (random(60, 4, 3), random(4, 50, 5));
        let element = |row: usize, column: usize| -> f32 {
            (0..4).map(|k| a.values[row * 4 + k] * b.values[k * 50 + column]).sum()
        };
        let matrix = Matrix::new(60, 50, (0..3000).map(|place| element(place / 50, place % 50)).collect());
        let kept = truncate(&matrix, 8);
        let energy: f64 = kept.values.iter().map(|value| value * value).sum();
        assert!((energy / matrix.energy() - 1.0).abs() < 1e-12);
        assert!(kept.values[4] < 1e-5 * kept.values[0], "{:?}", kept.values);
        let nothing = truncate(&Matrix::new(3, 2, vec![0.0; 6]), 2);
        assert!(nothing.values.iter().all(|value| *value == 0.0));
        assert!(nothing.left.iter().chain(&nothing.right).all(|value| value.is_finite()));
    }
}
