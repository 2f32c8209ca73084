//! Adapters of other tools as patches: a PEFT folder becomes one patch file, with its factors as they are.

mod lora;
mod peft;

use std::path::Path;

use tempfile::NamedTempFile;

use crate::{Patch, PatchError};
use reweight_quant::error::FileError;

/// The configuration of a PEFT adapter.
pub const CONFIG: &str = "adapter_config.json";

/// Opens a patch file, or turns an adapter folder into one that is kept in a temporary file.
///
/// # Errors
/// `PatchError::NoPatch`, `PatchError::Adapter` where it means more than can be reproduced.
pub fn open(path: &Path) -> Result<Patch, PatchError> {
    if !path.is_dir() {
        return Patch::open(path);
    }
    if !path.join(CONFIG).is_file() {
        let what = format!("expected {CONFIG} in the folder");
        return Err(PatchError::NoPatch { path: path.to_owned(), what });
    }
    let temporary = NamedTempFile::new().map_err(FileError::io(Path::new("temporary file"), "create"))?;
    peft::import(path, temporary.path())?;
    // The mapping stays when the name goes.
    Patch::open(temporary.path())
}

/// Writes an adapter folder as a patch file.
///
/// # Errors
/// As [`open`]; `FileError::Io`.
pub fn import(path: &Path, out: &Path) -> Result<(), PatchError> {
    peft::import(path, out)
}
