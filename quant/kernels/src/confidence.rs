//! Weights near a decision boundary: how many there are, and deciding them by what they do to outputs.
//!
//! Sums run over sixteen lanes of columns and are folded once, so every table gives the same bits.

use crate::lanes::{LANES, Lanes, MAGIC};

/// Values whose place on the grid lies less than `band` steps from where rounding goes the other way.
///
/// The place is `value / scale + zero + offset`, held between 0 and the largest code: beyond them nothing is decided.
#[inline(always)]
pub(crate) fn near_bounds<S: Lanes>(
    s: S,
    (code_max, offset, band): (u8, f32, f32),
    group: usize,
    row: &[f32],
    scales: &[f32],
    zeros: &[u8],
) -> usize {
    let (least, most, magic) = (s.splat(0.0), s.splat(f32::from(code_max)), s.splat(MAGIC));
    let (one, bound) = (s.splat(1.0), s.splat(0.5 - band));
    let mut near = s.splat(0.0);
    for ((values, scale), zero) in row.chunks(group).zip(scales).zip(zeros) {
        let (inverse, zero) = (s.splat(1.0 / scale), s.splat(f32::from(*zero) + offset));
        let (full, rest) = values.as_chunks::<LANES>();
        // What fills up the last vector lies far beyond the last code.
        let mut tail = [f32::INFINITY; LANES];
        tail[..rest.len()].copy_from_slice(rest);
        let tail = if rest.is_empty() { &[][..] } else { std::slice::from_ref(&tail) };
        for values in full.iter().chain(tail) {
            let place = s.min(s.max(s.add(s.mul(s.load(values), inverse), zero), least), most);
            let off = s.sub(place, s.sub(s.add(place, magic), magic));
            let distance = s.max(off, s.sub(least, off));
            near = s.add(near, s.where_positive(s.sub(distance, bound), one, least));
        }
    }
    s.sum(near) as usize
}

/// How errors of columns add up in outputs: a symmetric matrix, each row filled up with zeros to [`QuadraticForm::stride`].
#[derive(Clone, Debug)]
pub struct QuadraticForm {
    /// Rows and columns.
    n: usize,
    stride: usize,
    values: Vec<f32>,
}

/// Vectors that a sum of products is taken in.
const SUMS: usize = 4;

/// Columns whose rows of the form are used while they are in the first cache.
const COLUMNS: usize = 16;

impl QuadraticForm {
    /// From its entries by row and column.
    #[must_use]
    pub fn new(n: usize, entry: impl Fn(usize, usize) -> f32) -> Self {
        let stride = n.next_multiple_of(SUMS * LANES);
        let mut values = vec![0.0; n * stride];
        for (i, row) in values.chunks_exact_mut(stride.max(1)).enumerate() {
            row[..n].iter_mut().enumerate().for_each(|(j, value)| *value = entry(i, j));
        }
        Self { n, stride, values }
    }

    /// Values from one row to the next.
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes of a form of so many columns.
    #[must_use]
    pub const fn bytes_needed(n: usize) -> usize {
        4 * n * n.next_multiple_of(SUMS * LANES)
    }
}

/// Rows with the weights of each that are to be decided.
#[derive(Clone, Debug, Default)]
pub struct Doubts {
    /// Errors of the codes as they are: a row after the other, each as long as the form's stride, zeros at the end.
    pub errors: Vec<f32>,
    /// The columns of the weights in doubt, row after row, ascending in each.
    pub columns: Vec<u32>,
    /// What taking its other code adds to the error of each.
    pub steps: Vec<f32>,
    /// Whether the other code was taken.
    pub taken: Vec<bool>,
    /// Where the doubts of each row end.
    pub ends: Vec<usize>,
}

impl Doubts {
    /// Whether rows, columns and errors go with a form.
    pub(crate) fn fit(&self, form: &QuadraticForm) -> bool {
        let n = self.columns.len();
        [self.steps.len(), self.taken.len()] == [n; 2]
            && self.errors.len() == self.ends.len() * form.stride
            && self.ends.last().copied().unwrap_or(0) == n
            && self.ends.is_sorted()
            && self.columns.iter().all(|column| (*column as usize) < form.n)
    }
}

/// A sum of products, each of as many values as some multiple of [`SUMS`] vectors.
#[inline(always)]
fn dot<S: Lanes>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
    let mut sums = [s.splat(0.0); SUMS];
    for (a, b) in a.as_chunks::<SUMS>().0.iter().zip(b.as_chunks::<SUMS>().0) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = s.add(*sum, s.mul(s.load(a), s.load(b)));
        }
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// Takes the other code of every weight in doubt where `e^T G e` becomes less for it, given all codes of its row before; so often.
#[inline(always)]
pub(crate) fn settle<S: Lanes>(s: S, form: &QuadraticForm, passes: usize, doubts: &mut Doubts) {
    let Doubts { errors, columns, steps, taken, ends } = doubts;
    let stride = form.stride;
    let mut places = Vec::with_capacity(ends.len());
    for _ in 0..passes {
        places.clear();
        places.extend(std::iter::once(0).chain(ends.iter().copied()).take(ends.len()));
        for first in (0..form.n).step_by(COLUMNS) {
            for ((errors, place), end) in errors.chunks_exact_mut(stride).zip(&mut places).zip(&*ends) {
                while *place < *end && (columns[*place] as usize) < first + COLUMNS {
                    let column = columns[*place] as usize;
                    let row = &form.values[column * stride..][..stride];
                    let step = steps[*place];
                    if step * (2.0 * dot(s, row, errors) + step * row[column]) < 0.0 {
                        errors[column] += step;
                        steps[*place] = -step;
                        taken[*place] = !taken[*place];
                    }
                    *place += 1;
                }
            }
        }
    }
}

