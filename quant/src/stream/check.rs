//! Reads back what was written, before anybody sees it: names, digests, and the error of every quantized tensor.

use std::path::Path;

use rayon::prelude::*;

use crate::encode::squared_error;
use crate::error::{Error, RunError};
use crate::plan::{Action, Plan};
use crate::store::folder::Folder;
use crate::store::model::SINGLE_NAME;
use crate::store::{Model, Storage, Weight};
use crate::stream::{Control, Record, Target};

/// Opens the finished files as any reader would and compares them with the records.
///
/// # Errors
/// `RunError::Mismatch`, naming the tensor, where anything differs.
pub(super) fn check(
    model: &Model,
    plan: &Plan,
    folder: &Path,
    target: Target<'_>,
    records: &[Record],
    control: &Control<'_>,
) -> Result<(), Error> {
    let written = if target.single_file {
        Model::open(&folder.join(SINGLE_NAME))?
    } else {
        Model::open_folder(&Folder::on_disk(folder))?
    };
    let mismatch = |name: &str, what, expected: String, found: String| {
        Error::from(RunError::Mismatch { file: folder.to_owned(), tensor: name.to_owned(), what, expected, found })
    };
    if written.weights().len() != model.weights().len() || records.len() != model.weights().len() {
        let (expected, found) = (model.weights().len().to_string(), written.weights().len().to_string());
        return Err(mismatch("", "number of tensors", expected, found));
    }
    let check_one = |index: usize| {
        let (source, stored, record) = (&model.weights()[index], &written.weights()[index], &records[index]);
        control.check_stop()?;
        if stored.name != source.name {
            return Err(mismatch(&source.name, "name", source.name.clone(), stored.name.clone()));
        }
        let digests = part_digests(stored);
        if digests != record.outputs {
            return Err(mismatch(&source.name, "digest", record.outputs.join(" "), digests.join(" ")));
        }
        if let Action::Quantize { scheme, .. } | Action::Repack { scheme, .. } = plan.tensors[index].action {
            let found = squared_error(control.kernels, source, stored, scheme);
            if found.to_bits() != record.squared.to_bits() {
                return Err(mismatch(&source.name, "squared error", record.squared.to_string(), found.to_string()));
            }
            source.release_rows(0..source.rows());
        }
        stored.release_rows(0..stored.rows());
        (control.progress)(&source.name, source.stored_bytes() as u64);
        Ok(())
    };
    (0..records.len()).into_par_iter().try_for_each(check_one)
}

/// BLAKE3 of each tensor that a weight is stored as.
#[must_use]
pub fn part_digests(weight: &Weight) -> Vec<String> {
    let digest = |bytes: &[u8]| blake3::Hasher::new().update_rayon(bytes).finalize().to_string();
    match &weight.storage {
        Storage::Plain(plain) => vec![digest(plain.data())],
        Storage::Ggml(blocks) => vec![digest(blocks.data())],
        Storage::Packed(packed) => packed.parts().map(|part| digest(part.data())).collect(),
    }
}
