//! Tensors of a model by name, checked against the shape the configuration gives them, and read as f32.

use std::collections::HashMap;
use std::ops::Range;

use rayon::prelude::*;
use reweight_kernels::{Dense, Kernels, PANEL, Rows, fill_panel};
use reweight_quant::store::weight::round_values;
use reweight_quant::store::{Model, Storage, Weight};
use reweight_quant::tensor::Dtype;

use super::error::ModelError;

/// What a model's files hold.
pub(super) struct Tensors<'a> {
    pub(super) model: &'a Model,
    by_name: HashMap<&'a str, &'a Weight>,
    prefix: &'static str,
    /// Whether packed weights are held in the dtype of their scales: the folder's configuration says `dequantize`, and loaders then
    /// round each value once while they load.
    rounds_packed: bool,
}

impl<'a> Tensors<'a> {
    /// Names begin with the first of `prefixes` under which `anchor` stands.
    pub(super) fn of(model: &'a Model, prefixes: &[&'static str], anchor: &str) -> Result<Self, ModelError> {
        let by_name: HashMap<&str, &Weight> =
            model.weights().iter().map(|weight| (weight.name.as_str(), weight)).collect();
        let found = prefixes.iter().find(|prefix| by_name.contains_key(format!("{prefix}{anchor}").as_str()));
        let prefix = found.copied().ok_or_else(|| ModelError::MissingTensor {
            path: model.path().to_owned(),
            tensor: format!("{}{anchor}", prefixes.first().unwrap_or(&"")),
        })?;
        let quantization = model.config().and_then(|config| config.get("quantization_config"));
        let rounds_packed = quantization.and_then(|part| part.get("dequantize")?.as_bool()).unwrap_or(false);
        Ok(Self { model, by_name, prefix, rounds_packed })
    }

    /// The whole name of a tensor under the prefix.
    pub(super) fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A tensor by its whole name.
    pub(super) fn find(&self, name: &str) -> Option<&'a Weight> {
        self.by_name.get(name).copied()
    }

    /// A tensor by its whole name, of this shape.
    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<&'a Weight, ModelError> {
        let weight = self
            .find(name)
            .ok_or_else(|| ModelError::MissingTensor { path: self.model.path().to_owned(), tensor: name.to_owned() })?;
        check(weight, shape)?;
        Ok(weight)
    }

    /// A vector of so many values.
    pub(super) fn vector(&self, kernels: &Kernels, name: &str, n: usize) -> Result<Vec<f32>, ModelError> {
        Ok(self.get(name, &[n])?.values(kernels))
    }

    /// A vector, if there is one of this name.
    pub(super) fn vector_if(&self, kernels: &Kernels, name: &str, n: usize) -> Result<Option<Vec<f32>>, ModelError> {
        if self.find(name).is_none() {
            return Ok(None);
        }
        self.vector(kernels, name, n).map(Some)
    }
}

/// Whether a tensor has this shape.
pub(super) fn check(weight: &Weight, shape: &[usize]) -> Result<(), ModelError> {
    if weight.shape == shape {
        return Ok(());
    }
    Err(ModelError::Shape {
        path: weight.file().to_owned(),
        tensor: weight.name.clone(),
        expected: shape.to_owned(),
        found: weight.shape.clone(),
    })
}

/// Lays out some rows of a weight for products, on all threads, and hands its pages back.
pub(super) fn lay_out(
    tensors: &Tensors<'_>,
    kernels: &Kernels,
    weight: &Weight,
    rows: Range<usize>,
    dense: &mut Dense,
) {
    let rounded = match &weight.storage {
        Storage::Packed(packed) if tensors.rounds_packed => Some(packed.scale_dtype()),
        _ => None,
    };
    lay_out_rounded(kernels, weight, rows, rounded, dense);
}

/// All values of a weight, as a loader of the model holds them: [`lay_out`] without laying out.
pub(super) fn values_as_held(tensors: &Tensors<'_>, kernels: &Kernels, weight: &Weight) -> Vec<f32> {
    let mut values = vec![0.0; weight.n_elements()];
    weight.read_stored_rows(kernels, 0..weight.rows(), &mut values);
    if let (Storage::Packed(packed), true) = (&weight.storage, tensors.rounds_packed) {
        round_values(kernels, packed.scale_dtype(), &mut values, &mut Vec::new());
    }
    weight.scale_rows(0, &mut values);
    values
}

/// [`lay_out`], each value rounded to a type first where one is given; what is done to it on the way to a reader comes after.
pub(super) fn lay_out_rounded(
    kernels: &Kernels,
    weight: &Weight,
    rows: Range<usize>,
    rounded: Option<Dtype>,
    dense: &mut Dense,
) {
    let columns = weight.columns();
    dense.reset(rows.len(), columns);
    let panels: Vec<_> = dense.panels_mut().collect();
    panels.into_par_iter().enumerate().for_each_init(
        || (vec![0.0; PANEL * columns], Vec::new()),
        |(values, bytes), (index, panel)| {
            let first = rows.start + index * PANEL;
            let n = PANEL.min(rows.end - first);
            let values = &mut values[..n * columns];
            weight.read_stored_rows(kernels, first..first + n, values);
            if let Some(dtype) = rounded {
                round_values(kernels, dtype, values, bytes);
            }
            weight.scale_rows(first, values);
            fill_panel(panel, columns, n, |output| &values[output * columns..][..columns]);
        },
    );
    weight.release_rows(rows);
}

/// As [`lay_out`], for a weight that stands as `[input, output]`.
pub(super) fn lay_out_transposed(kernels: &Kernels, weight: &Weight, dense: &mut Dense) {
    let (inputs, outputs) = (weight.rows(), weight.columns());
    dense.reset(outputs, inputs);
    let values = weight.values(kernels);
    dense.set_columns(Rows { values: &values, stride: outputs });
    weight.release_rows(0..inputs);
}