/// `e^T G e` of one row of errors.
#[inline(always)]
pub(crate) fn form_of<S: Lanes>(s: S, form: &QuadraticForm, errors: &[f32]) -> f64 {
    let mut sum = 0.0;
    for (row, error) in form.values.chunks_exact(form.stride.max(1)).zip(errors) {
        sum += f64::from(*error) * f64::from(dot(s, row, errors));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::{Doubts, QuadraticForm};
    use crate::{best, supported};

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The mean of x x^T of inputs that share a source.
    fn gram(n: usize) -> Vec<f64> {
        let (shared, own) = (noise(200, 1), noise(200 * n, 2));
        let x = |t: usize, j: usize| f64::from(shared[t] + 0.5 * own[t * n + j]) * (1.0 + (j % 5) as f64);
        let mean = |i: usize, j: usize| (0..200).map(|t| x(t, i) * x(t, j)).sum::<f64>() / 200.0;
        (0..n * n).map(|at| mean(at / n, at % n)).collect()
    }

    #[test]
    fn weights_in_doubt_are_decided_one_after_the_other() {
        let (n, n_rows) = (83, 5);
        let gram = gram(n);
        let form = QuadraticForm::new(n, |i, j| gram[i * n + j] as f32);
        let mut doubts = Doubts::default();
        for row in 0..n_rows {
            let errors = noise(n, 10 + row);
            doubts.errors.extend(errors.iter().copied().chain(vec![0.0; form.stride() - n]));
            for (column, error) in errors.iter().enumerate().filter(|(column, _)| column % 3 != 1) {
                doubts.columns.push(column as u32);
                doubts.steps.push(-2.1 * error);
            }
            doubts.taken.resize(doubts.columns.len(), false);
            doubts.ends.push(doubts.columns.len());
        }
        let exact = |errors: &[f64]| -> f64 { (0..n * n).map(|at| errors[at / n] * errors[at % n] * gram[at]).sum() };
        for passes in [1, 2] {
            let mut found = doubts.clone();
            best().settle(&form, passes, &mut found);
            for kernels in supported() {
                let mut other = doubts.clone();
                kernels.settle(&form, passes, &mut other);
                assert_eq!(other.taken, found.taken, "{kernels:?}");
                let bits = |doubts: &Doubts| doubts.errors.iter().map(|e| e.to_bits()).collect::<Vec<u32>>();
                assert_eq!(bits(&other), bits(&found), "{kernels:?}");
            }
            // The same by trying both codes and computing everything anew, in f64.
            let mut first = 0;
            for (row, end) in doubts.ends.iter().enumerate() {
                let own = &doubts.errors[row * form.stride()..][..n];
                let mut errors: Vec<f64> = own.iter().map(|e| f64::from(*e)).collect();
                let before = exact(&errors);
                let mut steps: Vec<f64> = doubts.steps[first..*end].iter().map(|step| f64::from(*step)).collect();
                for _ in 0..passes {
                    for (step, column) in steps.iter_mut().zip(&doubts.columns[first..*end]) {
                        let mut tried = errors.clone();
                        tried[*column as usize] += *step;
                        if exact(&tried) < exact(&errors) {
                            (errors, *step) = (tried, -*step);
                        }
                    }
                }
                let last = &found.errors[row * form.stride()..][..form.stride()];
                let differ = last.iter().zip(&errors).filter(|(a, b)| (f64::from(**a) - **b).abs() > 1e-5).count();
                assert_eq!(differ, 0, "row {row} after {passes} passes");
                assert!(exact(&errors) < before, "row {row}: {} and {before}", exact(&errors));
                let form = best().form_of(&form, last);
                assert!((form - exact(&errors)).abs() < 1e-4 * before, "row {row}: {form} and {}", exact(&errors));
                first = *end;
            }
        }
    }

    #[test]
    fn what_is_near_a_boundary_is_what_the_formula_says() {
        // Places are counted from 0; at three bits boundaries lie at 1/2, .. 6 + 1/2.
        for n in [1_usize, 15, 16, 17, 64, 150] {
            for (group, offset) in [(8, 0.0), (48, 0.0), (48, 3.5), (n, 0.0)] {
                let row: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7391).sin() * 3.0).collect();
                let n_groups = n.div_ceil(group);
                let scales: Vec<f32> = (0..n_groups).map(|g| 0.5 + 0.1 * g as f32).collect();
                let zeros: Vec<u8> = (0..n_groups).map(|g| if offset > 0.0 { 0 } else { (g % 8) as u8 }).collect();
                for band in [0.0, 0.005, 0.1, 0.4] {
                    let near = |(i, value): (usize, &f32)| {
                        let place = f64::from(value / scales[i / group]) + f64::from(zeros[i / group]) + offset;
                        (0..7).any(|code| (place - (f64::from(code) + 0.5)).abs() < f64::from(band))
                    };
                    let expected = row.iter().enumerate().filter(|pair| near(*pair)).count();
                    for kernels in supported() {
                        let by = (7, offset as f32, band);
                        let found = kernels.near_bounds(by, group, &row, (&scales, &zeros));
                        assert_eq!(
                            found, expected,
                            "{kernels:?}: {n} in groups of {group}, offset {offset}, band {band}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn beyond_the_last_code_nothing_is_decided() {
        let row = [9.5, 7.5, 7.0, 6.5, -0.5, -1.5, 1e30, -1e30];
        for kernels in supported() {
            assert_eq!(kernels.near_bounds((7, 0.0, 0.1), 8, &row, (&[1.0], &[0])), 1, "{kernels:?}");
        }
    }
}
