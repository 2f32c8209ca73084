//! What activation statistics say about the errors of one matrix: which columns matter, and which make up for each other.

use reweight_kernels::{Kernels, QuadraticForm};

use crate::compensate::Factor;
use crate::encode::clip::GroupGrams;
use crate::stats::InputStatistics;
use crate::store::Weight;

/// What is added to the diagonal of a Gram matrix, as a share of its mean.
const DAMPING: f64 = 0.01;

/// Of one matrix, ready for quantizing.
#[derive(Clone, Debug)]
pub struct Importance {
    /// Mean of x^2 of each input channel, before any scaling.
    pub moments: Vec<f32>,
    /// The same for the scaled matrix: divided by the squares of its columns' factors.
    pub scaled_moments: Vec<f32>,
    /// How errors of columns add up, where rounding is to compensate them.
    pub factor: Option<Factor>,
    /// How errors of columns add up, where weights in doubt are decided by it.
    pub form: Option<QuadraticForm>,
    /// How errors of one group's columns add up, where ranges are clipped as published with AWQ.
    pub groups: Option<GroupGrams>,
}

impl Importance {
    /// From the statistics of a matrix's input, with a factor where rounding `compensates`; `None` where they have another width, or no token was seen.
    #[must_use]
    pub fn of(kernels: &Kernels, input: &InputStatistics, weight: &Weight, compensates: bool) -> Option<Self> {
        if input.width() != weight.columns() || input.tokens == 0 {
            return None;
        }
        let columns = weight.scaling.as_ref().and_then(|scaling| scaling.columns());
        let moments = input.second_moment();
        let scale = |j: usize| columns.map_or(1.0, |columns| f64::from(columns[j]));
        let scaled: Vec<f64> = moments.iter().enumerate().map(|(j, moment)| moment / (scale(j) * scale(j))).collect();
        let gram = input.gram.as_ref().filter(|_| compensates);
        let factor = gram.and_then(|gram| Factor::of(kernels, gram, input.tokens, columns, DAMPING));
        Some(Self { moments: narrow(&moments), scaled_moments: narrow(&scaled), factor, form: None, groups: None })
    }
}

/// The mean of x x^T of a matrix's input, damped, its rows and columns divided by the factors of the matrix's columns; `None` without a Gram matrix.
#[must_use]
pub fn form_of(input: &InputStatistics, weight: &Weight) -> Option<QuadraticForm> {
    let gram = input.gram.as_ref().filter(|gram| gram.width() == weight.columns() && input.tokens > 0)?;
    let (n, mean) = (gram.width(), gram.mean(input.tokens));
    let columns = weight.scaling.as_ref().and_then(|scaling| scaling.columns());
    let inverses: Vec<f64> = (0..n).map(|j| columns.map_or(1.0, |columns| 1.0 / f64::from(columns[j]))).collect();
    let entry = |i: usize, j: usize| mean(i, j) * inverses[i] * inverses[j];
    let damping = DAMPING * (0..n).map(|j| entry(j, j)).sum::<f64>() / n.max(1) as f64;
    let damped = |i: usize, j: usize| entry(i, j) + if i == j { damping } else { 0.0 };
    Some(QuadraticForm::new(n, |i, j| damped(i, j).clamp(-1e20, 1e20) as f32))
}

/// As f32, within what a sum of squares can bear.
fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| value.clamp(0.0, 1e20) as f32).collect()
}
