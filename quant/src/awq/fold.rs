//! From factors to what is done to each weight.

use std::collections::BTreeMap;
use std::sync::Arc;

use reweight_kernels::Kernels;

use super::{Mapping, Previous};
use crate::store::weight::round_values;
use crate::store::{Model, Scaling, Weight};
use crate::tensor::Dtype;

/// What one mapping does to weights, by name.
pub type Fold = BTreeMap<String, Scaling>;

/// Folds the factors of a mapping, one for each channel that is made. `None` where a weight is missing or has another shape than
/// the mapping says.
///
/// A norm is stored in `dtype` (that of the file, where `None`), and its readers are multiplied by the factor that it was really
/// divided by, after rounding: so nothing is lost there. A channel that a norm silences keeps its weights.
#[must_use]
pub fn fold(model: &Model, kernels: &Kernels, mapping: &Mapping, scales: &[f32], dtype: Option<Dtype>) -> Option<Fold> {
    let mut fold = Fold::new();
    let mut scales = scales.to_vec();
    match &mapping.previous {
        Previous::Norm { weight, bias, offset } => {
            let weight = model.weight(weight).filter(|weight| weight.n_elements() == scales.len())?;
            let values = divide_norm(kernels, weight, *offset, &mut scales, dtype);
            fold.insert(weight.name.clone(), Scaling::Vector(values));
            fold_bias(model, kernels, bias.as_deref(), 0, &scales, &mut fold)?;
        }
        Previous::Linear { weight, bias, outputs, transposed } => {
            let weight = model.weight(weight)?;
            let n = if *transposed { weight.columns() } else { weight.rows() };
            if outputs.end > n || outputs.len() != scales.len() {
                return None;
            }
            let mut factors = vec![1.0; n];
            factors[outputs.clone()].iter_mut().zip(&scales).for_each(|(factor, scale)| *factor = 1.0 / scale);
            fold.insert(weight.name.clone(), of_side(factors.into(), !*transposed));
            fold_bias(model, kernels, bias.as_deref(), outputs.start, &scales, &mut fold)?;
        }
    }
    for consumer in &mapping.consumers {
        let weight = model.weight(&consumer.weight)?;
        let n = if consumer.transposed { weight.rows() } else { weight.columns() };
        let factors: Vec<f32> =
            (0..n).map(|read| scales.get(mapping.sharing.made(read)).copied()).collect::<Option<_>>()?;
        fold.insert(weight.name.clone(), of_side(factors.into(), consumer.transposed));
    }
    Some(fold)
}

fn of_side(factors: Arc<[f32]>, rows: bool) -> Scaling {
    if rows {
        Scaling::Matrix { rows: Some(factors), columns: None }
    } else {
        Scaling::Matrix { rows: None, columns: Some(factors) }
    }
}

fn fold_bias(
    model: &Model,
    kernels: &Kernels,
    bias: Option<&str>,
    first: usize,
    scales: &[f32],
    fold: &mut Fold,
) -> Option<()> {
    let Some(name) = bias else { return Some(()) };
    let bias = model.weight(name)?;
    let mut new = bias.values(kernels);
    let divided = new.get_mut(first..first + scales.len())?;
    divided.iter_mut().zip(scales).for_each(|(value, scale)| *value /= scale);
    fold.insert(name.to_owned(), Scaling::Vector(new.into()));
    Some(())
}

/// The weights of a norm after division, rounded as they will be stored; `scales` becomes what they were really divided by.
fn divide_norm(
    kernels: &Kernels,
    weight: &Weight,
    offset: bool,
    scales: &mut [f32],
    dtype: Option<Dtype>,
) -> Arc<[f32]> {
    let old = weight.values(kernels);
    let shift = if offset { 1.0 } else { 0.0 };
    let mut new: Vec<f32> = old.iter().zip(&*scales).map(|(value, scale)| (value + shift) / scale - shift).collect();
    round_values(kernels, weight.written_dtype(dtype), &mut new, &mut Vec::new());
    for ((new, old), scale) in new.iter_mut().zip(&old).zip(scales) {
        let real = (old + shift) / (*new + shift);
        // A silent channel, or one whose division did not survive rounding, is left alone.
        if real.is_finite() && real > 0.0 && (real / *scale - 1.0).abs() < 0.25 {
            *scale = real;
        } else {
            (*new, *scale) = (*old, 1.0);
        }
    }
    new.into()
}
