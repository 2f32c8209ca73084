//! A LoRA adapter made of the difference of two models: each matrix's change by one of low rank, as a folder that PEFT loads.
//!
//! The change of a weight is approximated as well as its rank allows ([`svd`](crate::svd)), with the root of each singular value in both factors and
//! alpha the rank, so that the scale is 1. Filters count as matrices of outputs by everything else, as PEFT takes them; embeddings, known by their names,
//! are stored under PEFT's names for such. What is no matrix (norms, biases) has no low rank and is told with its share.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use reweight_quant::error::FileError;
use reweight_quant::store::Model;
use reweight_quant::store::safetensors::NewTensor;
use reweight_quant::tensor::Dtype;
use serde::Serialize;
use serde_json::json;

use super::peft::{PREFIX, WEIGHTS};
use crate::PatchError;
use crate::layers::{Layers, Treatment, module, treatments};
use crate::patch::write_parts;
use crate::svd::{Matrix, Truncated, truncate};
use crate::tensor::{FloatTensor, PIECE};

/// Model types of transformers whose matrices are stored inputs first.
const INPUTS_FIRST: [&str; 4] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];

/// What is kept of the change of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankFigures {
    /// The tensor.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Sum of squares of its change.
    pub energy: f64,
    /// Sum of the squares of the singular values that are kept: 0 where the tensor is no matrix and left out.
    pub energy_kept: f64,
    /// The greatest singular value that is kept, and the least.
    pub singular_values: Option<(f64, f64)>,
}

/// A weight of both models that differs and is a matrix.
struct Changed<'a> {
    base: FloatTensor<'a>,
    new: FloatTensor<'a>,
    /// Where among the figures.
    figure: usize,
}

/// Writes an adapter of that rank for the difference of `new` and `base`, or only computes it where there is no `out`. The figures are those of all
/// tensors that differ.
///
/// Cost: both models are read twice; memory for two tensors in f32.
///
/// # Errors
/// `PatchError::Mismatch` where a tensor is absent or of another shape, `PatchError::NonFinite`, `PatchError::NoChange`, `PatchError::Adapter` for models whose
/// matrices are stored inputs first; `FileError::Io`.
pub fn extract(
    base: &Model,
    new: &Model,
    layers: &Layers,
    rank: usize,
    out: Option<&Path>,
) -> Result<Vec<RankFigures>, PatchError> {
    let model_type = base.config().and_then(|config| config.get("model_type")?.as_str()).unwrap_or_default();
    if INPUTS_FIRST.contains(&model_type) {
        let what = format!("an adapter of model_type {model_type:?}, whose matrices are stored inputs first,");
        return Err(PatchError::Adapter { path: base.path().to_owned(), what });
    }
    crate::difference::check_shapes(base, new)?;
    let mut figures = Vec::new();
    let mut changed = Vec::new();
    for (weight, treatment) in base.weights().iter().zip(treatments(base, layers)?) {
        let other = new.weight(&weight.name).filter(|_| treatment != Treatment::Keep && weight.is_float());
        let Some(other) = other else { continue };
        let pair = Changed {
            base: FloatTensor::of(weight, base.path())?,
            new: FloatTensor::of(other, new.path())?,
            figure: figures.len(),
        };
        let energy = pair.difference(new)?.energy();
        if energy > 0.0 {
            let (name, shape) = (weight.name.clone(), weight.shape.clone());
            figures.push(RankFigures { name, shape, energy, energy_kept: 0.0, singular_values: None });
            let is_matrix = weight.shape.len() >= 2 && weight.name.ends_with(".weight");
            changed.extend((is_matrix && treatment == Treatment::Add).then_some(pair));
        }
    }
    if changed.is_empty() {
        return Err(PatchError::NoChange);
    }
    match out {
        Some(out) => write(&changed, new, rank, &mut figures, out)?,
        None => changed.iter().try_for_each(|pair| pair.factors(new, rank, &mut figures).map(drop))?,
    }
    Ok(figures)
}

