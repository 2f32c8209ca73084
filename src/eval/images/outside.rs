//! Scores that tell what a model was made for from anything else, and how well they do.

use super::score::log_sum_exp;
use crate::model::Classified;

/// Minus the energy of each answer at temperature 1 (Liu et al. 2020, arXiv 2010.03759): the logarithm of the sum of exponentials of
/// its logits, higher for what the model knows.
#[must_use]
pub fn energies(answers: &[Classified]) -> Vec<f64> {
    answers.iter().map(|answer| log_sum_exp(&answer.logits)).collect()
}

/// The chance that a score of `inside` is above one of `outside`, ties counting half: the area under the ROC curve.
///
/// NaN counts as the lowest score. 0.5 where a side is empty.
#[must_use]
pub fn area_under_curve(inside: &[f64], outside: &[f64]) -> f64 {
    if inside.is_empty() || outside.is_empty() {
        return 0.5;
    }
    let low = |x: &f64| if x.is_nan() { f64::NEG_INFINITY } else { *x };
    let mut all: Vec<(f64, bool)> = inside.iter().map(|x| (low(x), true)).collect();
    all.extend(outside.iter().map(|x| (low(x), false)));
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut wins) = (0.0, 0.0);
    for tied in all.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let ours = tied.iter().filter(|(_, ours)| *ours).count() as f64;
        let theirs = tied.len() as f64 - ours;
        wins += ours * (below + theirs / 2.0);
        below += theirs;
    }
    wins / (inside.len() as f64 * outside.len() as f64)
}

/// Gaussians with one covariance, a mean for each class, over the features of a classifier (Lee et al. 2018, arXiv 1807.03888).
#[derive(Debug)]
pub struct Mahalanobis {
    /// Mean of each class that was seen, times the inverse of the covariance's factor.
    means: Vec<Vec<f64>>,
    /// Lower Cholesky factor of the covariance, row after row.
    factor: Vec<f64>,
    width: usize,
}

impl Mahalanobis {
    /// The longest feature that is taken: the covariance is a matrix of its square.
    pub const WIDTH_MAX: usize = 4096;
    /// What is added to the diagonal of the covariance, of its mean variance: few images do not span the space.
    pub const SHRINKAGE: f64 = 0.01;

