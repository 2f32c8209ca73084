//! The difference of two checkpoints as a patch: what turns the first into the second.
//!
//! It is the signature without projection, of every tensor; where heads differ in shape the two are no patch of one another.

use std::path::Path;

use reweight_quant::store::Model;
use reweight_quant::tensor::shape_text;

use crate::PatchError;
use crate::layers::Layers;
use crate::signature::{Options, Projection, Sources, Store, TensorFigures, extract};

/// Writes the difference of `new` and `base`. Stored as F32 it makes `new` of `base` but for a unit in the last place of f32 weights.
///
/// # Errors
/// `PatchError::Mismatch` where a tensor of one is absent or of another shape in the other; as [`extract`].
pub fn difference(
    base: &Model,
    new: &Model,
    name: String,
    layers: Layers,
    store: Store,
    path: &Path,
) -> Result<Vec<TensorFigures>, PatchError> {
    check_shapes(base, new)?;
    let options = Options { name, layers, projection: Projection::None, store };
    extract(Sources { pretrained: None, clean: base, robust: new }, &options, path)
}

/// Requires that two models have the same tensors in the same shapes.
///
/// # Errors
/// `PatchError::Mismatch`.
pub fn check_shapes(base: &Model, new: &Model) -> Result<(), PatchError> {
    for (a, b) in [(base, new), (new, base)] {
        for weight in a.weights() {
            let found = b.weight(&weight.name);
            if found.is_none_or(|found| found.shape != weight.shape) {
                return Err(PatchError::Mismatch {
                    tensor: weight.name.clone(),
                    a: shape_text(&weight.shape).into(),
                    a_path: a.path().to_owned(),
                    b: found.map_or_else(|| "absent".into(), |found| shape_text(&found.shape).into()),
                    b_path: b.path().to_owned(),
                });
            }
        }
    }
    Ok(())
}
