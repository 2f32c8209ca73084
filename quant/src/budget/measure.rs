//! What each way of storing a tensor does to it, from a sample of its rows, and the shape of its values.

use std::sync::Arc;

use rayon::prelude::*;
use reweight_kernels::{Kernels, RowCodes};
use serde::Serialize;

use super::{Unit, Units};
use crate::encode::{self, Encoded, Recipe};
use crate::error::RunError;
use crate::grid::Coder;
use crate::importance::Importance;
use crate::pack::Container;
use crate::plan::Method;
use crate::scheme::Scheme;
use crate::stats::Statistics;
use crate::store::weight::{PlainTensor, Storage};
use crate::store::{Bytes, Model, Weight};
use crate::tensor::Dtype;

/// Rows that a tensor is judged by, spread evenly: the error of their mean is a few per cent, the losses of two schemes are further apart.
const ROWS_MAX: usize = 256;

/// One tensor, measured.
#[derive(Clone, Debug)]
pub struct Measure {
    /// The shape of its values.
    pub shape: Shape,
    /// Squared error of its outputs a token by each scheme of its unit, as a share of their power; without statistics, that of its values.
    pub errors: Vec<f64>,
}

/// How values are spread: what a uniform grid finds easy or hard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Shape {
    /// Fourth moment over the squared variance: 1.8 for uniform values, 3 for a Gaussian. Large where few values are far out: smaller groups help.
    pub kurtosis: f64,
    /// Third moment over the variance to 3/2: far from 0, a zero point helps.
    pub skew: f64,
}

/// Measures every tensor by every scheme of its unit, one reading of each; in the order of units and their members.
///
/// Cost: a range search of up to 256 rows of each tensor for each scheme.
///
/// # Errors
/// `RunError::NonFinite` for a weight that is NaN or infinite.
pub fn measure(
    model: &Model,
    units: &Units,
    statistics: Option<&Statistics>,
    kernels: &'static Kernels,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Vec<Vec<Measure>>, RunError> {
    let of_unit = |unit: &Unit| {
        let of_member = |index: usize| {
            let weight = &model.weights()[unit.members[index].index];
            let measured = tensor(weight, unit, index, statistics, kernels);
            progress(&weight.name);
            measured
        };
        (0..unit.members.len()).map(of_member).collect::<Result<Vec<Measure>, RunError>>()
    };
    units.units.par_iter().map(of_unit).collect()
}

fn tensor(
    weight: &Weight,
    unit: &Unit,
    member: usize,
    statistics: Option<&Statistics>,
    kernels: &'static Kernels,
) -> Result<Measure, RunError> {
    let values = sampled(weight, kernels);
    let member = &unit.members[member];
    let input = statistics.and_then(|statistics| statistics.of_layer(&weight.name));
    let importance = input.and_then(|input| Importance::of(kernels, input, weight, false));
    let power = power(&values, weight.columns(), importance.as_ref());
    let sample = in_memory(weight, &values);
    let mut encoded = Encoded::default();
    let mut errors = Vec::with_capacity(unit.schemes.len());
    for scheme in &member.fitted {
        let recipe = Recipe {
            scheme: *scheme,
            scale_dtype: member.scale_dtype,
            container: Container::for_scheme(*scheme),
            method: Method::Search,
            band: 0.0,
            importance: importance.as_ref(),
        };
        let found = encode::encode(kernels, &sample, &recipe, &mut encoded)?;
        errors.push(found.output.unwrap_or(found.squared) / power);
    }
    weight.release_rows(0..weight.rows());
    Ok(Measure { shape: Shape::of(&values), errors })
}

/// Rows spread evenly over a weight.
pub(crate) fn sampled(weight: &Weight, kernels: &Kernels) -> Vec<f32> {
    let (rows, columns) = (weight.rows(), weight.columns());
    let n = rows.min(ROWS_MAX);
    let mut values = vec![0.0; n * columns];
    for (index, out) in values.chunks_exact_mut(columns.max(1)).enumerate() {
        let row = index * rows / n;
        weight.read_rows(kernels, row..row + 1, out);
    }
    values
}

/// A matrix of the same width with other rows, in memory.
pub(crate) fn in_memory(weight: &Weight, values: &[f32]) -> Weight {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let range = 0..bytes.len();
    Weight {
        name: weight.name.clone(),
        shape: vec![values.len() / weight.columns().max(1), weight.columns()],
        file: Arc::clone(&weight.file),
        storage: Storage::Plain(PlainTensor { dtype: Dtype::F32, bytes: Bytes::from_vec(bytes), range }),
        scaling: None,
    }
}

/// Mean square of outputs, summed over rows, as the statistics tell it.
fn power(values: &[f32], columns: usize, importance: Option<&Importance>) -> f64 {
    let of_row = |row: &[f32]| -> f64 {
        let moment = |column: usize| importance.map_or(1.0, |importance| f64::from(importance.moments[column]));
        row.iter().enumerate().map(|(column, value)| f64::from(*value).powi(2) * moment(column)).sum()
    };
    let power: f64 = values.chunks_exact(columns.max(1)).map(of_row).sum();
    if power > 0.0 { power } else { 1.0 }
}

impl Shape {
    /// Of values; zeros where they are all the same.
    #[must_use]
    pub fn of(values: &[f32]) -> Self {
        let n = values.len().max(1) as f64;
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / n;
        let moment = |power: i32| values.iter().map(|value| (f64::from(*value) - mean).powi(power)).sum::<f64>() / n;
        let variance = moment(2);
        if variance > 0.0 {
            Self { kurtosis: moment(4) / variance.powi(2), skew: moment(3) / variance.powf(1.5) }
        } else {
            Self::default()
        }
    }
}

/// A weight as range search would store it, in memory as f32.
#[must_use]
pub fn rounded(
    kernels: &Kernels,
    weight: &Weight,
    (scheme, scale_dtype): (Scheme, Dtype),
    statistics: Option<&Statistics>,
) -> Weight {
    let columns = weight.columns();
    let input = statistics.and_then(|statistics| statistics.of_layer(&weight.name));
    let importance = input.and_then(|input| Importance::of(kernels, input, weight, false));
    let weights = importance.as_ref().map(|importance| importance.moments.as_slice());
    let coder = Coder::of(kernels, weight, (scheme, scale_dtype), weights, true);
    let group = scheme.group_len(columns);
    let n_groups = columns.div_ceil(group);
    let mut values = weight.values(kernels);
    values.par_chunks_exact_mut(columns).for_each_init(
        || (vec![0; columns], vec![0.0; n_groups], vec![0; n_groups]),
        |(codes, scales, zeros), row| {
            let mut out = RowCodes { codes, scales, zeros };
            coder.search(kernels, group, row, weights, &mut out);
            coder.dequantize(kernels, group, (codes, scales, zeros), row);
        },
    );
    in_memory(weight, &values)
}
