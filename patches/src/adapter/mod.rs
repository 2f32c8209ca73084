//! Adapters of other tools as patches: a PEFT folder or llama.cpp's GGUF file becomes one patch file, with its factors as they are.

pub mod extract;
mod gguf;
mod lora;
mod peft;

use std::path::Path;

use reweight_quant::error::FileError;
use reweight_quant::store::Model;
use tempfile::NamedTempFile;

use crate::{Patch, PatchError};

/// The configuration of a PEFT adapter.
pub const CONFIG: &str = "adapter_config.json";

/// Opens a patch file, or turns an adapter into one that is kept in a temporary file. An adapter in a GGUF file is read together with the model that
/// it is for, which alone says how many heads there are; nothing else needs it.
///
/// # Errors
/// `PatchError::NoPatch`, `PatchError::Adapter` where it means more than can be reproduced.
pub fn open(path: &Path, base: Option<&Model>) -> Result<Patch, PatchError> {
    if !path.is_dir() && !gguf::is_gguf(path) {
        return Patch::open(path);
    }
    let temporary = NamedTempFile::new().map_err(FileError::io(Path::new("temporary file"), "create"))?;
    import(path, base, temporary.path())?;
    // The mapping stays when the name goes.
    Patch::open(temporary.path())
}

/// Writes an adapter as a patch file.
///
/// # Errors
/// As [`open`]; `FileError::Io`.
pub fn import(path: &Path, base: Option<&Model>, out: &Path) -> Result<(), PatchError> {
    if !path.is_dir() {
        let what = "a GGUF adapter without the model that it is for".to_owned();
        return gguf::import(path, base.ok_or_else(|| PatchError::Adapter { path: path.to_owned(), what })?, out);
    }
    if !path.join(CONFIG).is_file() {
        let what = format!("expected {CONFIG} in the folder");
        return Err(PatchError::NoPatch { path: path.to_owned(), what });
    }
    peft::import(path, out)
}
