//! How alike patches are: the cosine of their changes, per tensor and in all.
//!
//! Signatures of one corruption from different data sets are alike, those of different corruptions are not (Cai et al.).

use reweight_quant::tensor::shape_text;
use serde::Serialize;

use crate::function::Term;
use crate::patch::{Change, Entry};
use crate::signature::dot;
use crate::tensor::PIECE;
use crate::{Patch, PatchError};

/// Two patches beside one another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Name of the first.
    pub a: String,
    /// Name of the second.
    pub b: String,
    /// Cosine over all tensors that both change; `None` where there is none or one changes nothing.
    pub cosine: Option<f64>,
    /// The same of each tensor.
    pub tensors: Vec<Alike>,
    /// Tensors that only one of them changes, or that cannot be compared.
    pub n_apart: usize,
}

/// One tensor of two patches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alike {
    /// The tensor.
    pub name: String,
    /// The cosine.
    pub cosine: Option<f64>,
    /// Length of the first's change.
    pub norm_a: f64,
    /// Length of the second's.
    pub norm_b: f64,
}

fn cosine(ab: f64, aa: f64, bb: f64) -> Option<f64> {
    let norms = (aa * bb).sqrt();
    (norms > 0.0).then(|| (ab / norms).clamp(-1.0, 1.0))
}

/// Compares what two patches add. Tensors that a patch replaces, and DoRA, mean a change only together with a base and are left out.
///
/// # Errors
/// `PatchError::Shape` where both change a tensor of different shapes.
pub fn compare(a: &Patch, b: &Patch) -> Result<Comparison, PatchError> {
    let mut sums = [0.0; 3];
    let mut tensors = Vec::new();
    for entry in a.header().tensors.iter().filter(|entry| is_additive(entry)) {
        let Some(other) = b.entry(&entry.name).filter(|entry| is_additive(entry)) else { continue };
        if entry.shape != other.shape {
            return Err(PatchError::Shape {
                patch: b.header().name.clone(),
                tensor: entry.name.clone(),
                model: a.path().to_owned(),
                expected: shape_text(&other.shape).into(),
                found: shape_text(&entry.shape).into(),
            });
        }
        let (Ok(left), Ok(right)) = (a.term(entry, &entry.shape), b.term(other, &other.shape)) else { continue };
        let of_tensor = products(&left, &right, entry.shape.iter().product());
        let [ab, aa, bb] = of_tensor;
        sums.iter_mut().zip(of_tensor).for_each(|(sum, part)| *sum += part);
        let name = entry.name.clone();
        tensors.push(Alike { name, cosine: cosine(ab, aa, bb), norm_a: aa.sqrt(), norm_b: bb.sqrt() });
    }
    let [ab, aa, bb] = sums;
    Ok(Comparison {
        a: a.header().name.clone(),
        b: b.header().name.clone(),
        cosine: cosine(ab, aa, bb),
        n_apart: a.header().tensors.len() + b.header().tensors.len() - 2 * tensors.len(),
        tensors,
    })
}

fn is_additive(entry: &Entry) -> bool {
    !matches!(
        entry.change,
        Change::Replace | Change::Affine { .. } | Change::Shards { .. } | Change::LowRank { magnitude: true, .. }
    )
}

/// <a, b>, <a, a> and <b, b>, pieces in order.
fn products(a: &Term<'_>, b: &Term<'_>, n: usize) -> [f64; 3] {
    let mut sums = [0.0; 3];
    for start in (0..n).step_by(PIECE) {
        let len = PIECE.min(n - start);
        let (mut left, mut right) = (vec![0.0; len], vec![0.0; len]);
        a.change(start, &[], &mut left);
        b.change(start, &[], &mut right);
        let parts = [dot(&left, &right), dot(&left, &left), dot(&right, &right)];
        sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
    }
    sums
}
