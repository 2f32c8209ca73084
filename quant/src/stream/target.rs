//! What may be written where: nothing of a source, nothing over a patched model, and even when forced nothing over what is no model.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::PlanError;
use crate::store::Model;
use crate::store::model::{LEDGER_NAME, MANIFEST_NAME};

/// Refuses targets in or around the source, and such as exist: unless forced, and even then patched models and what is no model.
///
/// # Errors
/// `PlanError::TargetIsSource`, `PlanError::TargetExists`, `PlanError::TargetPatched`, `PlanError::TargetNoModel`.
pub fn check_target(source: &Model, target: &Path, force: bool) -> Result<(), PlanError> {
    let real_target = real(target);
    let overlaps = |path: &Path| {
        let path = real(path);
        real_target.starts_with(&path) || path.starts_with(&real_target)
    };
    if let Some(path) = files(source).into_iter().find(|path| path.exists() && overlaps(path)) {
        return Err(PlanError::TargetIsSource { target: target.to_owned(), source_path: path.to_owned() });
    }
    if target.symlink_metadata().is_err() {
        return Ok(());
    }
    if !force {
        return Err(PlanError::TargetExists { target: target.to_owned() });
    }
    let mut beside = target.as_os_str().to_owned();
    beside.push(".ledger");
    let ledgers = [target.join(LEDGER_NAME), PathBuf::from(beside)];
    if let Some(ledger) = ledgers.into_iter().find(|ledger| ledger.is_dir()) {
        return Err(PlanError::TargetPatched { target: target.to_owned(), ledger });
    }
    let holds_work = std::env::current_dir().is_ok_and(|folder| real(&folder).starts_with(&real_target));
    if holds_work || !looks_like_model(target) {
        return Err(PlanError::TargetNoModel { target: target.to_owned() });
    }
    Ok(())
}

/// Refuses a file beside models (statistics, a report, a recipe, a patch) that would take the place of one of theirs, or of anything unless
/// forced, or has no folder to be in.
///
/// # Errors
/// `PlanError::TargetIsSource`, `PlanError::TargetExists`, `PlanError::TargetNoFile`, `PlanError::NoFolder`.
pub fn check_output<'a>(
    sources: impl IntoIterator<Item = &'a Model>,
    output: &Path,
    force: bool,
) -> Result<(), PlanError> {
    let folder = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(PlanError::NoFolder { target: output.to_owned(), folder: folder.to_owned() });
    }
    let Ok(metadata) = output.symlink_metadata() else { return Ok(()) };
    if output.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        return Ok(()); // a pipe or a terminal
    }
    let real_output = real(output);
    let mut paths = sources.into_iter().flat_map(files);
    if let Some(path) = paths.find(|path| path.exists() && real_output.starts_with(real(path))) {
        return Err(PlanError::TargetIsSource { target: output.to_owned(), source_path: path.to_owned() });
    }
    if metadata.is_dir() {
        return Err(PlanError::TargetNoFile { target: output.to_owned() });
    }
    if force { Ok(()) } else { Err(PlanError::TargetExists { target: output.to_owned() }) }
}

/// Where a model is, and every file that holds a weight of it.
fn files(model: &Model) -> Vec<&Path> {
    let mut files = vec![model.path()];
    for weight in model.weights() {
        if files.last() != Some(&weight.file.as_path()) {
            files.push(&weight.file);
        }
    }
    files.sort_unstable();
    files.dedup();
    files
}

/// The path without symbolic links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut existing = absolute.as_path();
    while let (false, Some(parent)) = (existing.exists(), existing.parent()) {
        existing = parent;
    }
    let rest = absolute.strip_prefix(existing).unwrap_or(Path::new("")).to_owned();
    existing.canonicalize().map_or(absolute.clone(), |existing| existing.join(rest))
}

/// Whether a file or folder is one that this toolkit, or another like it, wrote. An empty folder, or a symbolic link, is nobody's loss either.
fn looks_like_model(target: &Path) -> bool {
    let of_weights = |path: &Path| {
        path.extension().and_then(OsStr::to_str).is_some_and(|extension| matches!(extension, "safetensors" | "gguf"))
    };
    if target.is_symlink() {
        return true;
    }
    if !target.is_dir() {
        return of_weights(target);
    }
    let Ok(entries) = fs::read_dir(target) else { return false };
    let names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    names.is_empty()
        || names.iter().any(|path| of_weights(path) || path.file_name().is_some_and(|name| name == MANIFEST_NAME))
}