/// Writes the folder and lets it appear.
fn write(
    changed: &[Changed<'_>],
    new: &Model,
    rank: usize,
    figures: &mut [RankFigures],
    out: &Path,
) -> Result<(), PatchError> {
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new().prefix(".reweight-adapter").tempdir_in(parent);
    let folder = folder.map_err(FileError::io(out, "write"))?;
    let parts: Vec<NewTensor> = changed.iter().flat_map(|pair| pair.parts(rank)).collect();
    let said = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut made: Option<(usize, [Vec<u8>; 2])> = None;
    write_parts(&folder.path().join(WEIGHTS), &parts, &said, |part| {
        let (index, within) = (part / 2, part % 2);
        let bytes = match made.take() {
            Some((of, bytes)) if of == index => bytes,
            _ => changed[index].bytes(&changed[index].factors(new, rank, figures)?, rank),
        };
        let part = bytes[within].clone();
        made = Some((index, bytes));
        Ok(Cow::Owned(part))
    })?;
    let modules: Vec<&str> = changed.iter().map(|pair| module(&pair.base.weight.name)).collect();
    let config = json!({
        "peft_type": "LORA", "task_type": null, "base_model_name_or_path": null, "inference_mode": true,
        "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "target_modules": modules, "bias": "none",
        "fan_in_fan_out": false, "init_lora_weights": true, "use_rslora": false, "use_dora": false,
    });
    let path = folder.path().join(super::CONFIG);
    fs::write(&path, format!("{config:#}\n")).map_err(FileError::io(&path, "write"))?;
    if out.is_dir() {
        if !out.join(super::CONFIG).is_file() {
            let what = format!("expected {} in a folder that is replaced", super::CONFIG);
            return Err(PatchError::NoPatch { path: out.to_owned(), what });
        }
        fs::remove_dir_all(out).map_err(FileError::io(out, "replace"))?;
    } else if out.exists() {
        fs::remove_file(out).map_err(FileError::io(out, "replace"))?;
    }
    #[cfg(unix)]
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(FileError::io(out, "write"))?;
    fs::rename(folder.keep(), out).map_err(FileError::io(out, "rename"))?;
    Ok(())
}

impl Changed<'_> {
    fn size(&self) -> (usize, usize) {
        let rows = self.base.weight.shape.first().copied().unwrap_or(1).max(1);
        (rows, self.base.n_elements() / rows)
    }

    fn is_embedding(&self) -> bool {
        let module = module(&self.base.weight.name);
        let last = module.rsplit_once('.').map_or(module, |(_, last)| last);
        let named = last.contains("embed") && last != "embed_out";
        self.base.weight.shape.len() == 2 && (named || ["wte", "wpe", "shared"].contains(&last))
    }

    fn difference(&self, new: &Model) -> Result<Matrix, PatchError> {
        let (rows, columns) = self.size();
        let n = self.base.n_elements();
        let mut values = Vec::with_capacity(n);
        let (mut old, mut now) = (vec![0.0; PIECE.min(n)], vec![0.0; PIECE.min(n)]);
        for start in (0..n).step_by(PIECE) {
            let piece = PIECE.min(n - start);
            self.base.read(start, &mut old[..piece]);
            self.new.read(start, &mut now[..piece]);
            for (offset, (now, old)) in now[..piece].iter().zip(&old[..piece]).enumerate() {
                let value = now - old;
                if !value.is_finite() {
                    let (tensor, index) = (self.base.weight.name.clone(), start + offset);
                    return Err(PatchError::NonFinite { model: new.path().to_owned(), tensor, index, value });
                }
                values.push(value as f32);
            }
        }
        self.base.release();
        self.new.release();
        Ok(Matrix::new(rows, columns, values))
    }

    fn factors(&self, new: &Model, rank: usize, figures: &mut [RankFigures]) -> Result<Truncated, PatchError> {
        let kept = truncate(&self.difference(new)?, rank);
        let figures = &mut figures[self.figure];
        figures.energy_kept = kept.values.iter().map(|value| value * value).sum();
        figures.singular_values = kept.values.first().copied().zip(kept.values.last().copied());
        Ok(kept)
    }

    /// The two tensors of the file, A and B.
    fn parts(&self, rank: usize) -> [NewTensor; 2] {
        let module = module(&self.base.weight.name);
        let (rows, columns) = self.size();
        let tensor = |name: &str, shape: Vec<usize>| {
            let name = format!("{PREFIX}{module}.{name}");
            NewTensor { name, dtype: Dtype::F32, shape }
        };
        if self.is_embedding() {
            return [tensor("lora_embedding_A", vec![rank, rows]), tensor("lora_embedding_B", vec![columns, rank])];
        }
        let kernel = &self.base.weight.shape[1..];
        let ones = vec![1; kernel.len() - 1];
        [
            tensor("lora_A.weight", [&[rank], kernel].concat()),
            tensor("lora_B.weight", [&[rows, rank], &ones[..]].concat()),
        ]
    }

    /// Their bytes; a matrix of a lesser rank than the adapter has nothing in the rows that are over.
    fn bytes(&self, kept: &Truncated, rank: usize) -> [Vec<u8>; 2] {
        let (rows, columns) = self.size();
        let n = kept.values.len();
        let left = |row: usize, k: usize| if k < n { kept.left[row * n + k] } else { 0.0 };
        let right = |k: usize, column: usize| if k < n { kept.right[k * columns + column] } else { 0.0 };
        let bytes = |first: usize, second: usize, value: &dyn Fn(usize, usize) -> f32| -> Vec<u8> {
            let all = (0..first).flat_map(|i| (0..second).map(move |j| (i, j)));
            all.flat_map(|(i, j)| value(i, j).to_le_bytes()).collect()
        };
        if self.is_embedding() {
            return [bytes(rank, rows, &|k, row| left(row, k)), bytes(columns, rank, &|column, k| right(k, column))];
        }
        [bytes(rank, columns, &right), bytes(rows, rank, &left)]
    }
}
