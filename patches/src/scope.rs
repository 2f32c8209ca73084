//! What may be opened and changed under a name. One model has one ledger: whoever names a file of a patched folder, or a folder one of whose
//! files was patched by itself, would get two. Nothing here writes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use reweight_quant::store::folder::Folder;
use reweight_quant::store::model::{CONFIG_NAME, INDEX_NAME};
use reweight_quant::store::{Model, ModelLayout};
use reweight_quant::stream::check_target;

use crate::ledger::Ledger;
use crate::place::{Place, file_name};
use crate::rewrite::{Destination, Plan};
use crate::{PatchError, State};

/// A name that does not stand for a whole model, or not for one that can be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// A file that shares a ledger with others.
    #[error("`{}` is a file of the model `{}`", file.display(), folder.display())]
    PartOf {
        /// The file.
        file: PathBuf,
        /// The model's folder.
        folder: PathBuf,
    },
    /// A folder one of whose files was patched by itself.
    #[error("`{}` of the model `{}` was patched by itself: it has the ledger `{}`", file.display(), folder.display(), ledger.display())]
    OfFile {
        /// The model's folder.
        folder: PathBuf,
        /// The file.
        file: PathBuf,
        /// Its ledger.
        ledger: PathBuf,
    },
    /// An update that was committed and not carried through.
    #[error("`{}` is half changed: a process that changed it in place was killed after its commit, `{}`", model.display(), commit.display())]
    Unfinished {
        /// The model.
        model: PathBuf,
        /// The file that says what is to be done.
        commit: PathBuf,
    },
    /// A name that no other file can hold.
    #[error("the name of file {name:?} is not UTF-8, which a ledger cannot keep", name = path)]
    FileName {
        /// The file.
        path: PathBuf,
    },
    /// A target that could not be opened under its name.
    #[error("target `{}`: expected {expected}, since the source is {source_is}", target.display())]
    TargetName {
        /// The target.
        target: PathBuf,
        /// What a name has to be.
        expected: &'static str,
        /// What the source is.
        source_is: &'static str,
    },
    /// A file that is elsewhere, where others may use it too.
    #[error("`{}` is a link to `{}`, which others may use too", file.display(), real.display())]
    Link {
        /// The link.
        file: PathBuf,
        /// What it leads to.
        real: PathBuf,
    },
}

impl ScopeError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::PartOf { folder, .. } => format!("name the folder: `{}`", folder.display()),
            Self::OfFile { file, .. } => {
                format!("`reweight patch remove {} --in-place --all` takes its patches off", file.display())
            }
            Self::Unfinished { model, .. } => {
                format!("`reweight patch verify {}` finishes what was begun", model.display())
            }
            Self::FileName { .. } => "rename it, or choose another name".to_owned(),
            Self::TargetName { expected, .. } => format!("choose {expected}"),
            Self::Link { .. } => {
                "name a TARGET, or the file itself; in place, the link would become a copy of its own".to_owned()
            }
        }
    }
}

/// Requires that patches put on what is named have one ledger, the one of this place.
///
/// # Errors
/// `ScopeError::PartOf`, `ScopeError::OfFile`.
pub(crate) fn check_whole(model: &Model, place: &Place) -> Result<(), PatchError> {
    if place.is_folder() {
        let own = files(model).into_iter().map(|file| (file, Place::of_file(file).ledger));
        return own.into_iter().find(|(_, ledger)| ledger.is_dir()).map_or(Ok(()), |(file, ledger)| {
            let (folder, file) = (place.model.clone(), file.to_owned());
            Err(ScopeError::OfFile { folder, file, ledger }.into())
        });
    }
    let around = Place::of_folder(&place.root);
    let is_split = model.gguf().is_some_and(|file| file.n_files() > 1);
    // One that was patched by itself before can be brought back: nothing else would.
    let is_patched = !place.ledger.is_dir() && (around.ledger.is_dir() || around.commit().exists());
    if is_split || is_patched && is_part(&place.model, &place.root) {
        return Err(part_of(place));
    }
    Ok(())
}

