//! Files that were written, opened again as any reader would.

use std::path::Path;

use rayon::prelude::*;

use super::{GgufPlan, Written, digests};
use crate::error::{Error, RunError};
use crate::memory::SMALL_BYTES;
use crate::store::gguf::{GgufFile, Tensor};
use crate::stream::Control;
use crate::tensor::shape_text;

/// Checks names, types, shapes, and the digest of every tensor. Returns one of all of them.
pub(super) fn check(
    plan: &GgufPlan,
    folder: &Path,
    written: &[Written],
    control: &Control<'_>,
) -> Result<String, Error> {
    let first = folder.join(&plan.files[0].name);
    let read = GgufFile::open(&first)?;
    read.hugging_face_model()?;
    let mismatch = |name: &str, what, expected: String, found: String| {
        Error::from(RunError::Mismatch { file: first.clone(), tensor: name.to_owned(), what, expected, found })
    };
    let n_expected = plan.exported.len() + usize::from(plan.rope_factors.is_some());
    if read.tensors().len() != n_expected {
        return Err(mismatch("", "number of tensors", n_expected.to_string(), read.tensors().len().to_string()));
    }
    let one = |index: usize| {
        control.check_stop()?;
        let (exported, planned) = (&plan.exported[index], &plan.tensors[index]);
        let stored = read.tensor_index(&exported.name).and_then(|index| read.tensor(index));
        let stored =
            stored.ok_or_else(|| mismatch(&exported.name, "name", exported.name.clone(), "nothing".to_owned()))?;
        let (expected, found) = (described(&planned.scheme, &exported.shape), of_tensor(&stored));
        if expected != found {
            return Err(mismatch(&exported.name, "type and shape", expected, found));
        }
        let mut hasher = blake3::Hasher::new();
        if stored.bytes().len() <= SMALL_BYTES {
            hasher.update(stored.bytes());
        } else {
            hasher.update_rayon(stored.bytes());
        }
        let (expected, found) = (written[index].digest, hasher.finalize());
        if expected != found {
            return Err(mismatch(&exported.name, "digest", expected.to_string(), found.to_string()));
        }
        (control.progress)(&planned.name, planned.bytes_in as u64);
        Ok(())
    };
    (0..plan.exported.len()).into_par_iter().map(one).collect::<Result<(), Error>>()?;
    let told = digests::told(&read).and_then(|told| told.get(1..)).unwrap_or_default();
    if let Some((exported, _)) = plan.exported.iter().zip(written).zip(told).find_map(|((exported, written), told)| {
        (written.digest.to_hex().as_str() != told.as_str()).then_some((exported, told))
    }) {
        return Err(mismatch(&exported.name, "digest among the keys", "its own".to_owned(), "another".to_owned()));
    }
    let digests = plan.exported.iter().zip(written).map(|(exported, written)| (exported.name.as_str(), written.digest));
    let of_rope = plan.rope_factors.as_ref().and_then(|_| read.tensor(written.len()));
    let of_rope = of_rope.map(|tensor| (tensor.info().name.as_str(), blake3::hash(tensor.bytes())));
    Ok(digests::of_all(digests.chain(of_rope)).to_string())
}

fn described(ty: &str, shape: &[usize]) -> String {
    format!("{ty} {}", shape_text(shape))
}

fn of_tensor(tensor: &Tensor<'_>) -> String {
    described(tensor.info().ty.name(), &tensor.info().shape)
}
