//! `verify`: whether a target still is what its manifest says.

use reweight_patches::place::Place;
use reweight_patches::{PatchError, scope};
use reweight_quant::verify::verify;
use serde::Serialize;

use super::patch;
use crate::args::Verify;
use crate::failure::Status;
use crate::ui::{Ui, escape};

#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    #[serde(flatten)]
    verification: &'a reweight_quant::verify::Verification,
}

pub(super) fn run(arguments: &Verify, ui: &Ui) -> anyhow::Result<Status> {
    let place = Place::of(&arguments.target);
    scope::check_finished(&place).map_err(PatchError::from)?;
    if place.ledger.is_dir() {
        // The manifest speaks of the base: what there is to hold such a model to is its ledger.
        return patch::verify::run(&arguments.target, ui);
    }
    let verification = verify(&arguments.target)?;
    let ok = verification.problems.is_empty();
    if ui.json() {
        ui.document(&Document { ok, verification: &verification })?;
    } else {
        for problem in &verification.problems {
            ui.print(&format!(
                "{}: {} expected {}, found {}",
                escape(&problem.name),
                problem.what,
                problem.expected,
                problem.found
            ))?;
        }
        let verdict = if ok { "hold" } else { "do NOT all hold" };
        ui.print(&format!(
            "digests of {} tensors and {} files {verdict}",
            verification.n_tensors, verification.n_files
        ))?;
    }
    Ok(if ok { Status::Done } else { Status::CheckFailed })
}