/// Requires that what reads a model misses no patch beside the weights, and no change that was committed.
///
/// # Errors
/// `ScopeError`; `PatchError::Ledger`.
pub fn check_read(model: &Model, place: &Place) -> Result<(), PatchError> {
    check_finished(place)?;
    if place.is_folder() {
        for file in files(model) {
            let of_file = Place::of_file(file);
            check_finished(&of_file)?;
            if has_side_terms(&of_file)? {
                let (folder, file, ledger) = (place.model.clone(), file.to_owned(), of_file.ledger);
                return Err(ScopeError::OfFile { folder, file, ledger }.into());
            }
        }
        return Ok(());
    }
    let around = Place::of_folder(&place.root);
    if (around.ledger.is_dir() || around.commit().exists()) && is_part(&place.model, &place.root) {
        check_finished(&around)?;
        if has_side_terms(&around)? {
            return Err(part_of(place));
        }
    }
    Ok(())
}

/// Requires that no update of a model was committed and not carried through.
///
/// # Errors
/// `ScopeError::Unfinished`.
pub fn check_finished(place: &Place) -> Result<(), ScopeError> {
    let commit = place.commit();
    if commit.exists() { Err(ScopeError::Unfinished { model: place.model.clone(), commit }) } else { Ok(()) }
}

/// Requires that a run can write what it is to write there, before it begins.
///
/// # Errors
/// `ScopeError`, `PlanError`.
pub fn check_destination(state: &State, plan: &Plan, destination: Destination<'_>) -> Result<(), PatchError> {
    match destination {
        Destination::InPlace => check_in_place(state, plan),
        Destination::Target { path, force, .. } => {
            check_name(state, path)?;
            Ok(check_target(&state.model, path, force)?)
        }
    }
}

fn check_in_place(state: &State, plan: &Plan) -> Result<(), PatchError> {
    let place = &state.place;
    if !place.is_folder() {
        file_name(&place.model)?;
        let is_model = [CONFIG_NAME, INDEX_NAME].iter().any(|name| place.root.join(name).is_file());
        if state.ledger().is_none() && is_model && is_part(&place.model, &place.root) {
            return Err(part_of(place));
        }
    }
    plan.files().keys().find(|file| file.is_symlink()).map_or(Ok(()), |file| {
        let real = file.canonicalize().unwrap_or_else(|_| file.clone());
        Err(ScopeError::Link { file: file.clone(), real }.into())
    })
}

/// A copy of one file is one file of its kind, and that of a folder a folder.
fn check_name(state: &State, target: &Path) -> Result<(), PatchError> {
    let extension = target.extension().and_then(|extension| extension.to_str());
    let (fits, expected, source_is) = match (&state.folder, state.model.layout()) {
        (Some(_), _) => {
            (!matches!(extension, Some("safetensors" | "gguf")), "the name of a folder, without extension", "a folder")
        }
        (None, ModelLayout::Gguf) => (extension == Some("gguf"), "a name that ends in .gguf", "one GGUF file"),
        (None, _) => (extension == Some("safetensors"), "a name that ends in .safetensors", "one safetensors file"),
    };
    if !fits {
        return Err(ScopeError::TargetName { target: target.to_owned(), expected, source_is }.into());
    }
    if state.folder.is_none() {
        file_name(target)?;
    }
    Ok(())
}

/// Whether a file is among those that its folder's model is made of. A folder that cannot be opened might have it.
fn is_part(file: &Path, folder: &Path) -> bool {
    let Ok(model) = Model::open_folder(&Folder::on_disk(folder)) else { return true };
    files(&model).into_iter().any(|other| other.file_name() == file.file_name())
}

fn files(model: &Model) -> BTreeSet<&Path> {
    model.weights().iter().map(reweight_quant::store::Weight::file).collect()
}

fn has_side_terms(place: &Place) -> Result<bool, PatchError> {
    Ok(Ledger::read(&place.ledger)?.is_some_and(|ledger| ledger.patches.iter().any(|patch| patch.side)))
}

fn part_of(place: &Place) -> PatchError {
    ScopeError::PartOf { file: place.model.clone(), folder: place.root.clone() }.into()
}
