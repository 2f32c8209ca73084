//! `reweight.json`: what a target is, what it was made from, and a digest of every byte of it. Holds no time and no
//! path, so the same input and options give the same file.

use serde::{Deserialize, Serialize};

use crate::encode::TensorError;
use crate::plan::{Action, Plan};
use crate::recipe::Recipe;
use crate::store::Model;
use crate::stream::Record;

/// The version of the document's keys.
pub const SCHEMA: u32 = 1;

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of these keys: 1.
    pub schema: u32,
    /// The tool and its version.
    pub tool: String,
    /// How codes were chosen; absent where nothing was quantized.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub method: Option<String>,
    /// Steps from a decision boundary within which weights count as of low confidence.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub band: Option<f64>,
    /// The recipe it was made by, where there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recipe: Option<Recipe>,
    /// BLAKE3 over names and digests of all source tensors.
    pub source_digest: String,
    /// BLAKE3 over names and digests of all written tensors.
    pub target_digest: String,
    /// Bits a weight takes on average, scales and zeros counted, over what was quantized.
    pub bits_per_weight: f64,
    /// Bytes of all source tensors.
    pub bytes_in: usize,
    /// Bytes of all written tensors.
    pub bytes_out: usize,
    /// Every weight, in natural order.
    pub tensors: Vec<TensorReport>,
    /// Every other file, by name.
    pub files: Vec<FileReport>,
}

/// One weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// What it was stored as.
    pub from: String,
    /// What it is stored as: a scheme or a dtype.
    pub scheme: String,
    /// Why, where that is not plain.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// Bytes written.
    pub bytes: usize,
    /// Mean squared error against the source, where quantized.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error_mse: Option<f64>,
    /// That of `rtn` at the same scheme.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error_mse_rtn: Option<f64>,
    /// Mean squared error of an output, by the statistics that were given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output_mse: Option<f64>,
    /// That of `rtn` at the same scheme on the weights as they were before any scaling.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output_mse_rtn: Option<f64>,
    /// Share of weights within [`Manifest::band`] steps of where rounding would go the other way, on the grid that is stored.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub low_confidence: Option<f64>,
    /// BLAKE3 of the source bytes.
    pub source_blake3: String,
    /// Written tensors and their BLAKE3, in the container's order.
    pub parts: Vec<PartReport>,
}

/// One written tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartReport {
    /// Its name.
    pub name: String,
    /// Its BLAKE3.
    pub blake3: String,
}

/// One carried or made file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// Its BLAKE3.
    pub blake3: String,
}

impl Manifest {
    /// Puts plan and records together; `records` are in the plan's order.
    #[must_use]
    pub fn new(model: &Model, plan: &Plan, records: &[Record], files: Vec<(String, String)>) -> Self {
        let tensors = model.weights().iter().zip(&plan.tensors).zip(records).map(|((weight, tensor), record)| {
            let mean = |squared: f64| squared / weight.n_elements().max(1) as f64;
            let TensorError { squared, squared_rtn, output, output_rtn, near_bounds } = record.error();
            let of_rows = |sum: Option<f64>| sum.map(|sum| sum / weight.rows().max(1) as f64);
            let chosen = matches!(tensor.action, Action::Quantize { .. });
            let parts = tensor.outputs.iter().zip(&record.outputs);
            TensorReport {
                name: tensor.name.clone(),
                shape: weight.shape.clone(),
                from: tensor.from.clone(),
                scheme: tensor.to(),
                reason: tensor.reason.clone(),
                bytes: tensor.bytes_out(),
                error_mse: tensor.action.makes_codes().then(|| mean(squared)),
                error_mse_rtn: chosen.then(|| mean(squared_rtn)),
                output_mse: of_rows(output),
                output_mse_rtn: of_rows(output_rtn),
                low_confidence: chosen.then(|| mean(near_bounds as f64)),
                source_blake3: record.source.clone(),
                parts: parts
                    .map(|(output, digest)| PartReport { name: output.name.clone(), blake3: digest.clone() })
                    .collect(),
            }
        });
        let tensors: Vec<TensorReport> = tensors.collect();
        let target_digest =
            digest_of(tensors.iter().flat_map(|tensor| tensor.parts.iter().map(|part| (&part.name, &part.blake3))));
        Self {
            schema: SCHEMA,
            tool: concat!("reweight ", env!("CARGO_PKG_VERSION")).to_owned(),
            method: plan.chooses_codes().then(|| plan.method.to_string()),
            band: plan.chooses_codes().then_some(plan.band),
            recipe: plan.recipe.clone(),
            source_digest: digest_of(tensors.iter().map(|tensor| (&tensor.name, &tensor.source_blake3))),
            target_digest,
            bits_per_weight: bits_per_weight(&tensors),
            bytes_in: plan.bytes_in,
            bytes_out: plan.bytes_out,
            tensors,
            files: files.into_iter().map(|(name, blake3)| FileReport { name, blake3 }).collect(),
        }
    }

    /// The document, indented, with a line break at the end.
    ///
    /// # Panics
    /// Never: every number in it is finite or written as null.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("strings and numbers make JSON");
        text.push('\n');
        text
    }
}

/// Bits per weight over the quantized tensors; over all where none is.
fn bits_per_weight(tensors: &[TensorReport]) -> f64 {
    let any = tensors.iter().any(|tensor| tensor.error_mse.is_some());
    let counted = tensors.iter().filter(|tensor| !any || tensor.error_mse.is_some());
    let (bytes, weights) = counted.fold((0, 0), |(bytes, weights), tensor| {
        (bytes + tensor.bytes, weights + tensor.shape.iter().product::<usize>())
    });
    bytes as f64 * 8.0 / weights.max(1) as f64
}

/// BLAKE3 over pairs of name and digest; names are set apart by their length.
pub(crate) fn digest_of<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, digest) in pairs {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(digest.as_bytes());
    }
    hasher.finalize().to_string()
}