    /// Fits means and covariance; `None` where there is nothing to fit, features are too long or not finite.
    #[must_use]
    pub fn fit(features: &[&[f32]], labels: &[u32]) -> Option<Self> {
        let width = features.first()?.len();
        if width == 0 || width > Self::WIDTH_MAX || features.iter().any(|row| row.iter().any(|x| !x.is_finite())) {
            return None;
        }
        let n_classes = labels.iter().max().map_or(0, |label| *label as usize + 1);
        let mut sums = vec![(0usize, vec![0.0f64; width]); n_classes];
        for (row, label) in features.iter().zip(labels) {
            let (n, sum) = &mut sums[*label as usize];
            *n += 1;
            sum.iter_mut().zip(*row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        for (n, sum) in &mut sums {
            for x in sum {
                *x /= (*n).max(1) as f64;
            }
        }
        let mut covariance = vec![0.0f64; width * width];
        let mut centred = vec![0.0f64; width];
        for (row, label) in features.iter().zip(labels) {
            let mean = &sums[*label as usize].1;
            centred.iter_mut().zip(*row).zip(mean).for_each(|((to, x), mean)| *to = f64::from(*x) - mean);
            for (i, line) in covariance.chunks_exact_mut(width).enumerate() {
                let x = centred[i];
                line[..=i].iter_mut().zip(&centred).for_each(|(sum, y)| *sum += x * y);
            }
        }
        for x in &mut covariance {
            *x /= features.len() as f64;
        }
        let mean_variance = (0..width).map(|i| covariance[i * width + i]).sum::<f64>() / width as f64;
        for i in 0..width {
            // Features that never vary leave nothing to scale by; any positive number does.
            covariance[i * width + i] += (Self::SHRINKAGE * mean_variance).max(f64::MIN_POSITIVE.sqrt());
        }
        let factor = cholesky(covariance, width)?;
        let mut fitted = Self { means: Vec::new(), factor, width };
        fitted.means = sums.into_iter().filter(|(n, _)| *n > 0).map(|(_, mean)| fitted.whitened(mean)).collect();
        Some(fitted)
    }

    /// Minus the squared distance to the nearest class: higher for what is like the images it was fitted to.
    #[must_use]
    pub fn score(&self, features: &[f32]) -> f64 {
        let x = self.whitened(features.iter().map(|x| f64::from(*x)).collect());
        let distance = |mean: &Vec<f64>| x.iter().zip(mean).map(|(x, mean)| (x - mean) * (x - mean)).sum::<f64>();
        -self.means.iter().map(distance).fold(f64::INFINITY, f64::min)
    }

    /// Solves L y = x.
    fn whitened(&self, mut x: Vec<f64>) -> Vec<f64> {
        for (i, line) in self.factor.chunks_exact(self.width).enumerate() {
            let known: f64 = line[..i].iter().zip(&x).map(|(l, y)| l * y).sum();
            x[i] = (x[i] - known) / line[i];
        }
        x
    }
}

/// The lower factor of a matrix given by its lower half; `None` where it is not positive.
fn cholesky(mut matrix: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    for i in 0..n {
        let (above, line) = matrix.split_at_mut(i * n);
        for j in 0..i {
            let other = &above[j * n..][..n];
            let known: f64 = line[..j].iter().zip(other).map(|(a, b)| a * b).sum();
            line[j] = (line[j] - known) / other[j];
        }
        let rest = line[i] - line[..i].iter().map(|x| x * x).sum::<f64>();
        if rest <= 0.0 || !rest.is_finite() {
            return None;
        }
        line[i] = rest.sqrt();
    }
    Some(matrix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_counts_pairs() {
        let pairs = |inside: &[f64], outside: &[f64]| {
            let win = |a: f64, b: f64| {
                if a > b {
                    1.0
                } else if a < b {
                    0.0
                } else {
                    0.5
                }
            };
            let all: f64 = inside.iter().flat_map(|a| outside.iter().map(move |b| win(*a, *b))).sum();
            all / (inside.len() * outside.len()) as f64
        };
        let value = |i: usize| ((i * 37) % 11) as f64;
        let (inside, outside): (Vec<f64>, Vec<f64>) =
            ((0..40).map(value).collect(), (5..30).map(|i| value(i * i)).collect());
        assert!((area_under_curve(&inside, &outside) - pairs(&inside, &outside)).abs() < 1e-12);
        assert!((area_under_curve(&[2.0, 3.0], &[0.0, 1.0]) - 1.0).abs() < 1e-12);
        assert!((area_under_curve(&[f64::NAN], &[0.0])).abs() < 1e-12);
        assert!((area_under_curve(&[], &[0.0]) - 0.5).abs() < 1e-12);
    }

    // By hand: two classes, variance 1 along x and 4 along y, no covariance.
    #[test]
    fn distances_are_in_standard_deviations() {
        let rows: [[f32; 2]; 8] =
            [[-1.0, -2.0], [1.0, 2.0], [-1.0, 2.0], [1.0, -2.0], [9.0, -2.0], [11.0, 2.0], [9.0, 2.0], [11.0, -2.0]];
        let rows: Vec<&[f32]> = rows.iter().map(<[f32; 2]>::as_slice).collect();
        let fitted = Mahalanobis::fit(&rows, &[0, 0, 0, 0, 2, 2, 2, 2]).expect("it can be fitted");
        let shrunk = |variance: f64| variance + Mahalanobis::SHRINKAGE * 2.5;
        assert!((fitted.score(&[2.0, 0.0]) + 4.0 / shrunk(1.0)).abs() < 1e-9, "{}", fitted.score(&[2.0, 0.0]));
        assert!((fitted.score(&[10.0, 6.0]) + 36.0 / shrunk(4.0)).abs() < 1e-9);
        assert!(Mahalanobis::fit(&[], &[]).is_none());
        assert!(Mahalanobis::fit(&[&[f32::NAN]], &[0]).is_none());
        assert!(Mahalanobis::fit(&[&[1.0]], &[0]).is_some_and(|fitted| fitted.score(&[1.0]) == 0.0));
    }
}
