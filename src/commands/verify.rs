//! `verify`: whether a target still is what its manifest says.

use reweight_quant::verify::verify;
use serde::Serialize;

use crate::args::Verify;
use crate::failure::Status;
use crate::ui::Ui;

#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    #[serde(flatten)]
    verification: &'a reweight_quant::verify::Verification,
}

pub(super) fn run(arguments: &Verify, ui: &Ui) -> anyhow::Result<Status> {
    let verification = verify(&arguments.target)?;
    let ok = verification.problems.is_empty();
    if ui.json() {
        ui.document(&Document { ok, verification: &verification })?;
    } else {
        for problem in &verification.problems {
            ui.print(&format!(
                "{}: {} expected {}, found {}",
                problem.name, problem.what, problem.expected, problem.found
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
