//! `patch list`: what is on a model, and what the way back takes.

use std::path::Path;

use serde::Serialize;

use super::rewriting::{OnModel, on_model, survived};
use super::{file, open, percent};
use crate::args::List;
use crate::failure::Status;
use crate::ui::{Align, Table, Ui, bytes};

#[derive(Serialize)]
struct Document<'a> {
    patches: Vec<OnModel<'a>>,
    n_tensors: usize,
    touched_bytes: u64,
    undo_bytes: u64,
    patch_bytes: u64,
    /// Bytes of the whole folder of the ledger: records, patches and the document.
    ledger_bytes: u64,
    model_bytes: u64,
}

pub(super) fn run(arguments: &List, ui: &Ui) -> anyhow::Result<Status> {
    if file::is_one(&arguments.model) {
        return file::run(&arguments.model, None, ui);
    }
    let state = open(&arguments.model, ui)?;
    let model_bytes = state.model().stored_bytes() as u64;
    let ledger = state.ledger();
    let patch_bytes = ledger.iter().flat_map(|ledger| &ledger.patches).map(|patch| patch.bytes).sum();
    let document = Document {
        patches: ledger.map(|ledger| on_model(ledger, state.patches())).unwrap_or_default(),
        n_tensors: ledger.map_or(0, |ledger| ledger.tensors.len()),
        touched_bytes: ledger.map_or(0, reweight_patches::Ledger::touched_bytes),
        undo_bytes: ledger.map_or(0, |ledger| ledger.undo_bytes),
        patch_bytes,
        ledger_bytes: if ledger.is_some() { folder_bytes(&state.ledger_path()) } else { 0 },
        model_bytes,
    };
    if ui.json() {
        ui.document(&document)?;
        return Ok(Status::Done);
    }
    let Some(ledger) = ledger else {
        ui.print("no patch is on it")?;
        return Ok(Status::Done);
    };
    let mut table = Table::new([
        ("patch", Align::Left),
        ("kind", Align::Left),
        ("strength", Align::Right),
        ("bytes", Align::Right),
        ("survived", Align::Right),
        ("digest", Align::Left),
        ("", Align::Left),
    ]);
    for patch in &ledger.patches {
        table.row([
            patch.name.clone(),
            patch.kind.name().to_owned(),
            patch.strength.to_string(),
            bytes(patch.bytes),
            survived(ledger, state.patches(), &patch.blake3)
                .map_or_else(String::new, |share| format!("{:.1} %", 100.0 * share)),
            patch.blake3[..16].to_owned(),
            [(patch.side, "side"), (patch.transfer, "transfer")]
                .iter()
                .filter_map(|&(is, what)| is.then_some(what))
                .collect::<Vec<_>>()
                .join(", "),
        ]);
    }
    ui.table(&table)?;
    ui.print(&format!(
        "\n{} tensors changed, {} of {}; way back: {} of undo records ({} of what is changed)",
        ledger.tensors.len(),
        bytes(ledger.touched_bytes()),
        bytes(model_bytes),
        bytes(ledger.undo_bytes),
        percent(ledger.undo_bytes, ledger.touched_bytes()),
    ))?;
    ui.print(&format!(
        "the ledger takes {} with its patches, {} of the {} that a full copy of the base would",
        bytes(document.ledger_bytes),
        percent(document.ledger_bytes, model_bytes),
        bytes(model_bytes)
    ))?;
    Ok(Status::Done)
}

/// Bytes of the files of a folder; what cannot be looked at counts nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
