//! How sure rounding is of a tensor: the weights that lie near a decision boundary of their grid.
//!
//! OFQ (Liu, Liu and Cheng 2023, "Oscillation-free Quantization for Low-bit Vision Transformers", arXiv 2302.02210) finds that such weights swing
//! between two codes while a model is trained on its grid. A finished model has no such swings; there the share tells how many
//! codes a small change of a weight or of a scale would turn.

use reweight_kernels::Kernels;

use crate::budget::{Shape, in_memory, sampled};
use crate::encode::{self, Encoded, Recipe};
use crate::error::RunError;
use crate::pack::Container;
use crate::plan::Method;
use crate::scheme::Scheme;
use crate::store::Weight;
use crate::tensor::Dtype;

/// What a sample of a tensor's rows shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// The shape of its values.
    pub shape: Shape,
    /// Share of them within the band of a decision boundary, on the grid asked for with searched scales.
    pub low_confidence: Option<f64>,
}

/// Looks at up to 256 rows of a matrix, spread evenly; puts them on a grid where one is named, with scales of the type named. `band` is in steps of
/// the grid, 0 to a half.
///
/// Cost: a range search of these rows.
///
/// # Errors
/// `RunError::NonFinite` for a weight that is NaN or infinite.
pub fn look(
    kernels: &'static Kernels,
    weight: &Weight,
    grid: Option<(Scheme, Dtype)>,
    band: f64,
) -> Result<Look, RunError> {
    let (values, columns) = (sampled(weight, kernels), weight.columns().max(1));
    let n_rows = values.len() / columns;
    if let Some(at) = kernels.first_non_finite(&values) {
        let row = at / columns * weight.rows() / n_rows;
        let (file, tensor, value) = (weight.file().to_owned(), weight.name.clone(), values[at]);
        return Err(RunError::NonFinite { file, tensor, index: row * columns + at % columns, value });
    }
    let low_confidence = match grid {
        None => None,
        Some((scheme, scale_dtype)) => {
            let recipe = Recipe {
                scheme,
                scale_dtype,
                container: Container::for_scheme(scheme),
                method: Method::Search,
                band: band as f32,
                importance: None,
            };
            let found = encode::encode(kernels, &in_memory(weight, &values), &recipe, &mut Encoded::default())?;
            Some(found.near_bounds as f64 / values.len().max(1) as f64)
        }
    };
    weight.release_rows(0..weight.rows());
    Ok(Look { shape: Shape::of(&values), low_confidence })
}
