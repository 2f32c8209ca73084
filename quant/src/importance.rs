//! What activation statistics say about the errors of one matrix: which columns matter, and which make up for each other.

use reweight_kernels::Kernels;

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
        Some(Self { moments: narrow(&moments), scaled_moments: narrow(&scaled), factor, groups: None })
    }
}

/// As f32, within what a sum of squares can bear.
fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| value.clamp(0.0, 1e20) as f32).collect()
}
