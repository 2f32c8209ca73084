//! `patch verify`: whether a patched model is what its ledger says.

use std::path::Path;

use reweight_patches::update::Recovered;
use reweight_patches::verify::{Problem, verify};
use serde::Serialize;

use super::open;
use crate::failure::Status;
use crate::ui::{Ui, escape};

#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    n_tensors: usize,
    patches: Vec<&'a str>,
    recovered: Option<&'static str>,
    problems: &'a [Problem],
}

/// Holds a model to its ledger, where there is one.
pub(in crate::commands) fn run(model: &Path, ui: &Ui) -> anyhow::Result<Status> {
    let state = open(model, ui)?;
    let problems = if state.ledger().is_some() { verify(&state)? } else { Vec::new() };
    let ok = problems.is_empty();
    let n_tensors = state.ledger().map_or(0, |ledger| ledger.tensors.len());
    if ui.json() {
        ui.document(&Document {
            ok,
            n_tensors,
            patches: state.patches().iter().map(|applied| applied.name.as_str()).collect(),
            recovered: state.recovered().map(|recovered| match recovered {
                Recovered::Completed => "completed",
                Recovered::RolledBack => "rolled-back",
            }),
            problems: &problems,
        })?;
    } else if state.ledger().is_none() {
        ui.print("no patch is on it: there is no ledger to hold it to")?;
    } else {
        for problem in &problems {
            let Problem { tensor, what, expected, found } = problem;
            let tensor = escape(tensor);
            ui.print(&format!("{tensor}: {what} expected {expected}, found {found}"))?;
        }
        let verdict = if ok { "are as the ledger says, and their base comes back" } else { "do NOT all hold" };
        ui.print(&format!("{n_tensors} tensors with {} patches {verdict}", state.patches().len()))?;
    }
    Ok(if ok { Status::Done } else { Status::CheckFailed })
}
