//! Whether a target still is what its manifest says: every tensor, every file, nothing more, nothing less.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, FileError};
use crate::manifest::{Manifest, SCHEMA, digest_of};
use crate::store::Model;
use crate::store::folder::Folder;
use crate::store::model::MANIFEST_NAME;
use crate::stream::{self, part_digests};

/// What a verification found.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// Weights compared.
    pub n_tensors: usize,
    /// Files compared.
    pub n_files: usize,
    /// BLAKE3 over all written tensors, as the manifest states it.
    pub target_digest: String,
    /// BLAKE3 over all source tensors, as the manifest states it; a GGUF file does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_digest: Option<String>,
    /// What differs; empty where all holds.
    pub problems: Vec<Problem>,
}

/// Something that is not as the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The tensor or file.
    pub name: String,
    /// What was compared.
    pub what: &'static str,
    /// What the manifest says.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// Reads the manifest of a folder.
///
/// # Errors
/// `FileError` where there is none, or it is not of the schema this version writes.
pub fn read_manifest(folder: &Path) -> Result<Manifest, FileError> {
    let files = Folder::on_disk(folder);
    if !files.contains(MANIFEST_NAME) {
        let what = format!("expected {MANIFEST_NAME}, which reweight writes into every folder it makes");
        return Err(FileError::NoModel { path: folder.to_owned(), what });
    }
    let malformed = |what| FileError::Malformed { path: folder.join(MANIFEST_NAME), format: "manifest", what };
    let document = files.json(MANIFEST_NAME)?;
    let schema = document.get("schema").and_then(serde_json::Value::as_u64);
    if schema != Some(u64::from(SCHEMA)) {
        return Err(malformed(format!("expected schema {SCHEMA}, found {schema:?}")));
    }
    serde_json::from_value(document).map_err(|error| malformed(error.to_string()))
}

/// Compares a folder with its manifest, or a GGUF file with the digests among its keys. Cost: reads every byte once.
///
/// # Errors
/// `FileError` where the manifest or the model cannot be read at all.
pub fn verify(folder: &Path) -> Result<Verification, Error> {
    if !folder.join(MANIFEST_NAME).exists()
        && folder.exists()
        && let Some(gguf) = Model::open(folder)?.gguf()
    {
        let what = "expected `reweight.blake3` among its keys, which reweight writes into every GGUF file it makes";
        let none = || FileError::NoModel { path: folder.to_owned(), what: what.to_owned() };
        return Ok(stream::verify_gguf(gguf).ok_or_else(none)?);
    }
    let manifest = read_manifest(folder)?;
    let model = Model::open(folder)?;
    let mut problems = Vec::new();
    let mut problem = |name: &str, what, expected: String, found: String| {
        if expected != found {
            problems.push(Problem { name: name.to_owned(), what, expected, found });
        }
    };
    let mut stored: BTreeMap<&str, _> = model.weights().iter().map(|weight| (weight.name.as_str(), weight)).collect();
    for tensor in &manifest.tensors {
        let Some(weight) = stored.remove(tensor.name.as_str()) else {
            problem(&tensor.name, "tensor", "present".into(), "absent".into());
            continue;
        };
        problem(&tensor.name, "shape", format!("{:?}", tensor.shape), format!("{:?}", weight.shape));
        let expected: Vec<&str> = tensor.parts.iter().map(|part| part.blake3.as_str()).collect();
        problem(&tensor.name, "blake3", expected.join(" "), part_digests(weight).join(" "));
        weight.release_rows(0..weight.rows());
    }
    for name in stored.keys() {
        problem(name, "tensor", "absent".into(), "present".into());
    }
    let files = Folder::on_disk(folder);
    for file in &manifest.files {
        let found = if !is_inside(&file.name) {
            "a path out of the folder".into()
        } else if files.contains(&file.name) {
            blake3::hash(&files.bytes(&file.name)?).to_string()
        } else {
            "absent".into()
        };
        problem(&file.name, "blake3", file.blake3.clone(), found);
    }
    let parts = manifest.tensors.iter().flat_map(|tensor| tensor.parts.iter().map(|part| (&part.name, &part.blake3)));
    problem(MANIFEST_NAME, "target_digest", manifest.target_digest.clone(), digest_of(parts));
    let sources = manifest.tensors.iter().map(|tensor| (&tensor.name, &tensor.source_blake3));
    problem(MANIFEST_NAME, "source_digest", manifest.source_digest.clone(), digest_of(sources));
    Ok(Verification {
        n_tensors: manifest.tensors.len(),
        n_files: manifest.files.len(),
        target_digest: manifest.target_digest,
        source_digest: Some(manifest.source_digest),
        problems,
    })
}

/// Whether a relative name stays in the folder, whatever a hostile manifest says.
fn is_inside(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}
