//! `patch`: one file per group of verbs; what they share is here.

mod compare;
mod extract;
pub(super) mod file;
mod list;
mod low_rank;
mod rewriting;
pub(super) mod verify;

use std::path::Path;

use reweight::demo;
use reweight_patches::update::Recovered;
use reweight_patches::{Patch as PatchFile, PatchError, State, adapter, state};
use reweight_quant::store::Model;

use crate::args::{Patch, PatchVerb};
use crate::failure::Status;
use crate::ui::{Ui, escape_path};

pub(super) fn run(arguments: &Patch, ui: &Ui) -> anyhow::Result<Status> {
    match &arguments.verb {
        PatchVerb::Extract(arguments) => extract::extract(arguments, ui),
        PatchVerb::Diff(arguments) => extract::diff(arguments, ui),
        PatchVerb::Add(arguments) => rewriting::add(arguments, ui),
        PatchVerb::Remove(arguments) => rewriting::remove(arguments, ui),
        PatchVerb::Scale(arguments) => rewriting::scale(arguments, ui),
        PatchVerb::List(arguments) => list::run(arguments, ui),
        PatchVerb::Verify(arguments) => verify::run(&arguments.model, ui),
        PatchVerb::Compare(arguments) => compare::run(arguments, ui),
    }
}

/// Opens a model with its ledger, and says what was done about an update that was killed.
fn open(path: &Path, ui: &Ui) -> anyhow::Result<State> {
    let state = match demo::folder_of(path).filter(|_| !path.exists()) {
        Some(folder) => state::open_bundled(folder)?,
        None => state::open(path)?,
    };
    match state.recovered() {
        Some(Recovered::Completed) => {
            ui.note(&format!("{}: an update that was killed is complete now", escape_path(path)));
        }
        Some(Recovered::RolledBack) => {
            ui.note(&format!("{}: an update that was killed early is undone", escape_path(path)));
        }
        None => {}
    }
    Ok(state)
}

/// Opens a patch, an adapter for a model, or a signature of the bundled classifier, unless something of that name exists.
fn open_patch(path: &Path, base: Option<&Model>) -> Result<PatchFile, PatchError> {
    match demo::vision_file(path).filter(|_| !path.exists()) {
        Some(bytes) => PatchFile::parse(path, bytes),
        None => adapter::open(path, base),
    }
}

/// A part of a whole as people read it.
fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}
